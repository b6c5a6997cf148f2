//! Where samples come from: a Unix socket, standard input, or a recording.
//!
//! One source delivers samples at a time. Other connections may ask for `stats` meanwhile.

use super::config::Source;
use super::inference::unix_ms;
use super::inference::{ANSWER_BYTES, ANSWER_ROOM, Answers, Inference};
use super::reader::{LineReader, Next};
use super::stats::Stats;
use crate::lines::{HEADER, LineError, What};
use anyhow::{Context, Result, bail};
use edgeward::engine::Engine;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long a read waits before the thread looks at what else there is to do.
const WAIT: Duration = Duration::from_millis(50);
/// How long a source that does not read its answers is waited for.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last reports may take to be taken.
pub const FINISH: Duration = Duration::from_secs(5);
/// Connections at once, the source's included.
const CONNECTIONS: usize = 16;

/// A source that delivers samples.
pub struct Feed {
    reader: LineReader<UnixStream>,
    /// Its first line, read already.
    first: Vec<u8>,
    answers: Box<dyn Write + Send>,
    stop_at_end: bool,
}

/// Starts what delivers samples; feeds arrive at the receiver, one at a time.
///
/// # Errors
/// When the socket or file can't be opened, or another agent listens at the socket.
pub fn start(source: &Source, stats: Arc<Stats>, stop: Arc<AtomicBool>) -> Result<Receiver<Feed>> {
    let (sender, receiver) = sync_channel(0);
    match source {
        Source::Listen(path) => listen(path, sender, stats, stop)?,
        Source::Stdin { stop_at_end } => {
            let stop_at_end = *stop_at_end;
            let answers = Box::new(io::stdout());
            pump(sender, stop_at_end, answers, |to| {
                io::copy(&mut io::stdin().lock(), to).map(|_| ())
            })?;
        }
        Source::Replay {
            file,
            rate_hz,
            repeat,
        } => {
            let (path, rate_hz, repeat) = (file.clone(), *rate_hz, *repeat);
            std::fs::File::open(&path).with_context(|| path.display().to_string())?;
            pump(sender, false, Box::new(io::sink()), move |to| {
                replay(&path, rate_hz, repeat, &stop, to)
            })?;
        }
    }
    Ok(receiver)
}

/// Copies into a socket, so that every source is read with a timeout.
fn pump(
    sender: SyncSender<Feed>,
    stop_at_end: bool,
    answers: Box<dyn Write + Send>,
    copy: impl FnOnce(&mut UnixStream) -> io::Result<()> + Send + 'static,
) -> Result<()> {
    let (mut near, far) = UnixStream::pair()?;
    far.set_read_timeout(Some(WAIT))?;
    thread::Builder::new()
        .name("source".into())
        .spawn(move || {
            let feed = Feed {
                reader: LineReader::new(far),
                first: Vec::new(),
                answers,
                stop_at_end,
            };
            if sender.send(feed).is_ok()
                && let Err(error) = copy(&mut near)
                && error.kind() != ErrorKind::BrokenPipe
            {
                tracing::error!(%error, "the source ended");
            }
        })?;
    Ok(())
}

/// Writes a recording line by line; the samples' numbers and times become those of now.
fn replay(
    path: &Path,
    rate_hz: f32,
    repeat: bool,
    stop: &AtomicBool,
    to: &mut UnixStream,
) -> io::Result<()> {
    let mut sequence = 0u32;
    loop {
        let mut due = Instant::now();
        for line in BufReader::new(std::fs::File::open(path)?).lines() {
            let line = line?;
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            if !line.starts_with(|c: char| c.is_ascii_digit()) {
                writeln!(to, "{line}")?;
                continue;
            }
            if rate_hz > 0.0 {
                due += Duration::from_secs_f32(1.0 / rate_hz);
                thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            let values = line.splitn(3, ',').nth(2).unwrap_or_default();
            writeln!(to, "{sequence},{},{values}", unix_ms())?;
            sequence = sequence.wrapping_add(1);
        }
        if !repeat {
            return Ok(());
        }
        writeln!(to, "reset")?;
    }
}

/// Listens at a socket.
fn listen(
    path: &Path,
    sender: SyncSender<Feed>,
    stats: Arc<Stats>,
    stop: Arc<AtomicBool>,
) -> Result<()> {
    if UnixStream::connect(path).is_ok() {
        bail!("{}: another agent listens there", path.display());
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| path.display().to_string());
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(|| path.display().to_string())?;
    listener.set_nonblocking(true)?;
    let path = path.to_owned();
    thread::Builder::new()
        .name("accept".into())
        .spawn(move || {
            let open = Arc::new(AtomicUsize::new(0));
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => accept(stream, &sender, &stats, &stop, &open),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        thread::sleep(Duration::from_millis(10));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "accept");
                        thread::sleep(WAIT);
                    }
                }
            }
            let _ = std::fs::remove_file(&path);
        })?;
    Ok(())
}

/// Gives a connection a thread of its own until it is known what it is.
fn accept(
    stream: UnixStream,
    sender: &SyncSender<Feed>,
    stats: &Arc<Stats>,
    stop: &Arc<AtomicBool>,
    open: &Arc<AtomicUsize>,
) {
    if open.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS {
        open.fetch_sub(1, Ordering::SeqCst);
        let _ = (&stream).write_all(b"error too many connections\n");
        return;
    }
    let (sender, stats) = (sender.clone(), stats.clone());
    let (stop, counted) = (stop.clone(), open.clone());
    let spawned = thread::Builder::new()
        .name("connection".into())
        .spawn(move || {
            if let Err(error) = serve(stream, &sender, &stats, &stop) {
                tracing::debug!(%error, "connection");
            }
            counted.fetch_sub(1, Ordering::SeqCst);
        });
    if let Err(error) = spawned {
        open.fetch_sub(1, Ordering::SeqCst);
        tracing::warn!(%error, "no thread for a connection");
    }
}

/// Answers `stats`, until the connection turns out to be a source.
fn serve(
    stream: UnixStream,
    sender: &SyncSender<Feed>,
    stats: &Stats,
    stop: &AtomicBool,
) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(WAIT))?;
    stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
    let mut answers = stream.try_clone()?;
    let mut reader = LineReader::new(stream);
    while !stop.load(Ordering::Relaxed) {
        match reader.next_line()? {
            Next::Idle => {}
            Next::End => return Ok(()),
            Next::TooLong => answers.write_all(b"error line too long\n")?,
            Next::Line(line) => {
                let first = reader.bytes(line).trim_ascii().to_vec();
                if first == b"stats" {
                    answers.write_all(stats.line().as_bytes())?;
                } else if first.starts_with(HEADER.as_bytes()) {
                    let feed = Feed {
                        reader,
                        first,
                        answers: Box::new(answers.try_clone()?),
                        stop_at_end: false,
                    };
                    return claim(sender, feed, answers);
                } else if !first.is_empty() {
                    answers.write_all(b"error a source begins with its header\n")?;
                }
            }
        }
    }
    Ok(())
}

/// Hands a source to the inference thread, if that has none.
fn claim(sender: &SyncSender<Feed>, feed: Feed, mut answers: UnixStream) -> io::Result<()> {
    let mut feed = feed;
    // The source before may have gone this moment; a short patience spares the next one a retry.
    for _ in 0..20 {
        match sender.try_send(feed) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Disconnected(_)) => return Ok(()),
            Err(TrySendError::Full(back)) => feed = back,
        }
        thread::sleep(WAIT / 5);
    }
    answers.write_all(b"error busy: another source is connected\n")
}

/// The inference thread: feeds come, are worked off, and go, until it is told to stop.
pub fn work<E: Engine>(inference: &mut Inference<E>, feeds: &Receiver<Feed>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        inference.commands();
        let Ok(feed) = feeds.recv_timeout(WAIT) else {
            continue;
        };
        let stop_at_end = feed.stop_at_end;
        if let Err(error) = work_off(inference, feed, stop) {
            tracing::info!(%error, "the source is gone");
        }
        inference.source_gone();
        if stop_at_end {
            stop.store(true, Ordering::Relaxed);
        }
    }
    inference.finish(FINISH);
}

fn work_off<E: Engine>(
    inference: &mut Inference<E>,
    mut feed: Feed,
    stop: &AtomicBool,
) -> io::Result<()> {
    let mut answers = Answers::default();
    if !feed.first.is_empty() {
        inference.line(&feed.first, &mut answers);
    }
    while !stop.load(Ordering::Relaxed) {
        if !answers.text.is_empty()
            && (!feed.reader.has_line() || answers.text.len() + ANSWER_ROOM > ANSWER_BYTES)
        {
            feed.answers.write_all(answers.text.as_bytes())?;
            feed.answers.flush()?;
            answers.text.clear();
        }
        match feed.reader.next_line()? {
            Next::Line(line) => inference.line(feed.reader.bytes(line), &mut answers),
            Next::TooLong => {
                let what = What::TooLong;
                inference.bad_line(b"", LineError { what, column: 0 }, &mut answers);
            }
            Next::Idle => {}
            Next::End => {
                feed.answers.write_all(answers.text.as_bytes())?;
                return feed.answers.flush();
            }
        }
        inference.commands();
    }
    Ok(())
}
