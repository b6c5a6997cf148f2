//! A release beside the one that answers, on the same samples.

use super::{Cast, Stage};
use crate::columns::order;
use core::borrow::BorrowMut;
use edgeward::contract::Sample;
use edgeward::engine::Engine;
use edgeward::guard::ShadowMonitor;
use edgeward::runtime::{Runtime, Step};
use edgeward::slots::Slot;

#[derive(Debug)]
pub(super) struct Shadow {
    pub slot: Slot,
    pub monitor: ShadowMonitor,
    /// Samples to leave out until its window is in step with the live one; none until known.
    skip: Option<u32>,
    /// Answers of the live release without one of the shadow.
    alone: u32,
    /// Its verdict was told.
    pub told: bool,
}

impl Shadow {
    pub fn new(slot: Slot, monitor: ShadowMonitor) -> Self {
        Self {
            slot,
            monitor,
            skip: None,
            alone: 0,
            told: false,
        }
    }

    /// Both begin a window at once, so they are in step.
    pub fn reset(&mut self) {
        self.skip = Some(0);
        self.alone = 0;
    }
}

impl<R, E, S, const F: usize, const C: usize> Cast<R, E, S, F, C>
where
    R: BorrowMut<Runtime<E, S, F, C>>,
    E: Engine,
    S: AsRef<[f32]> + AsMut<[f32]>,
{
    /// Gives the release in shadow the same sample, its values in the source's order; `step` is what
    /// became of it for the release that answers.
    pub(super) fn shadow_sample(
        &mut self,
        given: &Sample<'_>,
        step: &Step,
        now_ms: u64,
        stage: &impl Stage<R, E, S, F, C>,
    ) {
        let Some(shadow) = self.shadow.as_mut().filter(|shadow| !shadow.told) else {
            return;
        };
        let Some(place) = &mut self.places[shadow.slot as usize] else {
            return;
        };
        let runtime: &mut Runtime<E, S, F, C> = place.runtime.borrow_mut();
        let schema = &runtime.profile().schema;
        let (window, hop) = (u32::from(schema.window), u32::from(schema.hop).max(1));
        let confirmed = step.prediction.filter(|prediction| !prediction.fallback);
        let mut answered = None;
        match &mut shadow.skip {
            // Begins with the sample after the next answer, and as much later as brings it in step.
            None => {
                if confirmed.is_some() {
                    runtime.reset_window();
                    shadow.skip = Some((hop - window % hop) % hop);
                    shadow.alone = 0;
                }
                return;
            }
            Some(skip) if *skip > 0 => *skip -= 1,
            Some(_) => {
                let features = runtime.profile().features.len();
                order(given.values, &place.columns, features, &mut self.ordered);
                let sample = Sample {
                    values: self.ordered.get(..features).unwrap_or_default(),
                    ..*given
                };
                answered = Some(runtime.push(&sample, now_ms, &mut || stage.clock_us()));
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
            if shadow.alone > window / hop + 2 {
                shadow.skip = None;
            }
        }
    }
}
