//! A source of samples.

use super::board::BoardProcess;
use super::wait::{LIMIT, wait_until};
use std::fmt::Debug;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::{SystemTime, UNIX_EPOCH};

const SAMPLES: &str = include_str!("../../../models/motion/test.csv");

/// How a source of the motion model's samples introduces itself.
pub const SOURCE: &str = "edgeward-source schema=1 dtype=f32 features=ax,ay,az,gx,gy,gz";

/// A source that streams the test recordings round and round.
pub struct Feed {
    write: UnixStream,
    read: BufReader<UnixStream>,
    /// Recording and values of each sample.
    rows: Vec<(&'static str, &'static str)>,
    at: usize,
    sequence: u32,
    pub answers: Vec<String>,
}

impl Feed {
    pub fn start(board: &BoardProcess) -> Self {
        let write = board.connect().unwrap();
        let read = BufReader::new(write.try_clone().unwrap());
        let row = |line: &'static str| {
            let (recording, rest) = line.split_once(',').unwrap();
            (recording, rest.split_once(',').unwrap().1)
        };
        let mut feed = Self {
            write,
            read,
            rows: SAMPLES.lines().skip(1).map(row).collect(),
            at: 0,
            sequence: 0,
            answers: vec![],
        };
        feed.line(SOURCE);
        feed
    }

    pub fn line(&mut self, line: &str) {
        let line = format!("{line}\n");
        self.write.write_all(line.as_bytes()).unwrap();
    }

    /// Streams some samples and reads what is answered to the last of them.
    pub fn samples(&mut self, count: usize) {
        for _ in 0..count {
            let (recording, values) = self.rows[self.at];
            let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            self.line(&format!("{},{},{values}", self.sequence, time.as_millis()));
            self.sequence += 1;
            self.at = (self.at + 1) % self.rows.len();
            if self.rows[self.at].0 != recording {
                self.line("reset");
            }
        }
        // Whatever comes before this line's answer answers the samples.
        self.line("stats");
        loop {
            let mut line = String::new();
            let read = self.read.read_line(&mut line).unwrap();
            assert!(read > 0, "the agent hung up");
            if line.starts_with('{') {
                return;
            }
            self.answers.push(line);
        }
    }

    /// Streams until the answer is `Ok`.
    pub fn until<S: Debug>(&mut self, what: &str, mut ask: impl FnMut() -> Result<(), S>) {
        wait_until(what, LIMIT, || ask().inspect_err(|_| self.samples(100)));
    }

    /// Streams until the board has confirmed the first release.
    pub fn until_confirmed(&mut self, board: &BoardProcess) {
        self.until("release 1 is confirmed", || {
            board.shows(|stats| stats["confirmed"] == 0)
        });
    }
}
