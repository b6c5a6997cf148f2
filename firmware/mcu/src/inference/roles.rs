//! Who answers, who runs beside, and who waits to take over again.

use super::{Inference, Place, Shadow, Trial};
use crate::link::Report;
use crate::load;
use crate::store::Held;
use edgeward::contract::SourceInfo;
use edgeward::guard::{ShadowMonitor, ShadowVerdict, TrialMonitor, Verdict};
use edgeward::program::Kernels;
use edgeward::slots::Slot;
use edgeward::telemetry::release_id;
use edgeward::trust::Digest32;
use edgeward_firmware::control::{Mode, Purpose};

impl<K: Kernels + Default> Inference<K> {
    /// Makes a release ready, unless it is.
    pub(super) fn load(&mut self, slot: Slot, digest: &Digest32, purpose: Purpose, held: Held) {
        let release = release_id(digest);
        let place = self.places[slot as usize].as_ref();
        let ready = place.filter(|place| place.runtime.release() == release);
        let outcome = match ready.filter(|_| purpose != Purpose::SelfTest) {
            Some(place) => Ok(place.runtime.policy().trial),
            None => {
                self.unload(slot);
                let memory = &mut self.tensors[slot as usize];
                load::load(held, digest, self.arena, memory).map(|runtime| {
                    let policy = runtime.policy().trial;
                    let columns = [None; super::F];
                    self.places[slot as usize] = Some(Place { runtime, columns });
                    policy
                })
            }
        };
        self.report(Report::Loaded {
            slot,
            release,
            purpose,
            outcome,
        });
    }

    /// Empties a place that nobody has a role in any more.
    pub(super) fn unload(&mut self, slot: Slot) {
        if let Some(place) = self.places[slot as usize].take() {
            let (_, tensor) = place.runtime.into_parts();
            self.tensors[slot as usize] = Some(tensor);
        }
    }

    pub(super) fn run(&mut self, slot: Slot, mode: Mode, source: &SourceInfo<'_>) {
        if !self.prepare(slot, source) {
            return;
        }
        let in_shadow = self.shadow.as_ref().is_some_and(|it| it.slot == slot);
        if in_shadow {
            self.shadow = None;
        }
        if mode == Mode::Shadow {
            self.start_shadow(slot);
        } else {
            self.start(slot, mode);
        }
    }

    fn start(&mut self, slot: Slot, mode: Mode) {
        self.flush();
        let before = self.live.replace(slot).filter(|before| *before != slot);
        // What is on trial is never gone back to.
        let confirmed = before.filter(|_| self.trial.is_none());
        self.standby = confirmed.filter(|_| mode == Mode::Trial);
        let Some(place) = &self.places[slot as usize] else {
            return;
        };
        self.trial = (mode == Mode::Trial).then(|| {
            let mut monitor = TrialMonitor::new(place.runtime.policy().trial);
            monitor.on_source(place.runtime.source_action());
            Trial {
                monitor,
                told: false,
            }
        });
    }

    fn start_shadow(&mut self, slot: Slot) {
        let Some(place) = &self.places[slot as usize] else {
            return;
        };
        let mut monitor = ShadowMonitor::new(&place.runtime.policy().trial);
        monitor.on_source(place.runtime.source_action());
        self.shadow = Some(Shadow::new(slot, monitor));
    }

    /// The journal knows that this release boots from now on: there is no way back any more.
    pub(super) fn confirmed(&mut self, slot: Slot) {
        if self.live == Some(slot) {
            self.trial = None;
            if let Some(standby) = self.standby.take() {
                self.unload(standby);
            }
        }
    }

    /// Leaves a slot; the release before answers again.
    pub(super) fn stop(&mut self, slot: Slot, source: &SourceInfo<'_>) {
        self.shadow.take_if(|shadow| shadow.slot == slot);
        if self.live == Some(slot) {
            self.go_back();
            if let Some(live) = self.live {
                self.prepare(live, source);
            }
        }
    }

    /// Whoever was confirmed answers, from now on; its window is empty.
    fn go_back(&mut self) {
        self.flush();
        self.trial = None;
        self.live = self.standby.take();
        if let Some(place) = self
            .live
            .and_then(|live| self.places[live as usize].as_mut())
        {
            place.runtime.reset_window();
        }
    }

    /// Ends a trial or a shadow that is decided. A breach goes back at once, before anyone is told. A
    /// trial that passed keeps the release to go back to until the journal knows: somebody may have
    /// ended it meanwhile.
    pub(super) fn judge(&mut self) {
        let trial = self.trial.as_mut().filter(|trial| !trial.told);
        let verdict = trial.map_or(Verdict::Undecided, |trial| {
            let verdict = trial.monitor.verdict();
            trial.told = verdict != Verdict::Undecided;
            verdict
        });
        if verdict != Verdict::Undecided
            && let Some(slot) = self.live
            && let Some(release) = self.release(slot)
        {
            if verdict != Verdict::Confirm {
                self.go_back();
            }
            self.report(Report::Trial(slot, release, verdict));
        }
        let Some(shadow) = self.shadow.as_mut().filter(|shadow| !shadow.told) else {
            return;
        };
        let (slot, verdict) = (shadow.slot, shadow.monitor.verdict());
        if verdict != ShadowVerdict::Undecided {
            shadow.told = true;
            if let Some(release) = self.release(slot) {
                self.report(Report::Shadow(slot, release, verdict));
            }
        }
    }

    fn release(&self, slot: Slot) -> Option<edgeward::telemetry::ReleaseId> {
        let place = self.places[slot as usize].as_ref()?;
        Some(place.runtime.release())
    }
}
