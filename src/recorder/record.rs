//! Reading flight records.

use super::{EVENT_BYTES, HEAD_BYTES, INFERENCE_BYTES, Standing, padded};
use crate::telemetry::{Event, ReleaseId};

/// Kinds of records.
pub(super) const INFERENCE: u8 = 1;
pub(super) const EVENT: u8 = 2;
/// Types of elements.
pub(super) const I8: u8 = 0;
pub(super) const F32: u8 = 1;
/// All flags of a prediction that there are.
const FLAGS: u8 = 0x0F;

/// What came of an inference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// The model's output was the answer.
    Answered = 0,
    /// The engine failed; there is no output.
    Failed = 1,
    /// The guard refused the output: not finite, or no probability at all.
    Refused = 2,
}

/// Elements of a tensor as they are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tensor<'a> {
    /// Two's complement, a byte each.
    I8(&'a [u8]),
    /// Little-endian, four bytes each.
    F32(&'a [u8]),
}

impl<'a> Tensor<'a> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::I8(bytes) => bytes.len(),
            Self::F32(bytes) => bytes.len() / 4,
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// As recorded.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        match self {
            Self::I8(bytes) | Self::F32(bytes) => bytes,
        }
    }

    /// The elements, when they are int8.
    pub fn i8s(&self) -> Option<impl Iterator<Item = i8> + use<'a>> {
        match self {
            Self::I8(bytes) => Some(bytes.iter().map(|&byte| byte as i8)),
            Self::F32(_) => None,
        }
    }

    /// The elements, when they are floats.
    pub fn f32s(&self) -> Option<impl Iterator<Item = f32> + use<'a>> {
        match self {
            Self::I8(_) => None,
            Self::F32(bytes) => {
                let (words, _) = bytes.as_chunks();
                Some(words.iter().map(|&word| f32::from_le_bytes(word)))
            }
        }
    }
}

/// One inference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Inference<'a> {
    /// Number of the sample that completed the input.
    pub sample: u32,
    /// What came of it.
    pub outcome: Outcome,
    /// Index of the class; 0 unless answered, as the next three are.
    pub class: u16,
    /// Flags of the prediction: [`crate::guard::PredictionFlags::bits`].
    pub flags: u8,
    /// Calibrated probability of the class.
    pub confidence: f32,
    /// From the complete input to the answer, in microseconds.
    pub latency_us: u32,
    /// What the model took in.
    pub input: Tensor<'a>,
    /// What it gave out; empty when it failed.
    pub output: Tensor<'a>,
}

/// What is recorded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum What<'a> {
    /// An inference.
    Inference(Inference<'a>),
    /// An event.
    Event(Event),
}

/// One record.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Record<'a> {
    /// Its number, counted by the recorder from 1 in each boot. A gap is what found no room.
    pub number: u64,
    /// The board's clock, in milliseconds since 1970, or since boot where it has none.
    pub time_ms: u64,
    /// The release that ran.
    pub release: ReleaseId,
    /// In what role.
    pub standing: Standing,
    /// What is recorded.
    pub what: What<'a>,
}

/// Part of a record, as errors name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordField {
    /// Its length.
    Length,
    /// Its kind.
    Kind,
    /// The model's role.
    Standing,
    /// Bytes that must be zero.
    Zeros,
    /// Its number, which must be greater than the one before.
    Number,
    /// Bytes of an input.
    InputBytes,
    /// Bytes of an output.
    OutputBytes,
    /// Type of an input's elements.
    InputType,
    /// Type of an output's elements.
    OutputType,
    /// What came of an inference.
    Outcome,
    /// A flag that there is not, or flags, class, confidence or latency without an answer.
    Answer,
    /// Bytes of an event.
    EventBytes,
    /// The event.
    Event,
}

/// Why bytes are no flight record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordError {
    /// What is wrong.
    pub field: RecordField,
    /// Offset of the record that it is wrong in.
    pub offset: u32,
}

impl core::fmt::Display for RecordError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "record at offset {}: {:?}", self.offset, self.field)
    }
}

impl core::error::Error for RecordError {}

/// The records that bytes are, the oldest first; ends after the first error.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    bytes: &'a [u8],
    at: usize,
    number: u64,
}

impl<'a> Records<'a> {
    /// Reads `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            number: 0,
        }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.bytes.get(self.at..).filter(|rest| !rest.is_empty())?;
        let offset = u32::try_from(self.at).unwrap_or(u32::MAX);
        match record(rest, self.number) {
            Ok((record, bytes)) => {
                self.at += bytes;
                self.number = record.number;
                Some(Ok(record))
            }
            Err(field) => {
                self.bytes = &[];
                Some(Err(RecordError { field, offset }))
            }
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn zero(bytes: &[u8]) -> Result<(), RecordField> {
    let all = bytes.iter().all(|&byte| byte == 0);
    all.then_some(()).ok_or(RecordField::Zeros)
}

/// The first record of `bytes` and its length. Its number is greater than `after`.
fn record(bytes: &[u8], after: u64) -> Result<(Record<'_>, usize), RecordField> {
    use RecordField as Field;
    let len = u32_at(bytes, 0).ok_or(Field::Length)? as usize;
    let bytes = bytes.get(..len).ok_or(Field::Length)?;
    if !len.is_multiple_of(super::ALIGN) || len < HEAD_BYTES {
        return Err(Field::Length);
    }
    let standing = match bytes[5] {
        0 => Standing::Confirmed,
        1 => Standing::Trial,
        _ => return Err(Field::Standing),
    };
    zero(&bytes[6..8])?;
    let number = u64_at(bytes, 8).ok_or(Field::Length)?;
    if number <= after {
        return Err(Field::Number);
    }
    let time_ms = u64_at(bytes, 16).ok_or(Field::Length)?;
    let release = *bytes[24..].first_chunk().ok_or(Field::Length)?;
    let what = match bytes[4] {
        INFERENCE => What::Inference(inference(bytes)?),
        EVENT => What::Event(event(bytes)?),
        _ => return Err(Field::Kind),
    };
    let record = Record {
        number,
        time_ms,
        release,
        standing,
        what,
    };
    Ok((record, len))
}

fn tensor(kind: u8, bytes: &[u8]) -> Option<Tensor<'_>> {
    match kind {
        I8 => Some(Tensor::I8(bytes)),
        F32 if bytes.len().is_multiple_of(4) => Some(Tensor::F32(bytes)),
        _ => None,
    }
}

/// `bytes` is the whole record.
fn inference(bytes: &[u8]) -> Result<Inference<'_>, RecordField> {
    use RecordField as Field;
    let (head, elements) = bytes
        .split_at_checked(INFERENCE_BYTES)
        .ok_or(Field::Length)?;
    let input_bytes = u32_at(head, 36).ok_or(Field::Length)? as usize;
    let output_bytes = u32_at(head, 40).ok_or(Field::Length)? as usize;
    if input_bytes > elements.len() {
        return Err(Field::InputBytes);
    }
    let split = elements.split_at_checked(padded(input_bytes));
    let (input, output) = split.ok_or(Field::InputBytes)?;
    if output_bytes > output.len() || padded(output_bytes) != output.len() {
        return Err(Field::OutputBytes);
    }
    zero(&input[input_bytes..])?;
    zero(&output[output_bytes..])?;
    zero(&head[50..52])?;
    let outcome = match head[46] {
        0 => Outcome::Answered,
        1 => Outcome::Failed,
        2 => Outcome::Refused,
        _ => return Err(Field::Outcome),
    };
    if (outcome == Outcome::Failed) != (output_bytes == 0) {
        return Err(Field::OutputBytes);
    }
    if outcome == Outcome::Failed && head[45] != head[44] {
        return Err(Field::OutputType);
    }
    let answer = [&head[47..50], &head[52..60]];
    let unknown = head[47] & !FLAGS != 0;
    if unknown || outcome != Outcome::Answered && answer.iter().any(|part| zero(part).is_err()) {
        return Err(Field::Answer);
    }
    Ok(Inference {
        sample: u32_at(head, 32).ok_or(Field::Length)?,
        outcome,
        class: u16::from_le_bytes([head[48], head[49]]),
        flags: head[47],
        confidence: f32::from_bits(u32_at(head, 52).ok_or(Field::Length)?),
        latency_us: u32_at(head, 56).ok_or(Field::Length)?,
        input: tensor(head[44], &input[..input_bytes]).ok_or(Field::InputType)?,
        output: tensor(head[45], &output[..output_bytes]).ok_or(Field::OutputType)?,
    })
}

/// `bytes` is the whole record.
fn event(bytes: &[u8]) -> Result<Event, RecordField> {
    use RecordField as Field;
    let len = u32_at(bytes, HEAD_BYTES).ok_or(Field::Length)? as usize;
    let body = bytes.get(EVENT_BYTES..).ok_or(Field::Length)?;
    if len > body.len() || padded(len) != body.len() {
        return Err(Field::EventBytes);
    }
    zero(&body[len..])?;
    match postcard::take_from_bytes(&body[..len]) {
        Ok((event, [])) => Ok(event),
        _ => Err(Field::Event),
    }
}
