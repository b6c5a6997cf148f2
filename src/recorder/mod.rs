//! The flight recorder: the last inputs, outputs and events of a board, in fixed memory.
//!
//! A [`Recorder`] is a ring in memory that the caller gives. The runtime writes each inference into it
//! ([`Runtime::push_recorded`](crate::runtime::Runtime::push_recorded)), with the model's own elements
//! as it took them in and gave them out, so that whoever has the record and the release can run it again
//! and compare every bit. When the ring is full the oldest records make room. Nothing is allocated, and
//! nothing waits; what it costs is a copy of input and output.
//!
//! The records lie in the ring as they travel: `docs/WIRE.md` has them byte by byte, [`Records`] reads
//! them, and [`crate::telemetry::pull`] carries them to the host.
//!
//! What it does not do: keep anything over a restart, or say what a record means. A microcontroller
//! gives it what RAM it can spare: an inference takes [`INFERENCE_BYTES`] and its elements.

mod record;
#[cfg(test)]
mod tests;

pub use record::{Inference, Outcome, Record, RecordError, RecordField, Records, Tensor, What};

use crate::engine::{Elements, Tape};
use crate::guard::{InferenceError, Prediction};
use crate::place;
use crate::telemetry::{Event, ReleaseId};

/// Most bytes of a recorder: what one pull may carry.
pub const MAX_BYTES: usize = 4 << 20;
/// Bytes of a record before what is of its kind.
pub(crate) const HEAD_BYTES: usize = 32;
/// Bytes of the record of an inference beside its elements.
pub const INFERENCE_BYTES: usize = 60;
/// Bytes of the record of an event beside the event itself.
pub(crate) const EVENT_BYTES: usize = 36;
/// Bytes of the largest event.
const EVENT_MAX: usize = 64;
/// Records begin at multiples of it, so that no number is torn at the ring's end.
const ALIGN: usize = 4;

/// In what role the model answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Standing {
    /// It was confirmed.
    Confirmed = 0,
    /// It was on trial.
    Trial = 1,
}

/// What an inference's record says beside its elements.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// The board's clock, in milliseconds.
    pub time_ms: u64,
    /// The release that runs.
    pub release: ReleaseId,
    /// Number of the sample that completed the input.
    pub sample: u32,
}

/// A ring of records. `B` is its memory: an array, a `&'static mut [u8]` or a `Vec<u8>`.
///
/// Invariant: `start` and `len` are multiples of `ALIGN` and within `capacity`, which is within the
/// memory; the `len` bytes from `start` on, around the end, are whole records.
#[derive(Debug, Clone)]
pub struct Recorder<B> {
    memory: B,
    capacity: usize,
    start: usize,
    len: usize,
    /// Number of the record written last.
    written: u64,
    standing: Standing,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Recorder<B> {
    /// An empty recorder. Of the memory it uses at most [`MAX_BYTES`], and whole words.
    pub fn new(memory: B) -> Self {
        let bytes = memory.as_ref().len().min(MAX_BYTES);
        Self {
            capacity: bytes - bytes % ALIGN,
            memory,
            start: 0,
            len: 0,
            written: 0,
            standing: Standing::Confirmed,
        }
    }

    /// Says in what role the model answers from now on.
    pub fn set_standing(&mut self, standing: Standing) {
        self.standing = standing;
    }

    /// Records what happened. One that finds no room in the whole ring leaves a gap in the numbers.
    pub fn event(&mut self, time_ms: u64, release: ReleaseId, event: &Event) {
        self.written += 1;
        let mut space = [0; EVENT_MAX];
        let body = place::put(&[event], &mut space);
        let Some(body) = body.ok().and_then(|len| space.get(..len)) else {
            return;
        };
        let bytes = EVENT_BYTES + padded(body.len());
        if !self.make_room(bytes) {
            return;
        }
        let head = self.head(record::EVENT, bytes, time_ms, release);
        self.put(0, &head);
        self.put(HEAD_BYTES, &(body.len() as u32).to_le_bytes());
        self.put(EVENT_BYTES, body);
        self.put_zeros(EVENT_BYTES + body.len());
        self.len += bytes;
    }

    /// Numbers of what `meanwhile` was given, while this one was held still, say with no memory at all: they
    /// are a gap here.
    pub fn skip<T>(&mut self, meanwhile: &Recorder<T>) {
        self.written += meanwhile.written;
    }

    /// Begins the record of an inference that makes `outputs` elements; give it to
    /// [`Engine::run_on_tape`](crate::engine::Engine::run_on_tape), and end it by [`Entry::finish`].
    pub fn begin(&mut self, stamp: Stamp, outputs: usize) -> Entry<'_, B> {
        self.written += 1;
        Entry {
            recorder: self,
            stamp,
            outputs,
            input: None,
            output: None,
        }
    }

    /// Where a record's first bytes come from.
    fn head(&self, kind: u8, bytes: usize, time_ms: u64, release: ReleaseId) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        head[..4].copy_from_slice(&(bytes as u32).to_le_bytes());
        head[4] = kind;
        head[5] = self.standing as u8;
        head[8..16].copy_from_slice(&self.written.to_le_bytes());
        head[16..24].copy_from_slice(&time_ms.to_le_bytes());
        head[24..].copy_from_slice(&release);
        head
    }

    /// Gives up the oldest records until `bytes` are free behind the newest; false when the whole ring
    /// is too small for them.
    fn make_room(&mut self, bytes: usize) -> bool {
        if bytes > self.capacity {
            return false;
        }
        while self.capacity - self.len < bytes {
            let mut length = [0; 4];
            self.read(0, &mut length);
            // At least a head, at most all: what is in the ring was written here.
            let oldest = u32::from_le_bytes(length) as usize;
            debug_assert!(oldest >= HEAD_BYTES && oldest <= self.len);
            self.start = self.around(self.start + oldest);
            self.len -= oldest;
        }
        true
    }

    /// An offset that may be beyond the ring's end, by less than the ring.
    fn around(&self, at: usize) -> usize {
        if at >= self.capacity {
            at - self.capacity
        } else {
            at
        }
    }

    /// The place of `len` bytes, `at` bytes behind the newest record, in two pieces.
    fn place(&mut self, at: usize, len: usize) -> (&mut [u8], &mut [u8]) {
        let from = self.around(self.around(self.start + self.len) + at);
        let first = len.min(self.capacity - from);
        let (before, behind) = self.memory.as_mut().split_at_mut(from);
        (&mut behind[..first], &mut before[..len - first])
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        let (first, second) = self.place(at, bytes.len());
        let (head, tail) = bytes.split_at(first.len());
        first.copy_from_slice(head);
        second.copy_from_slice(tail);
    }

    /// Zeros up to the next word.
    fn put_zeros(&mut self, at: usize) {
        self.put(at, &[0; ALIGN][..padded(at) - at]);
    }

    /// Writes elements and the zeros behind them.
    fn put_elements(&mut self, at: usize, elements: Elements<'_>) {
        match elements {
            Elements::I8(elements) => {
                let (first, second) = self.place(at, elements.len());
                let (head, tail) = elements.split_at(first.len());
                for (to, from) in [(first, head), (second, tail)] {
                    to.iter_mut().zip(from).for_each(|(to, &x)| *to = x as u8);
                }
                self.put_zeros(at + elements.len());
            }
            Elements::F32(elements) => {
                let (first, second) = self.place(at, 4 * elements.len());
                let (head, tail) = elements.split_at(first.len() / 4);
                for (to, from) in [(first, head), (second, tail)] {
                    let (words, _) = to.as_chunks_mut::<4>();
                    for (word, x) in words.iter_mut().zip(from) {
                        *word = x.to_le_bytes();
                    }
                }
            }
        }
    }

    /// Copies the records into `into`, which may be of another size and keeps the newest of them then;
    /// numbers go on there as they do here. What `into` held is forgotten.
    pub fn copy_to<T: AsRef<[u8]> + AsMut<[u8]>>(&self, into: &mut Recorder<T>) {
        (into.start, into.len) = (0, 0);
        (into.written, into.standing) = (self.written, self.standing);
        let mut skip = 0;
        while self.len - skip > into.capacity {
            let mut length = [0; 4];
            self.read(skip, &mut length);
            skip += u32::from_le_bytes(length) as usize;
        }
        let (from, len) = (self.around(self.start + skip), self.len - skip);
        let first = len.min(self.capacity - from);
        let memory = self.memory.as_ref();
        let to = into.memory.as_mut();
        to[..first].copy_from_slice(&memory[from..from + first]);
        to[first..len].copy_from_slice(&memory[..len - first]);
        into.len = len;
    }

    /// The memory, to be used again.
    pub fn into_memory(self) -> B {
        self.memory
    }
}

/// What a pull reads: a recorder that nobody writes to meanwhile, or a copy of one.
pub trait Snapshot {
    /// Bytes that there is room for.
    fn capacity(&self) -> usize;
    /// Bytes of all records.
    fn len(&self) -> usize;
    /// Copies the records' bytes from offset `at` on; what would be beyond their end is left as it is.
    fn read(&self, at: usize, out: &mut [u8]);
    /// Whether there is no record.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Snapshot for Recorder<B> {
    fn capacity(&self) -> usize {
        self.capacity
    }

    fn len(&self) -> usize {
        self.len
    }

    fn read(&self, at: usize, out: &mut [u8]) {
        let len = out.len().min(self.len.saturating_sub(at));
        if len == 0 {
            return;
        }
        let from = self.around(self.start + at);
        let first = len.min(self.capacity - from);
        let memory = self.memory.as_ref();
        out[..first].copy_from_slice(&memory[from..from + first]);
        out[first..len].copy_from_slice(&memory[..len - first]);
    }
}

/// The record of an inference that runs.
#[derive(Debug)]
pub struct Entry<'r, B> {
    recorder: &'r mut Recorder<B>,
    stamp: Stamp,
    outputs: usize,
    /// Bytes and type of the input that is written.
    input: Option<(usize, u8)>,
    output: Option<(usize, u8)>,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Tape for Entry<'_, B> {
    fn input(&mut self, elements: Elements<'_>) {
        let bytes = elements.bytes();
        // Room for the output, too, whatever its type will be.
        let all = INFERENCE_BYTES + padded(bytes) + 4 * self.outputs;
        if self.recorder.make_room(all) {
            self.recorder.put_elements(INFERENCE_BYTES, elements);
            self.input = Some((bytes, type_of(elements)));
        }
    }

    fn output(&mut self, elements: Elements<'_>) {
        let bytes = elements.bytes();
        let Some((input, _)) = self.input.filter(|_| bytes <= 4 * self.outputs) else {
            return;
        };
        let at = INFERENCE_BYTES + padded(input);
        self.recorder.put_elements(at, elements);
        self.output = Some((bytes, type_of(elements)));
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Entry<'_, B> {
    /// Ends the record with what came of the inference. One that found no room in the whole ring leaves
    /// a gap in the numbers.
    pub fn finish(self, judged: &Result<Prediction, InferenceError>) {
        let Some((input, input_type)) = self.input else {
            return;
        };
        let (output, output_type) = self.output.unwrap_or((0, input_type));
        let bytes = INFERENCE_BYTES + padded(input) + padded(output);
        let Stamp {
            time_ms,
            release,
            sample,
        } = self.stamp;
        let outcome = match judged {
            Ok(_) => Outcome::Answered,
            Err(InferenceError::Engine(_)) => Outcome::Failed,
            Err(_) => Outcome::Refused,
        };
        let mut head = [0; INFERENCE_BYTES];
        let shared = self
            .recorder
            .head(record::INFERENCE, bytes, time_ms, release);
        head[..HEAD_BYTES].copy_from_slice(&shared);
        head[32..36].copy_from_slice(&sample.to_le_bytes());
        head[36..40].copy_from_slice(&(input as u32).to_le_bytes());
        head[40..44].copy_from_slice(&(output as u32).to_le_bytes());
        (head[44], head[45], head[46]) = (input_type, output_type, outcome as u8);
        if let Ok(prediction) = judged {
            head[47] = prediction.flags.bits();
            head[48..50].copy_from_slice(&prediction.class.to_le_bytes());
            head[52..56].copy_from_slice(&prediction.confidence.to_le_bytes());
            head[56..60].copy_from_slice(&prediction.latency_us.to_le_bytes());
        }
        self.recorder.put(0, &head);
        self.recorder.len += bytes;
    }
}

fn type_of(elements: Elements<'_>) -> u8 {
    match elements {
        Elements::I8(_) => record::I8,
        Elements::F32(_) => record::F32,
    }
}

/// The next multiple of [`ALIGN`].
const fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGN)
}
