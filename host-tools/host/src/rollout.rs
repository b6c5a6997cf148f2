//! Rollouts: a release reaches the fleet in phases, and stops by itself when boards report harm.
//!
//! This module decides; it neither stores nor publishes. [`Rollout::assess`] looks at what the
//! boards reported (their signed births and events) and says what to do next. One signed desired
//! state a phase is all that a phase costs, whatever the size of the fleet.

mod board;

use crate::names::class_name;
use board::standing;
use edgeward::bundle::BoardClass;
use edgeward::sync::{Desired, RolloutState, Target};
use edgeward::telemetry::{Id, ReleaseId, Text, release_id};
use serde::{Deserialize, Serialize};

pub use board::{BoardView, Standing};

/// What an operator asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Names the rollout; part of the cohort's hash.
    pub id: Id,
    /// The fleet.
    pub fleet: Id,
    /// One release a board class.
    pub targets: Vec<Target>,
    /// Tags that a board must have.
    pub tags: Vec<Text>,
    /// Shares of the fleet in per mille, ascending, the last usually 1000.
    pub phases: Vec<u16>,
    /// Time between a phase's last confirmation and the next phase, in milliseconds.
    pub soak_ms: u64,
    /// Boards that may revert or reject the release before the rollout stops, and boards that may do so
    /// or fall silent over it before it pauses.
    pub max_failures: u32,
    /// Time a phase may take, in milliseconds, and as long again where boards have begun; what is not
    /// done then is late, and late boards don't hold up the next phase once enough others confirmed. A
    /// board that began and was silent for so long is one that fell silent over the release. 0 waits for
    /// ever. Neither a pause counts nor what the host could not hear, and after a pause the phase has all
    /// of its time.
    pub deadline_ms: u64,
    /// Least share of a phase's boards in per mille that must have confirmed before it gives way to the
    /// next; one board must in any case.
    #[serde(default)]
    pub min_confirmed_per_mille: u16,
    /// Seconds that a desired state holds.
    pub expires_after_s: u64,
}

/// Where a rollout stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum State {
    /// It goes on.
    Running,
    /// It is paused: by an operator, or by itself, as [`Rollout::paused_why`] tells.
    Paused,
    /// It stopped; boards that had not confirmed the release gave it up.
    Aborted {
        /// Why, for people.
        why: String,
    },
    /// Every board in reach confirmed the release.
    Done,
}

/// What a host could hear of its boards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// Since when without a break, in milliseconds since 1970.
    pub from_ms: u64,
    /// Until when, as far as was noted: now and then, and when it ends.
    pub until_ms: u64,
}

/// How long a host may have listened on before it is noted.
const NOTED_MS: u64 = 30_000;

/// A rollout under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// What was asked for.
    pub plan: Plan,
    /// Index of the phase.
    pub phase: usize,
    /// Where it stands.
    pub state: State,
    /// When the phase began, or went on after a pause, in milliseconds since 1970.
    pub phase_from_ms: u64,
    /// When the last board of the phase confirmed.
    pub settled_ms: Option<u64>,
    /// The desired states of this rollout have greater numbers. What a board that has seen no such
    /// number failed, it failed in an earlier rollout; it tries again in this one.
    #[serde(default)]
    pub after_sequence: u64,
    /// Why it paused by itself, for people; none when it did not.
    #[serde(default)]
    pub paused_why: Option<String>,
    /// What the host heard of the boards while the rollout ran; none before it was looked at.
    #[serde(default)]
    pub listening: Option<Listening>,
}

/// Boards of the present phase, by what they did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// In the cohort.
    pub targeted: u32,
    /// Confirmed the release.
    pub confirmed: u32,
    /// Downloading, staged, in shadow or on trial, and not silent.
    pub busy: u32,
    /// Refused or reverted the release.
    pub failed: u32,
    /// Began, and were silent for the plan's deadline since. What became of them is not known.
    pub silent: u32,
    /// Not begun, or never heard of.
    pub waiting: u32,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Nothing.
    Wait,
    /// Publish the next phase.
    Advance,
    /// Hold until somebody has had a look, and say why.
    Pause {
        /// Why, for people.
        why: String,
    },
    /// Stop, and say why.
    Abort {
        /// Why, for people.
        why: String,
    },
    /// Every board of the last phase confirmed.
    Finish,
}

/// Why a plan makes no sense.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    /// No phase, or shares that do not ascend from above 0 to at most 1000.
    #[error("phases must ascend, each above 0 and at most 100 %: {0:?}")]
    Phases(Vec<u16>),
    /// Nothing to roll out.
    #[error("the rollout names no release")]
    NoTarget,
    /// More targets or tags than a desired state holds.
    #[error("{0}: more than a desired state holds")]
    TooMany(&'static str),
    /// Two releases for boards of one class.
    #[error("two of the releases are for {0} boards; a rollout takes one a class")]
    SameClass(&'static str),
}

/// A release whose counter every board would refuse that gets it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("version {version} has counter {counter}, and every board that would get it {}", refusal(*counter, *least))]
pub struct Refused {
    /// The release's version.
    pub version: Text,
    /// Its counter.
    pub counter: u32,
    /// The least counter that a board accepts. Where it is not above the release's, boards have confirmed
    /// another release of that counter.
    pub least: u32,
    /// A counter that all of them accept.
    pub wanted: u32,
}

fn refusal(counter: u32, least: u32) -> String {
    match counter < least {
        true => format!("accepts {least} at least"),
        false => "has confirmed another release of that counter, or a later one".to_owned(),
    }
}

impl Rollout {
    /// Begins the first phase.
    ///
    /// # Errors
    /// [`PlanError`] when the plan makes no sense.
    pub fn start(plan: Plan, now_ms: u64) -> Result<Self, PlanError> {
        let ascending = plan.phases.windows(2).all(|pair| pair[0] < pair[1]);
        let in_range = plan.phases.iter().all(|&share| (1..=1000).contains(&share));
        if plan.phases.is_empty() || !ascending || !in_range {
            return Err(PlanError::Phases(plan.phases));
        }
        if plan.targets.is_empty() {
            return Err(PlanError::NoTarget);
        }
        for (index, target) in plan.targets.iter().enumerate() {
            let before = &plan.targets[..index];
            if before.iter().any(|other| other.class == target.class) {
                return Err(PlanError::SameClass(class_name(target.class)));
            }
        }
        let rollout = Self {
            plan,
            phase: 0,
            state: State::Running,
            phase_from_ms: now_ms,
            settled_ms: None,
            after_sequence: 0,
            paused_why: None,
            listening: Some(Listening {
                from_ms: now_ms,
                until_ms: now_ms,
            }),
        };
        // What does not fit into the message is wrong before the rollout begins.
        rollout.desired(0, 0)?;
        Ok(rollout)
    }

    /// The share of the present phase in per mille.
    #[must_use]
    pub fn share(&self) -> u16 {
        self.plan.phases[self.phase]
    }

    /// The message that tells the fleet where the rollout stands.
    ///
    /// # Errors
    /// [`PlanError::TooMany`] when targets or tags exceed what the message holds.
    pub fn desired(&self, sequence: u64, now_s: u64) -> Result<Desired, PlanError> {
        let targets = self.plan.targets.to_vec();
        Ok(Desired {
            fleet: self.plan.fleet.clone(),
            sequence,
            expires_s: now_s.saturating_add(self.plan.expires_after_s),
            rollout: self.plan.id.clone(),
            state: match self.state {
                State::Running | State::Done => RolloutState::Active,
                State::Paused => RolloutState::Paused,
                State::Aborted { .. } => RolloutState::Aborted,
            },
            targets: heapless::Vec::from_slice(&targets)
                .map_err(|_| PlanError::TooMany("targets"))?,
            tags: heapless::Vec::from_slice(&self.plan.tags)
                .map_err(|_| PlanError::TooMany("tags"))?,
            share_per_mille: self.share(),
        })
    }

    /// The release meant for `class`, if the rollout serves it.
    #[must_use]
    pub fn release_for(&self, class: BoardClass) -> Option<ReleaseId> {
        let target = self
            .plan
            .targets
            .iter()
            .find(|target| target.class == class)?;
        Some(release_id(&target.digest))
    }

    /// The phase's time at `now_ms`: it stands still while the host hears nothing of the boards, since it
    /// can't tell who is late then.
    #[must_use]
    pub fn phase_time_ms(&self, now_ms: u64) -> u64 {
        self.listening.map_or(0, |it| it.until_ms.min(now_ms))
    }

    /// Notes that the host hears the boards at `now_ms`, and has without a break since `since_ms`. What
    /// it missed before that is put behind the phase's beginning and its soak.
    fn listen(&mut self, since_ms: u64, now_ms: u64) {
        let before = self.listening.filter(|it| since_ms <= it.until_ms);
        let missed_ms = match (before, self.listening) {
            (Some(_), _) => 0,
            (None, Some(it)) => since_ms - it.until_ms,
            // What was heard is not known: the phase has all of its time again.
            (None, None) => since_ms.saturating_sub(self.phase_from_ms),
        };
        for ms in [Some(&mut self.phase_from_ms), self.settled_ms.as_mut()] {
            let Some(ms) = ms else { continue };
            // Somebody may have resumed it meanwhile: no phase begins later than now.
            *ms = ms.saturating_add(missed_ms).min(now_ms.max(*ms));
        }
        self.listening = Some(Listening {
            from_ms: before.map_or(since_ms, |it| it.from_ms),
            until_ms: now_ms,
        });
    }

    /// Notes until when the host heard the boards, once it no longer does: that was noted only now and then.
    /// Whether it changed anything.
    pub fn heard(&mut self, heard: Listening) -> bool {
        let running = self.state == State::Running;
        let noted = self.listening.as_mut().filter(|noted| {
            running && heard.from_ms <= noted.until_ms && noted.until_ms < heard.until_ms
        });
        let Some(noted) = noted else { return false };
        noted.until_ms = heard.until_ms;
        true
    }

    /// Whether it stands otherwise than `before`. That the host listened on for a moment does not count.
    #[must_use]
    pub fn differs(&self, before: &Self) -> bool {
        let (Some(now), Some(then)) = (self.listening, before.listening) else {
            return self != before;
        };
        let listened = Listening {
            until_ms: then.until_ms,
            ..now
        };
        let same = Self {
            listening: Some(listened),
            ..self.clone()
        };
        same != *before || now.until_ms.abs_diff(then.until_ms) >= NOTED_MS
    }

    /// Counts the boards of the present phase as they stand at `now_ms` of the phase's time
    /// ([`phase_time_ms`](Self::phase_time_ms)). `in_cohort` is the boards' own rule ([`edgeward::sync`]), given the
    /// rollout's name, the device's name and the share.
    pub fn counts(
        &self,
        boards: &[BoardView],
        in_cohort: &dyn Fn(&str, &str, u16) -> bool,
        now_ms: u64,
    ) -> Counts {
        let mut counts = Counts::default();
        for board in boards {
            if !self.asks(board, in_cohort) {
                continue;
            }
            counts.targeted += 1;
            match self.standing(board) {
                Standing::Confirmed => counts.confirmed += 1,
                Standing::Busy if self.is_silent(board, now_ms) => counts.silent += 1,
                Standing::Busy => counts.busy += 1,
                Standing::Failed => counts.failed += 1,
                Standing::Waiting => counts.waiting += 1,
            }
        }
        counts
    }

    /// Whether a board that has begun was silent for so long that somebody should look why: the release
    /// may have stopped it, or its sensor is idle, or there is no network where it is. Neither the time
    /// before the phase counts, nor a pause, nor before the host heard anybody without a break.
    fn is_silent(&self, board: &BoardView, now_ms: u64) -> bool {
        let listening_ms = self.listening.map_or(now_ms, |it| it.from_ms);
        let since_ms = board.heard_ms.max(self.phase_from_ms).max(listening_ms);
        self.plan.deadline_ms > 0 && now_ms.saturating_sub(since_ms) > self.plan.deadline_ms
    }

    /// Whether the present phase asks this board to run a release. One whose tags are not known yet
    /// counts as asked: it may have them.
    #[must_use]
    pub fn asks(&self, board: &BoardView, in_cohort: &dyn Fn(&str, &str, u16) -> bool) -> bool {
        let tagged = |tag| !board.reported || board.tags.contains(tag);
        self.release_for(board.class).is_some()
            && self.plan.tags.iter().all(tagged)
            && in_cohort(&self.plan.id, &board.device, self.share())
    }

    /// Refuses a release whose counter every board would refuse that the last phase asks to run it, as far
    /// as they have reported: it is a downgrade there, or taken by another release.
    ///
    /// # Errors
    /// [`Refused`] for the first such release.
    pub fn check_counters(
        &self,
        boards: &[BoardView],
        in_cohort: &dyn Fn(&str, &str, u16) -> bool,
    ) -> Result<(), Refused> {
        let last = Self {
            phase: self.plan.phases.len().saturating_sub(1),
            ..self.clone()
        };
        for target in &self.plan.targets {
            let asked = boards.iter().filter(|board| board.class == target.class);
            let asked = asked.filter(|board| board.reported && last.asks(board, in_cohort));
            let asked: Vec<_> = asked.collect();
            if !asked.iter().all(|board| board.refuses(target)) {
                continue;
            }
            let floors = asked.iter().map(|board| board.floor);
            // The counter that a board has confirmed is taken.
            let confirmed = asked.iter().filter_map(|board| board.confirmed());
            let highest = confirmed.map(|(_, counter)| counter).chain(floors.clone());
            if let (Some(least), Some(highest)) = (floors.min(), highest.max()) {
                return Err(Refused {
                    version: target.version.clone(),
                    counter: target.counter,
                    least,
                    wanted: highest.saturating_add(1),
                });
            }
        }
        Ok(())
    }

    /// What a board made of the release that is meant for its class, since the rollout's desired
    /// states; waiting when there is none.
    #[must_use]
    pub fn standing(&self, board: &BoardView) -> Standing {
        self.release_for(board.class)
            .map_or(Standing::Waiting, |release| {
                standing(board, release, self.after_sequence)
            })
    }

    /// Looks at the boards, notes what follows, and says what that was: one step of the rollout.
    /// `hearing_since_ms` is since when the host hears boards without a break; none when it does not.
    /// Nobody is late or silent then, and only what boards reported before counts.
    pub fn step(
        &mut self,
        boards: &[BoardView],
        in_cohort: &dyn Fn(&str, &str, u16) -> bool,
        now_ms: u64,
        hearing_since_ms: Option<u64>,
    ) -> (Counts, Decision) {
        // Boards that are told to wait are neither late nor done.
        let hearing = hearing_since_ms.filter(|_| self.state == State::Running);
        if let Some(since_ms) = hearing {
            self.listen(since_ms, now_ms);
        }
        let now_ms = self.phase_time_ms(now_ms);
        let counts = self.counts(boards, in_cohort, now_ms);
        if hearing.is_some() {
            self.observe(&counts, now_ms);
        }
        let decision = self.assess(&counts, now_ms);
        self.apply(decision.clone(), now_ms);
        (counts, decision)
    }

    /// Changes the standing by hand. What a pause kept boards from is not held against them: the
    /// phase's time and its soak begin anew when it goes on.
    pub fn set_state(&mut self, state: State, now_ms: u64) {
        if self.state == State::Paused && state == State::Running {
            self.phase_from_ms = now_ms;
            self.settled_ms = None;
        }
        self.state = state;
        self.paused_why = None;
    }

    /// Says what to do next; [`Rollout::apply`] does it.
    #[must_use]
    pub fn assess(&self, counts: &Counts, now_ms: u64) -> Decision {
        if self.state != State::Running {
            return Decision::Wait;
        }
        if counts.failed > self.plan.max_failures {
            let why = format!(
                "{} of {} boards refused or reverted the release (at most {} may)",
                counts.failed, counts.targeted, self.plan.max_failures
            );
            return Decision::Abort { why };
        }
        let settled = counts.targeted > 0 && counts.confirmed + counts.failed == counts.targeted;
        let last = self.phase + 1 >= self.plan.phases.len();
        let over = settled || self.is_late(counts, now_ms);
        if let Some(why) = self
            .fell_silent(counts)
            .or_else(|| self.unconfirmed(counts, settled, last).filter(|_| over))
        {
            return Decision::Pause { why };
        }
        // A phase in which no enrolled board lies (a small share of a small fleet) holds nothing up.
        if !(over || counts.targeted == 0) {
            return Decision::Wait;
        }
        let soaked = self
            .settled_ms
            .is_some_and(|since| now_ms.saturating_sub(since) >= self.plan.soak_ms);
        if !soaked {
            return Decision::Wait;
        }
        if !last {
            Decision::Advance
        } else if settled {
            Decision::Finish
        } else {
            Decision::Wait
        }
    }

    /// Why more boards fell silent over the release than may fail of it, for people: they did not fail as
    /// far as is known, so this is for somebody to look at.
    fn fell_silent(&self, counts: &Counts) -> Option<String> {
        let harmed = counts.failed.saturating_add(counts.silent);
        if counts.silent == 0 || harmed <= self.plan.max_failures {
            return None;
        }
        let failed = match counts.failed {
            0 => String::new(),
            failed => format!(", and {failed} refused or reverted it"),
        };
        Some(format!(
            "{} of {} boards began the release and were silent for {} since{failed} (at most {} may)",
            counts.silent,
            counts.targeted,
            time_words(self.plan.deadline_ms),
            self.plan.max_failures
        ))
    }

    /// Why a phase that is over proves too little to go on, for people. The last one ends when every
    /// board is done, so there one that confirmed is enough.
    fn unconfirmed(&self, counts: &Counts, settled: bool, last: bool) -> Option<String> {
        let needed = match (last, settled) {
            (false, _) => self.needed(counts),
            (true, true) => 1,
            (true, false) => 0,
        };
        if counts.targeted == 0 || counts.confirmed >= needed {
            return None;
        }
        let how = if settled { "over" } else { "late" };
        Some(format!(
            "phase {} is {how} with {} of its {} boards confirmed, of which {needed} must be: \
             {} have not begun, {} are busy, {} refused or reverted the release, {} are silent",
            self.phase + 1,
            counts.confirmed,
            counts.targeted,
            counts.waiting,
            counts.busy,
            counts.failed,
            counts.silent
        ))
    }

    /// Whether the phase has had its time. One in which boards have begun has as much again, after
    /// which each of them was either heard of or is silent.
    fn is_late(&self, counts: &Counts, now_ms: u64) -> bool {
        let times = if counts.busy > 0 { 2 } else { 1 };
        let deadline_ms = self.plan.deadline_ms.saturating_mul(times);
        deadline_ms > 0 && now_ms.saturating_sub(self.phase_from_ms) > deadline_ms
    }

    /// Boards that must have confirmed before a phase gives way to the next.
    fn needed(&self, counts: &Counts) -> u32 {
        let share = u64::from(self.plan.min_confirmed_per_mille.min(1000));
        let share = (u64::from(counts.targeted) * share).div_ceil(1000);
        u32::try_from(share).unwrap_or(u32::MAX).max(1)
    }

    /// Notes when the phase settled, so that the soak can be measured. Call before `assess`.
    pub fn observe(&mut self, counts: &Counts, now_ms: u64) {
        let quiet = counts.confirmed + counts.failed == counts.targeted;
        if quiet || self.is_late(counts, now_ms) {
            self.settled_ms.get_or_insert(now_ms);
        } else {
            self.settled_ms = None;
        }
    }

    /// Carries a decision out; whether a new desired state must be published.
    pub fn apply(&mut self, decision: Decision, now_ms: u64) -> bool {
        match decision {
            Decision::Wait => false,
            Decision::Advance => {
                self.phase += 1;
                self.phase_from_ms = now_ms;
                self.settled_ms = None;
                true
            }
            Decision::Pause { why } => {
                self.state = State::Paused;
                self.paused_why = Some(why);
                true
            }
            Decision::Abort { why } => {
                self.state = State::Aborted { why };
                true
            }
            Decision::Finish => {
                self.state = State::Done;
                false
            }
        }
    }
}

/// A time in its largest unit that leaves nothing out.
fn time_words(ms: u64) -> String {
    let units = [
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "min"),
        (1000, "s"),
    ];
    let fits = units.into_iter().find(|(unit, _)| ms.is_multiple_of(*unit));
    let (unit, name) = fits.unwrap_or((1, "ms"));
    format!("{} {name}", ms / unit)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use edgeward::telemetry::{Reason, SlotState};

    const OLD: ReleaseId = [1; 8];
    const NEW: ReleaseId = [2; 8];
    /// The host has heard the boards since before the first test.
    const HEARS: Option<u64> = Some(0);

    /// One release for Linux boards of the fleet `demo`.
    pub(crate) fn plan(phases: &[u16]) -> Plan {
        let text = |value: &str| Text::try_from(value).expect("short");
        Plan {
            id: Id::try_from("r-1").expect("short"),
            fleet: Id::try_from("demo").expect("short"),
            targets: vec![Target {
                class: BoardClass::Linux,
                digest: [2; 32],
                counter: 2,
                version: text("2.0.0"),
                head_bytes: 4096,
                total_bytes: 8192,
            }],
            tags: Vec::new(),
            phases: phases.to_vec(),
            soak_ms: 100,
            max_failures: 0,
            deadline_ms: 0,
            min_confirmed_per_mille: 0,
            expires_after_s: 60,
        }
    }

    fn board(number: u8, state: SlotState) -> BoardView {
        BoardView {
            device: Id::try_from(format!("b{number}").as_str()).unwrap_or_default(),
            reported: true,
            heard_ms: 0,
            class: BoardClass::Linux,
            tags: Vec::new(),
            slots: [(OLD, SlotState::Confirmed), (NEW, state)],
            counters: [1, 2],
            last_failure: None,
            running: None,
            desired: 5,
            floor: 0,
        }
    }

    /// Boards 0 to 9; number n is in the cohort when n < share / 100.
    fn tenths(_: &str, device: &str, share: u16) -> bool {
        device[1..]
            .parse::<u16>()
            .is_ok_and(|number| number * 100 < share)
    }

    #[test]
    fn a_phase_waits_for_confirmations_and_its_soak() {
        let mut rollout = Rollout::start(plan(&[300, 1000]), 0).expect("plan");
        let mut boards: Vec<_> = (0..10).map(|n| board(n, SlotState::Empty)).collect();
        let counts = rollout.counts(&boards, &tenths, 0);
        assert_eq!((counts.targeted, counts.waiting), (3, 3));
        assert_eq!(rollout.assess(&counts, 1000), Decision::Wait);
        for board in &mut boards[..3] {
            board.slots[1].1 = SlotState::Confirmed;
        }
        let counts = rollout.counts(&boards, &tenths, 0);
        rollout.observe(&counts, 1000);
        assert_eq!(rollout.assess(&counts, 1099), Decision::Wait);
        assert_eq!(rollout.assess(&counts, 1100), Decision::Advance);
        assert!(rollout.apply(Decision::Advance, 1100));
        assert_eq!(
            rollout.desired(7, 10).expect("desired").share_per_mille,
            1000
        );
        assert_eq!(rollout.counts(&boards, &tenths, 0).waiting, 7);
    }

    #[test]
    fn what_was_confirmed_before_and_does_not_run_is_not_confirmed() {
        let rollout = Rollout::start(plan(&[1000]), 0).expect("plan");
        let mut board = board(0, SlotState::Confirmed);
        let counts = |board: &BoardView| rollout.counts(std::slice::from_ref(board), &tenths, 0);
        assert_eq!(counts(&board).confirmed, 1);
        board.running = Some(1);
        assert_eq!(counts(&board).confirmed, 1);
        // A board that runs a release whose keys were revoked since has installed it all the same.
        board.slots[1].1 = SlotState::Revoked;
        assert_eq!(counts(&board).confirmed, 1);
        // It runs what came after, and is asked to go back: it waits, or refuses.
        board.running = Some(0);
        assert_eq!((counts(&board).confirmed, counts(&board).waiting), (0, 1));
        board.slots[1].1 = SlotState::Confirmed;
        assert_eq!((counts(&board).confirmed, counts(&board).waiting), (0, 1));
        board.last_failure = Some((NEW, Reason::Downgrade));
        assert_eq!((counts(&board).confirmed, counts(&board).failed), (0, 1));
    }

    #[test]
    fn one_revert_too_many_aborts() {
        let mut rollout = Rollout::start(plan(&[1000]), 0).expect("plan");
        let mut boards: Vec<_> = (0..3).map(|n| board(n, SlotState::Trial)).collect();
        boards[1].slots[1] = ([0; 8], SlotState::Empty);
        boards[1].last_failure = Some((NEW, Reason::PredictionDrift));
        let counts = rollout.counts(&boards, &tenths, 0);
        assert_eq!((counts.busy, counts.failed), (2, 1));
        rollout.after_sequence = 5;
        let again = rollout.counts(&boards, &tenths, 0);
        assert_eq!((again.waiting, again.failed), (1, 0), "it failed before");
        boards[1].desired = 6;
        assert_eq!(rollout.counts(&boards, &tenths, 0), counts);
        let decision = rollout.assess(&counts, 1);
        assert!(matches!(decision, Decision::Abort { .. }));
        assert!(rollout.apply(decision, 1));
        let desired = rollout.desired(8, 10).expect("desired");
        assert_eq!(desired.state, RolloutState::Aborted);
        assert_eq!(rollout.assess(&counts, 9999), Decision::Wait);
    }

    /// The phases 30 % and 100 %, with half a second for each.
    fn hasty() -> Plan {
        Plan {
            deadline_ms: 500,
            ..plan(&[300, 1000])
        }
    }

    #[test]
    fn late_boards_do_not_hold_up_the_next_phase_but_the_last_one_waits_for_them() {
        let mut rollout = Rollout::start(hasty(), 0).expect("plan");
        let mut boards: Vec<_> = (0..10).map(|n| board(n, SlotState::Empty)).collect();
        boards[0].slots[1].1 = SlotState::Confirmed;
        let step = |rollout: &mut Rollout, now_ms| rollout.step(&boards, &tenths, now_ms, HEARS).1;
        for (now_ms, decision) in [
            (500, Decision::Wait),
            (501, Decision::Wait),
            (601, Decision::Advance),
            (1200, Decision::Wait),
            (9000, Decision::Wait),
        ] {
            assert_eq!(step(&mut rollout, now_ms), decision, "{now_ms}");
        }
        assert_eq!(rollout.state, State::Running);
    }

    #[test]
    fn a_late_phase_that_too_few_boards_confirmed_pauses_and_says_why() {
        // The share that must confirm, of three boards; how many did; whether it goes on.
        for (share, confirmed, goes_on) in [
            (0, 0, false),
            (0, 1, true),
            (333, 1, true),
            (334, 1, false),
            (500, 2, true),
        ] {
            let plan = Plan {
                min_confirmed_per_mille: share,
                ..hasty()
            };
            let mut rollout = Rollout::start(plan, 0).expect("plan");
            let boards: Vec<_> = (0..10)
                .map(|n| match n < confirmed {
                    true => board(n, SlotState::Confirmed),
                    false => board(n, SlotState::Empty),
                })
                .collect();
            rollout.step(&boards, &tenths, 501, HEARS);
            rollout.step(&boards, &tenths, 601, HEARS);
            let case = format!("{confirmed} confirmed of {share}: {rollout:?}");
            assert_eq!(rollout.phase, usize::from(goes_on), "{case}");
            assert_eq!(rollout.state == State::Running, goes_on, "{case}");
            assert_eq!(rollout.paused_why.is_none(), goes_on, "{case}");
            if goes_on {
                continue;
            }
            let why = rollout.paused_why.clone().expect("a sentence");
            assert!(why.contains(&format!("{confirmed} of its 3")), "{why}");
            let desired = rollout.desired(7, 10).expect("desired");
            assert_eq!(desired.state, RolloutState::Paused);
            // Whoever lets it go on has had a look: it has all of its time again.
            rollout.set_state(State::Running, 700);
            assert_eq!(rollout.paused_why, None);
            assert_eq!(
                rollout.step(&boards, &tenths, 1200, HEARS).1,
                Decision::Wait
            );
            let again = rollout.step(&boards, &tenths, 1201, HEARS).1;
            assert!(matches!(again, Decision::Pause { .. }), "{again:?}");
        }
    }

    fn heard(number: u8, state: SlotState, heard_ms: u64) -> BoardView {
        BoardView {
            heard_ms,
            ..board(number, state)
        }
    }

    #[test]
    fn boards_that_fall_silent_over_a_release_pause_it_and_never_abort_it() {
        let boards = [
            heard(0, SlotState::Confirmed, 0),
            heard(1, SlotState::Trial, 100),
            heard(2, SlotState::Trial, 650),
        ];
        let mut rollout = Rollout::start(hasty(), 0).expect("plan");
        // Both have begun, so the phase is not late when its time is over.
        for now_ms in [501, 600] {
            let step = rollout.step(&boards, &tenths, now_ms, HEARS);
            assert_eq!(step.1, Decision::Wait);
        }
        let before = rollout.clone();
        let (counts, decision) = rollout.step(&boards, &tenths, 601, HEARS);
        assert_eq!((counts.busy, counts.failed, counts.silent), (1, 0, 1));
        let Decision::Pause { why } = decision else {
            panic!("{decision:?}");
        };
        assert!(
            why.contains("1 of 3") && why.contains("silent for 500 ms"),
            "{why}"
        );
        assert_eq!(rollout.paused_why, Some(why));
        let desired = rollout.desired(7, 10).expect("desired");
        assert_eq!(desired.state, RolloutState::Paused, "no board gives it up");
        let counts = rollout.counts(&boards, &tenths, rollout.phase_time_ms(9000));
        assert_eq!(counts.silent, 1, "the pause adds none, and takes none away");
        // Whoever lets it go on has had a look: the phase has all of its time again.
        rollout.set_state(State::Running, 700);
        for (now_ms, goes_on) in [(1200, true), (1201, false)] {
            let (_, decision) = rollout.step(&boards, &tenths, now_ms, HEARS);
            assert_eq!(
                decision == Decision::Wait,
                goes_on,
                "{now_ms}: {decision:?}"
            );
        }

        // Where one may fail, the other one is waited for, and so is its silence.
        let mut rollout = before;
        rollout.plan.max_failures = 1;
        for now_ms in [601, 1000, 1001, 1100] {
            let step = rollout.step(&boards, &tenths, now_ms, HEARS);
            assert_eq!(step.1, Decision::Wait);
        }
        let mut again = boards.clone();
        again[2].heard_ms = 1100;
        let advanced = rollout.clone().step(&again, &tenths, 1151, HEARS);
        assert_eq!(advanced.1, Decision::Advance, "late, and not silent");
        // One that fell silent and one that failed are one too many, and what is not known aborts nothing.
        again[2].slots[1].1 = SlotState::Rejected(Reason::SelfTest);
        let (counts, decision) = rollout.clone().step(&again, &tenths, 1151, HEARS);
        assert_eq!((counts.failed, counts.silent), (1, 1));
        assert!(matches!(decision, Decision::Pause { .. }), "{decision:?}");
        let (counts, decision) = rollout.step(&boards, &tenths, 1151, HEARS);
        assert_eq!(counts.silent, 2);
        assert!(matches!(decision, Decision::Pause { .. }), "{decision:?}");
    }

    #[test]
    fn silence_before_the_phase_or_in_a_pause_is_no_silence_over_the_release() {
        let trial = [board(0, SlotState::Trial)];
        let mut rollout = Rollout::start(hasty(), 10_000).expect("plan");
        for (now_ms, silent) in [(10_500, 0), (10_501, 1)] {
            let (counts, _) = rollout.clone().step(&trial, &tenths, now_ms, HEARS);
            assert_eq!(counts.silent, silent);
        }
        rollout.step(&trial, &tenths, 10_400, HEARS);
        rollout.set_state(State::Paused, 10_400);
        let (counts, decision) = rollout.step(&trial, &tenths, 20_000, HEARS);
        assert_eq!((counts.busy, decision), (1, Decision::Wait));
        rollout.set_state(State::Running, 20_000);
        let (counts, _) = rollout.step(&trial, &tenths, 20_500, HEARS);
        assert_eq!(counts.busy, 1);
    }

    #[test]
    fn while_the_host_hears_nobody_the_phase_stands_still() {
        let boards = [
            heard(0, SlotState::Confirmed, 0),
            heard(1, SlotState::Trial, 100),
            heard(2, SlotState::Empty, 0),
        ];
        let mut plan = hasty();
        plan.max_failures = 1;
        let mut rollout = Rollout::start(plan, 0).expect("plan");
        rollout.step(&boards, &tenths, 400, HEARS);
        // The broker is away, then the host as well, which is started again at 50,000.
        let stood = rollout.clone();
        for now_ms in [500, 5000, 49_000] {
            let (counts, decision) = rollout.step(&boards, &tenths, now_ms, None);
            assert_eq!((counts.busy, counts.silent), (1, 0), "{now_ms}");
            assert_eq!((decision, &rollout), (Decision::Wait, &stood), "{now_ms}");
        }
        let text = serde_json::to_string(&rollout).expect("JSON");
        let mut rollout: Rollout = serde_json::from_str(&text).expect("a rollout");
        let since = Some(50_000);
        let mut step = |now_ms| {
            let (counts, decision) = rollout.step(&boards, &tenths, now_ms, since);
            (counts.silent, decision)
        };
        // 400 ms of the phase were heard before: it has its deadline twice, since one board is busy, and
        // that one has a whole deadline from when it can be heard again.
        for now_ms in [50_001, 50_101, 50_500] {
            assert_eq!(step(now_ms), (0, Decision::Wait), "{now_ms}");
        }
        assert_eq!(step(50_501), (1, Decision::Wait), "late now, and it soaks");
        assert_eq!(step(50_601), (1, Decision::Advance));
        // What failed counts whether or not the host hears of it by itself.
        rollout.plan.max_failures = 0;
        let failed = [board(3, SlotState::Rejected(Reason::SelfTest))];
        let (_, decision) = rollout.step(&failed, &tenths, 50_700, None);
        assert!(matches!(decision, Decision::Abort { .. }), "{decision:?}");
    }

    #[test]
    fn a_soak_is_as_long_as_the_host_hears_whether_it_harms() {
        let boards: Vec<_> = (0..3).map(|n| board(n, SlotState::Confirmed)).collect();
        let mut rollout = Rollout::start(plan(&[300, 1000]), 0).expect("plan");
        for (now_ms, since, decision) in [
            (60, HEARS, Decision::Wait),
            (90, None, Decision::Wait),
            (5000, None, Decision::Wait),
            (6001, Some(6000), Decision::Wait),
            (6099, Some(6000), Decision::Wait),
            (6100, Some(6000), Decision::Advance),
        ] {
            let step = rollout.step(&boards, &tenths, now_ms, since);
            assert_eq!(step.1, decision, "{now_ms}");
        }
    }

    #[test]
    fn a_rollout_of_before_is_heard_of_from_its_next_look_on() {
        let trial = [board(0, SlotState::Trial)];
        let mut rollout = Rollout::start(hasty(), 10_000).expect("plan");
        rollout.listening = None;
        assert_eq!(rollout.step(&trial, &tenths, 90_000, None).0.silent, 0);
        let (counts, decision) = rollout.step(&trial, &tenths, 90_500, Some(90_000));
        assert_eq!((counts.silent, decision), (0, Decision::Wait));
        let (counts, _) = rollout.step(&trial, &tenths, 90_501, Some(90_000));
        assert_eq!(counts.silent, 1);
    }

    #[test]
    fn that_a_host_listens_on_is_noted_now_and_then() {
        let rollout = Rollout::start(hasty(), 0).expect("plan");
        let after = |now_ms, since| {
            let mut after = rollout.clone();
            after.step(&[], &tenths, now_ms, since);
            after.settled_ms = None;
            after.differs(&rollout)
        };
        assert!(!after(NOTED_MS - 1, HEARS));
        assert!(after(NOTED_MS, HEARS));
        assert!(after(2, Some(1)), "there was a break");
    }

    #[test]
    fn a_phase_that_nobody_confirmed_is_never_gone_past_in_silence() {
        let failed = |confirmed| -> Vec<_> {
            let state = |n| match n < confirmed {
                true => SlotState::Confirmed,
                false => SlotState::Rejected(Reason::SelfTest),
            };
            (0..3).map(|n| board(n, state(n))).collect()
        };
        // The phases, the share that must confirm, how many did, and what follows.
        for (phases, share, confirmed, follows) in [
            (&[300, 1000][..], 0, 0, None),
            (&[300, 1000], 0, 1, Some(Decision::Advance)),
            (&[300, 1000], 500, 1, None),
            (&[300, 1000], 500, 2, Some(Decision::Advance)),
            (&[300], 0, 0, None),
            (&[300], 1000, 1, Some(Decision::Finish)),
        ] {
            let plan = Plan {
                max_failures: 3,
                min_confirmed_per_mille: share,
                ..plan(phases)
            };
            let mut rollout = Rollout::start(plan, 0).expect("plan");
            rollout.step(&failed(confirmed), &tenths, 1, HEARS);
            let step = rollout.step(&failed(confirmed), &tenths, 101, HEARS);
            let case = format!("{phases:?} {share} {confirmed}: {step:?}");
            match follows {
                Some(decision) => assert_eq!(step.1, decision, "{case}"),
                None => {
                    assert_eq!(rollout.state, State::Paused, "{case}");
                    let why = rollout.paused_why.expect("a sentence");
                    let said = format!("{confirmed} of its 3 boards confirmed");
                    assert!(why.contains(&said), "{why}");
                }
            }
        }
    }

    #[test]
    fn enrolled_boards_that_were_never_heard_of_are_waited_for() {
        let mut tagged = plan(&[300, 1000]);
        tagged.soak_ms = 0;
        tagged.tags = vec![Text::try_from("site-a").expect("short")];
        let mut rollout = Rollout::start(tagged, 0).expect("plan");
        let unheard = |n: u8| BoardView::unheard(&format!("b{n}"), BoardClass::Linux);
        let boards: Vec<_> = (0..10).map(unheard).collect();
        let (counts, decision) = rollout.step(&boards, &tenths, 1, HEARS);
        assert_eq!((counts.targeted, counts.waiting), (3, 3));
        assert_eq!(decision, Decision::Wait);
        // One that has reported is known not to have the tag; one of another class was never asked.
        let others = [
            board(0, SlotState::Empty),
            BoardView::unheard("b1", BoardClass::Mcu),
        ];
        let (counts, decision) = rollout.step(&others, &tenths, 2, HEARS);
        assert_eq!((counts.targeted, decision), (0, Decision::Advance));
        // What is not known of a board does not make a downgrade of a release.
        assert_eq!(rollout.check_counters(&boards, &tenths), Ok(()));
    }

    #[test]
    fn a_pause_makes_no_board_late() {
        let mut rollout = Rollout::start(hasty(), 0).expect("plan");
        let mut boards: Vec<_> = (0..10).map(|n| board(n, SlotState::Empty)).collect();
        boards[0].slots[1].1 = SlotState::Confirmed;
        let step = |rollout: &mut Rollout, now_ms| rollout.step(&boards, &tenths, now_ms, HEARS).1;
        rollout.set_state(State::Paused, 100);
        for now_ms in [200, 600, 9000] {
            assert_eq!(step(&mut rollout, now_ms), Decision::Wait);
        }
        rollout.set_state(State::Running, 9000);
        for now_ms in [9000, 9400, 9500, 9501, 9600] {
            assert_eq!(step(&mut rollout, now_ms), Decision::Wait, "{now_ms}");
        }
        // Late since 9501, and then the soak.
        assert_eq!(step(&mut rollout, 9601), Decision::Advance);
    }

    #[test]
    fn a_downgrade_for_every_board_is_told_with_the_counter_that_none_refuses() {
        let rollout = Rollout::start(plan(&[500, 1000]), 0).expect("a rollout");
        let counter = rollout.plan.targets[0].counter;
        let at = |number, floor| BoardView {
            floor,
            ..board(number, SlotState::Empty)
        };
        let all = |_: &str, _: &str, _: u16| true;
        let refused = rollout.check_counters(&[at(0, counter + 1), at(1, counter + 3)], &all);
        let refused = refused.expect_err("both refuse it");
        assert_eq!((refused.least, refused.wanted), (counter + 1, counter + 4));
        // One that takes it is enough, and boards that are not asked count for nothing.
        let one = [at(0, counter), at(1, counter + 3)];
        assert_eq!(rollout.check_counters(&one, &all), Ok(()));
        let none = |_: &str, _: &str, _: u16| false;
        assert_eq!(rollout.check_counters(&[at(0, counter + 1)], &none), Ok(()));
        // The last phase counts, not the one that begins.
        let later = |_: &str, _: &str, share: u16| share == 1000;
        assert!(
            rollout
                .check_counters(&[at(0, counter + 1)], &later)
                .is_err()
        );
    }

    #[test]
    fn a_counter_that_every_board_has_confirmed_with_other_content_is_taken() {
        let rollout = Rollout::start(plan(&[1000]), 0).expect("a rollout");
        let all = |_: &str, _: &str, _: u16| true;
        let has = |number, release, running| BoardView {
            slots: [(OLD, SlotState::Confirmed), (release, SlotState::Confirmed)],
            running,
            floor: 2,
            ..board(number, SlotState::Empty)
        };
        let other = [9; 8];
        for running in [Some(1), None] {
            let boards = [has(0, other, running), has(1, other, running)];
            let refused = rollout.check_counters(&boards, &all).expect_err("taken");
            assert_eq!((refused.least, refused.wanted), (2, 3));
            let said = refused.to_string();
            assert!(said.contains("another release of that counter"), "{said}");
            // The release itself, and a board that takes it, are welcome.
            let boards = [has(0, other, running), has(1, NEW, running)];
            assert_eq!(rollout.check_counters(&boards, &all), Ok(()));
            let boards = [has(0, other, running), board(1, SlotState::Empty)];
            assert_eq!(rollout.check_counters(&boards, &all), Ok(()));
        }
        // Some refuse it as taken, the others as a downgrade.
        let later = BoardView {
            floor: 7,
            ..has(1, other, None)
        };
        let refused = rollout.check_counters(&[has(0, other, None), later], &all);
        assert_eq!(refused.expect_err("no board takes it").wanted, 8);
        // What was confirmed before does not run, and no longer takes its counter.
        let before = has(0, other, Some(0));
        assert_eq!(rollout.check_counters(&[before], &all), Ok(()));
    }

    #[test]
    fn a_senseless_plan_is_refused() {
        for phases in [&[][..], &[0], &[1001], &[500, 500], &[700, 300]] {
            assert!(matches!(
                Rollout::start(plan(phases), 0),
                Err(PlanError::Phases(_))
            ));
        }
        let mut empty = plan(&[1000]);
        empty.targets.clear();
        assert_eq!(Rollout::start(empty, 0), Err(PlanError::NoTarget));
        let mut twice = plan(&[1000]);
        twice.targets.push(twice.targets[0].clone());
        let refused = Rollout::start(twice, 0);
        assert_eq!(refused, Err(PlanError::SameClass("linux")));
        let mut tags = plan(&[1000]);
        tags.tags = vec![Text::new(); 100];
        assert_eq!(Rollout::start(tags, 0), Err(PlanError::TooMany("tags")));
    }
}
