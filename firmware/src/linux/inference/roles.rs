//! What the control thread wants, and which role that gives to whom.

use super::{Command, F, Inference, Report};
use crate::control::Mode;
use crate::lines::{Line, parse};
use edgeward::contract::SourceInfo;
use edgeward::engine::Engine;

impl<E: Engine> Inference<E> {
    /// Does what the control thread wants, if it wants something.
    pub fn commands(&mut self) {
        self.teller.pass_on();
        while let Ok(command) = self.commands.try_recv() {
            let header = self.header.take();
            with_source(header.as_deref(), |source| self.obey(command, source));
            self.header = header;
            self.show();
        }
    }

    fn obey(&mut self, command: Command<E>, source: Option<&SourceInfo<'_>>) {
        let (cast, teller) = (&mut self.cast, &mut self.teller);
        match command {
            Command::Run(loaded, mode) => {
                let slot = loaded.slot;
                cast.put(slot, loaded.runtime, source, teller);
                cast.run(slot, mode, source, teller);
                if mode != Mode::Shadow {
                    // The pool's lists fill anew.
                    self.inferences = 0;
                }
            }
            Command::Promote(slot) => {
                if cast.shadow().is_some_and(|(shadow, _)| shadow == slot) {
                    cast.run(slot, Mode::Trial, source, teller);
                }
            }
            Command::Confirmed(slot) => cast.confirmed(slot, teller),
            Command::Stop(slot) => cast.stop(slot, source, teller),
            Command::Record(mut copy) => {
                if let Some(recorder) = &self.recorder {
                    recorder.copy_to(&mut copy);
                }
                teller.report(Report::Record(copy));
            }
        }
        // One that does not fit the source need not wait for a sample.
        cast.judge(source, teller);
    }

    /// Ends a trial or a shadow that is decided.
    pub(super) fn judge(&mut self) {
        if !self.cast.is_decided() {
            return;
        }
        let (cast, teller) = (&mut self.cast, &mut self.teller);
        with_source(self.header.as_deref(), |source| cast.judge(source, teller));
        self.show();
    }

    /// Shows in the counters what runs.
    fn show(&mut self) {
        let runtime = |slot| self.cast.runtime(slot);
        let live = self.cast.live();
        let release = live.and_then(|(slot, _)| Some(runtime(slot)?.release()));
        let shadow = self.cast.shadow();
        let shadow = shadow.and_then(|(slot, _)| Some(runtime(slot)?.release()));
        let mut counters = self.stats.counters();
        if counters.release != release {
            self.inferences = 0;
        }
        counters.release = release;
        counters.slot = live.map(|(slot, _)| slot as u8);
        counters.mode = match live {
            None => "",
            Some((_, true)) => "trial",
            Some((_, false)) => "confirmed",
        };
        counters.shadow = shadow;
        if shadow.is_none() {
            counters.shadow_agreement_per_mille = None;
        }
    }
}

/// What the source said of itself in its header, if there is one.
fn with_source<T>(header: Option<&str>, then: impl FnOnce(Option<&SourceInfo<'_>>) -> T) -> T {
    let mut scratch = [0.0; F];
    match header.map(|text| parse::<F>(text.as_bytes(), &mut scratch)) {
        Some(Ok(Line::Header(header))) => then(Some(&header.info())),
        _ => then(None),
    }
}
