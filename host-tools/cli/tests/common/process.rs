//! Processes that a test starts, and what they say.

use super::ports::free_port;
use serde_json::Value;
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a process may take for anything: far longer than it does on a machine with much else to do.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Waits until a condition holds that nobody tells of when it does, and returns what it gives; as long
/// as it does not hold it says what it sees instead.
pub fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<T, String>,
) -> T {
    let begin = Instant::now();
    loop {
        let seen = match condition() {
            Ok(found) => return found,
            Err(seen) => seen,
        };
        assert!(begin.elapsed() < limit, "waited in vain for {what}: {seen}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a process has said so far.
#[derive(Default)]
struct Said {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// Streams that ended: both do when the process does.
    ended: u8,
}

/// A process that ends at the latest when this is dropped.
pub struct Running {
    child: Child,
    line: String,
    said: Arc<(Mutex<Said>, Condvar)>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nothing to do about one that ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    /// Starts a process without input.
    pub fn start(command: &mut Command) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the command starts");
        let said = Arc::new((Mutex::default(), Condvar::new()));
        let stdout = child.stdout.take().expect("piped");
        let stderr = child.stderr.take().expect("piped");
        follow(stdout, &said, |said| &mut said.stdout);
        follow(stderr, &said, |said| &mut said.stderr);
        let line = format!("{command:?}");
        Self { child, line, said }
    }

    /// Both streams, the output first.
    pub fn said(&self) -> String {
        let said = self.said.0.lock().unwrap_or_else(PoisonError::into_inner);
        text(&[&said.stdout[..], &said.stderr].concat())
    }

    /// Waits for a process to say what `find` looks for.
    fn until<T>(&self, what: &str, find: impl Fn(&Said) -> Option<T>) -> T {
        let (said, changed) = &*self.said;
        let said = said.lock().unwrap_or_else(PoisonError::into_inner);
        let goes_on = |said: &mut Said| find(said).is_none() && said.ended < 2;
        let (said, _) = changed
            .wait_timeout_while(said, PATIENCE, goes_on)
            .unwrap_or_else(PoisonError::into_inner);
        find(&said).unwrap_or_else(|| {
            let how = match said.ended {
                2 => "ended before",
                _ => "took too long for",
            };
            let said = text(&[&said.stdout[..], &said.stderr].concat());
            panic!("{} {how} {what}: {said}", self.line)
        })
    }

    /// Waits for words in either stream.
    pub fn until_it_says(&self, words: &str) {
        let says = |said: &Said| {
            let both = [&said.stdout, &said.stderr];
            let there = both.iter().any(|stream| text(stream).contains(words));
            there.then_some(())
        };
        self.until(words, says);
    }

    /// Waits for the first JSON value on stdout.
    pub fn first_json(&self) -> Value {
        self.until("JSON on stdout", |said| {
            let mut values = serde_json::Deserializer::from_slice(&said.stdout).into_iter();
            values.next()?.ok()
        })
    }

    /// Asks it to end, as a supervisor does.
    pub fn terminate(&self) {
        let asked = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        assert!(asked.expect("kill runs").success());
    }

    /// Waits for its end.
    pub fn end(mut self) -> Output {
        let ended = |said: &Said| {
            let both = (said.stdout.clone(), said.stderr.clone());
            (said.ended == 2).then_some(both)
        };
        let (stdout, stderr) = self.until("its end", ended);
        let status: ExitStatus = self.child.wait().expect("it ended");
        Output {
            status,
            stdout,
            stderr,
        }
    }
}

fn follow(
    mut stream: impl Read + Send + 'static,
    said: &Arc<(Mutex<Said>, Condvar)>,
    part: fn(&mut Said) -> &mut Vec<u8>,
) {
    let said = Arc::clone(said);
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        loop {
            // A stream that can't be read ended too.
            let len = stream.read(&mut bytes).unwrap_or(0);
            let (lock, changed) = &*said;
            let mut said = lock.lock().unwrap_or_else(PoisonError::into_inner);
            part(&mut said).extend(&bytes[..len]);
            said.ended += u8::from(len == 0);
            changed.notify_all();
            if len == 0 {
                return;
            }
        }
    });
}

/// Bytes for people.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Ports that nobody listens on.
pub fn free_ports<const N: usize>() -> [u16; N] {
    [(); N].map(|()| free_port())
}
