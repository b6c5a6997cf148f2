//! Boards as they describe themselves, and what one made of a release.

use edgeward::bundle::BoardClass;
use edgeward::sync::Target;
use edgeward::telemetry::{Birth, Id, Reason, ReleaseId, SlotState, Text, release_id};

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
    /// The counters of what its slots hold.
    pub counters: [u32; 2],
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
            counters: slots.map(|slot| slot.counter),
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
            counters: [0; 2],
            last_failure: None,
            running: None,
            desired: 0,
            floor: 0,
        }
    }

    /// The release that it has confirmed and the counter of that, as far as it has reported. The one
    /// before stays in its slot for a while; what counts is the one that runs, or else the newer.
    #[must_use]
    pub fn confirmed(&self) -> Option<(ReleaseId, u32)> {
        let slots = (0..).zip(self.slots.iter().zip(self.counters));
        let kept = slots.filter(|(_, ((_, state), _))| {
            matches!(state, SlotState::Confirmed | SlotState::Revoked)
        });
        let newest =
            kept.max_by_key(|&(index, (_, counter))| (self.running == Some(index), counter));
        newest.map(|(_, (&(release, _), counter))| (release, counter))
    }

    /// Whether it would refuse `target` as a downgrade, or since it has confirmed another release of that
    /// counter.
    pub(super) fn refuses(&self, target: &Target) -> bool {
        let confirmed = self.confirmed();
        let runs = confirmed.is_some_and(|(release, _)| release == release_id(&target.digest));
        let taken = confirmed.is_some_and(|(_, counter)| counter == target.counter);
        !runs && (target.counter < self.floor || taken)
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
pub(super) fn standing(board: &BoardView, release: ReleaseId, after: u64) -> Standing {
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
