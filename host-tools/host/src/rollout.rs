//! Rollouts: a release reaches the fleet in phases, and stops by itself when boards report harm.
//!
//! This module decides; it neither stores nor publishes. [`Rollout::assess`] looks at what the
//! boards reported (their signed births and events) and says what to do next. One signed desired
//! state a phase is all that a phase costs, whatever the size of the fleet.

use crate::names::class_name;
use edgeward::bundle::BoardClass;
use edgeward::sync::{Desired, RolloutState, Target};
use edgeward::telemetry::{Birth, Id, Reason, ReleaseId, SlotState, Text, release_id};
use serde::{Deserialize, Serialize};

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
    /// Boards that may revert or reject the release before the rollout stops.
    pub max_failures: u32,
    /// Time a phase may take, in milliseconds, and as long again where boards have begun; what is not
    /// done then is late, and late boards don't hold up the next phase once enough others confirmed. A
    /// board that began and was silent for so long counts as failed. 0 waits for ever. A pause does not
    /// count, and the phase has all of its time after it.
    pub deadline_ms: u64,
    /// Least share of a phase's boards in per mille that must have confirmed before a late phase gives
    /// way to the next; one board must in any case.
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
}

/// An enrolled board as its last birth and events describe it.
#[derive(Debug, Clone, PartialEq)]
pub struct BoardView {
    /// Its name.
    pub device: Id,
    /// Whether it ever described itself. If not, its class is known from its enrolment, and nothing
    /// else.
    pub reported: bool,
    /// When something new of it came last, in milliseconds since 1970; 0 for never.
    pub heard_ms: u64,
    /// Its class.
    pub class: BoardClass,
    /// Its tags.
    pub tags: Vec<Text>,
    /// Its slots: release and state.
    pub slots: [(ReleaseId, SlotState); 2],
    /// Its last failed trial.
    pub last_failure: Option<(ReleaseId, Reason)>,
    /// Index of the slot that answers, when the board said so.
    pub running: Option<u8>,
    /// Number of the desired state that it last accepted.
    pub desired: u64,
    /// Least release counter that it accepts.
    pub floor: u32,
}

impl BoardView {
    /// What a board's newest birth says of it.
    #[must_use]
    pub fn of(device: &str, birth: &Birth) -> Self {
        let slots = birth.slots.each_ref();
        Self {
            device: Id::try_from(device).unwrap_or_default(),
            reported: true,
            heard_ms: 0,
            class: birth.class,
            tags: birth.tags.to_vec(),
            slots: slots.map(|slot| (slot.release, slot.state)),
            last_failure: birth.last_failure,
            running: birth.running,
            desired: birth.desired,
            floor: birth.floor,
        }
    }

    /// An enrolled board that was never heard of.
    #[must_use]
    pub fn unheard(device: &str, class: BoardClass) -> Self {
        Self {
            device: Id::try_from(device).unwrap_or_default(),
            reported: false,
            heard_ms: 0,
            class,
            tags: Vec::new(),
            slots: [([0; 8], SlotState::Empty); 2],
            last_failure: None,
            running: None,
            desired: 0,
            floor: 0,
        }
    }
}

/// Boards of the present phase, by what they did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// In the cohort.
    pub targeted: u32,
    /// Confirmed the release.
    pub confirmed: u32,
    /// Downloading, staged, in shadow or on trial.
    pub busy: u32,
    /// Refused or reverted the release, or fell silent over it.
    pub failed: u32,
    /// Those of the failed that began, and were silent for the plan's deadline since.
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

/// A release that every board would refuse as a downgrade.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "version {version} has counter {counter}, and every board that would get it accepts {least} at least"
)]
pub struct Downgrade {
    /// The release's version.
    pub version: Text,
    /// Its counter.
    pub counter: u32,
    /// The least counter that a board accepts.
    pub least: u32,
    /// The counter that all of them accept.
    pub wanted: u32,
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

    /// Counts the boards of the present phase as they stand at `now_ms`. `in_cohort` is the boards' own
    /// rule ([`edgeward::sync`]), given the rollout's name, the device's name and the share.
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
                Standing::Busy if self.is_silent(board, now_ms) => {
                    counts.failed += 1;
                    counts.silent += 1;
                }
                Standing::Busy => counts.busy += 1,
                Standing::Failed => counts.failed += 1,
                Standing::Waiting => counts.waiting += 1,
            }
        }
        counts
    }

    /// Whether a board that has begun was silent for so long that the release has likely stopped it.
    /// Neither the time before the phase counts nor a pause.
    fn is_silent(&self, board: &BoardView, now_ms: u64) -> bool {
        let since_ms = board.heard_ms.max(self.phase_from_ms);
        self.state != State::Paused
            && self.plan.deadline_ms > 0
            && now_ms.saturating_sub(since_ms) > self.plan.deadline_ms
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

    /// Refuses a release whose counter is below what every board accepts that the last phase asks to
    /// run it, as far as they have reported.
    ///
    /// # Errors
    /// [`Downgrade`] for the first such release.
    pub fn check_floors(
        &self,
        boards: &[BoardView],
        in_cohort: &dyn Fn(&str, &str, u16) -> bool,
    ) -> Result<(), Downgrade> {
        let last = Self {
            phase: self.plan.phases.len().saturating_sub(1),
            ..self.clone()
        };
        for target in &self.plan.targets {
            let asked = boards.iter().filter(|board| board.class == target.class);
            let floors = asked
                .filter(|board| board.reported && last.asks(board, in_cohort))
                .map(|board| board.floor);
            let (least, wanted) = (floors.clone().min(), floors.max());
            if let (Some(least), Some(wanted)) = (least, wanted)
                && target.counter < least
            {
                return Err(Downgrade {
                    version: target.version.clone(),
                    counter: target.counter,
                    least,
                    // The counter that a board has confirmed is taken.
                    wanted: wanted.saturating_add(1),
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
    pub fn step(
        &mut self,
        boards: &[BoardView],
        in_cohort: &dyn Fn(&str, &str, u16) -> bool,
        now_ms: u64,
    ) -> (Counts, Decision) {
        let counts = self.counts(boards, in_cohort, now_ms);
        // Boards that are told to wait are neither late nor done.
        if self.state == State::Running {
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
            let silent = match counts.silent {
                0 => String::new(),
                silent => format!(", {silent} of them by falling silent over it"),
            };
            let why = format!(
                "{} of {} boards refused or reverted the release{silent} (at most {} may)",
                counts.failed, counts.targeted, self.plan.max_failures
            );
            return Decision::Abort { why };
        }
        let late = self.is_late(counts, now_ms);
        let settled = counts.targeted > 0 && counts.busy + counts.waiting == 0;
        // A phase in which no enrolled board lies (a small share of a small fleet) holds nothing up.
        if !(settled || late || counts.targeted == 0) {
            return Decision::Wait;
        }
        let last = self.phase + 1 >= self.plan.phases.len();
        let needed = self.needed(counts);
        if counts.targeted > 0 && !settled && !last && counts.confirmed < needed {
            let why = format!(
                "phase {} is late with {} of its {} boards confirmed, of which {needed} must be: \
                 {} have not begun, {} are busy",
                self.phase + 1,
                counts.confirmed,
                counts.targeted,
                counts.waiting,
                counts.busy
            );
            return Decision::Pause { why };
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

    /// Whether the phase has had its time. One in which boards have begun has as much again, after
    /// which each of them was either heard of or counts as failed.
    fn is_late(&self, counts: &Counts, now_ms: u64) -> bool {
        let times = if counts.busy > 0 { 2 } else { 1 };
        let deadline_ms = self.plan.deadline_ms.saturating_mul(times);
        deadline_ms > 0 && now_ms.saturating_sub(self.phase_from_ms) > deadline_ms
    }

    /// Boards that must have confirmed before a late phase gives way to the next.
    fn needed(&self, counts: &Counts) -> u32 {
        let share = u64::from(self.plan.min_confirmed_per_mille.min(1000));
        let share = (u64::from(counts.targeted) * share).div_ceil(1000);
        u32::try_from(share).unwrap_or(u32::MAX).max(1)
    }

    /// Notes when the phase settled, so that the soak can be measured. Call before `assess`.
    pub fn observe(&mut self, counts: &Counts, now_ms: u64) {
        let quiet = counts.busy + counts.waiting == 0;
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

/// What a board made of a rollout's release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Confirmed, and it is what runs.
    Confirmed,
    /// On its way: from the download to the trial.
    Busy,
    /// Refused or reverted.
    Failed,
    /// Not begun; or confirmed once, left for another one, and not begun again.
    Waiting,
}

impl Standing {
    /// Its name; stable.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Busy => "busy",
            Self::Failed => "rejected",
            Self::Waiting => "waiting",
        }
    }
}

/// What one board did with one release, in desired states after the number `after`.
fn standing(board: &BoardView, release: ReleaseId, after: u64) -> Standing {
    let (mut busy, mut failed) = (false, false);
    for (index, (held, state)) in (0..).zip(&board.slots) {
        if *held != release {
            continue;
        }
        match state {
            // One that was confirmed before stays in its slot until that is needed, but does not run.
            SlotState::Confirmed | SlotState::Revoked
                if board.running.is_none_or(|slot| slot == index) =>
            {
                return Standing::Confirmed;
            }
            SlotState::Confirmed | SlotState::Revoked | SlotState::Empty => {}
            SlotState::Rejected(_) => failed = true,
            _ => busy = true,
        }
    }
    // A slot may have been cleared since; the last failure is kept for longer.
    failed |= board.last_failure.is_some_and(|(of, _)| of == release);
    match (busy, failed && board.desired > after) {
        (true, _) => Standing::Busy,
        (false, true) => Standing::Failed,
        (false, false) => Standing::Waiting,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const OLD: ReleaseId = [1; 8];
    const NEW: ReleaseId = [2; 8];

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
        let step = |rollout: &mut Rollout, now_ms| rollout.step(&boards, &tenths, now_ms).1;
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
            rollout.step(&boards, &tenths, 501);
            rollout.step(&boards, &tenths, 601);
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
            assert_eq!(rollout.step(&boards, &tenths, 1200).1, Decision::Wait);
            let again = rollout.step(&boards, &tenths, 1201).1;
            assert!(matches!(again, Decision::Pause { .. }), "{again:?}");
        }
    }

    #[test]
    fn boards_that_fall_silent_over_a_release_count_as_failed() {
        let at = |number, state, heard_ms| BoardView {
            heard_ms,
            ..board(number, state)
        };
        let boards = [
            at(0, SlotState::Confirmed, 0),
            at(1, SlotState::Trial, 100),
            at(2, SlotState::Trial, 650),
        ];
        let mut rollout = Rollout::start(hasty(), 0).expect("plan");
        // Both have begun, so the phase is not late when its time is over.
        for now_ms in [501, 600] {
            assert_eq!(rollout.step(&boards, &tenths, now_ms).1, Decision::Wait);
        }
        let before = rollout.clone();
        let (counts, decision) = rollout.step(&boards, &tenths, 601);
        assert_eq!((counts.busy, counts.failed, counts.silent), (1, 1, 1));
        let Decision::Abort { why } = decision else {
            panic!("{decision:?}");
        };
        assert!(why.contains("1 of 3") && why.contains("silent"), "{why}");

        // Where one may fail, the other one is waited for, and so is its silence.
        let mut rollout = before;
        rollout.plan.max_failures = 1;
        for now_ms in [601, 1000, 1001, 1100] {
            assert_eq!(rollout.step(&boards, &tenths, now_ms).1, Decision::Wait);
        }
        let mut heard = boards.clone();
        heard[2].heard_ms = 1100;
        let advanced = rollout.clone().step(&heard, &tenths, 1151);
        assert_eq!(advanced.1, Decision::Advance, "late, and not silent");
        let (counts, decision) = rollout.step(&boards, &tenths, 1151);
        assert_eq!(counts.silent, 2);
        assert!(matches!(decision, Decision::Abort { .. }), "{decision:?}");
    }

    #[test]
    fn silence_before_the_phase_or_in_a_pause_is_no_failure() {
        let trial = [board(0, SlotState::Trial)];
        let mut rollout = Rollout::start(hasty(), 10_000).expect("plan");
        assert_eq!(rollout.counts(&trial, &tenths, 10_500).silent, 0);
        assert_eq!(rollout.counts(&trial, &tenths, 10_501).silent, 1);
        rollout.set_state(State::Paused, 10_400);
        assert_eq!(rollout.counts(&trial, &tenths, 20_000).busy, 1);
        rollout.set_state(State::Running, 20_000);
        assert_eq!(rollout.counts(&trial, &tenths, 20_500).busy, 1);
    }

    #[test]
    fn enrolled_boards_that_were_never_heard_of_are_waited_for() {
        let mut tagged = plan(&[300, 1000]);
        tagged.soak_ms = 0;
        tagged.tags = vec![Text::try_from("site-a").expect("short")];
        let mut rollout = Rollout::start(tagged, 0).expect("plan");
        let unheard = |n: u8| BoardView::unheard(&format!("b{n}"), BoardClass::Linux);
        let boards: Vec<_> = (0..10).map(unheard).collect();
        let (counts, decision) = rollout.step(&boards, &tenths, 1);
        assert_eq!((counts.targeted, counts.waiting), (3, 3));
        assert_eq!(decision, Decision::Wait);
        // One that has reported is known not to have the tag; one of another class was never asked.
        let others = [
            board(0, SlotState::Empty),
            BoardView::unheard("b1", BoardClass::Mcu),
        ];
        let (counts, decision) = rollout.step(&others, &tenths, 2);
        assert_eq!((counts.targeted, decision), (0, Decision::Advance));
        // What is not known of a board does not make a downgrade of a release.
        assert_eq!(rollout.check_floors(&boards, &tenths), Ok(()));
    }

    #[test]
    fn a_pause_makes_no_board_late() {
        let mut rollout = Rollout::start(hasty(), 0).expect("plan");
        let mut boards: Vec<_> = (0..10).map(|n| board(n, SlotState::Empty)).collect();
        boards[0].slots[1].1 = SlotState::Confirmed;
        let step = |rollout: &mut Rollout, now_ms| rollout.step(&boards, &tenths, now_ms).1;
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
        let refused = rollout.check_floors(&[at(0, counter + 1), at(1, counter + 3)], &all);
        let refused = refused.expect_err("both refuse it");
        assert_eq!((refused.least, refused.wanted), (counter + 1, counter + 4));
        // One that takes it is enough, and boards that are not asked count for nothing.
        let one = [at(0, counter), at(1, counter + 3)];
        assert_eq!(rollout.check_floors(&one, &all), Ok(()));
        let none = |_: &str, _: &str, _: u16| false;
        assert_eq!(rollout.check_floors(&[at(0, counter + 1)], &none), Ok(()));
        // The last phase counts, not the one that begins.
        let later = |_: &str, _: &str, share: u16| share == 1000;
        assert!(rollout.check_floors(&[at(0, counter + 1)], &later).is_err());
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
