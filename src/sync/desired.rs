//! What a signed desired state means to one board.

use super::{Desired, RolloutState, Target};
use crate::bundle::BoardClass;
use crate::place::{self, Blank, Fill};
use crate::slots::{RolloutTag, rollout_tag};
use crate::telemetry::{Refused, Text};
use crate::trust::cose::ContentType;
use crate::trust::root::{Root, TrustError};
use crate::trust::{Digest32, Role, Verifier, sha256, sha256_of};

/// Who the board is.
#[derive(Debug, Clone, Copy)]
pub struct Board<'a> {
    /// Its fleet.
    pub fleet: &'a str,
    /// Its name.
    pub device: &'a str,
    /// Its class.
    pub class: BoardClass,
    /// Its tags.
    pub tags: &'a [Text],
}

/// The desired state that the board accepted last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Its sequence number, 0 for none.
    pub sequence: u64,
    /// SHA-256 of its payload.
    pub digest: Digest32,
}

/// What a desired state asks of one board.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Nothing: it does not concern this board.
    Keep,
    /// Run this release.
    Install(Target),
    /// Run this release, but not yet: the rollout is paused.
    Wait(Target),
    /// Give this release up unless it is confirmed: the rollout was aborted.
    GiveUp(Target),
}

/// A desired state that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Its sequence number.
    pub sequence: u64,
    /// SHA-256 of its payload.
    pub digest: Digest32,
    /// The rollout.
    pub rollout: RolloutTag,
    /// What it asks of this board.
    pub plan: Plan,
}

/// A field of a desired state's payload, in the order in which they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DesiredField {
    /// The fleet.
    Fleet,
    /// The sequence number.
    Sequence,
    /// When it stops to count.
    Expires,
    /// The rollout's name.
    Rollout,
    /// Whether it goes on.
    State,
    /// One release a board class.
    Targets,
    /// Tags that a board must have.
    Tags,
    /// The share of boards.
    Share,
}

/// Why a desired state was refused; nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// Not signed by enough rollout keys, or not of the one signed shape.
    Trust(TrustError),
    /// A field of the payload is cut off, too long, or none.
    Undecodable {
        /// Which.
        field: DesiredField,
        /// Its offset in the payload.
        offset: u32,
    },
    /// Bytes follow the last field; the offset is that of the first.
    Trailing {
        /// Offset in the payload.
        offset: u32,
    },
    /// It is for another fleet.
    Fleet {
        /// Offset of the fleet in the payload.
        offset: u32,
    },
    /// The share is above 1000, or the sequence number is 0.
    OutOfRange {
        /// Which.
        field: DesiredField,
        /// Its offset in the payload.
        offset: u32,
    },
    /// Two targets of one class.
    DuplicateClass {
        /// Offset of the targets in the payload.
        offset: u32,
    },
    /// Older than the one given here, which was accepted before, or another of the same number.
    Replay {
        /// The sequence number accepted.
        seen: u64,
        /// Offset of the sequence number in the payload.
        offset: u32,
    },
    /// It stopped to count at this second.
    Expired {
        /// Seconds since 1970.
        at_s: u64,
        /// Offset of that in the payload.
        offset: u32,
    },
}

impl Refusal {
    /// How the board reports it.
    #[must_use]
    pub fn refused(&self) -> Refused {
        match self {
            Self::Replay { .. } => Refused::DesiredReplay,
            Self::Expired { .. } => Refused::DesiredExpired,
            _ => Refused::DesiredSignature,
        }
    }
}

/// Where a board stands in a rollout, from 0 to 999: it is in the cohort when this is less than the
/// share. A growing share only adds boards, and each rollout shuffles anew.
///
/// The first four bytes of SHA-256(rollout, a zero byte, device), big-endian, scaled to 1000.
#[must_use]
pub fn cohort_per_mille(rollout: &str, device: &str) -> u16 {
    let hash = sha256_of(&[rollout.as_bytes(), &[0], device.as_bytes()]);
    let value = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
    // Less than 1000, since the value is less than 2^32.
    ((u64::from(value) * 1000) >> 32) as u16
}

/// Checks a desired state and says what it asks of this board.
///
/// The one seen last is accepted again: a broker delivers what it retains at every subscription.
/// Without a clock (`now_s` none) the expiry is not checked; the sequence number still is.
///
/// # Errors
/// [`Refusal`] says why it does not count.
pub fn evaluate<V: Verifier + ?Sized>(
    bytes: &[u8],
    root: &Root,
    verifier: &V,
    board: &Board<'_>,
    seen: &Seen,
    now_s: Option<u64>,
) -> Result<Verdict, Refusal> {
    let payload = root
        .verify_threshold(Role::Rollout, ContentType::Desired, bytes, verifier)
        .map_err(Refusal::Trust)?;
    let mut desired = Desired::blank();
    let at = decode(&mut desired, payload)?;
    if desired.fleet != board.fleet {
        return Err(Refusal::Fleet { offset: at.fleet });
    }
    let range = |field, offset| Err(Refusal::OutOfRange { field, offset });
    if desired.sequence == 0 {
        return range(DesiredField::Sequence, at.sequence);
    }
    if desired.share_per_mille > 1000 {
        return range(DesiredField::Share, at.share);
    }
    let targets = &desired.targets;
    let twice = |(at, target): (usize, &Target)| {
        targets
            .iter()
            .skip(at + 1)
            .any(|other| other.class == target.class)
    };
    if targets.iter().enumerate().any(twice) {
        let offset = at.targets;
        return Err(Refusal::DuplicateClass { offset });
    }
    let digest = sha256(payload);
    let again = desired.sequence == seen.sequence && digest == seen.digest;
    if desired.sequence <= seen.sequence && !again {
        let (seen, offset) = (seen.sequence, at.sequence);
        return Err(Refusal::Replay { seen, offset });
    }
    if now_s.is_some_and(|now_s| now_s >= desired.expires_s) {
        let (at_s, offset) = (desired.expires_s, at.expires);
        return Err(Refusal::Expired { at_s, offset });
    }
    Ok(Verdict {
        sequence: desired.sequence,
        digest,
        rollout: rollout_tag(&desired.rollout),
        plan: plan(&desired, board),
    })
}

/// Offsets of the fields whose values are looked at.
struct Offsets {
    fleet: u32,
    sequence: u32,
    expires: u32,
    targets: u32,
    share: u32,
}

/// A payload, field by field, so that what is wrong with it can be named.
fn decode(desired: &mut Desired, payload: &[u8]) -> Result<Offsets, Refusal> {
    let Desired {
        fleet,
        sequence,
        expires_s,
        rollout,
        state,
        targets,
        tags,
        share_per_mille,
    } = desired;
    let mut rest = payload;
    let at = |rest: &[u8]| (payload.len() - rest.len()) as u32;
    // Reads the next field, and says where it began.
    let mut take = |place: &mut dyn Fill, field| {
        let offset = at(rest);
        let left = place::fill(place, rest);
        rest = left.map_err(|_| Refusal::Undecodable { field, offset })?;
        Ok(offset)
    };
    let fleet = take(fleet, DesiredField::Fleet)?;
    let sequence = take(sequence, DesiredField::Sequence)?;
    let expires = take(expires_s, DesiredField::Expires)?;
    take(rollout, DesiredField::Rollout)?;
    take(state, DesiredField::State)?;
    let targets = take(targets, DesiredField::Targets)?;
    take(tags, DesiredField::Tags)?;
    let share = take(share_per_mille, DesiredField::Share)?;
    if !rest.is_empty() {
        return Err(Refusal::Trailing { offset: at(rest) });
    }
    Ok(Offsets {
        fleet,
        sequence,
        expires,
        targets,
        share,
    })
}

fn plan(desired: &Desired, board: &Board<'_>) -> Plan {
    let tagged = desired.tags.iter().all(|tag| board.tags.contains(tag));
    let drawn = cohort_per_mille(&desired.rollout, board.device) < desired.share_per_mille;
    let target = desired
        .targets
        .iter()
        .find(|target| target.class == board.class);
    match (target, desired.state) {
        (Some(target), state) if tagged && drawn => match state {
            RolloutState::Active => Plan::Install(target.clone()),
            RolloutState::Paused => Plan::Wait(target.clone()),
            RolloutState::Aborted => Plan::GiveUp(target.clone()),
        },
        _ => Plan::Keep,
    }
}
