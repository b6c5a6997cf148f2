//! The collector: verifies what boards report, stores it, and only then acknowledges it.
//!
//! It keeps no state but the store's, so it may be killed at any time: boards send again what was
//! not acknowledged, and the store knows what it has.

mod notes;

use crate::keys::{KeyError, KeyStore, hex, sign_all};
use crate::mqtt::{Event, Failure, Message, Mqtt, Options};
use crate::store::{Begun, Device, Kind, LeftOut, Store, StoreError, StoredFrame, Why};
use crate::{MAX_FEATURES, MAX_OUTPUTS};
use edgeward::telemetry::codec::{DecodeError, MAX_ACK_PAYLOAD_BYTES, encode_ack, verify_frame};
use edgeward::telemetry::{Ack, Body, Frame, Id, Summary};
use edgeward::topic::{self, Channel, Parsed};
use edgeward::trust::Role;
use edgeward::trust::cose::{self, ContentType};
use edgeward::trust::ring::{RingSigner, RingVerifier};
use notes::Notes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Frames stored in one transaction at most: a hundred rows a transaction are twenty times as fast as
/// one, and more hardly gain.
const BATCH: usize = 100;
/// How long a frame may wait for others to share its transaction.
const LINGER: Duration = Duration::from_millis(20);
/// How long messages are taken before something else has its turn, though none of them is a frame.
const TURN: Duration = Duration::from_millis(200);
/// Pause between two looks at the root, which may name other collector keys than before.
const KEYS: Duration = Duration::from_secs(1);
/// How long a broker of MQTT 5 keeps an acknowledgement for a board that is away: one that comes back
/// later sends its frames again, and gets another.
const ACK: Duration = Duration::from_secs(24 * 3600);
/// Pause after the store failed, before it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A running collector; it stops when this is dropped.
pub struct Collector {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Milliseconds since 1970.
#[must_use]
pub fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Collector {
    /// Starts to collect what the boards of `fleet` report.
    ///
    /// # Errors
    /// [`KeyError`] when the folder holds no collector key: nothing could be acknowledged.
    pub fn start(
        broker: &Options,
        store: Arc<dyn Store>,
        keys: &KeyStore,
        fleet: &str,
    ) -> Result<Self, KeyError> {
        let root = keys.root_bytes()?;
        let signers = keys.signers(Role::Collector)?;
        let mqtt = Mqtt::connect(broker);
        for channel in [
            Channel::Birth,
            Channel::State,
            Channel::Summary,
            Channel::Event,
        ] {
            mqtt.subscribe(&topic::devices(fleet, channel));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let work = Work {
            store,
            keys: keys.clone(),
            root,
            signers,
            looked: Instant::now(),
            told: None,
            fleet: fleet.to_owned(),
            devices: BTreeMap::new(),
            retained: BTreeSet::new(),
            notes: Notes::default(),
        };
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || work.run(&mqtt, &stop)
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Whether the thread ended by itself, as it never should.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A panic in the thread has been reported by its own message.
            let _ = thread.join();
        }
    }
}

struct Work {
    store: Arc<dyn Store>,
    keys: KeyStore,
    /// The signed root that `signers` are of.
    root: Vec<u8>,
    signers: Vec<RingSigner>,
    /// When the root was last looked at.
    looked: Instant,
    /// Why there is no connection, as it was last told of.
    told: Option<Failure>,
    fleet: String,
    /// Enrolled devices as last read; read again for a name or a signature that does not fit.
    devices: BTreeMap<String, Device>,
    /// Frames of the batch that the broker had kept, by device, epoch and number: old news.
    retained: BTreeSet<(String, u32, u64)>,
    notes: Notes,
}

/// Why a message was refused: a word for metrics, a sentence for people.
struct Refused(&'static str, String);

impl Work {
    fn run(mut self, mqtt: &Mqtt, stop: &AtomicBool) {
        let mut batch = Vec::new();
        while !stop.load(Ordering::Acquire) {
            self.gather(mqtt, &mut batch);
            let mut names: BTreeSet<String> = BTreeSet::new();
            names.extend(batch.iter().map(|frame: &StoredFrame| frame.device.clone()));
            while !batch.is_empty() && !stop.load(Ordering::Acquire) {
                match self.store.ingest(&batch) {
                    Ok(counts) => {
                        batch.clear();
                        self.heard(&counts.stored);
                        self.left_out(&counts.left_out);
                        begun(&counts.begun);
                    }
                    // Forgotten since it was verified: the others' frames must not suffer.
                    Err(StoreError::NoDevice(name)) => batch.retain(|frame| frame.device != name),
                    Err(error) => {
                        tracing::error!(%error, "frames wait; nothing is acknowledged");
                        std::thread::sleep(RETRY);
                    }
                }
            }
            if !names.is_empty() {
                self.look_at_keys();
            }
            for name in &names {
                self.acknowledge(mqtt, name);
            }
            self.notes.write_if_due(self.store.as_ref());
        }
        self.notes.write(self.store.as_ref());
    }

    /// Signs with the keys of a new root from now on: boards that follow it refuse the old ones.
    fn look_at_keys(&mut self) {
        if self.looked.elapsed() < KEYS {
            return;
        }
        self.looked = Instant::now();
        let renewed = self.keys.root_bytes().and_then(|root| {
            if root != self.root {
                self.signers = self.keys.signers(Role::Collector)?;
                self.root = root;
                tracing::info!("acknowledgements are signed by the keys of a new root");
            }
            Ok(())
        });
        if let Err(error) = renewed {
            tracing::error!(%error, "acknowledgements are signed by the keys of the old root");
        }
    }

    /// Says why there is no connection: once, since it may be so for days.
    fn tell(&mut self, event: Event) {
        let Event::Disconnected(failure) = event else {
            self.told = None;
            return;
        };
        if self.told.as_ref() != Some(&failure) {
            tracing::warn!(reason = %failure, next = failure.advice(), "no broker");
            self.told = Some(failure);
        }
    }

    /// Takes messages until a batch is full or nothing more comes for a moment.
    fn gather(&mut self, mqtt: &Mqtt, batch: &mut Vec<StoredFrame>) {
        let (mut since, mut patience) = (Instant::now(), TURN);
        while batch.len() < BATCH && since.elapsed() <= patience {
            let Some(event) = mqtt.recv_timeout(patience) else {
                return;
            };
            let message = match event {
                Event::Message(message) => message,
                event => {
                    self.tell(event);
                    continue;
                }
            };
            match self.take(&message) {
                Ok(Some(frame)) => {
                    if batch.is_empty() {
                        (since, patience) = (Instant::now(), LINGER);
                    }
                    batch.push(frame);
                }
                Ok(None) => {}
                Err(Refused(reason, detail)) => {
                    self.notes.refused(&message.topic, reason, detail);
                }
            }
        }
    }

    /// A frame that was not stored before is the only sign of life of a board: whatever else comes in its
    /// name, anybody could have sent or sent again.
    fn heard(&mut self, stored: &[(String, u32, u64)]) {
        let retained = std::mem::take(&mut self.retained);
        for frame in stored.iter().filter(|frame| !retained.contains(*frame)) {
            self.notes.heard(&frame.0);
        }
    }

    /// Signed by the device, and not what it has to say now.
    fn left_out(&mut self, frames: &[LeftOut]) {
        for frame in frames {
            if frame.why == Why::Unbegun {
                // Nothing is wrong: the first frame was sent before this listened, and comes again.
                tracing::debug!(device = frame.device, "{frame}");
                continue;
            }
            let topic = topic::device(&self.fleet, &frame.device, Channel::Summary);
            self.notes
                .refused(&topic, frame.why.word(), frame.to_string());
        }
    }

    /// Verifies one message; a state message is dealt with here, a frame is returned.
    fn take(&mut self, message: &Message) -> Result<Option<StoredFrame>, Refused> {
        let Some(Parsed::Device {
            fleet,
            device,
            channel,
        }) = topic::parse(&message.topic)
        else {
            return Err(Refused("topic", "no topic of a device".to_owned()));
        };
        if fleet != self.fleet {
            return Err(Refused("topic", format!("of fleet {fleet}")));
        }
        if channel == Channel::State {
            self.state(device, message);
            return Ok(None);
        }
        if message.payload.is_empty() {
            return Ok(None);
        }
        let frame = self.verified(device, &message.payload)?;
        let kind = match (&frame.body, channel) {
            (Body::Birth(_), Channel::Birth) => Kind::Birth,
            (Body::Summary(_), Channel::Summary) => Kind::Summary,
            (Body::Event(_), Channel::Event) => Kind::Event,
            _ => {
                return Err(Refused(
                    "kind",
                    "a report of another kind than its topic".to_owned(),
                ));
            }
        };
        if frame.device != device {
            let detail = format!("{} signed it, on the topic of {device}", frame.device);
            return Err(Refused("device", detail));
        }
        if message.retain {
            let key = (device.to_owned(), frame.epoch, frame.sequence);
            self.retained.insert(key);
        }
        let received_ms = now_ms();
        let body = json_body(&frame)?;
        Ok(Some(StoredFrame {
            device: device.to_owned(),
            epoch: frame.epoch,
            acknowledged: frame.acknowledged,
            boot: frame.boot,
            first_sequence: frame.first_sequence,
            sequence: frame.sequence,
            time_ms: frame.time_ms,
            received_ms,
            kind,
            body,
            raw: message.payload.clone(),
        }))
    }

    /// What the broker says of a device's connection. Anyone may send it, so names that are not
    /// enrolled leave nothing behind, and it is no sign of life.
    fn state(&mut self, device: &str, message: &Message) {
        let online = match message.payload.as_slice() {
            b"online" => true,
            b"offline" => false,
            _ => return,
        };
        let known = self.devices.contains_key(device)
            || match self.store.device(device) {
                Ok(enrolled) => enrolled.is_some_and(|enrolled| enrolled.fleet == self.fleet),
                Err(error) => {
                    tracing::error!(%error, "the device's state was not noted");
                    false
                }
            };
        if known {
            self.notes.online(device, online);
        }
    }

    /// The frame, when the device's enrolled key signed it.
    fn verified(
        &mut self,
        device: &str,
        bytes: &[u8],
    ) -> Result<Box<Frame<MAX_FEATURES, MAX_OUTPUTS>>, Refused> {
        let decode = |key| {
            verify_frame::<_, MAX_FEATURES, MAX_OUTPUTS>(bytes, key, &RingVerifier).map(Box::new)
        };
        if let Some(known) = self.devices.get(device)
            && let Ok(frame) = decode(&known.key)
        {
            return Ok(frame);
        }
        // Unknown, or enrolled anew since: the store decides.
        let enrolled = self.store.device(device);
        let enrolled = enrolled.map_err(|error| Refused("store", error.to_string()))?;
        let Some(enrolled) = enrolled.filter(|enrolled| enrolled.fleet == self.fleet) else {
            self.devices.remove(device);
            return Err(self.unknown(device, bytes));
        };
        let result = decode(&enrolled.key);
        self.devices.insert(device.to_owned(), enrolled);
        result.map_err(|error| match error {
            DecodeError::Version { .. } => Refused("version", error.to_string()),
            DecodeError::Cose(_) => Refused("signature", error.to_string()),
            _ => Refused("malformed", error.to_string()),
        })
    }

    /// A board that nobody enrolled: kept with the id of its key, so that somebody may.
    fn unknown(&mut self, device: &str, bytes: &[u8]) -> Refused {
        let message = cose::parse(bytes).ok();
        let frame = message.filter(|message| message.content == ContentType::Frame);
        let Some(frame) = frame else {
            return Refused("unknown", format!("{device} is not enrolled"));
        };
        let key_id = hex(&frame.key.0);
        self.notes.unknown(&self.fleet, device, &key_id);
        Refused(
            "unknown",
            format!("{device} is not enrolled; it signs with the key of id {key_id}"),
        )
    }

    /// Tells a device how far its frames are stored.
    fn acknowledge(&self, mqtt: &Mqtt, name: &str) {
        let (epoch, through) = match self.store.device(name) {
            Ok(Some(Device {
                epoch: Some(epoch),
                through,
                ..
            })) => (epoch, through),
            // Nothing of it is stored.
            Ok(_) => return,
            Err(error) => {
                tracing::error!(%error, "no acknowledgement");
                return;
            }
        };
        let Ok(device) = Id::try_from(name) else {
            return;
        };
        let ack = Ack {
            device,
            epoch,
            through,
        };
        let mut space = [0; MAX_ACK_PAYLOAD_BYTES];
        let Ok(payload) = encode_ack(&ack, &mut space) else {
            return;
        };
        if let Some(signed) = sign_all(&self.signers, ContentType::Ack, payload) {
            let topic = topic::device(&self.fleet, name, Channel::Ack);
            mqtt.publish_for(&topic, &signed, ACK);
        }
    }
}

/// Says which devices go on with another outbox; the store keeps it.
fn begun(all: &[Begun]) {
    for Begun {
        device,
        epoch,
        before,
    } in all
    {
        let epoch = format!("{epoch:08x}");
        match before {
            None => tracing::info!(device, epoch, "first frame"),
            Some(before) => tracing::warn!(
                device,
                epoch,
                before = format!("{:08x}", before.epoch),
                stored_through = before.last,
                lost_at_least = before.lost,
                "the board goes on with a new outbox; what its old one still held is lost"
            ),
        }
    }
}

/// The report as JSON: what the store can be asked for without this program.
///
/// A clock that is not known is left out, so that a summary of version 2 is the same report when its board sends it
/// again as one of version 3.
fn json_body(frame: &Frame<MAX_FEATURES, MAX_OUTPUTS>) -> Result<serde_json::Value, Refused> {
    let mut value = match &frame.body {
        Body::Birth(birth) => serde_json::to_value(birth),
        Body::Summary(summary) => serde_json::to_value(summary),
        Body::Event(event) => serde_json::to_value(event),
        _ => {
            return Err(Refused(
                "kind",
                "a kind that this program does not know".to_owned(),
            ));
        }
    };
    if let (Body::Summary(Summary { core_khz: 0, .. }), Ok(value)) = (&frame.body, &mut value)
        && let Some(fields) = value.as_object_mut()
    {
        fields.remove("core_khz");
    }
    value.map_err(|error| Refused("malformed", error.to_string()))
}
