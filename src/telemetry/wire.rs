//! How what is reported is read and written where it is; the tests of the outbox hold it to the derived
//! encoders and decoders.

use super::{
    Alarm, Birth, BodyRef, Crash, Event, FeatureSummary, OutputSummary, Reason, Refused, ReleaseId,
    SlotReport, SlotState, Statistic, Summary, Text,
};
use crate::bundle::BoardClass;
use crate::contract::ViolationKind;
use crate::place::{self, Blank, Decoder, Encoder, Fill, Put};
use heapless::Vec;

impl<'a, const F: usize, const C: usize> BodyRef<'a, F, C> {
    /// The number of the body's kind, and what follows it.
    pub(super) fn parts(self) -> (u32, &'a dyn Put) {
        match self {
            Self::Birth(birth) => (0, birth),
            Self::Summary(summary) => (1, summary),
            Self::Event(event) => (2, event),
        }
    }
}

place::records! {
    SlotReport { state, release, counter, version }
    Birth {
        class, firmware, slots, running, floor, root_version, desired, tags, last_failure,
    }
    FeatureSummary { bins, n, mean, m2, min, max, violations }
    OutputSummary<const C> {
        n, classes, score_mean, score_m2, entropy_sum, expected_right, z_outliers, below_p01, above_p99,
    }
    Summary<const F, const C> {
        release, windows, from_ms, to_ms, samples, rejected, inferences, errors, fallbacks, violations,
        alarms, dropped_events, latency, features, output, core_khz,
    }
}

place::numbers! {
    BoardClass { Linux, Mcu }
    Reason {
        Signature, Downgrade, WrongClass, Unsupported, Corrupt, SelfTest, Shadow, ErrorRate, Latency,
        PredictionDrift, Crash, Operator, Revoked, Source, CounterTaken,
    }
    ViolationKind {
        NotFinite, BelowRange, AboveRange, ZScore, Rate, Stuck, Missing, Gap, Duplicate, Stale, OutOfOrder,
        DType, Shape, SchemaVersion, FeatureVersion, UnknownFeature, AbsentFeature,
    }
    Statistic {
        Psi, Ks, JensenShannon, Wasserstein, ClassPsi, ScoreShift, ErrorRate, LatencyP99, EstimatedAccuracy,
        Cusum,
    }
    Crash { Panic, Fault, Watchdog }
}

place::choices! {
    Alarm {
        0 Violation {
            kind: ViolationKind,
            feature: Option<u16>,
            value: f32,
            sample: u32,
        }
        1 Drift {
            statistic: Statistic,
            feature: Option<u16>,
            value: f32,
            limit: f32,
        }
    }
    Refused {
        0 DesiredSignature {}
        1 DesiredReplay {}
        2 DesiredExpired {}
        3 Release {
            release: ReleaseId,
            reason: Reason,
        }
        4 Chunk {
            release: ReleaseId,
            index: u32,
        }
        5 Root { version: u32 }
        6 Ack {}
        7 Command {}
    }
    Event {
        0 Alarm {
            release: ReleaseId,
            alarm: Alarm,
        }
        1 Slot {
            slot: u8,
            release: ReleaseId,
            state: SlotState,
        }
        2 Refused { what: Refused }
        3 Reverted {
            from: ReleaseId,
            to: Option<ReleaseId>,
            reason: Reason,
        }
        4 Resumed {
            release: ReleaseId,
            kept: u32,
            total: u32,
        }
        5 Crashed {
            how: Crash,
            at: u32,
        }
    }
}

/// By hand, for the field without a name.
impl Fill for SlotState {
    #[inline(never)]
    fn fill_from(&mut self, from: &mut Decoder<'_>) {
        *self = match place::take::<u32>(from) {
            0 => Self::Empty,
            1 => Self::Receiving,
            2 => Self::Staged,
            3 => Self::Shadow,
            4 => Self::Trial,
            5 => Self::Confirmed,
            6 => Self::Rejected(place::take(from)),
            7 => Self::Revoked,
            _ => return from.refuse(),
        };
    }
}

impl Put for SlotState {
    #[inline(never)]
    fn put_to(&self, to: &mut Encoder<'_>) {
        let number: u32 = match self {
            Self::Empty => 0,
            Self::Receiving => 1,
            Self::Staged => 2,
            Self::Shadow => 3,
            Self::Trial => 4,
            Self::Confirmed => 5,
            Self::Rejected(_) => 6,
            Self::Revoked => 7,
        };
        number.put_to(to);
        if let Self::Rejected(reason) = self {
            reason.put_to(to);
        }
    }
}

impl Blank for SlotState {
    fn blank() -> Self {
        Self::Empty
    }
}

impl Blank for Refused {
    fn blank() -> Self {
        Self::Ack
    }
}

impl Blank for Alarm {
    fn blank() -> Self {
        Self::Drift {
            statistic: Statistic::Psi,
            feature: None,
            value: 0.0,
            limit: 0.0,
        }
    }
}

impl Blank for Birth {
    fn blank() -> Self {
        let slot = SlotReport {
            state: SlotState::Empty,
            release: [0; 8],
            counter: 0,
            version: Text::new(),
        };
        Self {
            class: BoardClass::Linux,
            firmware: Text::new(),
            slots: [slot.clone(), slot],
            running: None,
            floor: 0,
            root_version: 0,
            desired: 0,
            tags: Vec::new(),
            last_failure: None,
        }
    }
}

impl Blank for FeatureSummary {
    fn blank() -> Self {
        Self::empty()
    }
}
