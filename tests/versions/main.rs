//! What the version before wrote, as it wrote it: `frames-2.hex`, the payloads of a birth, a summary and an
//! event, one a line, and `outbox-2.bin`, the flash of an outbox that is all but full. Both came from the last
//! program of version 2, and no program writes them any more.

use edgeward::bundle::BoardClass;
use edgeward::slots::ram::{Cut, Edge, RamFlash, Tear};
use edgeward::telemetry::codec::decode_frame;
use edgeward::telemetry::outbox::{Outbox, OutboxError, Region, max_record_bytes};
use edgeward::telemetry::{
    Body, Event, FeatureSummary, Frame, Reason, Refused, SlotState, Summary,
};
use embedded_storage::nor_flash::NorFlash;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

const FRAMES: &str = include_str!("frames-2.hex");
const IMAGE: &[u8] = include_bytes!("outbox-2.bin");
const WORD: usize = 8;

type Flash = RamFlash<WORD, 256>;
type Small<'a> = Outbox<&'a mut Flash, 1, 1, 16, { max_record_bytes(1, 1) }>;

const REGION: Region = Region {
    offset: 0,
    sector_bytes: 1024,
    sectors: 4,
};
/// The last number of version 2; those up to 2 were acknowledged.
const LAST: u64 = 11;

fn frames() -> Vec<Frame<4, 3>> {
    let payload = |line: &str| -> Vec<u8> {
        let byte = |at| u8::from_str_radix(&line[at..at + 2], 16).expect("hexadecimal");
        (0..line.len()).step_by(2).map(byte).collect()
    };
    FRAMES
        .lines()
        .map(|line| decode_frame(&payload(line)).expect("readable"))
        .collect()
}

#[test]
fn frames_of_version_2_say_what_they_said() {
    let frames = frames();
    let numbers = frames.iter().map(|it| (it.first_sequence, it.sequence));
    assert_eq!(numbers.collect::<Vec<_>>(), [(4, 4), (5, 7), (8, 8)]);
    let [
        Body::Birth(birth),
        Body::Summary(summary),
        Body::Event(event),
    ] = [&frames[0].body, &frames[1].body, &frames[2].body]
    else {
        panic!("{frames:?}");
    };
    assert_eq!((birth.class, birth.floor), (BoardClass::Linux, 6));
    assert_eq!(birth.slots[1].state, SlotState::Rejected(Reason::SelfTest));
    assert_eq!((summary.samples, summary.release), (300, [2; 8]));
    assert_eq!(summary.features.iter().map(|it| it.n).sum::<u32>(), 6);
    assert_eq!(summary.output.classes[..], [1, 200, 3]);
    assert_eq!(summary.output.above_p99, 300);
    assert_eq!(summary.latency.quantile_us(990), Some(70));
    assert_eq!((summary.core_khz, summary.latency_p99_cycles()), (0, None));
    assert!(matches!(event, Event::Alarm { .. }));
}

/// The flash as the last program of version 2 left it.
fn flash() -> Flash {
    let mut flash = Flash::new(IMAGE.len());
    for (at, word) in (0..).step_by(WORD).zip(IMAGE.chunks(WORD)) {
        if word != [0xFF; WORD] {
            flash.write(at, word).expect("written once");
        }
    }
    flash.power_on();
    flash
}

fn open(flash: &mut Flash) -> Result<Small<'_>, OutboxError> {
    Outbox::open(flash, REGION, 9, NonZeroU32::MAX)
}

fn summary(n: u64) -> Summary<1, 1> {
    let mut summary = Summary::empty();
    summary.release = [1; 8];
    summary.windows = 1;
    summary.samples = 300 * n as u32;
    summary.core_khz = 25_000;
    let feature = FeatureSummary {
        bins: [summary.samples; 16],
        ..FeatureSummary::empty()
    };
    assert!(summary.features.push(feature).is_ok());
    summary
}

/// What frame `n` is: in version 2, and in what follows. Every fifth is an event.
fn body(n: u64) -> Body<1, 1> {
    match n % 5 {
        2 => Body::Event(Event::Refused { what: Refused::Ack }),
        _ => Body::Summary(summary(n)),
    }
}

/// The frames that wait, from the oldest.
fn waiting(outbox: &mut Small<'_>) -> Vec<Frame<1, 1>> {
    let device = "board-1".try_into().expect("short");
    let (mut all, mut after) = (vec![], 0);
    while let Some(record) = outbox.peek_after(after).expect("reads") {
        after = record.sequence;
        all.push(record.frame(&device).expect("readable"));
    }
    all
}

/// Every number from 3 on is answered for once, with all that was counted; one in doubt may have become a
/// dropped frame, and may be missing at the end. Returns the last.
fn check(frames: &[Frame<1, 1>], doubtful: &BTreeSet<u64>) -> u64 {
    let mut expected = 3;
    for frame in frames {
        assert_eq!(frame.first_sequence, expected, "{frame:?}");
        expected = frame.sequence + 1;
        let numbers = frame.first_sequence..=frame.sequence;
        let events = numbers.clone().filter(|n| n % 5 == 2).count() as u32;
        let Body::Summary(summary) = &frame.body else {
            assert_eq!(frame.body, body(frame.sequence));
            continue;
        };
        let all: u64 = numbers
            .clone()
            .filter(|n| n % 5 != 2)
            .map(|n| 300 * n)
            .sum();
        let in_doubt = numbers
            .clone()
            .filter(|n| doubtful.contains(n) && n % 5 != 2);
        let in_doubt: BTreeMap<u64, u32> = in_doubt.map(|n| (300 * n, 1)).collect();
        let lost = all - u64::from(summary.samples);
        let dropped = events + if lost == 0 { 0 } else { in_doubt[&lost] };
        assert_eq!(summary.dropped_events, dropped, "{frame:?}");
        assert!(
            summary
                .features
                .iter()
                .all(|it| it.bins[3] == summary.samples)
        );
        let known = *numbers.start() > LAST && summary.windows > 0;
        assert_eq!(
            summary.core_khz,
            if known { 25_000 } else { 0 },
            "{frame:?}"
        );
    }
    expected - 1
}

/// An outbox with other sectors would be of no use: those of boards are made for the largest record.
#[test]
fn sectors_are_as_large_as_they_were() {
    // Of microcontrollers, and of Linux boards.
    assert_eq!(
        (max_record_bytes(16, 16), max_record_bytes(128, 32)),
        (2880, 18_176)
    );
}

#[test]
fn an_outbox_of_version_2_goes_on() {
    let mut flash = flash();
    let mut outbox = open(&mut flash).expect("opens");
    assert_eq!((outbox.epoch(), outbox.acknowledged()), (1001, 2));
    let frames = waiting(&mut outbox);
    assert_eq!(check(&frames, &BTreeSet::new()), LAST);
    for frame in frames {
        assert_eq!((frame.time_ms, frame.boot), (10 * frame.sequence, 2));
    }
    for n in LAST + 1..=60 {
        assert_eq!(outbox.push(n, &body(n)), Ok(n));
        assert_eq!(check(&waiting(&mut outbox), &BTreeSet::new()), n);
    }
    let merged = waiting(&mut outbox);
    assert!(
        merged[0].sequence > 15,
        "old and new became one: {merged:?}"
    );
    assert_eq!(outbox.acknowledge(60), Ok(()));
    let outbox = open(&mut flash).expect("opens");
    assert_eq!((outbox.epoch(), outbox.next_sequence()), (1001, 61));
    assert!(outbox.is_empty());
}

#[test]
fn a_cut_while_an_outbox_of_version_2_goes_on_loses_nothing() {
    let life = |flash: &mut Flash, doubtful: &mut BTreeSet<u64>| {
        let mut outbox = open(flash)?;
        while outbox.next_sequence() <= 24 {
            let n = outbox.next_sequence();
            doubtful.insert(n);
            outbox.push(n, &body(n))?;
            doubtful.remove(&n);
        }
        Ok::<_, OutboxError>(())
    };
    let mut whole = flash();
    assert_eq!(life(&mut whole, &mut BTreeSet::new()), Ok(()));
    let ops = whole.ops().to_vec();
    assert!(ops.iter().filter(|op| op.erase).count() > 3, "compacts");
    let mut cuts = 0;
    for (op, done) in (0..).zip(&ops) {
        let inside = |part: u32| {
            let words = done.words.saturating_sub(1) * part / 2;
            Edge::ALL.map(|edge| Tear::Inside(words, edge))
        };
        let tears = (0..3).flat_map(inside);
        for tear in tears.chain([Tear::Before, Tear::After]) {
            let (mut flash, mut doubtful) = (flash(), BTreeSet::new());
            flash.seed(u64::from(op));
            flash.cut_at(Some(Cut { op, tear }));
            assert!(life(&mut flash, &mut doubtful).is_err());
            for _ in 0..2 {
                flash.power_on();
                let mut outbox = open(&mut flash).expect("opens");
                let last = check(&waiting(&mut outbox), &doubtful);
                assert_eq!(last + 1, outbox.next_sequence(), "op {op}, {tear:?}");
                assert!(last >= LAST, "op {op}, {tear:?}");
            }
            assert_eq!(life(&mut flash, &mut doubtful), Ok(()));
            cuts += 1;
        }
    }
    assert!(cuts > 300, "{cuts}");
}
