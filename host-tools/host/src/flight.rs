//! Flight records: asked for, gathered part by part, kept in a file and read again.
//!
//! A file holds the parts as the board signed them, one after the other, so that whoever has the device's
//! public key can check them years later.

use crate::collector::now_ms;
use crate::keys::{KeyError, KeyStore, sign_all};
use crate::mqtt::{Event, Mqtt, MqttError};
use crate::store::{Device, StoreError};
use edgeward::recorder::{Record, RecordError, Records};
use edgeward::telemetry::Id;
use edgeward::telemetry::codec::DecodeError;
use edgeward::telemetry::pull::{
    Command, MAX_COMMAND_PAYLOAD_BYTES, Order, Part, PullId, decode_part, encode_command,
    verify_part,
};
use edgeward::topic::{self, Channel};
use edgeward::trust::cose::{self, ContentType};
use edgeward::trust::ring::{RingSigner, RingVerifier};
use edgeward::trust::{PublicKey, Role};
use ring::rand::{SecureRandom, SystemRandom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a board may be silent before it is asked anew.
const STALL: Duration = Duration::from_secs(5);
/// How long a command holds, for boards that know the time.
const HOLDS: Duration = Duration::from_secs(60);
/// How long messages are waited for at a time.
const TURN: Duration = Duration::from_millis(100);

/// Why there is no flight record.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FlightError {
    /// Keys.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The broker.
    #[error(transparent)]
    Mqtt(#[from] MqttError),
    /// The store, which knows the board's boot.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system has no randomness.
    #[error("the system gives no randomness for the pull's name")]
    Random,
    /// A name that is none.
    #[error("`{0}` is no name")]
    Name(String),
    /// The device never reported, so that its boot is not known.
    #[error("{0} has not reported yet, so the boot that the command must name is not known")]
    NeverReported(String),
    /// Not all parts came in time.
    #[error("{device} sent {got} of {parts} parts of its flight record within {seconds} s")]
    Timeout {
        /// The device.
        device: String,
        /// Parts that came.
        got: usize,
        /// Parts that there are; 0 where none came.
        parts: usize,
        /// The time given.
        seconds: u64,
    },
    /// The file is no sequence of signed parts.
    #[error("not a flight record: {0}")]
    File(String),
    /// A part is not signed by the device, or not sound.
    #[error("part {part}: {error}")]
    Part {
        /// Which, from 0.
        part: usize,
        /// What is wrong.
        error: DecodeError,
    },
    /// The parts are sound and what they carry is not.
    #[error("the parts are signed well, and yet: {0}")]
    Records(#[from] RecordError),
}

/// What all parts of a record say alike.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Whole {
    device: Id,
    boot: u32,
    pull: PullId,
    time_ms: u64,
    capacity: u32,
    total: u32,
    parts: u16,
}

impl Whole {
    fn of(part: &Part<'_>) -> Self {
        Self {
            device: part.device.clone(),
            boot: part.boot,
            pull: part.pull,
            time_ms: part.time_ms,
            capacity: part.capacity,
            total: part.total,
            parts: part.parts,
        }
    }
}

/// A flight record, every part of which the device signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlightRecord {
    whole: Whole,
    bytes: Vec<u8>,
    /// The signed parts, one after the other.
    signed: Vec<u8>,
}

impl FlightRecord {
    /// Reads a file of signed parts, all by `key`.
    ///
    /// # Errors
    /// [`FlightError`] names the part and what is wrong with it.
    pub fn open(file: &[u8], key: &PublicKey) -> Result<Self, FlightError> {
        let mut gather = Gather::new(*key, None);
        let mut rest = file;
        let mut number = 0;
        while !rest.is_empty() {
            let (message, behind) = first(rest, number)?;
            let part = |error| FlightError::Part {
                part: number,
                error,
            };
            if !gather.take(message).map_err(part)? {
                let what = format!("part {number} is of another record, or comes twice");
                return Err(FlightError::File(what));
            }
            rest = behind;
            number += 1;
        }
        let (got, parts) = gather.progress();
        let missing = || FlightError::File(format!("{got} of {parts} parts are there"));
        let record = gather.whole().ok_or_else(missing)?;
        record.check()?;
        Ok(record)
    }

    /// The device that a file claims to be of, unverified: to look up its key.
    ///
    /// # Errors
    /// [`FlightError::File`] when it does not begin with a part.
    pub fn claimed_device(file: &[u8]) -> Result<Id, FlightError> {
        let (message, _) = first(file, 0)?;
        let part = part_of(message);
        let part = part.ok_or_else(|| FlightError::File("the first part is not sound".into()))?;
        Ok(part.device)
    }

    /// Whether every record in it is sound.
    fn check(&self) -> Result<(), FlightError> {
        for record in self.records() {
            record?;
        }
        Ok(())
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.whole.device
    }

    /// The boot in which the records were made.
    #[must_use]
    pub fn boot(&self) -> u32 {
        self.whole.boot
    }

    /// When it was taken, by the device's clock.
    #[must_use]
    pub fn time_ms(&self) -> u64 {
        self.whole.time_ms
    }

    /// Bytes of the device's ring; 0 where its recorder is off.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.whole.capacity
    }

    /// How many parts it came in.
    #[must_use]
    pub fn parts(&self) -> u16 {
        self.whole.parts
    }

    /// Bytes of the records.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The signed parts, as a file keeps them.
    #[must_use]
    pub fn signed(&self) -> &[u8] {
        &self.signed
    }

    /// The records, the oldest first.
    pub fn records(&self) -> impl Iterator<Item = Result<Record<'_>, RecordError>> {
        Records::new(&self.bytes)
    }
}

/// The first message of a file, and what is behind it.
fn first(file: &[u8], number: usize) -> Result<(&[u8], &[u8]), FlightError> {
    let message = cose::parse(file).map_err(|error| {
        let (field, kind) = (error.field, error.kind);
        FlightError::File(format!("part {number}: {field:?}: {kind:?}"))
    })?;
    Ok(file.split_at(message.len))
}

/// The parts of one record that came so far. They carry no more than the record is said to have, which is
/// at most [`edgeward::recorder::MAX_BYTES`].
struct Gather {
    key: PublicKey,
    /// Who must have sent them; anyone that has the key where none.
    device: Option<String>,
    whole: Option<Whole>,
    /// The signed messages, by the part's number.
    parts: Vec<Option<Vec<u8>>>,
    got: usize,
    /// Bytes of the record that the messages carry.
    bytes: usize,
}

impl Gather {
    fn new(key: PublicKey, device: Option<&str>) -> Self {
        Self {
            key,
            device: device.map(str::to_owned),
            whole: None,
            parts: Vec::new(),
            got: 0,
            bytes: 0,
        }
    }

    /// Takes a part; false for one of another device or record, one that is there, and one too many.
    fn take(&mut self, message: &[u8]) -> Result<bool, DecodeError> {
        let part = verify_part(message, &self.key, &RingVerifier)?;
        let other = |device: &String| *device != part.device.as_str();
        if self.device.as_ref().is_some_and(other) {
            return Ok(false);
        }
        let whole = self.whole.get_or_insert_with(|| Whole::of(&part));
        self.parts.resize(usize::from(whole.parts), None);
        let place = self.parts.get_mut(usize::from(part.part));
        let bytes = self.bytes + part.bytes.len();
        let fits = *whole == Whole::of(&part) && bytes <= whole.total as usize;
        let Some(place) = place.filter(|place| place.is_none() && fits) else {
            return Ok(false);
        };
        *place = Some(message.to_vec());
        self.bytes = bytes;
        self.got += 1;
        Ok(true)
    }

    /// Parts that came, and parts that there are.
    fn progress(&self) -> (usize, usize) {
        (self.got, self.parts.len())
    }

    /// The record, when every part is there and they add up.
    fn whole(self) -> Option<FlightRecord> {
        let whole = self.whole?;
        let mut bytes = Vec::with_capacity(self.bytes);
        let mut signed = Vec::new();
        for message in self.parts {
            let message = message?;
            bytes.extend_from_slice(part_of(&message)?.bytes);
            signed.extend(message);
        }
        (bytes.len() == whole.total as usize).then_some(FlightRecord {
            whole,
            bytes,
            signed,
        })
    }
}

/// Asks a board for its flight record, and waits for all of it.
pub struct Puller<'a> {
    /// The connection; nobody else reads from it meanwhile.
    pub mqtt: &'a Mqtt,
    /// The host's keys: the collector's sign.
    pub keys: &'a KeyStore,
    /// The board, as it is enrolled.
    pub device: &'a Device,
}

impl Puller<'_> {
    /// Pulls. `boot` says which boot the board reported last, none for a board that never did, and is asked
    /// again where the store is busy; `progress` is told how many parts came, of how many. A board that does
    /// not answer, or stops, is asked anew until `timeout` has passed.
    ///
    /// # Errors
    /// [`FlightError::Timeout`] when it did not send all of it in time, and others.
    pub fn pull(
        &self,
        timeout: Duration,
        boot: &mut dyn FnMut() -> Result<Option<u32>, StoreError>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<FlightRecord, FlightError> {
        let signers = self.keys.signers(Role::Collector)?;
        let topic = topic::device(&self.device.fleet, &self.device.name, Channel::Record);
        self.mqtt.subscribe_and_wait(&topic, timeout)?;
        let deadline = Instant::now() + timeout;
        let mut sequence = 0;
        let mut gather = Gather::new(self.device.key, Some(&self.device.name));
        loop {
            let boot = match boot() {
                Err(StoreError::Busy) if Instant::now() < deadline => {
                    std::thread::sleep(TURN);
                    continue;
                }
                boot => {
                    boot?.ok_or_else(|| FlightError::NeverReported(self.device.name.clone()))?
                }
            };
            sequence = now_ms().max(sequence + 1);
            let pull = self.ask(&signers, boot, sequence)?;
            gather = self.gather(pull, &topic, deadline, gather, progress)?;
            let (got, parts) = gather.progress();
            if got == parts && got > 0 {
                let what = || FlightError::File("the parts do not add up".into());
                let record = gather.whole().ok_or_else(what)?;
                record.check()?;
                return Ok(record);
            }
            if Instant::now() >= deadline {
                return Err(FlightError::Timeout {
                    device: self.device.name.clone(),
                    got,
                    parts,
                    seconds: timeout.as_secs(),
                });
            }
        }
    }

    /// Sends the command; the name of the pull.
    fn ask(&self, signers: &[RingSigner], boot: u32, sequence: u64) -> Result<PullId, FlightError> {
        let name = |name: &str| Id::try_from(name).map_err(|_| FlightError::Name(name.to_owned()));
        let mut pull = [0; 16];
        let random = SystemRandom::new().fill(&mut pull);
        random.map_err(|_| FlightError::Random)?;
        let command = Command {
            fleet: name(&self.device.fleet)?,
            device: name(&self.device.name)?,
            boot,
            sequence,
            expires_s: now_ms() / 1000 + HOLDS.as_secs(),
            order: Order::PullRecord { pull },
        };
        let mut space = [0; MAX_COMMAND_PAYLOAD_BYTES];
        let payload = encode_command(&command, &mut space);
        let signed = payload.map(|payload| sign_all(signers, ContentType::Command, payload));
        let Ok(Some(signed)) = signed else {
            // The role has a key, or its signers could not have been read.
            return Err(FlightError::Name(self.device.name.clone()));
        };
        let topic = topic::device(&self.device.fleet, &self.device.name, Channel::Command);
        self.mqtt.publish_for(&topic, &signed, HOLDS);
        Ok(pull)
    }

    /// Takes parts of one pull until all are there, none came for a while, or the time is up. What it
    /// gives back is `before` where the board did not answer at all.
    fn gather(
        &self,
        pull: PullId,
        topic: &str,
        deadline: Instant,
        before: Gather,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Gather, FlightError> {
        let mut gather = Gather::new(self.device.key, Some(&self.device.name));
        let mut heard = Instant::now();
        while heard.elapsed() < STALL && Instant::now() < deadline {
            let Some(Event::Message(message)) = self.mqtt.recv_timeout(TURN) else {
                continue;
            };
            let answers = message.topic == topic && names(&message.payload) == Some(pull);
            // What is not signed by the board is somebody's noise.
            if !answers || !gather.take(&message.payload).unwrap_or(false) {
                continue;
            }
            heard = Instant::now();
            let (got, parts) = gather.progress();
            progress(got, parts);
            if got == parts {
                break;
            }
        }
        Ok(if gather.got > 0 { gather } else { before })
    }
}

/// The pull that an unverified part claims to answer.
fn names(message: &[u8]) -> Option<PullId> {
    Some(part_of(message)?.pull)
}

/// The part in a message, whoever signed it.
fn part_of(message: &[u8]) -> Option<Part<'_>> {
    let payload = cose::parse(message).ok()?.payload?;
    decode_part(payload).ok()
}

/// Where the flight records of a home folder are.
#[must_use]
pub fn records_folder(home: &Path) -> PathBuf {
    home.join("records")
}

/// The name of a record's file.
#[must_use]
pub fn file_name(record: &FlightRecord) -> String {
    format!("{}-{}.record", record.device(), record.time_ms())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker;
    use crate::keys::Quorum;
    use edgeward::bundle::BoardClass;
    use edgeward::recorder::Recorder;
    use edgeward::telemetry::pull::Pull;
    use edgeward::telemetry::{Event, Refused};
    use edgeward::trust::Signer;

    fn key() -> RingSigner {
        RingSigner::from_seed(&[3; 32]).expect("any seed is a key")
    }

    /// The signed parts of a record of so many events.
    fn parts(pull: PullId, events: u64) -> Vec<Vec<u8>> {
        let mut recorder = Recorder::new(vec![0; 1024]);
        for n in 0..events {
            let what = Refused::Ack;
            recorder.event(n, [1; 8], &Event::Refused { what });
        }
        let mut pull = Pull::new(pull, 3, 5, &recorder, 317).expect("room");
        let device = Id::try_from("board-1").expect("short");
        let mut out = [0; 317];
        let mut parts = Vec::new();
        while !pull.is_done() {
            let len = pull.sign_next(&device, &recorder, &key(), &mut out);
            parts.push(out[..len.expect("room")].to_vec());
            pull.sent();
        }
        parts
    }

    fn open(file: &[u8]) -> Result<FlightRecord, String> {
        FlightRecord::open(file, &key().public_key()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_is_its_signed_parts() {
        for events in [0, 1, 20] {
            let file = parts([1; 16], events).concat();
            let record = open(&file).expect("sound");
            assert_eq!(record.signed(), file);
            assert_eq!((record.device(), record.boot()), ("board-1", 3));
            assert_eq!(record.records().count() as u64, events);
            assert_eq!(file_name(&record), "board-1-5.record");
            let claimed = FlightRecord::claimed_device(&file).expect("a part");
            assert_eq!(claimed, "board-1");
        }
    }

    #[test]
    fn what_is_missing_doubled_mixed_or_forged_is_no_record() {
        let sound = parts([1; 16], 20);
        let other = parts([2; 16], 20);
        assert!(sound.len() > 3);
        for missing in 0..sound.len() {
            let mut some = sound.clone();
            some.remove(missing);
            let said = open(&some.concat()).expect_err("a part is missing");
            assert!(said.contains("parts are there"), "{said}");
        }
        let mut doubled = sound.clone();
        doubled.push(sound[1].clone());
        let said = open(&doubled.concat()).expect_err("one is there twice");
        assert!(said.contains("twice"), "{said}");
        let mut mixed = sound.clone();
        mixed[2] = other[2].clone();
        let said = open(&mixed.concat()).expect_err("one is another pull's");
        assert!(said.contains("part 2 is of another"), "{said}");
        let file = sound.concat();
        let stranger = RingSigner::from_seed(&[4; 32]).expect("any seed is a key");
        let forged = FlightRecord::open(&file, &stranger.public_key());
        assert!(matches!(forged, Err(FlightError::Part { part: 0, .. })));
        for at in (0..file.len()).step_by(7) {
            let mut damaged = file.clone();
            damaged[at] ^= 0x10;
            assert!(open(&damaged).is_err(), "byte {at}");
            assert!(open(&file[..at]).is_err(), "cut at {at}");
        }
        // The order is the parts' own.
        let mut turned = sound.clone();
        turned.reverse();
        let record = open(&turned.concat()).expect("all are there");
        assert_eq!(record.signed(), file);
    }

    #[test]
    fn a_board_answers_under_its_own_name_only() {
        for (asked, taken) in [("board-1", true), ("board-2", false)] {
            let mut gather = Gather::new(key().public_key(), Some(asked));
            for part in parts([1; 16], 20) {
                assert_eq!(gather.take(&part).expect("signed"), taken, "{asked}");
            }
            assert_eq!(gather.whole().is_some(), taken);
        }
    }

    /// Parts that a board with a key of ours may send to fill the memory of whoever asks.
    #[test]
    fn parts_that_carry_more_than_the_whole_are_not_kept() {
        let mut recorder = Recorder::new(vec![0; 1024]);
        for n in 0..20 {
            let what = Refused::Ack;
            recorder.event(n, [1; 8], &Event::Refused { what });
        }
        let device = Id::try_from("board-1").expect("short");
        let part = |number: u16| {
            // The first part of the record, under every number: a reader can't tell but by the sum.
            let pull = Pull::new([1; 16], 3, 5, &recorder, 317).expect("room");
            let mut out = [0; 317];
            let len = pull.sign_next(&device, &recorder, &key(), &mut out);
            let message = &out[..len.expect("room")];
            let sound = part_of(message).expect("a part");
            let mut payload = cose::parse(message)
                .expect("sound")
                .payload
                .expect("one")
                .to_vec();
            let end = payload.len() - sound.bytes.len();
            // Number and number of parts, a byte each, are before the length of the bytes.
            let length = if sound.bytes.len() < 128 { 1 } else { 2 };
            let at = end - length - 2;
            assert_eq!(u16::from(payload[at]), sound.part);
            assert_eq!(u16::from(payload[at + 1]), sound.parts);
            payload[at] = u8::try_from(number).expect("small");
            let signed = sign_all(&[key()], ContentType::Record, &payload);
            (
                signed.expect("signed"),
                sound.parts,
                sound.bytes.len(),
                sound.total,
            )
        };
        let (_, count, len, total) = part(0);
        let mut gather = Gather::new(key().public_key(), None);
        let numbers = 0..count;
        let taken = numbers
            .filter(|&n| gather.take(&part(n).0).expect("signed"))
            .count();
        assert_eq!(taken, total as usize / len);
        assert!(taken < usize::from(count) && gather.bytes <= total as usize);
        assert!(gather.whole().is_none());
    }

    #[test]
    fn an_error_of_the_store_is_told_and_a_busy_one_is_asked_again() {
        let home = tempfile::tempdir().expect("folder");
        let keys = KeyStore::at(home.path());
        let one = |_| Quorum {
            threshold: 1,
            keys: 1,
        };
        keys.init(one).expect("keys");
        let listening = broker::start(&broker::Options {
            port: 0,
            ..broker::Options::default()
        });
        let port = listening.expect("a broker").v4.port();
        let mqtt = Mqtt::connect(&crate::mqtt::Options::new("pull", "127.0.0.1", port));
        let device = Device {
            name: "board-1".to_owned(),
            fleet: "f".to_owned(),
            key: key().public_key(),
            class: BoardClass::Linux,
            enrolled_ms: 0,
            seen_ms: None,
            online: false,
            epoch: None,
            through: 0,
        };
        let puller = Puller {
            mqtt: &mqtt,
            keys: &keys,
            device: &device,
        };
        let pull = |mut answers: Vec<Result<Option<u32>, StoreError>>| {
            let mut boot = || answers.pop().expect("asked so often");
            puller.pull(Duration::from_secs(30), &mut boot, &mut |_, _| {})
        };
        let never = pull(vec![Ok(None), Err(StoreError::Busy), Err(StoreError::Busy)]);
        assert!(
            matches!(never, Err(FlightError::NeverReported(_))),
            "{never:?}"
        );
        let damaged = pull(vec![Err(StoreError::Corrupt("torn".to_owned()))]);
        let said = damaged.expect_err("damaged").to_string();
        assert!(said.contains("torn"), "{said}");
    }
}
