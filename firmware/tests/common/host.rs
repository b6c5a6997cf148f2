//! The host's half of a fleet of one board.

use super::BoardFrame;
use super::release::{key, signed};
use super::wait::LIMIT;
use edgeward::bundle::{BoardClass, Bundle};
use edgeward::sync::{Desired, RolloutState, Target};
use edgeward::telemetry::codec::{sign_ack, verify_frame};
use edgeward::telemetry::pull::{Command, Order, encode_command};
use edgeward::telemetry::{Ack, Body, Event, Id, SlotState, Text};
use edgeward::topic::{self, Channel};
use edgeward::trust::PublicKey;
use edgeward::trust::cose::ContentType;
use edgeward::trust::ring::RingVerifier;
use rumqttc::{Client, Event as MqttEvent, MqttOptions, Packet, QoS};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

/// What the host received.
#[derive(Default)]
pub struct Received {
    /// Frames by epoch, in the order in which the epochs came.
    epochs: Vec<(u32, BTreeMap<u64, BoardFrame>)>,
    pub state: String,
    /// Signed parts of flight records, in the order in which they came.
    pub parts: Vec<Vec<u8>>,
}

impl Received {
    /// The frames of the newest epoch.
    pub fn frames(&self) -> impl DoubleEndedIterator<Item = &BoardFrame> {
        let newest = self.epochs.last();
        newest.into_iter().flat_map(|(_, frames)| frames.values())
    }

    /// Up to which number every frame, or one that answers for it, has come.
    pub fn answered(&self) -> u64 {
        self.epochs.last().map_or(0, |(_, frames)| answered(frames))
    }

    /// The epochs that were seen, in order.
    pub fn epochs(&self) -> Vec<u32> {
        self.epochs.iter().map(|(epoch, _)| *epoch).collect()
    }

    /// Whether there are frames, and every number up to the last is answered for exactly once.
    pub fn is_gapless(&self) -> bool {
        let last = self.frames().next_back();
        last.is_some_and(|last| last.sequence == self.answered())
    }

    pub fn numbers(&self) -> Vec<u64> {
        self.frames().map(|frame| frame.sequence).collect()
    }

    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.frames().filter_map(|frame| match &frame.body {
            Body::Event(event) => Some(event),
            _ => None,
        })
    }

    pub fn has_event(&self, wanted: impl Fn(&Event) -> bool) -> bool {
        self.events().any(wanted)
    }

    /// The slots as the newest birth has them.
    pub fn slots(&self) -> Option<[SlotState; 2]> {
        self.frames().rev().find_map(|frame| match &frame.body {
            Body::Birth(birth) => Some(birth.slots.each_ref().map(|slot| slot.state)),
            _ => None,
        })
    }

    /// Samples in all summaries.
    pub fn summarized(&self) -> u64 {
        let samples = |frame: &BoardFrame| match &frame.body {
            Body::Summary(summary) => u64::from(summary.samples),
            _ => 0,
        };
        self.frames().map(samples).sum()
    }

    fn brief(&self) -> String {
        let events: Vec<&Event> = self.events().collect();
        format!(
            "{:?}, epochs {:x?}, frames {:?}, {} samples, {events:?}",
            self.state,
            self.epochs(),
            self.numbers(),
            self.summarized()
        )
    }
}

/// What was received, and the news of it.
#[derive(Default)]
struct Inbox {
    received: Mutex<Received>,
    news: Condvar,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Received> {
        self.received.lock().unwrap()
    }
}

/// The host's half: publishes releases, stores frames, acknowledges them.
pub struct Host {
    client: Client,
    received: Arc<Inbox>,
    pub acknowledge: Arc<AtomicBool>,
}

impl Host {
    pub fn start(broker: SocketAddr, device_key: PublicKey) -> Self {
        let mut options = MqttOptions::new("host", broker.ip().to_string(), broker.port());
        options.set_max_packet_size(64 * 1024, 64 * 1024);
        let (client, mut connection) = Client::new(options, 1000);
        let channels = [
            Channel::Birth,
            Channel::State,
            Channel::Summary,
            Channel::Event,
            Channel::Record,
        ];
        for channel in channels {
            let filter = topic::devices("f", channel);
            client.subscribe(filter.as_str(), QoS::AtLeastOnce).unwrap();
        }
        let host = Self {
            client: client.clone(),
            received: Arc::default(),
            acknowledge: Arc::new(AtomicBool::new(true)),
        };
        let (inbox, acknowledge) = (host.received.clone(), host.acknowledge.clone());
        thread::spawn(move || {
            for event in connection.iter() {
                let Ok(MqttEvent::Incoming(Packet::Publish(message))) = event else {
                    continue;
                };
                let mut received = inbox.lock();
                // Whoever waits looks again when this guard is gone.
                inbox.news.notify_all();
                if message.topic.ends_with("/state") {
                    received.state = String::from_utf8(message.payload.to_vec()).unwrap();
                    continue;
                }
                if message.topic.ends_with("/record") {
                    received.parts.push(message.payload.to_vec());
                    continue;
                }
                let (epoch, through) = store(&mut received.epochs, &message.payload, &device_key);
                if acknowledge.load(Ordering::SeqCst) {
                    let topic = topic::device("f", "d", Channel::Ack);
                    // Never from the polling thread by a call that may wait.
                    let ack = ack(epoch, through);
                    let _ = client.try_publish(topic.as_str(), QoS::AtLeastOnce, false, ack);
                }
            }
        });
        host
    }

    pub fn publish(&self, bytes: &[u8]) -> Target {
        self.publish_but(bytes, &[])
    }

    /// Publishes a release without some of its chunks.
    pub fn publish_but(&self, bytes: &[u8], without: &[usize]) -> Target {
        let opened = Bundle::open(bytes).unwrap();
        let digest = opened.head().digest();
        for (n, chunk) in bytes.chunks(4096).enumerate() {
            if without.contains(&n) {
                continue;
            }
            let topic = topic::blob(&digest, n as u32);
            let topic = topic.as_str();
            self.client
                .publish(topic, QoS::AtLeastOnce, true, chunk)
                .unwrap();
        }
        Target {
            class: BoardClass::Linux,
            digest,
            counter: opened.manifest().counter,
            version: Text::try_from(opened.manifest().version).unwrap(),
            head_bytes: opened.head().head_bytes(),
            total_bytes: bytes.len() as u32,
        }
    }

    pub fn desire(&self, sequence: u64, target: &Target) {
        let desired = Desired {
            fleet: Id::try_from("f").unwrap(),
            sequence,
            expires_s: u64::MAX,
            rollout: Id::try_from("r").unwrap(),
            state: RolloutState::Active,
            targets: [target.clone()].into_iter().collect(),
            tags: heapless::Vec::new(),
            share_per_mille: 1000,
        };
        let mut bytes = [0; 512];
        let payload = postcard::to_slice(&desired, &mut bytes).unwrap();
        let message = signed(3, ContentType::Desired, payload);
        let topic = topic::desired("f");
        self.client
            .publish(topic.as_str(), QoS::AtLeastOnce, true, message)
            .unwrap();
    }

    /// Publishes a release and has the fleet run it.
    pub fn roll_out(&self, sequence: u64, bytes: &[u8]) {
        let target = self.publish(bytes);
        self.desire(sequence, &target);
    }

    /// Publishes a trust root.
    pub fn trust(&self, version: u32, root: Vec<u8>) {
        let topic = topic::root("f", version);
        self.client
            .publish(topic.as_str(), QoS::AtLeastOnce, true, root)
            .unwrap();
    }

    /// Sends an acknowledgement that the collector signed.
    pub fn acknowledge_of(&self, epoch: u32, through: u64) {
        let topic = topic::device("f", "d", Channel::Ack);
        self.client
            .publish(topic.as_str(), QoS::AtLeastOnce, false, ack(epoch, through))
            .unwrap();
    }

    /// Asks for the flight record, by a command that the key of this seed signed.
    pub fn pull(&self, boot: u32, sequence: u64, seed: u8) {
        let command = Command {
            fleet: Id::try_from("f").unwrap(),
            device: Id::try_from("d").unwrap(),
            boot,
            sequence,
            expires_s: u64::MAX,
            order: Order::PullRecord { pull: [7; 16] },
        };
        let mut space = [0; 128];
        let payload = encode_command(&command, &mut space).unwrap();
        let message = signed(seed, ContentType::Command, payload);
        let topic = topic::device("f", "d", Channel::Command);
        self.client
            .publish(topic.as_str(), QoS::AtLeastOnce, false, message)
            .unwrap();
    }

    /// Waits until what was received is as it should be.
    pub fn until(&self, what: &str, condition: impl Fn(&Received) -> bool) {
        let received = self.received.lock();
        let waited = self
            .received
            .news
            .wait_timeout_while(received, LIMIT, |received| !condition(received));
        let (received, waited) = waited.unwrap();
        assert!(
            !waited.timed_out(),
            "waited {LIMIT:?} in vain until {what}; seen instead: {}",
            received.brief()
        );
    }

    /// What was received, when it is as it should be; otherwise in short.
    pub fn shows(&self, condition: impl Fn(&Received) -> bool) -> Result<(), String> {
        let received = self.received.lock();
        if condition(&received) {
            return Ok(());
        }
        Err(received.brief())
    }

    /// What was received, as long as the caller looks at it.
    pub fn received(&self) -> MutexGuard<'_, Received> {
        self.received.lock()
    }
}

/// Stores a frame and says up to which number of its epoch there is no gap.
fn store(
    epochs: &mut Vec<(u32, BTreeMap<u64, BoardFrame>)>,
    bytes: &[u8],
    key: &PublicKey,
) -> (u32, u64) {
    let mut frame: BoardFrame = verify_frame(bytes, key, &RingVerifier).unwrap();
    // It grows from one sending to the next.
    frame.acknowledged = 0;
    let epoch = frame.epoch;
    if !epochs.iter().any(|(known, _)| *known == epoch) {
        epochs.push((epoch, BTreeMap::new()));
    }
    let known = epochs.iter_mut().find(|(known, _)| *known == epoch);
    let frames = &mut known.unwrap().1;
    // A merged frame takes the place of those that it answers for.
    frames.retain(|n, _| !(frame.first_sequence..frame.sequence).contains(n));
    let before = frames.insert(frame.sequence, frame.clone());
    assert!(
        before.is_none_or(|before| before == frame || before.first_sequence > frame.first_sequence),
        "two frames of one number"
    );
    (epoch, answered(frames))
}

fn answered(frames: &BTreeMap<u64, BoardFrame>) -> u64 {
    let mut through = 0;
    for frame in frames.values() {
        if frame.first_sequence != through + 1 {
            break;
        }
        through = frame.sequence;
    }
    through
}

fn ack(epoch: u32, through: u64) -> Vec<u8> {
    let ack = Ack {
        device: Id::try_from("d").unwrap(),
        epoch,
        through,
    };
    let mut bytes = [0; 256];
    let len = sign_ack(&ack, &key(4), &mut bytes).unwrap();
    bytes[..len].to_vec()
}
