//! From a board's outbox over a broker that goes away into the store: everything once, nothing forged.

use edgeward::bundle::BoardClass;
use edgeward::slots::ram::RamFlash;
use edgeward::telemetry::codec::{
    decode_ack, encode_frame, max_frame_bytes, max_payload_bytes, sign_frame, sign_record,
};
use edgeward::telemetry::outbox::{Outbox, RecordKind, Region, max_record_bytes};
use edgeward::telemetry::{Body, Event as BoardEvent, Frame, Id, Refused, Summary};
use edgeward::topic::{self, Channel};
use edgeward::trust::cose::{self, ContentType};
use edgeward::trust::ring::{RingSigner, RingVerifier};
use edgeward::trust::root::Root;
use edgeward::trust::{Role, Signer};
use edgeward_host::broker::{Broker, Options as BrokerOptions};
use edgeward_host::collector::{Collector, now_ms};
use edgeward_host::keys::{KeyStore, Quorum};
use edgeward_host::mqtt::{Event, Mqtt, Options};
use edgeward_host::status::summary_of;
use edgeward_host::store::sqlite::Sqlite;
use edgeward_host::store::{Device, FrameQuery, Kind, Store};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

const FLEET: &str = "f";
const PATIENCE: Duration = Duration::from_secs(30);
const BUFFER: usize = max_record_bytes(2, 2);
type Waiting = Outbox<RamFlash<8, 4096>, 2, 2, 64, BUFFER>;

/// A board without a model: an outbox, a key and a connection.
struct Board {
    name: Id,
    key: RingSigner,
    root: Root,
    outbox: Waiting,
    mqtt: Mqtt,
    sent: u64,
    /// Acknowledgements that the collector's keys had not signed.
    refused: u32,
    /// Acknowledgements of another epoch.
    foreign: u32,
    /// When everything is sent again from the last acknowledgement on.
    again: Instant,
}

impl Board {
    fn new(name: &str, seed: u8, root: &Root, port: u16) -> Self {
        let mqtt = Mqtt::connect(&options(name, port));
        mqtt.subscribe(&topic::device(FLEET, name, Channel::Ack));
        Self {
            name: Id::try_from(name).expect("short"),
            key: RingSigner::from_seed(&[seed; 32]).expect("a key"),
            root: root.clone(),
            outbox: Self::blank(seed),
            mqtt,
            sent: 0,
            refused: 0,
            foreign: 0,
            again: Instant::now() + Duration::from_secs(1),
        }
    }

    fn blank(seed: u8) -> Waiting {
        let region = Region {
            offset: 0,
            sector_bytes: 4096,
            sectors: 4,
        };
        Waiting::open(RamFlash::new(16 * 1024), region, 1, epoch(seed)).expect("opens")
    }

    /// One window of `samples` samples, and now and then an event.
    fn work(&mut self, samples: u32) {
        let mut summary = Summary::empty();
        (summary.windows, summary.samples) = (1, samples);
        let pushed = self.outbox.push(0, &Body::Summary(summary));
        pushed.expect("there is room");
        if samples.is_multiple_of(10) {
            let what = Refused::Ack;
            let event = Body::Event(BoardEvent::Refused { what });
            self.outbox.push(0, &event).expect("there is room");
        }
    }

    /// Sends what is due and takes what came.
    fn step(&mut self) {
        if Instant::now() > self.again {
            self.sent = self.outbox.acknowledged();
            self.again = Instant::now() + Duration::from_secs(1);
        }
        let mut frame = [0; max_frame_bytes(2, 2)];
        while self.mqtt.waiting() < 32
            && let Some(record) = self.outbox.peek_after(self.sent).expect("reads")
        {
            let len = sign_record(&self.name, &record, &self.key, &mut frame);
            let channel = match record.kind {
                RecordKind::Event => Channel::Event,
                _ => Channel::Summary,
            };
            self.sent = record.sequence;
            let topic = topic::device(FLEET, &self.name, channel);
            self.mqtt
                .publish(&topic, &frame[..len.expect("fits")], false);
        }
        while let Some(event) = self.mqtt.recv_timeout(Duration::from_millis(1)) {
            let Event::Message(message) = event else {
                continue;
            };
            let Ok(payload) = self.root.verify_threshold(
                Role::Collector,
                ContentType::Ack,
                &message.payload,
                &RingVerifier,
            ) else {
                self.refused += 1;
                continue;
            };
            let ack = decode_ack(payload).expect("an ack");
            assert_eq!(ack.device, self.name);
            if ack.epoch != self.outbox.epoch() {
                self.foreign += 1;
                continue;
            }
            self.outbox.acknowledge(ack.through).expect("known numbers");
        }
    }
}

fn epoch(seed: u8) -> NonZeroU32 {
    NonZeroU32::new(u32::from(seed)).expect("not zero")
}

fn options(client_id: &str, port: u16) -> Options {
    Options::new(client_id, "127.0.0.1", port)
}

fn broker(port: u16) -> Broker {
    let options = BrokerOptions {
        port,
        ..BrokerOptions::default()
    };
    Broker::start(&options).expect("a broker")
}

fn enroll(store: &dyn Store, name: &str, key: &RingSigner) {
    let device = Device {
        name: name.to_owned(),
        fleet: FLEET.to_owned(),
        key: key.public_key(),
        class: BoardClass::Linux,
        enrolled_ms: 1,
        seen_ms: None,
        online: false,
        epoch: None,
        through: 0,
    };
    store.enroll(&device).expect("enrolled");
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(
            start.elapsed() < PATIENCE,
            "{what}: not within {PATIENCE:?}"
        );
    }
}

struct World {
    store: Arc<Sqlite>,
    keys: KeyStore,
    root: Root,
    _folder: tempfile::TempDir,
}

fn world() -> World {
    let folder = tempfile::tempdir().expect("a folder");
    let keys = KeyStore::at(folder.path());
    let root = keys
        .init(|_| Quorum {
            threshold: 1,
            keys: 1,
        })
        .expect("keys");
    let store = Sqlite::open(&folder.path().join("store.db")).expect("a store");
    World {
        store: Arc::new(store),
        keys,
        root,
        _folder: folder,
    }
}

impl World {
    fn collector(&self, port: u16) -> Collector {
        let store: Arc<dyn Store> = Arc::clone(&self.store) as Arc<dyn Store>;
        Collector::start(&options("collector", port), store, &self.keys, FLEET).expect("a key")
    }

    fn through(&self, device: &str) -> u64 {
        let device = self.store.device(device).expect("read");
        device.expect("enrolled").through
    }

    fn frames(&self, device: &str) -> Vec<edgeward_host::store::StoredFrame> {
        let query = FrameQuery {
            device: Some(device.to_owned()),
            ..FrameQuery::default()
        };
        self.store.frames(&query).expect("read")
    }
}

#[test]
fn every_summary_is_stored_once_though_broker_and_collector_go_away() {
    let world = world();
    let first = broker(0);
    let port = first.listening().v4.port();
    let mut boards = [
        Board::new("a", 1, &world.root, port),
        Board::new("b", 2, &world.root, port),
    ];
    for board in &boards {
        enroll(world.store.as_ref(), &board.name, &board.key);
    }
    let collector = world.collector(port);
    let mut given = 0;
    let mut work = |boards: &mut [Board; 2], windows: u32| {
        for n in 1..=windows {
            given += n;
            for board in &mut *boards {
                board.work(n);
                board.step();
            }
        }
    };
    work(&mut boards, 20);
    until("the first frames", || {
        boards.iter_mut().for_each(Board::step);
        boards.iter().all(|board| board.outbox.is_empty())
    });
    // Without a broker the boards go on; the outbox is too small for all and merges.
    drop(first);
    work(&mut boards, 60);
    drop(collector);
    let _second = broker(port);
    work(&mut boards, 20);
    let _collector = world.collector(port);
    until("everything", || {
        boards.iter_mut().for_each(Board::step);
        boards.iter().all(|board| board.outbox.is_empty())
    });
    let mut merged = 0;
    for board in &boards {
        let name = board.name.as_str();
        assert_eq!(board.refused, 0, "{name}: every ack is the collector's");
        assert_eq!(world.through(name), board.outbox.next_sequence() - 1);
        assert_eq!(world.store.gaps(name).expect("read"), []);
        let frames = world.frames(name);
        let summaries = frames.iter().filter(|frame| frame.kind == Kind::Summary);
        let samples: u64 = summaries
            .clone()
            .filter_map(|f| f.body["samples"].as_u64())
            .sum();
        assert_eq!(samples, u64::from(given), "{name}");
        merged += summaries.filter(|f| f.first_sequence < f.sequence).count();
    }
    assert!(merged > 0, "the outage was too short to show a merge");
    assert_eq!(world.store.refusal_counts().expect("read"), []);
}

#[test]
fn what_is_forged_replayed_or_misplaced_is_refused_and_counted() {
    let world = world();
    let broker = broker(0);
    let port = broker.listening().v4.port();
    let mut board = Board::new("a", 1, &world.root, port);
    let other = RingSigner::from_seed(&[2; 32]).expect("a key");
    let stranger = RingSigner::from_seed(&[3; 32]).expect("a key");
    enroll(world.store.as_ref(), "a", &board.key);
    enroll(world.store.as_ref(), "b", &other);
    let _collector = world.collector(port);
    for n in 1..=5 {
        board.work(n);
    }
    until("the honest frames", || {
        board.step();
        board.outbox.is_empty()
    });
    let before = world.frames("a");
    assert_eq!(before.len(), 5);

    let attacker = Mqtt::connect(&options("attacker", port));
    let signed = |device: &str, sequence: u64, key: &RingSigner| {
        let mut summary = Summary::<2, 2>::empty();
        (summary.windows, summary.samples) = (1, 1_000_000);
        let frame = Frame {
            device: Id::try_from(device).expect("short"),
            epoch: 1,
            acknowledged: 0,
            boot: 1,
            first_sequence: sequence,
            sequence,
            time_ms: 0,
            body: Body::Summary(summary),
        };
        let mut out = [0; max_frame_bytes(2, 2)];
        let len = sign_frame(&frame, key, &mut out).expect("fits");
        out[..len].to_vec()
    };
    let send = |device: &str, channel, bytes: &[u8]| {
        attacker.publish(&topic::device(FLEET, device, channel), bytes, false);
    };
    let mut flipped = signed("a", 6, &board.key);
    *flipped.last_mut().expect("bytes") ^= 1;
    send("a", Channel::Summary, &flipped);
    send("a", Channel::Summary, &signed("a", 6, &stranger));
    send("nobody", Channel::Summary, &signed("nobody", 1, &stranger));
    // Another device's, on its own topic and on the victim's.
    send("b", Channel::Summary, &signed("a", 6, &other));
    send("a", Channel::Summary, &signed("b", 6, &other));
    send("a", Channel::Event, &signed("a", 6, &board.key));
    send("a", Channel::Summary, b"not a frame");
    send("a", Channel::Summary, &vec![0; 40_000]);
    // Replays of what is stored, as it was and with another content.
    for frame in &before {
        send("a", Channel::Summary, &frame.raw);
    }
    send("a", Channel::Summary, &signed("a", 2, &board.key));
    // A last honest frame shows that all before it was dealt with.
    attacker.flush(PATIENCE).expect("acknowledged");
    board.work(7);
    until("the last honest frame", || {
        board.step();
        world.through("a") == 6
    });
    let after = world.frames("a");
    assert_eq!(after[..5], before[..]);
    assert_eq!((after.len(), world.frames("b").len()), (6, 0));
    // They are noted within a second, not before the next acknowledgement.
    let mut counts = Vec::new();
    until("the refusals", || {
        counts = world.store.refusal_counts().expect("read");
        counts.iter().map(|(_, n)| n).sum::<u64>() >= 9
    });
    let count = |reason: &str| {
        counts
            .iter()
            .find(|(r, _)| r == reason)
            .map_or(0, |(_, n)| *n)
    };
    assert_eq!(count("unknown"), 1, "{counts:?}");
    assert_eq!(count("device"), 1, "{counts:?}");
    assert_eq!(count("kind"), 1, "{counts:?}");
    assert_eq!(count("conflict"), 1, "{counts:?}");
    assert_eq!(counts.iter().map(|(_, n)| n).sum::<u64>(), 9, "{counts:?}");
}

#[test]
fn acknowledgements_follow_the_collectors_rotated_key() {
    let world = world();
    let broker = broker(0);
    let port = broker.listening().v4.port();
    let mut board = Board::new("a", 1, &world.root, port);
    enroll(world.store.as_ref(), "a", &board.key);
    let _collector = world.collector(port);
    board.work(1);
    until("an acknowledgement by the first key", || {
        board.step();
        board.outbox.is_empty()
    });
    assert_eq!(board.refused, 0);
    board.root = world.keys.rotate(Role::Collector).expect("rotated");
    board.work(2);
    until("an acknowledgement by the second key", || {
        board.step();
        board.outbox.is_empty()
    });
}

#[test]
fn a_flood_of_refused_messages_is_counted_and_holds_up_nobody() {
    const FLOOD: u64 = 5000;
    let world = world();
    let broker = broker(0);
    let port = broker.listening().v4.port();
    let mut board = Board::new("a", 1, &world.root, port);
    enroll(world.store.as_ref(), "a", &board.key);
    let collector = world.collector(port);
    // It listens once a frame is acknowledged: what is sent before goes to nobody, and is not counted.
    board.work(1);
    until("the first frame", || {
        board.step();
        board.outbox.is_empty()
    });
    let start = Instant::now();
    let attacker = Mqtt::connect(&options("attacker", port));
    for n in 0..FLOOD {
        // Forged frames, and states of boards that there are not.
        let topic = topic::device(FLEET, "a", Channel::Summary);
        attacker.publish(&topic, b"not a frame", false);
        let stranger = topic::device(FLEET, &format!("nobody-{n}"), Channel::State);
        attacker.publish(&stranger, b"online", false);
    }
    for n in 2..=20 {
        board.work(n);
    }
    until("the honest frames in the flood", || {
        board.step();
        board.outbox.is_empty()
    });
    attacker.flush(PATIENCE).expect("acknowledged");
    let counted = || -> u64 {
        let counts = world.store.refusal_counts().expect("read");
        counts.iter().map(|(_, n)| n).sum()
    };
    until("the count", || counted() >= FLOOD);
    // What is still in memory when the collector stops is written then.
    let seconds = start.elapsed().as_secs();
    drop(collector);
    assert_eq!(counted(), FLOOD);
    let kept = world.store.refusals().expect("read").len() as u64;
    assert!(
        (1..=20 * (seconds + 2)).contains(&kept),
        "{kept} refusals kept in full in {seconds} s"
    );
    let devices = world.store.devices().expect("read");
    assert_eq!(devices.len(), 1);
    assert!(devices[0].seen_ms.is_some());
}

/// What the collector publishes to a device, as it comes.
fn acknowledgements(port: u16, device: &str) -> Mqtt {
    let mqtt = Mqtt::connect(&options("listener", port));
    let topic = topic::device(FLEET, device, Channel::Ack);
    mqtt.subscribe_and_wait(&topic, PATIENCE).expect("granted");
    mqtt
}

#[test]
fn a_board_that_lost_its_outbox_goes_on_and_the_old_one_is_closed() {
    let world = world();
    let broker = broker(0);
    let port = broker.listening().v4.port();
    let mut board = Board::new("a", 1, &world.root, port);
    enroll(world.store.as_ref(), "a", &board.key);
    let _collector = world.collector(port);
    let listener = acknowledgements(port, "a");
    for n in 1..=5 {
        board.work(n);
    }
    until("the first outbox", || {
        board.step();
        board.outbox.is_empty()
    });
    let old = world.frames("a");
    let acknowledgement = loop {
        let event = listener.recv_timeout(PATIENCE);
        if let Event::Message(message) = event.expect("an acknowledgement was published") {
            break message.payload;
        }
    };
    // One frame that the host never got, kept by whoever listens, goes with the old outbox.
    board.work(6);
    let mut withheld = [0; max_frame_bytes(2, 2)];
    let record = board.outbox.peek_after(5).expect("reads").expect("waits");
    let len = sign_record(&board.name, &record, &board.key, &mut withheld);
    let withheld = withheld[..len.expect("fits")].to_vec();

    let mut board = Board {
        outbox: Board::blank(99),
        sent: 0,
        ..board
    };
    for n in 1..=3 {
        board.work(100 * n + 1);
    }
    until("the second outbox", || {
        board.step();
        board.outbox.is_empty()
    });
    let epochs = world.store.epochs("a").expect("read");
    assert_eq!(epochs.len(), 2);
    assert_eq!((epochs[0].epoch, epochs[0].last, epochs[0].lost), (1, 5, 0));
    assert_eq!((epochs[0].closed, epochs[1].closed), (true, false));
    assert_eq!((epochs[1].epoch, epochs[1].last), (99, 3));
    let device = world.store.device("a").expect("read").expect("enrolled");
    assert_eq!((device.epoch, device.through), (Some(99), 3));
    let frames = world.frames("a");
    assert_eq!((&frames[..5], frames.len()), (&old[..], 8));

    // The old outbox's frames change nothing, whether they were stored or never came.
    let attacker = Mqtt::connect(&options("attacker", port));
    let summary = topic::device(FLEET, "a", Channel::Summary);
    for frame in &old {
        attacker.publish(&summary, &frame.raw, false);
    }
    attacker.publish(&summary, &withheld, false);
    // Nor does an old acknowledgement at the board: it names another epoch.
    board.work(7);
    let ack = topic::device(FLEET, "a", Channel::Ack);
    attacker.publish(&ack, &acknowledgement, false);
    attacker.flush(PATIENCE).expect("acknowledged");
    until("the last honest frame", || {
        board.step();
        board.outbox.is_empty()
    });
    let mut counts = Vec::new();
    until("the refusal", || {
        counts = world.store.refusal_counts().expect("read");
        !counts.is_empty()
    });
    assert_eq!(counts, [("epoch".to_owned(), 1)]);
    assert_eq!(world.frames("a").len(), 9);
    assert_eq!(world.store.epochs("a").expect("read").len(), 2);
    assert!(board.foreign > 0, "the old acknowledgement came");
}

#[test]
fn a_report_of_version_2_is_the_same_when_its_updated_board_sends_it_again() {
    let world = world();
    let broker = broker(0);
    let port = broker.listening().v4.port();
    let mut board = Board::new("a", 1, &world.root, port);
    enroll(world.store.as_ref(), "a", &board.key);
    let _collector = world.collector(port);
    board.work(1);
    // Sent before the update, whose acknowledgement the board never got.
    let record = board.outbox.peek_after(0).expect("reads").expect("waits");
    let frame: Frame<2, 2> = record.frame(&board.name).expect("readable");
    let (mut payload, mut old) = ([0; max_payload_bytes(2, 2)], [0; max_frame_bytes(2, 2)]);
    let payload = encode_frame(&frame, &mut payload).expect("fits");
    let payload = [&[0x82], &payload[1..payload.len() - 1]].concat();
    let len = cose::sign_embedded(&board.key, ContentType::Frame, &payload, &mut old);
    let old = &old[..len.expect("fits")];
    let courier = Mqtt::connect(&options("before", port));
    let summary = topic::device(FLEET, "a", Channel::Summary);
    until("the report of version 2", || {
        courier.publish(&summary, old, false);
        world.through("a") == 1
    });
    board.work(2);
    until("the acknowledgement of both", || {
        board.step();
        board.outbox.is_empty()
    });
    let frames = world.frames("a");
    assert_eq!((frames.len(), &frames[0].raw[..]), (2, old));
    assert_eq!(world.store.refusal_counts().expect("read"), []);
    for frame in frames {
        assert_eq!(frame.body.get("core_khz"), None, "not known");
        assert_eq!(summary_of(&frame.raw).expect("readable").core_khz, 0);
    }
}

#[test]
fn what_the_broker_kept_of_a_board_is_no_sign_of_life() {
    let world = world();
    let broker = broker(0);
    let port = broker.listening().v4.port();
    let board = Board::new("a", 1, &world.root, port);
    enroll(world.store.as_ref(), "a", &board.key);
    let state = topic::device(FLEET, "a", Channel::State);
    board.mqtt.publish(&state, b"online", true);
    board.mqtt.flush(PATIENCE).expect("acknowledged");
    let _collector = world.collector(port);
    let device = || world.store.device("a").expect("read").expect("there");
    until("the retained state", || device().online);
    assert_eq!(device().seen_ms, None);
    board.mqtt.publish(&state, b"offline", true);
    until("the new state", || !device().online);
    assert_eq!(device().seen_ms, None, "anybody may say so");
}

#[test]
fn only_what_a_board_signed_and_nobody_sent_before_is_a_sign_of_its_life() {
    let world = world();
    let broker = broker(0);
    let port = broker.listening().v4.port();
    let mut boards = [
        Board::new("a", 1, &world.root, port),
        Board::new("b", 2, &world.root, port),
    ];
    for board in &boards {
        enroll(world.store.as_ref(), &board.name, &board.key);
    }
    // What the broker kept is news here, and yet of a time that nobody knows.
    boards[1].work(1);
    let mut kept = [0; max_frame_bytes(2, 2)];
    let record = boards[1].outbox.peek_after(0).expect("reads");
    let record = record.expect("it waits");
    let len = sign_record(&boards[1].name, &record, &boards[1].key, &mut kept);
    let summary = topic::device(FLEET, "b", Channel::Summary);
    let kept = &kept[..len.expect("fits")];
    boards[1].mqtt.publish(&summary, kept, true);
    boards[1].mqtt.flush(PATIENCE).expect("acknowledged");
    let collector = world.collector(port);
    boards[0].work(1);
    until("the first frames", || {
        boards[0].step();
        boards[0].outbox.is_empty() && world.through("b") == 1
    });
    // What is in memory when the collector stops is written then.
    drop(collector);
    let seen = |name| {
        let device = world.store.device(name).expect("read");
        device.expect("enrolled").seen_ms
    };
    let first = seen("a").expect("it was heard of");
    assert_eq!(seen("b"), None);

    // Whoever listened says all of it again, and that the board is there; a millisecond later at least.
    let collector = world.collector(port);
    let attacker = Mqtt::connect(&options("attacker", port));
    let frames = world.frames("a");
    let witness = acknowledgements(port, "a");
    until("a later time", || now_ms() > first);
    let summary = topic::device(FLEET, "a", Channel::Summary);
    until("the acknowledgement of the replay", || {
        // Again and again: the new collector may not listen yet.
        attacker.publish(&summary, &frames[0].raw, false);
        let event = witness.recv_timeout(Duration::from_millis(200));
        matches!(event, Some(Event::Message(_)))
    });
    let state = topic::device(FLEET, "a", Channel::State);
    attacker.publish(&state, b"online", false);
    let device = || world.store.device("a").expect("read").expect("there");
    until("the state", || device().online);
    drop(collector);
    assert_eq!(seen("a"), Some(first));

    let _collector = world.collector(port);
    boards[0].work(2);
    until("the next frame", || {
        boards[0].step();
        seen("a") > Some(first)
    });
}
