//! A sensor that replays a recording of the host: `samples.txt`, in the line protocol of the agent for
//! Linux boards. The time between two of its lines is the time between two samples; at its end it begins
//! again. Samples are as far from one another by their numbers as the lines are, so that one may be missing or
//! come twice; where a line's time goes back, that sample and those behind it are late by as much.
//!
//! Three more words stand for a driver that does not work, so that tests can see what becomes of a board
//! that has one: `panic`, `fault` (a read where nothing is) and `hang`.

use crate::host::File;
use edgeward::contract::SourceInfo;
use edgeward::profile::DType;
use edgeward_firmware::lines::{Header, Line, parse};
use edgeward_mcu::board::{Reading, Sensor};
use embassy_time::{Duration, Instant, Timer};

/// Bytes of the memory for the header and what is read of the file, where samples have at most so many features: two
/// times the longest line.
#[must_use]
pub const fn line_memory_bytes(features: usize) -> usize {
    /// What stands before the names of a header.
    const BEFORE: usize = 64;
    2 * (BEFORE + 32 * features)
}

/// Shortest time between two samples.
const SHORTEST: Duration = Duration::from_micros(100);
/// How late samples may come and still be made up for.
const LATE: Duration = Duration::from_millis(50);

/// A file of the host, line by line.
struct Lines {
    /// None when there is nothing more to read, now or ever.
    file: Option<File>,
    /// Bytes of the file that were read and not used: from `from` to `to`.
    buffer: &'static mut [u8],
    from: usize,
    to: usize,
}

impl Lines {
    /// The next line, without its end; none at the end of the file, to which a last line without an end
    /// goes. A line that does not fit is cut into such that do.
    fn next(&mut self) -> Option<&[u8]> {
        loop {
            let held = self.buffer.get(self.from..self.to).unwrap_or_default();
            if let Some(len) = held.iter().position(|&byte| byte == b'\n') {
                let from = self.from;
                self.from += len + 1;
                return self.buffer.get(from..from + len);
            }
            self.buffer.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to - self.from);
            let read = self.file.as_mut()?.read(self.buffer.get_mut(self.to..)?);
            if read == 0 {
                let to = core::mem::take(&mut self.to);
                return self.buffer.get(..to).filter(|held| !held.is_empty());
            }
            self.to += read;
        }
    }

    /// Goes to an offset of the file; whether that went well.
    fn seek(&mut self, offset: usize) -> bool {
        (self.from, self.to) = (0, 0);
        self.file.as_mut().is_some_and(|file| file.seek(offset))
    }
}

/// The recording, of samples of at most `F` features.
pub struct Recording<const F: usize> {
    lines: Lines,
    header: Header<'static, F>,
    /// Where the samples begin.
    begin: usize,
    sequence: u32,
    /// Number and time of the last sample in the file, where it is of the same recording.
    last: Option<(u32, u64)>,
    /// How late its samples are, in milliseconds.
    late_ms: u64,
    /// When the next sample is due, and what it is, once it was read.
    due: Instant,
    next: Option<(usize, [f32; F])>,
}

impl<const F: usize> Recording<F> {
    /// Opens the recording, with [`line_memory_bytes`] of memory; without one no sample ever comes.
    pub fn open(memory: &'static mut [u8]) -> Self {
        let nothing = Header {
            schema: 0,
            dtype: DType::F32,
            feature_version: 0,
            features: Default::default(),
        };
        let (kept, buffer) = memory.split_at_mut(memory.len() / 2);
        let mut lines = Lines {
            file: File::read_only("samples.txt\0"),
            buffer,
            from: 0,
            to: 0,
        };
        let len = lines.next().map_or(0, |line| {
            kept[..line.len()].copy_from_slice(line);
            line.len()
        });
        let kept: &'static [u8] = kept;
        let header = match parse(&kept[..len], &mut [0.0; F]) {
            Ok(Line::Header(header)) => header,
            _ => {
                defmt::error!(
                    "no samples.txt that begins with a header of at most {} features",
                    F
                );
                lines.file = None;
                nothing
            }
        };
        Self {
            lines,
            header,
            begin: len + 1,
            sequence: 0,
            last: None,
            late_ms: 0,
            due: Instant::now(),
            next: None,
        }
    }

    /// Reads on to the next sample. True when a new recording begins there.
    fn advance(&mut self) -> bool {
        let (mut anew, mut rewound) = (false, false);
        let mut values = [0.0; F];
        loop {
            let Some(line) = self.lines.next() else {
                // A file without a sample would be read for ever.
                if rewound || !self.lines.seek(self.begin) {
                    self.lines.file = None;
                    return true;
                }
                (anew, rewound) = (true, true);
                (self.last, self.late_ms) = (None, 0);
                continue;
            };
            match parse::<F>(line, &mut values) {
                Ok(Line::Sample {
                    sequence,
                    time_ms,
                    count,
                }) => {
                    let first = (sequence.wrapping_sub(1), time_ms);
                    let (last, last_ms) = self.last.unwrap_or(first);
                    let wait = time_ms.saturating_sub(last_ms);
                    self.late_ms += last_ms.saturating_sub(time_ms);
                    let further = sequence.wrapping_sub(last);
                    self.sequence = self.sequence.wrapping_add(further);
                    self.last = Some((sequence, time_ms));
                    // A recording whose time stands still leaves nobody else any.
                    self.due += Duration::from_millis(wait).max(SHORTEST);
                    self.next = Some((count, values));
                    return anew;
                }
                Ok(Line::Reset) => {
                    anew = true;
                    (self.last, self.late_ms) = (None, 0);
                }
                _ => break_down(line),
            }
        }
    }
}

/// Does what a broken driver does, if this is a word for it.
fn break_down(line: &[u8]) {
    match line {
        b"panic" => panic!("the recording asks for it"),
        b"hang" => loop {
            cortex_m::asm::nop();
        },
        // SAFETY: there is nothing at this address, which is the point: the read faults.
        b"fault" => unsafe {
            core::ptr::read_volatile(0xF000_0000 as *const u32);
        },
        _ => {}
    }
}

impl<const F: usize> Sensor for Recording<F> {
    fn source(&self) -> SourceInfo<'_> {
        self.header.info()
    }

    async fn next(&mut self, values: &mut [f32]) -> Reading {
        if self.next.is_none() && self.lines.file.is_some() && self.advance() {
            return Reading::Reset;
        }
        let Some((count, held)) = self.next else {
            return core::future::pending().await;
        };
        Timer::at(self.due).await;
        self.next = None;
        // After a stretch without time for samples they don't come all at once.
        let late = Instant::now().checked_sub(LATE).unwrap_or(Instant::MIN);
        self.due = self.due.max(late);
        for (value, held) in values.iter_mut().zip(held) {
            *value = held;
        }
        Reading::Sample {
            sequence: self.sequence,
            // When it was due: of two that are made up for in the same millisecond, the second with the same
            // values would be a copy of the first.
            time_ms: self.due.as_millis().saturating_sub(self.late_ms),
            count,
        }
    }
}
