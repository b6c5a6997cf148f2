//! Boards that report what a test wants them to.

use crate::common::process::PATIENCE;
use crate::site::{FLEET, Site, next_message};
use edgeward::bundle::BoardClass;
use edgeward::recorder::Recorder;
use edgeward::sync::Desired;
use edgeward::telemetry::codec::{decode_ack, max_frame_bytes, sign_frame};
use edgeward::telemetry::pull::{Order, Pull, decode_command};
use edgeward::telemetry::{Birth, Body, Frame, Id, SlotReport, SlotState, Text};
use edgeward::topic::{self, Channel};
use edgeward::trust::cose::ContentType;
use edgeward::trust::ring::{RingSigner, RingVerifier};
use edgeward::trust::root::Root;
use edgeward::trust::{Role, Signer};
use edgeward_host::keys::hex;
use edgeward_host::mqtt::Mqtt;
use std::thread::JoinHandle;

/// A board without a runtime: a key, and what it reports.
pub struct Board {
    name: &'static str,
    seed: u8,
    key: RingSigner,
    mqtt: Mqtt,
    sequence: u64,
}

impl Board {
    pub const NAME: &'static str = "board-1";

    /// Something that nobody enrolled, with a key of its own.
    pub fn stranger(place: &Site, seed: u8) -> Self {
        Self {
            name: Self::NAME,
            seed,
            key: RingSigner::from_seed(&[seed; 32]).expect("a key"),
            mqtt: place.client("stranger"),
            sequence: 0,
        }
    }

    /// A board that `place` has enrolled.
    pub fn enrolled(place: &Site) -> Self {
        Self::named(place, Self::NAME, 7)
    }

    pub fn named(place: &Site, name: &'static str, seed: u8) -> Self {
        let key = RingSigner::from_seed(&[seed; 32]).expect("a key");
        let public = hex(&key.public_key().0);
        place.json(&["device", "enroll", name, "--key", &public], 0);
        let mqtt = place.client(name);
        let acks = topic::device(FLEET, name, Channel::Ack);
        mqtt.subscribe_and_wait(&acks, PATIENCE).expect("granted");
        Self {
            name,
            seed,
            key,
            mqtt,
            sequence: 0,
        }
    }

    pub fn send(&mut self, channel: Channel, body: Body<2, 2>) {
        self.send_as(self.name, channel, body);
    }

    /// Sends under a name that may be another's.
    pub fn send_as(&mut self, name: &str, channel: Channel, body: Body<2, 2>) {
        self.sequence += 1;
        let frame = Frame {
            device: Id::try_from(name).expect("short"),
            epoch: 1,
            acknowledged: 0,
            boot: 1,
            first_sequence: self.sequence,
            sequence: self.sequence,
            time_ms: 0,
            body,
        };
        let mut out = [0; max_frame_bytes(2, 2)];
        let len = sign_frame(&frame, &self.key, &mut out).expect("fits");
        let topic = topic::device(FLEET, name, channel);
        let retain = channel == Channel::Birth;
        self.mqtt.publish(&topic, &out[..len], retain);
    }

    /// Answers the next command, which must be sound, with what is recorded; ends then.
    pub fn answers(&self, place: &Site, recorder: Recorder<Vec<u8>>) -> JoinHandle<()> {
        let mqtt = place.client("flight");
        let commands = topic::device(FLEET, self.name, Channel::Command);
        mqtt.subscribe_and_wait(&commands, PATIENCE)
            .expect("granted");
        let (root, name, seed) = (place.root(), self.name, self.seed);
        std::thread::spawn(move || {
            let message = next_message(&mqtt);
            let (role, content) = (Role::Collector, ContentType::Command);
            let payload = root.verify_threshold(role, content, &message.payload, &RingVerifier);
            let command = decode_command(payload.expect("signed by the collector"));
            let command = command.expect("a command");
            assert_eq!(
                (command.fleet.as_str(), command.device.as_str()),
                (FLEET, name)
            );
            assert_eq!(command.boot, 1, "the one that was reported");
            let Order::PullRecord { pull } = command.order else {
                panic!("{command:?}");
            };
            let key = RingSigner::from_seed(&[seed; 32]).expect("a key");
            let topic = topic::device(FLEET, name, Channel::Record);
            // What somebody else sends under this topic is no part of it.
            mqtt.publish(&topic, b"noise", false);
            let mut out = vec![0; 3117];
            let mut pull = Pull::new(pull, 1, 5, &recorder, out.len()).expect("room");
            while !pull.is_done() {
                let device = &command.device;
                let len = pull.sign_next(device, &recorder, &key, &mut out);
                mqtt.publish(&topic, &out[..len.expect("room")], false);
                pull.sent();
            }
            mqtt.flush(PATIENCE).expect("sent");
        })
    }

    /// Waits until all that was sent is acknowledged by the collector of `root`.
    pub fn acknowledged(&self, root: &Root) {
        loop {
            let message = next_message(&self.mqtt);
            let (role, content) = (Role::Collector, ContentType::Ack);
            let payload = root.verify_threshold(role, content, &message.payload, &RingVerifier);
            let ack = decode_ack(payload.expect("signed by the collector")).expect("an ack");
            if ack.through == self.sequence {
                return;
            }
        }
    }

    /// Reports that it runs the release of `desired`.
    pub fn confirms(&mut self, desired: &Desired) {
        self.reports(desired, SlotState::Confirmed);
    }

    /// Reports how a slot stands that holds the release of `desired`.
    pub fn reports(&mut self, desired: &Desired, state: SlotState) {
        let target = &desired.targets[0];
        let mut release = [0; 8];
        release.copy_from_slice(&target.digest[..8]);
        let held = SlotReport {
            state,
            release,
            counter: target.counter,
            version: target.version.clone(),
        };
        self.birth(held, desired.sequence);
    }

    /// Reports what one slot holds; the other is empty.
    pub fn birth(&mut self, held: SlotReport, desired: u64) {
        self.born(held, desired, 0);
    }

    /// Reports that it holds nothing and accepts no lower counter.
    pub fn accepts_from(&mut self, floor: u32) {
        self.born(empty_slot(), 0, floor);
    }

    fn born(&mut self, held: SlotReport, desired: u64, floor: u32) {
        let running = (held.state == SlotState::Confirmed).then_some(0);
        let birth = Birth {
            class: BoardClass::Linux,
            firmware: Text::new(),
            slots: [held, empty_slot()],
            running,
            floor,
            root_version: 1,
            desired,
            tags: Default::default(),
            last_failure: None,
        };
        self.send(Channel::Birth, Body::Birth(birth));
    }
}

pub fn empty_slot() -> SlotReport {
    SlotReport {
        state: SlotState::Empty,
        release: [0; 8],
        counter: 0,
        version: Text::new(),
    }
}
