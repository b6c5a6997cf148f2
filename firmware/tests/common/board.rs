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
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

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
        let mut command = Command::new(program);
        command.arg("--config").arg(&self.path);
        self.child = Some(command.spawn().unwrap());
        self.until_it_listens();
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

    fn change(&self, old: &str, new: &str) {
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

impl Drop for BoardProcess {
    fn drop(&mut self) {
        // A test that failed leaves no process behind.
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
