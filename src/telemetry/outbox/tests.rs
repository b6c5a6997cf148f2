mod cuts;
mod full;

use super::*;
use crate::contract::ViolationKind;
use crate::slots::ram::{Cut, Edge, RamFlash, Tear};
use crate::telemetry::codec::{max_frame_bytes, sign_record};
use crate::telemetry::{
    Alarm, Crash, Event, FeatureSummary, Reason, Refused, SlotState, Statistic, Summary, Text,
};
use crate::telemetry::{Body, ID_BYTES};
use crate::trust::testing::Fake;
use embedded_storage::nor_flash::ReadNorFlash;
use std::collections::{BTreeMap, BTreeSet};
use std::vec;

type Flash = RamFlash<8, 256>;
const BUFFER: usize = max_record_bytes(1, 1);
type Small<'a> = Outbox<&'a mut Flash, 1, 1, 16, BUFFER>;
const REGION: Region = Region {
    offset: 1024,
    sector_bytes: 1024,
    sectors: 4,
};

fn flash() -> Flash {
    Flash::new(6 * 1024)
}

/// What the board's randomness gives in a boot.
fn fresh(boot: u32) -> NonZeroU32 {
    NonZeroU32::new(1000 + boot).expect("not zero")
}

fn summary(samples: u32) -> Body<1, 1> {
    released(samples, 1)
}

fn released(samples: u32, release: u8) -> Body<1, 1> {
    let mut summary = Summary::empty();
    summary.release = [release; 8];
    summary.windows = 1;
    summary.samples = samples;
    let feature = FeatureSummary {
        bins: [samples; crate::profile::BINS],
        ..FeatureSummary::empty()
    };
    assert!(summary.features.push(feature).is_ok());
    Body::Summary(summary)
}

fn event() -> Body<1, 1> {
    Body::Event(Event::Refused { what: Refused::Ack })
}

#[test]
fn bodies_are_read_and_written_in_place_as_they_are_by_serde() {
    let mut birth = Birth::blank();
    birth.running = Some(1);
    birth.slots[0].version = Text::try_from("1.2").expect("short");
    birth.tags = [Text::try_from("a").expect("short")].into_iter().collect();
    birth.last_failure = Some(([3; 8], Reason::Crash));
    let mut of_two = Summary::<2, 2>::empty();
    of_two.latency.record(70);
    of_two.output.classes = [1, 200].into_iter().collect();
    for n in [1, 2] {
        let feature = FeatureSummary {
            n,
            ..FeatureSummary::empty()
        };
        assert!(of_two.features.push(feature).is_ok());
    }
    place::check(&birth, &Birth::blank());
    place::check(&of_two, &Summary::empty());
    for body in [Body::Birth(birth), Body::Summary(of_two.clone())] {
        read_as_decoded::<2, 2>(&body);
        // One feature and one class too many.
        read_as_decoded::<1, 2>(&body);
        read_as_decoded::<2, 1>(&body);
    }
    let release = [1; 8];
    let reason = Reason::SelfTest;
    let alarms = [
        Alarm::Violation {
            kind: ViolationKind::Stuck,
            feature: Some(300),
            value: 1.5,
            sample: 7,
        },
        Alarm::Drift {
            statistic: Statistic::Psi,
            feature: None,
            value: 0.5,
            limit: 0.25,
        },
    ];
    let refused = [
        Refused::DesiredSignature,
        Refused::DesiredReplay,
        Refused::DesiredExpired,
        Refused::Release { release, reason },
        Refused::Chunk { release, index: 9 },
        Refused::Root { version: 4 },
        Refused::Ack,
        Refused::Command,
    ];
    let states = [SlotState::Rejected(reason), SlotState::Trial];
    let events = [
        Event::Reverted {
            from: release,
            to: Some([2; 8]),
            reason,
        },
        Event::Reverted {
            from: release,
            to: None,
            reason,
        },
        Event::Resumed {
            release,
            kept: 3,
            total: 400,
        },
        Event::Crashed {
            how: Crash::Watchdog,
            at: 99,
        },
    ]
    .into_iter()
    .chain(alarms.map(|alarm| Event::Alarm { release, alarm }))
    .chain(refused.map(|what| Event::Refused { what }))
    .chain(states.map(|state| Event::Slot {
        slot: 1,
        release,
        state,
    }));
    for event in events {
        place::check(&event, &Event::Refused { what: Refused::Ack });
        read_as_decoded::<2, 2>(&Body::<2, 2>::Event(event));
    }
}

/// Reads the bytes of a body in place and by its derived decoder, as they are, cut off, and with each
/// of them changed.
fn read_as_decoded<const F: usize, const C: usize>(body: &Body<2, 2>) {
    let bytes = postcard::to_extend(body, vec![]).expect("is written");
    let mut space = vec![0; bytes.len()];
    let (kind, part) = BodyRef::from(body).parts();
    assert_eq!(place::put(&[&kind, part], &mut space), Ok(bytes.len()));
    assert_eq!(space, bytes);
    let same = |bytes: &[u8]| {
        let decoded = decode_body::<F, C>(bytes).ok();
        let mut summary = Summary::empty();
        let kind = read_body::<F, C>(bytes, &mut summary);
        assert_eq!(kind, decoded.as_ref().map(RecordKind::of_body), "{bytes:?}");
        if let Some(Body::Summary(decoded)) = decoded {
            // No NaN equals another, but all are written.
            let debug = |summary| std::format!("{summary:?}");
            assert_eq!(debug(&summary), debug(&decoded));
        }
    };
    same(&bytes);
    same(&[&bytes[..], &[0]].concat());
    for at in 0..bytes.len() {
        same(&bytes[..at]);
        for byte in (0..=20).chain([0x7f, 0x80, 0xff]) {
            let mut bytes = bytes.clone();
            bytes[at] = byte;
            same(&bytes);
        }
    }
}

/// One waiting record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    first: u64,
    last: u64,
    samples: u32,
    dropped: u32,
    event: bool,
}

fn contents<S: NorFlash, const R: usize, const B: usize>(
    outbox: &mut Outbox<S, 1, 1, R, B>,
) -> Result<Vec<Held>, OutboxError> {
    let mut all = vec![];
    let mut after = 0;
    while let Some(record) = outbox.peek_after(after)? {
        after = record.sequence;
        let mut held = Held {
            first: record.first_sequence,
            last: record.sequence,
            samples: 0,
            dropped: 0,
            event: record.kind == RecordKind::Event,
        };
        if let Body::Summary(summary) = decode_body::<1, 1>(record.body)? {
            held.samples = summary.samples;
            held.dropped = summary.dropped_events;
            // Merging keeps the parts together.
            for feature in &summary.features {
                assert_eq!(feature.bins[3], summary.samples);
            }
        }
        all.push(held);
    }
    Ok(all)
}

/// What was given to the outbox: samples of each frame, none for an event.
type Given = BTreeMap<u64, Option<u32>>;

/// Checks that every number above what the host acknowledged is answered for exactly once, with
/// all that was counted. A number in `doubtful`, of a push that was cut, may be missing at the end,
/// or have become a dropped frame.
fn check(
    held: &[Held],
    given: &Given,
    acknowledged: u64,
    doubtful: &BTreeSet<u64>,
) -> Result<(), String> {
    let mut expected = acknowledged + 1;
    for one in held.iter().filter(|one| one.last > acknowledged) {
        let straddles = one.first <= acknowledged && expected == acknowledged + 1;
        if one.first != expected && !straddles {
            return Err(format!("{one:?} where {expected} is due"));
        }
        expected = one.last + 1;
        let doubts: Vec<u64> = doubtful.range(one.first..=one.last).copied().collect();
        let fits = (0..1 << doubts.len()).any(|subset| {
            let lost = |n: &u64| {
                doubts
                    .iter()
                    .position(|d| d == n)
                    .is_some_and(|at| subset >> at & 1 == 1)
            };
            let (mut samples, mut dropped) = (0, 0);
            for (n, value) in given.range(one.first..=one.last) {
                match value {
                    _ if lost(n) => dropped += 1,
                    Some(value) => samples += value,
                    None => dropped += 1,
                }
            }
            let as_it_is = one.event && one.first == one.last && given[&one.first].is_none();
            one.samples == samples && (one.dropped == dropped || as_it_is && one.dropped == 0)
        });
        if !fits {
            return Err(format!("{one:?} is not what was given"));
        }
    }
    let through = expected - 1;
    let most = given.keys().last().copied().unwrap_or(0);
    if (through + 1..=most).all(|n| doubtful.contains(&n)) {
        return Ok(());
    }
    Err(format!("answers through {through}, {most} were given"))
}

/// A life of an outbox: pushes and acknowledgements, interrupted by cuts of power.
struct Life {
    flash: Flash,
    given: Given,
    /// What the host has acknowledged, whether the outbox still knows it or not.
    acknowledged: u64,
    /// Numbers of pushes that were cut.
    doubtful: BTreeSet<u64>,
    boot: u32,
    /// The epoch, once a push has returned.
    epoch: Option<u32>,
    acknowledges: bool,
}

impl Life {
    fn new() -> Self {
        Self {
            flash: flash(),
            given: Given::new(),
            acknowledged: 0,
            doubtful: BTreeSet::new(),
            boot: 0,
            epoch: None,
            acknowledges: true,
        }
    }

    /// Opens, pushes up to number `end`, acknowledging now and then, until all is done or the power
    /// goes.
    fn run(&mut self, end: u64) -> Result<(), OutboxError> {
        self.boot += 1;
        let mut outbox = Small::open(&mut self.flash, REGION, self.boot, fresh(self.boot))?;
        while outbox.next_sequence() <= end {
            let n = outbox.next_sequence();
            let body = match n % 5 {
                2 => event(),
                _ => summary(n as u32),
            };
            let samples = (n % 5 != 2).then_some(n as u32);
            self.given.insert(n, samples);
            self.doubtful.insert(n);
            assert_eq!(outbox.push(n, &body)?, n);
            self.doubtful.remove(&n);
            assert_eq!(*self.epoch.get_or_insert(outbox.epoch()), outbox.epoch());
            if self.acknowledges && n % 13 == 0 {
                // The host has received what is oldest, as a whole.
                if let Some(record) = outbox.peek_after(0)? {
                    let through = record.sequence;
                    self.acknowledged = self.acknowledged.max(through);
                    outbox.acknowledge(through)?;
                }
            }
        }
        Ok(())
    }

    /// The power comes back; everything must be there.
    fn check(&mut self) {
        self.flash.power_on();
        self.boot += 1;
        let mut outbox =
            Small::open(&mut self.flash, REGION, self.boot, fresh(self.boot)).expect("opens");
        assert!(self.epoch.is_none_or(|epoch| epoch == outbox.epoch()));
        let held = contents(&mut outbox).expect("reads");
        let checked = check(&held, &self.given, self.acknowledged, &self.doubtful);
        assert_eq!(checked, Ok(()), "{held:?}");
        // A number that waits is not given again: the host would hear two reports of it.
        let waiting = held.last().map_or(outbox.acknowledged(), |one| one.last);
        assert_eq!(waiting + 1, outbox.next_sequence(), "{held:?}");
    }
}

#[test]
fn frames_are_numbered_over_boots_and_kept_until_acknowledged() {
    let mut flash = flash();
    let mut outbox = Small::open(&mut flash, REGION, 1, fresh(1)).expect("opens");
    assert_eq!(outbox.push(10, &summary(5)), Ok(1));
    assert_eq!(outbox.push(11, &event()), Ok(2));
    let mut outbox = Small::open(&mut flash, REGION, 2, fresh(2)).expect("opens");
    assert_eq!(outbox.push(12, &summary(7)), Ok(3));
    let all = contents(&mut outbox).expect("reads");
    let samples: Vec<u32> = all.iter().map(|held| held.samples).collect();
    assert_eq!(samples, [5, 0, 7]);
    let record = outbox.peek_after(2).expect("reads").expect("waits");
    assert_eq!((record.boot, record.time_ms), (2, 12));
    assert_eq!(outbox.acknowledge(2), Ok(()));
    assert_eq!(outbox.len(), 1);
    let mut outbox = Small::open(&mut flash, REGION, 3, fresh(3)).expect("opens");
    assert_eq!(outbox.len(), 1);
    assert_eq!(outbox.acknowledge(3), Ok(()));
    let unknown = OutboxError::AcknowledgedUnknown { next_sequence: 4 };
    assert_eq!(outbox.acknowledge(4), Err(unknown));
    let outbox = Small::open(&mut flash, REGION, 4, fresh(4)).expect("opens");
    assert!(outbox.is_empty());
    assert_eq!((outbox.next_sequence(), outbox.acknowledged()), (4, 3));
}

#[test]
fn a_frame_is_signed_in_the_buffer_as_it_is_elsewhere() {
    let mut flash = flash();
    let outbox = Outbox::open(&mut flash, REGION, 1, fresh(1));
    let mut outbox: Outbox<_, 1, 1, 16, { max_buffer_bytes(1, 1) }> = outbox.expect("opens");
    for body in [event(), summary(7), summary(u32::MAX), event()] {
        outbox.push(u64::MAX, &body).expect("room");
    }
    for name in ["d".into(), "d".repeat(ID_BYTES)] {
        let device = Id::try_from(&*name).expect("short");
        for after in 0..4 {
            let mut expected = [0; max_frame_bytes(1, 1)];
            let record = outbox.peek_after(after).expect("reads").expect("is there");
            let (kind, sequence) = (record.kind, record.sequence);
            let bytes = sign_record(&device, &record, &Fake(1), &mut expected).expect("fits");
            let signed = outbox.sign_after(after, &device, &Fake(1));
            let expects = Signed {
                kind,
                sequence,
                bytes,
            };
            assert_eq!(signed, Ok(Some(expects)));
            assert_eq!(outbox.buffer()[..bytes], expected[..bytes]);
        }
        assert_eq!(outbox.sign_after(4, &device, &Fake(1)), Ok(None));
    }
}

#[test]
fn a_full_outbox_loses_resolution_and_no_count() {
    let mut life = Life::new();
    life.acknowledges = false;
    for end in [5, 9, 10, 60, 300] {
        assert_eq!(life.run(end), Ok(()));
        life.check();
    }
    let mut outbox = Small::open(&mut life.flash, REGION, 99, fresh(99)).expect("opens");
    let held = contents(&mut outbox).expect("reads");
    assert!(held.len() > 4, "{held:?}");
    assert!(held.iter().any(|one| one.first + 9 < one.last), "{held:?}");
    // The newest are as they were.
    assert!(held.iter().rev().take(3).all(|one| one.first == one.last));
}

#[test]
fn a_birth_that_was_folded_is_asked_for_again() {
    use crate::telemetry::{Birth, SlotReport, SlotState};
    let slot = SlotReport {
        state: SlotState::Empty,
        release: [0; 8],
        counter: 0,
        version: Default::default(),
    };
    let birth = Body::Birth(Birth {
        class: crate::bundle::BoardClass::Linux,
        firmware: Default::default(),
        slots: [slot.clone(), slot],
        running: None,
        floor: 0,
        root_version: 1,
        desired: 0,
        tags: heapless::Vec::new(),
        last_failure: None,
    });
    let mut flash = flash();
    let mut outbox = Small::open(&mut flash, REGION, 1, fresh(1)).expect("opens");
    assert_eq!(outbox.push(0, &birth), Ok(1));
    for n in 2..40 {
        assert_eq!(outbox.push(n, &summary(1)), Ok(n));
    }
    assert!(outbox.needs_birth());
    assert_eq!(outbox.push(0, &birth), Ok(40));
    assert!(!outbox.needs_birth());
}

#[test]
fn a_region_that_does_not_suit_is_refused() {
    let refused = |region: Region| Small::open(&mut flash(), region, 1, fresh(1)).err();
    let region = |offset, sector_bytes, sectors| Region {
        offset,
        sector_bytes,
        sectors,
    };
    assert_eq!(refused(region(100, 1024, 4)), Some(OutboxError::Region));
    assert_eq!(refused(region(0, 1000, 4)), Some(OutboxError::Region));
    assert_eq!(refused(region(0, 1024, 1)), Some(OutboxError::Region));
    assert_eq!(refused(region(0, 1024, 7)), Some(OutboxError::Region));
    assert_eq!(
        refused(region(u32::MAX - 255, 1024, 4)),
        Some(OutboxError::Region)
    );
    let needed = (max_record_bytes(1, 1) + SECTOR_OVERHEAD) as u32;
    let small = OutboxError::SectorTooSmall { needed };
    assert_eq!(refused(region(0, 768, 4)), Some(small));
    let mut flash = flash();
    let mut outbox = Small::open(&mut flash, REGION, 1, fresh(1)).expect("opens");
    assert_eq!(outbox.push(1, &event()), Ok(1));
    let other = Region {
        sectors: 3,
        ..REGION
    };
    let error = Small::open(&mut flash, other, 1, fresh(1)).err();
    assert_eq!(error, Some(OutboxError::OtherRegion));
    assert_eq!(Small::format(&mut &mut flash, &REGION), Ok(()));
    let outbox = Small::open(&mut flash, other, 1, fresh(1)).expect("opens");
    assert_eq!(outbox.next_sequence(), 1);
}

#[test]
fn each_outbox_has_an_epoch_of_its_own_and_keeps_it() {
    let mut flash = flash();
    // Without a frame nobody heard of the first one.
    assert_eq!(
        Small::open(&mut flash, REGION, 1, fresh(1))
            .expect("opens")
            .epoch(),
        1001
    );
    for boot in 2..5 {
        let mut outbox = Small::open(&mut flash, REGION, boot, fresh(boot)).expect("opens");
        assert!(outbox.push(1, &event()).is_ok());
        assert_eq!(outbox.epoch(), 1002);
        let record = outbox.peek_after(0).expect("reads").expect("waits");
        assert_eq!((record.epoch, record.acknowledged), (1002, 0));
    }
    let mut outbox = Small::open(&mut flash, REGION, 5, fresh(5)).expect("opens");
    for n in 4..100 {
        assert_eq!(outbox.push(n, &summary(1)), Ok(n));
    }
    assert_eq!(outbox.acknowledge(99), Ok(()));
    outbox.begin_anew(fresh(6));
    assert_eq!(
        (outbox.epoch(), outbox.next_sequence(), outbox.len()),
        (1006, 1, 0)
    );
    assert_eq!(outbox.push(100, &event()), Ok(1));
    let mut outbox = Small::open(&mut flash, REGION, 7, fresh(7)).expect("opens");
    assert_eq!((outbox.epoch(), outbox.next_sequence()), (1006, 2));
    assert_eq!(
        contents(&mut outbox).expect("reads").len(),
        1,
        "nothing of the old one is left"
    );
    assert_eq!(Small::format(&mut &mut flash, &REGION), Ok(()));
    let outbox = Small::open(&mut flash, REGION, 8, fresh(8)).expect("opens");
    assert_eq!(outbox.epoch(), 1008);
}

#[test]
fn another_version_and_a_mixture_are_errors_that_say_so() {
    let mut one = flash();
    let mut other = flash();
    for (flash, boot) in [(&mut one, 1), (&mut other, 2)] {
        let mut outbox = Small::open(flash, REGION, boot, fresh(boot)).expect("opens");
        for n in 1..=8 {
            assert_eq!(outbox.push(n, &summary(1)), Ok(n));
        }
    }
    let mut second = [0; 1024];
    other
        .read(REGION.offset + 1024, &mut second)
        .expect("reads");
    one.erase(REGION.offset + 1024, REGION.offset + 2048)
        .expect("erases");
    one.write(REGION.offset + 1024, &second).expect("writes");
    let error = Small::open(&mut one, REGION, 3, fresh(3)).err();
    assert_eq!(error, Some(OutboxError::Epochs));

    let mut old = [0xFF; 40];
    old[..8].copy_from_slice(b"EWOB\x01\0\0\0");
    old[8..36].fill(7);
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(&old[..36]);
    old[36..].copy_from_slice(&crc.to_le_bytes());
    let mut flash = flash();
    flash.write(REGION.offset, &old).expect("writes");
    let error = Small::open(&mut flash, REGION, 1, fresh(1)).err();
    assert_eq!(error, Some(OutboxError::Version { found: 1 }));
    let words = error.map(|error| error.to_string()).unwrap_or_default();
    assert!(
        words.contains("version 1") && words.contains("version 2"),
        "{words}"
    );
}
