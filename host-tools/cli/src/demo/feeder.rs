//! Plays the sensor of a board: streams recordings to its agent, and keeps what it answers.

use anyhow::{Context, Result};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A labelled recording of all features.
#[derive(Clone)]
pub struct Recording {
    /// Index of the activity.
    pub label: usize,
    /// One row a sample.
    pub samples: Vec<Vec<f32>>,
}

/// What goes wrong with the sensor, as it does in the field.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Every value multiplied: a changed full-scale range, an ageing amplifier.
    Gain(f32),
    /// Axes x and z exchanged: the sensor was mounted the other way round.
    SwappedAxes,
    /// One channel repeats its last value.
    Stuck(usize),
    /// Some samples never arrive.
    MissingSamples,
    /// One channel has no value now and then.
    MissingValues(usize),
    /// One channel delivers NaN now and then.
    NotANumber(usize),
    /// Samples come a minute late.
    Stale,
    /// Samples come twice.
    Duplicate,
}

/// What a board answered since the counters were last taken.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    /// Predictions.
    pub predictions: u64,
    /// Predictions of the recording's label.
    pub right: u64,
    /// Predictions per class.
    pub classes: Vec<u64>,
    /// Latency of each inference in microseconds.
    pub latencies_us: Vec<u32>,
    /// Lines that reported an error.
    pub errors: Vec<String>,
    /// Since when.
    pub since: Option<Instant>,
}

impl Answers {
    /// Share of right predictions; 0 when there is none.
    pub fn accuracy(&self) -> f64 {
        if self.predictions == 0 {
            0.0
        } else {
            self.right as f64 / self.predictions as f64
        }
    }

    /// Predictions a second since the counters were taken.
    pub fn rate(&self) -> f64 {
        let seconds = self
            .since
            .map_or(0.0, |since| since.elapsed().as_secs_f64());
        if seconds == 0.0 {
            0.0
        } else {
            self.predictions as f64 / seconds
        }
    }

    /// A quantile of the latency in microseconds, by nearest rank.
    pub fn latency_us(&self, quantile: f64) -> Option<u32> {
        let mut sorted = self.latencies_us.clone();
        sorted.sort_unstable();
        let rank = (quantile * sorted.len() as f64).ceil().max(1.0) as usize;
        sorted.get(rank.min(sorted.len()).checked_sub(1)?).copied()
    }
}

/// First sample number of the recordings sent last, with their labels.
#[derive(Default)]
struct Labels(VecDeque<(u32, usize)>);

impl Labels {
    fn begin(&mut self, first: u32, label: usize) {
        self.0.push_back((first, label));
        if self.0.len() > LABELS {
            self.0.pop_front();
        }
    }

    /// The label of the recording that the sample is in. Answers come late: the next recording has
    /// often begun by then.
    fn of(&self, sequence: u32) -> Option<usize> {
        let begun = |(first, _): &&(u32, usize)| sequence.wrapping_sub(*first) < u32::MAX / 2;
        self.0.iter().rev().find(begun).map(|(_, label)| *label)
    }
}

/// What the feeding and the reading thread share with the demo.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    fault: Mutex<Fault>,
    answers: Mutex<Answers>,
    stats: Mutex<Option<serde_json::Value>>,
    stats_changed: Condvar,
    stats_wanted: AtomicBool,
    labels: Mutex<Labels>,
}

/// The sensor of one board.
pub struct Feeder {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What a feeder streams, and where to.
pub struct Stream {
    /// The agent's socket.
    pub socket: PathBuf,
    /// The line that names features, element type and schema.
    pub header: String,
    /// The recordings, played in a loop.
    pub recordings: Vec<Recording>,
    /// Samples a second.
    pub rate: u32,
    /// Names of the classes, as the agent may answer by name.
    pub classes: Vec<String>,
}

/// Recordings whose labels are remembered until their answers came.
const LABELS: usize = 64;
/// Latencies kept, so that a long demo stays in bounds.
const LATENCIES: usize = 1 << 20;

impl Feeder {
    /// Starts to stream; goes on through restarts of the board until it is dropped.
    pub fn start(stream: Stream) -> Self {
        let shared = Arc::<Shared>::default();
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || feed_until_stopped(&stream, &shared)
        });
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// Injects a fault, or ends it with [`Fault::None`].
    pub fn inject(&self, fault: Fault) {
        *lock(&self.shared.fault) = fault;
    }

    /// Takes the counters and starts them anew.
    pub fn take(&self) -> Answers {
        let fresh = Answers {
            since: Some(Instant::now()),
            ..Answers::default()
        };
        std::mem::replace(&mut *lock(&self.shared.answers), fresh)
    }

    /// A copy of the counters.
    pub fn peek(&self) -> Answers {
        lock(&self.shared.answers).clone()
    }

    /// The agent's own figures.
    pub fn stats(&self, timeout: Duration) -> Result<serde_json::Value> {
        let mut stats = lock(&self.shared.stats);
        *stats = None;
        self.shared.stats_wanted.store(true, Ordering::Release);
        let deadline = Instant::now() + timeout;
        while stats.is_none() {
            let left = deadline.checked_duration_since(Instant::now());
            let left = left.context("the board did not answer `stats`")?;
            let (guard, _) = self
                .shared
                .stats_changed
                .wait_timeout(stats, left)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            stats = guard;
        }
        stats.take().context("the board did not answer `stats`")
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A panic in the feeder has been reported by its own message.
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Number and time of the last sample. A sensor takes no two samples at the same time.
struct Clock {
    sequence: u32,
    time_ms: u64,
}

impl Clock {
    fn tick(&mut self) {
        self.sequence = self.sequence.wrapping_add(1);
        self.time_ms = now_ms().max(self.time_ms + 1);
    }
}

/// Connects again and again: a sensor does not end because its board restarts.
fn feed_until_stopped(stream: &Stream, shared: &Arc<Shared>) {
    let mut clock = Clock {
        sequence: 0,
        time_ms: 0,
    };
    while !shared.stop.load(Ordering::Acquire) {
        let Ok(socket) = UnixStream::connect(&stream.socket) else {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        let Ok(reading) = socket.try_clone() else {
            continue;
        };
        let reader = std::thread::spawn({
            let shared = Arc::clone(shared);
            let classes = stream.classes.clone();
            move || read_answers(reading, &classes, &shared)
        });
        // An error here means that the board went away; the loop connects again.
        let _ = feed(&socket, stream, shared, &mut clock);
        let _ = socket.shutdown(std::net::Shutdown::Both);
        let _ = reader.join();
    }
}

/// Streams recordings until the socket breaks or the feeder stops.
fn feed(
    mut socket: &UnixStream,
    stream: &Stream,
    shared: &Shared,
    clock: &mut Clock,
) -> std::io::Result<()> {
    writeln!(socket, "{}", stream.header)?;
    let pause = Duration::from_secs(1) / stream.rate.max(1);
    let mut next = Instant::now();
    let mut lines = Vec::new();
    for recording in stream.recordings.iter().cycle() {
        if shared.stop.load(Ordering::Acquire) {
            return Ok(());
        }
        let fault = *lock(&shared.fault);
        // The next tick gives its first sample this number.
        let first = clock.sequence.wrapping_add(1);
        lock(&shared.labels).begin(first, recording.label);
        lines.clear();
        lines.extend_from_slice(b"reset\n");
        let mut held = None;
        for (index, row) in recording.samples.iter().enumerate() {
            clock.tick();
            write_sample(&mut lines, fault, clock, index, row, &mut held)?;
            // Ten samples at a time keep the stream even without a system call for each.
            if index % 10 == 9 {
                if shared.stats_wanted.swap(false, Ordering::AcqRel) {
                    lines.extend_from_slice(b"stats\n");
                }
                socket.write_all(&lines)?;
                lines.clear();
                next += pause * 10;
                // A sensor has a pace; this is not a wait for anything.
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        }
        socket.write_all(&lines)?;
        // After a stall, go on at the pace instead of catching up in a burst.
        next = next.max(Instant::now());
    }
    Ok(())
}

/// The recordings one after another as a file, as the fault leaves them: a sample each so many milliseconds,
/// for a sensor that replays it. The first of a recording is never late: what its times are is told by it.
pub fn recorded(
    header: &str,
    recordings: &[Recording],
    fault: Fault,
    period_ms: u64,
) -> std::io::Result<Vec<u8>> {
    let mut lines = Vec::new();
    writeln!(lines, "{header}")?;
    let mut clock = Clock {
        sequence: 0,
        time_ms: LATE_MS,
    };
    for recording in recordings {
        lines.extend_from_slice(b"reset\n");
        let mut held = None;
        for (index, row) in recording.samples.iter().enumerate() {
            clock.sequence += 1;
            clock.time_ms += period_ms;
            let fault = match fault {
                Fault::Stale if index == 0 => Fault::None,
                fault => fault,
            };
            write_sample(&mut lines, fault, &clock, index, row, &mut held)?;
        }
    }
    Ok(lines)
}

/// How late samples are that are late.
const LATE_MS: u64 = 60_000;

/// Writes one sample as the fault leaves it.
fn write_sample(
    out: &mut Vec<u8>,
    fault: Fault,
    clock: &Clock,
    index: usize,
    row: &[f32],
    held: &mut Option<f32>,
) -> std::io::Result<()> {
    if fault == Fault::MissingSamples && index % 10 == 3 {
        return Ok(());
    }
    let mut values: Vec<Option<f32>> = row.iter().copied().map(Some).collect();
    match fault {
        Fault::Gain(gain) => values.iter_mut().flatten().for_each(|value| *value *= gain),
        Fault::SwappedAxes => {
            for first in (0..values.len().saturating_sub(2)).step_by(3) {
                values.swap(first, first + 2);
            }
        }
        Fault::Stuck(channel) => values[channel] = Some(*held.get_or_insert(row[channel])),
        Fault::MissingValues(channel) if index % 10 == 3 => values[channel] = None,
        Fault::NotANumber(channel) if index % 10 == 3 => values[channel] = Some(f32::NAN),
        _ => {}
    }
    let late = if fault == Fault::Stale { LATE_MS } else { 0 };
    let start = out.len();
    write!(
        out,
        "{},{}",
        clock.sequence,
        clock.time_ms.saturating_sub(late)
    )?;
    for value in values {
        match value {
            Some(value) if value.is_nan() => write!(out, ",nan")?,
            Some(value) => write!(out, ",{value}")?,
            None => write!(out, ",")?,
        }
    }
    out.push(b'\n');
    if fault == Fault::Duplicate && index % 10 == 3 {
        let again = out[start..].to_vec();
        out.extend_from_slice(&again);
    }
    Ok(())
}

/// Keeps what the board answers, until the socket breaks.
fn read_answers(socket: UnixStream, classes: &[String], shared: &Shared) {
    for line in BufReader::new(socket).lines() {
        let line = match line {
            Ok(line) => line,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        if line.starts_with('{') {
            if let Ok(value) = serde_json::from_str(&line) {
                *lock(&shared.stats) = Some(value);
                shared.stats_changed.notify_all();
            }
            continue;
        }
        let answer = prediction(&line, classes);
        let mut answers = lock(&shared.answers);
        match answer {
            Some((sequence, class, latency_us)) => {
                answers.predictions += 1;
                if answers.classes.len() < classes.len() {
                    answers.classes.resize(classes.len(), 0);
                }
                if let Some(count) = answers.classes.get_mut(class) {
                    *count += 1;
                }
                if answers.latencies_us.len() < LATENCIES {
                    answers.latencies_us.push(latency_us);
                }
                let label = lock(&shared.labels).of(sequence);
                answers.right += u64::from(label == Some(class));
            }
            None if answers.errors.len() < 16 => answers.errors.push(line),
            None => {}
        }
    }
}

/// Reads `sequence,class,confidence,flags,latency_us`.
fn prediction(line: &str, classes: &[String]) -> Option<(u32, usize, u32)> {
    let mut fields = line.split(',');
    let sequence = fields.next()?.parse().ok()?;
    let class = fields.next()?;
    let class = match class.parse() {
        Ok(index) => index,
        Err(_) => classes.iter().position(|name| name == class)?,
    };
    let latency_us = fields.next_back()?.parse().ok()?;
    Some((sequence, class, latency_us))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_answer_of_a_recording_has_its_label_however_late_it_comes() {
        // So many that what the socket holds is a few recordings, and not all whose labels are kept.
        const SAMPLES: u32 = 2000;
        let (near, far) = UnixStream::pair().expect("sockets");
        let recording = |label| Recording {
            label,
            samples: vec![vec![0.0]; SAMPLES as usize],
        };
        let stream = Stream {
            socket: PathBuf::new(),
            header: "header".to_owned(),
            recordings: vec![recording(0), recording(1)],
            rate: u32::MAX,
            classes: vec!["a".to_owned(), "b".to_owned()],
        };
        let shared = Arc::<Shared>::default();
        let feeding = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let mut clock = Clock {
                    sequence: u32::MAX - SAMPLES - SAMPLES / 2,
                    time_ms: 0,
                };
                feed(&near, &stream, &shared, &mut clock)
            }
        });
        // All of these had begun when the first answer is looked up.
        let mut recording = 0;
        let mut numbers = Vec::new();
        for line in BufReader::new(far).lines().skip(1) {
            let line = line.expect("a line");
            match line.split(',').next().and_then(|n| n.parse::<u32>().ok()) {
                Some(number) => numbers.push((number, (recording - 1) % 2)),
                None => recording += 1,
            }
            if recording == 5 {
                break;
            }
        }
        assert_eq!(numbers.len(), 4 * SAMPLES as usize);
        let labels = lock(&shared.labels);
        for (number, label) in numbers {
            assert_eq!(labels.of(number), Some(label), "{number}");
        }
        drop(labels);
        assert!(
            feeding.join().expect("no panic").is_err(),
            "nobody reads on"
        );
    }
}
