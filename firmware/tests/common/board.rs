//! A board: its configuration and its agent, in a thread or a process.

use super::feed::SOURCE;
use super::release::signed_root;
use super::wait::{LIMIT, wait_until};
use edgeward::slots::Layout;
use edgeward::trust::PublicKey;
use edgeward_firmware::linux::config::Source;
use edgeward_firmware::linux::flash::SECTOR_BYTES;
use edgeward_firmware::linux::{Config, provision, run};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, Write};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;

/// A board: its configuration and the agent's thread.
pub struct BoardProcess {
    pub config: Config,
    path: PathBuf,
    stop: Arc<AtomicBool>,
    agent: Option<JoinHandle<()>>,
    child: Option<Child>,
}

impl BoardProcess {
    pub fn provisioned(folder: &Path, broker: SocketAddr) -> (Self, PublicKey) {
        let text = format!(
            r#"
            fleet = "f"
            device = "d"
            flash = {{ bytes = 2097152, outbox_bytes = 262144 }}
            broker = {{ host = "{}", port = {}, keep_alive_s = 5, reconnect_max_s = 1 }}
            source = {{ listen = "samples.sock" }}
            "#,
            broker.ip(),
            broker.port()
        );
        let config = Config::parse(&text, Path::new("")).unwrap();
        let (path, key) = provision(folder, &config, &signed_root()).unwrap();
        let board = Self {
            config: Config::load(&path).unwrap(),
            path,
            stop: Arc::default(),
            agent: None,
            child: None,
        };
        (board, key)
    }

    pub fn start(&mut self) {
        self.stop = Arc::default();
        let (config, stop) = (self.config.clone(), self.stop.clone());
        let agent = thread::Builder::new().stack_size(8 << 20);
        let agent = agent.spawn(move || run(&config, &stop).unwrap()).unwrap();
        self.agent = Some(agent);
        self.until_it_listens();
    }

    /// Starts the agent as a process.
    pub fn spawn(&mut self, program: &str) {
        self.launch(Command::new(program));
    }

    fn launch(&mut self, mut command: Command) {
        command.arg("--config").arg(&self.path);
        self.child = Some(command.spawn().unwrap());
        self.until_it_listens();
    }

    /// Starts the agent as a process whose files can be made to fail; what it logs.
    pub fn spawn_to_fail(&mut self, program: &str) -> Log {
        // A write beyond a process's limit is an error only where the signal for it is ignored.
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", program]);
        let (near, far) = std::io::pipe().unwrap();
        command.stderr(far);
        self.launch(command);
        Log::of(near)
    }

    /// From now on no write of the process to any file succeeds, or all do again.
    pub fn refuse_writes(&self, refuse: bool) {
        let limit = if refuse { "0" } else { "unlimited" };
        let mut prlimit = Command::new("prlimit");
        prlimit.args(["--pid", &self.child.as_ref().unwrap().id().to_string()]);
        let status = prlimit.arg(format!("--fsize={limit}:unlimited")).status();
        assert!(status.unwrap().success());
    }

    /// Has the agent take an inference for hung after so long; before it is spawned.
    pub fn hangs_after_ms(&mut self, hang_ms: u32) {
        self.config.hang_ms = hang_ms;
        self.change("hang_ms = 10000", &format!("hang_ms = {hang_ms}"));
    }

    /// Has the agent take a step of a load for hung after so long; before it is spawned.
    pub fn load_hangs_after_ms(&mut self, hang_ms: u32) {
        self.config.load_hang_ms = hang_ms;
        let new = format!("load_hang_ms = {hang_ms}");
        self.change("load_hang_ms = 120000", &new);
    }

    /// Changes the configuration; before it is spawned.
    pub fn change(&self, old: &str, new: &str) {
        let text = std::fs::read_to_string(&self.path).unwrap();
        assert!(text.contains(old), "{text}");
        std::fs::write(&self.path, text.replace(old, new)).unwrap();
    }

    fn until_it_listens(&self) {
        wait_until("the agent listens", LIMIT, || {
            let ended = self.agent.as_ref().is_some_and(JoinHandle::is_finished);
            assert!(!ended, "the agent's thread ended instead of listening");
            self.connect()
        });
    }

    /// Starts the agent as a process that can't start.
    pub fn spawn_in_vain(&mut self, program: &str) -> ExitStatus {
        let mut command = Command::new(program);
        command.arg("--config").arg(&self.path);
        command.status().unwrap()
    }

    /// Waits until the process ended by itself.
    pub fn until_it_ends(&mut self) -> ExitStatus {
        self.until_it_ends_after(|| ())
    }

    /// Streams samples to the process, as a source that does not care, until the process ended.
    pub fn feed_until_it_ends(&mut self) -> ExitStatus {
        let mut source = self.connect().unwrap();
        writeln!(source, "{SOURCE}").unwrap();
        // Somebody must read the answers, or the agent leaves this source.
        let mut answers = source.try_clone().unwrap();
        thread::spawn(move || std::io::copy(&mut answers, &mut std::io::sink()));
        let mut sequence = 0;
        self.until_it_ends_after(|| {
            // It may have ended this moment.
            let _ = writeln!(source, "{sequence},0,0.1,0.2,0.3,0.{sequence},0.5,0.6");
            sequence += 1;
        })
    }

    fn until_it_ends_after(&mut self, mut step: impl FnMut()) -> ExitStatus {
        let child = self.child.as_mut().unwrap();
        let status = wait_until("the agent ends", LIMIT, || {
            let ended = child.try_wait().unwrap();
            ended.ok_or_else(|| {
                step();
                "it runs"
            })
        });
        self.child = None;
        status
    }

    /// Ends the process as a power cut would.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Asks the process to end, and waits until it did.
    pub fn terminate(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let asked = Command::new("kill").arg(child.id().to_string()).status();
        assert!(asked.unwrap().success());
        child.wait().unwrap()
    }

    /// Waits until the first slot begins with these bytes.
    pub fn until_the_first_slot_holds(&self, bytes: &[u8]) {
        let flash = File::open(&self.config.flash.path).unwrap();
        let layout = Layout::split(self.config.flash.bytes, SECTOR_BYTES as u32).unwrap();
        let mut held = vec![0; bytes.len()];
        wait_until("the first slot holds what there is", LIMIT, || {
            let start = u64::from(layout.slots[0]);
            flash.read_exact_at(&mut held, start).unwrap();
            let wrong = (0..bytes.len()).find(|&at| held[at] != bytes[at]);
            wrong.map_or(Ok(()), |at| Err(format!("another byte at {at}")))
        });
    }

    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.agent.take().unwrap().join().unwrap();
    }

    /// A connection to where the agent listens for sources.
    pub fn connect(&self) -> std::io::Result<UnixStream> {
        match &self.config.source {
            Source::Listen(path) => UnixStream::connect(path),
            other => panic!("{other:?}"),
        }
    }

    /// What the agent says about itself.
    pub fn stats(&self) -> Value {
        let mut stream = self.connect().unwrap();
        stream.write_all(b"stats\n").unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// What the agent says about itself: as it should be, or not.
    pub fn shows(&self, condition: impl Fn(&Value) -> bool) -> Result<(), Value> {
        let stats = self.stats();
        if condition(&stats) {
            return Ok(());
        }
        Err(stats)
    }

    /// Waits until what the agent says about itself is as it should be.
    pub fn until(&self, what: &str, condition: impl Fn(&Value) -> bool) {
        wait_until(what, LIMIT, || self.shows(&condition));
    }

    /// Waits until the host has acknowledged everything that the board had to say.
    pub fn until_acknowledged(&self) {
        self.until("everything is acknowledged", |stats| {
            stats["connected"] == true && stats["outbox_records"] == 0
        });
    }
}

/// What a process logs, line by line.
pub struct Log(Receiver<String>);

impl Log {
    fn of(pipe: PipeReader) -> Self {
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                // The pipe must be read until its end, also when nobody looks any more.
                let _ = sender.send(line);
            }
        });
        Self(lines)
    }

    /// Waits for a line that holds `text`.
    pub fn until(&self, text: &str) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.0.recv_timeout(left) {
                Ok(line) if line.contains(text) => return,
                Ok(_) => {}
                Err(error) => panic!("waited in vain for {text:?} in the log: {error}"),
            }
        }
    }

    /// Whether a line came that holds `text`.
    pub fn has(&self, text: &str) -> bool {
        self.0.try_iter().any(|line| line.contains(text))
    }
}

impl Drop for BoardProcess {
    fn drop(&mut self) {
        // A test that failed leaves no process behind.
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
