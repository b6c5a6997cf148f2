//! Notices a model that does not end, in an inference or in its self-test, and ends the process.
//!
//! A thread that hangs in a model can't be stopped, only left. The process aborts, as it does when a
//! model panics; the supervisor starts it again, and a release that took two boots with it, on trial,
//! in shadow or before that, is left at the third. Nothing has to be written down at that moment: such
//! a boot counts until the agent says that it ended on purpose.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Looks in one budget. A hang is so many of them in a row at the same line: time in which the whole
/// process stood still, as after SIGSTOP or a host's pause, counts for one look and not for a hang.
const LOOKS: u32 = 8;

/// What a thread that runs models moves on: odd while it works on a line, or on a step of loading.
#[derive(Debug, Clone, Default)]
pub struct Beat(Arc<AtomicU64>);

impl Beat {
    /// Work on a line begins.
    pub fn begin(&self) {
        self.0.fetch_or(1, Ordering::Relaxed);
    }

    /// It is done, and the next one begins.
    pub fn next(&self) {
        self.end();
        self.begin();
    }

    /// It is done.
    pub fn end(&self) {
        let lines = self.0.load(Ordering::Relaxed);
        // One writer: nobody else changed it since.
        self.0.store((lines | 1).wrapping_add(1), Ordering::Relaxed);
    }

    fn look(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts how often the same line was seen at work.
#[derive(Debug, Default)]
struct Looks {
    last: u64,
    same: u32,
}

impl Looks {
    /// Whether what is seen now is a hang.
    fn hangs(&mut self, seen: u64) -> bool {
        let working = seen & 1 == 1;
        self.same = if working && seen == self.last {
            self.same + 1
        } else {
            0
        };
        self.last = seen;
        self.same >= LOOKS
    }
}

/// Starts the thread that ends the process when one line takes longer than `budget`; `what` says in
/// the log what does not end.
///
/// # Errors
/// When the system has no thread to give.
pub fn start(beat: Beat, budget: Duration, what: &'static str) -> io::Result<()> {
    let pause = budget / LOOKS;
    thread::Builder::new()
        .name("watchdog".into())
        .spawn(move || {
            let mut looks = Looks::default();
            loop {
                thread::sleep(pause);
                if looks.hangs(beat.look()) {
                    tracing::error!(?budget, "{what} does not end: the agent aborts");
                    std::process::abort();
                }
            }
        })?;
    Ok(())
}

/// The supervisor's watchdog, if there is one: systemd's `sd_notify` protocol.
pub struct Supervisor {
    socket: Option<UnixDatagram>,
    /// Half of what the supervisor waits for.
    period: Option<Duration>,
    told: Option<Instant>,
}

impl Supervisor {
    /// The one that started this process: `NOTIFY_SOCKET` and `WATCHDOG_USEC` of the environment.
    #[must_use]
    pub fn from_env() -> Self {
        let path = std::env::var("NOTIFY_SOCKET").ok();
        let socket = path.and_then(|path| {
            connect(&path)
                .map_err(|error| tracing::warn!(%error, path, "NOTIFY_SOCKET"))
                .ok()
        });
        let micros = std::env::var("WATCHDOG_USEC").ok();
        let micros = micros.and_then(|micros| micros.parse::<u64>().ok());
        Self {
            period: micros.map(|micros| Duration::from_micros(micros / 2)),
            socket,
            told: None,
        }
    }

    /// The agent runs.
    pub fn ready(&self) {
        self.say("READY=1");
    }

    /// The agent ends on purpose.
    pub fn stopping(&self) {
        self.say("STOPPING=1");
    }

    /// The control thread lives; told no oftener than it must be.
    pub fn alive(&mut self) {
        let Some(period) = self.period else {
            return;
        };
        if self.told.is_none_or(|told| told.elapsed() >= period) {
            self.told = Some(Instant::now());
            self.say("WATCHDOG=1");
        }
    }

    /// Longest nap that keeps the supervisor content: until it is to be told again.
    #[must_use]
    pub fn patience(&self) -> Duration {
        let Some(period) = self.period else {
            return Duration::MAX;
        };
        self.told
            .map_or(Duration::ZERO, |told| period.saturating_sub(told.elapsed()))
    }

    fn say(&self, what: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(what.as_bytes())
        {
            tracing::debug!(%error, what, "supervisor");
        }
    }
}

/// A socket to a path, or to an abstract name that begins with `@`.
fn connect(path: &str) -> io::Result<UnixDatagram> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    // A supervisor that does not read must not stop the agent.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_line_seen_at_work_again_and_again_is_a_hang() {
        let (beat, mut looks) = (Beat::default(), Looks::default());
        for _ in 0..100 {
            assert!(!looks.hangs(beat.look()), "idle");
        }
        for _ in 0..100 {
            beat.begin();
            assert!(
                !looks.hangs(beat.look()),
                "busy with one line after the other"
            );
            beat.end();
        }
        beat.begin();
        let first = (1..100).find(|_| looks.hangs(beat.look()));
        assert_eq!(first, Some(LOOKS as usize + 1));
        beat.end();
        assert!(!looks.hangs(beat.look()), "it came back");
    }

    #[test]
    fn a_supervisor_is_told_in_its_own_words() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let told = UnixDatagram::bind(&path).unwrap();
        let mut supervisor = Supervisor {
            socket: Some(connect(path.to_str().unwrap()).unwrap()),
            period: Some(Duration::from_secs(3600)),
            told: None,
        };
        supervisor.ready();
        assert_eq!(supervisor.patience(), Duration::ZERO, "it was not told yet");
        supervisor.alive();
        // A turn that comes too early to tell it shortens the nap behind it.
        thread::sleep(Duration::from_millis(1));
        supervisor.alive();
        assert!(supervisor.patience() < Duration::from_secs(3600));
        supervisor.stopping();
        for expected in ["READY=1", "WATCHDOG=1", "STOPPING=1"] {
            let mut bytes = [0; 64];
            let len = told.recv(&mut bytes).unwrap();
            assert_eq!(&bytes[..len], expected.as_bytes());
        }
    }
}
