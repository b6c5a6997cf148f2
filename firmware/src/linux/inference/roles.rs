//! Who answers, who runs beside, and who waits to take over again.

use super::shadow::Shadow;
use super::{BoardRuntime, Command, F, Inference, Live, Loaded, Report, unix_ms};
use crate::columns::{Columns, columns};
use crate::control::Mode;
use crate::lines::{Line, parse};
use edgeward::engine::Engine;
use edgeward::guard::{ShadowMonitor, ShadowVerdict, TrialMonitor, Verdict};
use edgeward::recorder::Standing;
use edgeward::slots::Slot;

impl<E: Engine> Inference<E> {
    /// Ends a trial or a shadow that is decided. A breach goes back at once, before anyone is told. A
    /// trial that passed keeps the release to go back to until the journal knows
    /// ([`Command::Confirmed`]): somebody may have ended it meanwhile.
    pub(super) fn judge(&mut self) {
        let live = self.live.as_mut().filter(|live| !live.told);
        let trial = live.and_then(|live| {
            let verdict = live.trial.as_ref()?.verdict();
            live.told = verdict != Verdict::Undecided;
            let release = live.loaded.runtime.release();
            live.told.then_some((live.loaded.slot, release, verdict))
        });
        if let Some((slot, release, verdict)) = trial {
            if verdict != Verdict::Confirm {
                self.stop(slot);
            }
            self.report(Report::Trial(slot, release, verdict));
        }
        let Some(shadow) = self.shadow.as_mut().filter(|shadow| !shadow.told) else {
            return;
        };
        let verdict = shadow.monitor.verdict();
        if verdict != ShadowVerdict::Undecided {
            shadow.told = true;
            let (slot, release) = (shadow.loaded.slot, shadow.loaded.runtime.release());
            self.report(Report::Shadow(slot, release, verdict));
        }
    }

    /// Does what the control thread wants, if it wants something.
    pub fn commands(&mut self) {
        self.pass_on();
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Run(loaded, Mode::Shadow) => self.start_shadow(loaded),
                Command::Run(loaded, mode) => self.start(loaded, mode),
                Command::Promote(slot) => {
                    if let Some(shadow) = self.shadow.take_if(|s| s.loaded.slot == slot) {
                        self.start(shadow.loaded, Mode::Trial);
                    }
                }
                Command::Confirmed(slot) => self.confirmed(slot),
                Command::Stop(slot) => self.stop(slot),
                Command::Record(mut copy) => {
                    if let Some(recorder) = &self.recorder {
                        recorder.copy_to(&mut copy);
                    }
                    self.report(Report::Record(copy));
                }
            }
            // One that does not fit the source need not wait for a sample.
            self.judge();
            self.show();
        }
    }

    fn confirmed(&mut self, slot: Slot) {
        let live = self.live.as_mut();
        let Some(live) = live.filter(|live| live.loaded.slot == slot) else {
            return;
        };
        live.trial = None;
        self.stand(Standing::Confirmed);
        if let Some(standby) = self.standby.take() {
            self.report(Report::Trash(standby.runtime));
        }
    }

    /// What is recorded from now on is of a model in this role.
    fn stand(&mut self, standing: Standing) {
        if let Some(recorder) = &mut self.recorder {
            recorder.set_standing(standing);
        }
    }

    pub(super) fn prepare(&mut self, runtime: &mut BoardRuntime<E>) -> Columns<F> {
        runtime.reset_window();
        // What it counted in another role is not part of any report.
        let _ = runtime.take_summary(unix_ms());
        while runtime.pop_alarm().is_some() {}
        let mut scratch = [0.0; F];
        match self
            .header
            .as_deref()
            .map(|text| parse::<F>(text.as_bytes(), &mut scratch))
        {
            Some(Ok(Line::Header(header))) => {
                runtime.announce(&header.info(), |_| {});
                columns(runtime.profile(), &header.features)
            }
            _ => [None; F],
        }
    }

    pub(super) fn start(&mut self, mut loaded: Loaded<E>, mode: Mode) {
        let columns = self.prepare(&mut loaded.runtime);
        let trial = (mode == Mode::Trial).then(|| {
            let policy = loaded.runtime.policy().trial;
            let mut trial = TrialMonitor::new(policy);
            trial.on_source(loaded.runtime.source_action());
            trial
        });
        self.flush();
        self.stand(match mode {
            Mode::Trial => Standing::Trial,
            _ => Standing::Confirmed,
        });
        let live = Live {
            loaded,
            columns,
            trial,
            told: false,
            inferences: 0,
        };
        if let Some(before) = self.live.replace(live) {
            let keep = mode == Mode::Trial && before.trial.is_none();
            let old = if keep {
                self.standby.replace(before.loaded)
            } else {
                Some(before.loaded)
            };
            if let Some(old) = old {
                self.report(Report::Trash(old.runtime));
            }
        }
        self.show();
    }

    pub(super) fn start_shadow(&mut self, mut loaded: Loaded<E>) {
        let columns = self.prepare(&mut loaded.runtime);
        let mut monitor = ShadowMonitor::new(&loaded.runtime.policy().trial);
        monitor.on_source(loaded.runtime.source_action());
        let shadow = Shadow {
            loaded,
            columns,
            monitor,
            skip: None,
            alone: 0,
            told: false,
        };
        if let Some(before) = self.shadow.replace(shadow) {
            self.report(Report::Trash(before.loaded.runtime));
        }
        self.show();
    }

    pub(super) fn stop(&mut self, slot: Slot) {
        if let Some(shadow) = self.shadow.take_if(|shadow| shadow.loaded.slot == slot) {
            self.report(Report::Trash(shadow.loaded.runtime));
        }
        if self
            .live
            .as_ref()
            .is_some_and(|live| live.loaded.slot == slot)
        {
            self.flush();
            if let Some(live) = self.live.take() {
                self.report(Report::Trash(live.loaded.runtime));
            }
            if let Some(standby) = self.standby.take() {
                self.start(standby, Mode::Confirmed);
            }
        }
        self.show();
    }

    /// Shows in the counters what runs.
    pub(super) fn show(&mut self) {
        let mut counters = self.stats.counters();
        let live = self.live.as_ref();
        counters.release = live.map(|live| live.loaded.runtime.release());
        counters.slot = live.map(|live| live.loaded.slot as u8);
        counters.mode = match live {
            None => "",
            Some(live) if live.trial.is_some() => "trial",
            Some(_) => "confirmed",
        };
        counters.shadow = self.shadow.as_ref().map(|s| s.loaded.runtime.release());
        if self.shadow.is_none() {
            counters.shadow_agreement_per_mille = None;
        }
    }
}
