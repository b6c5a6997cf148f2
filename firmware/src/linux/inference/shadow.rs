//! A release beside the one that answers, on the same samples.

use super::{F, Inference, Loaded};
use crate::columns::{Columns, order};
use edgeward::contract::Sample;
use edgeward::engine::Engine;
use edgeward::guard::ShadowMonitor;
use edgeward::runtime::Step;

pub(super) struct Shadow<E> {
    pub(super) loaded: Loaded<E>,
    pub(super) columns: Columns<F>,
    pub(super) monitor: ShadowMonitor,
    /// Samples to leave out until its window is in step with the live one; none until known.
    pub(super) skip: Option<u32>,
    /// Answers of the live release without one of the shadow.
    pub(super) alone: u32,
    /// Its verdict was reported.
    pub(super) told: bool,
}

impl<E: Engine> Inference<E> {
    /// Gives the release in shadow the same sample.
    pub(super) fn shadow_sample(
        &mut self,
        sequence: u32,
        time_ms: u64,
        count: usize,
        now_ms: u64,
        step: &Step,
    ) {
        let begun = self.begun;
        let Some(shadow) = self.shadow.as_mut().filter(|shadow| !shadow.told) else {
            return;
        };
        let runtime = &mut shadow.loaded.runtime;
        let confirmed = step.prediction.filter(|prediction| !prediction.fallback);
        let mut answered = None;
        match &mut shadow.skip {
            // Begins with the sample after the next answer, and as much later as brings it in step.
            None => {
                if confirmed.is_some() {
                    let schema = &runtime.profile().schema;
                    let (window, hop) = (u32::from(schema.window), u32::from(schema.hop));
                    runtime.reset_window();
                    shadow.skip = Some((hop - window % hop) % hop);
                    shadow.alone = 0;
                }
                return;
            }
            Some(skip) if *skip > 0 => *skip -= 1,
            Some(_) => {
                let given = self.values.get(..count).unwrap_or_default();
                let features = runtime.profile().features.len();
                order(given, &shadow.columns, features, &mut self.ordered);
                let sample = Sample {
                    sequence,
                    time_ms,
                    values: &self.ordered[..features],
                };
                let mut clock_us = || begun.elapsed().as_micros() as u64;
                answered = Some(runtime.push(&sample, now_ms, &mut clock_us));
                while runtime.pop_alarm().is_some() {}
            }
        }
        let Some(confirmed) = confirmed else {
            return;
        };
        let theirs = answered.filter(|step| step.prediction.is_some() || step.error.is_some());
        if let Some(theirs) = theirs {
            let class = theirs.prediction.filter(|p| !p.fallback).map(|p| p.class);
            shadow.monitor.record(confirmed.class, class);
            shadow.alone = 0;
        } else {
            shadow.alone += 1;
            let schema = &runtime.profile().schema;
            let patience = u32::from(schema.window / schema.hop.max(1)) + 2;
            if shadow.alone > patience {
                shadow.skip = None;
            }
        }
        let agreement = shadow.monitor.agreement_per_mille();
        self.stats.counters().shadow_agreement_per_mille = Some(agreement);
    }
}
