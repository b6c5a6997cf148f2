//! A microcontroller board in QEMU beside the Linux boards: `edgeward flash` provisions and starts it. Of what
//! it does the demo sees what it reports, what it logs, and its flash.

use super::world::{FLEET, wait_until};
use crate::boards::{self, Board};
use crate::commands::{flash, logs};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use anyhow::{Context as _, Result, bail, ensure};
use edgeward::bundle::CHUNK_BYTES;
use edgeward::trust::PublicKey;
use edgeward_host::keys::unhex;
use edgeward_host::model::Target;
use edgeward_logs::{Image, words};
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Its name in the fleet.
const NAME: &str = "press-1";
/// Milliseconds between two samples of its sensor.
pub const PERIOD_MS: u64 = 1;
/// The same of a sensor that is as slow as the one of the recordings: a trial takes minutes.
pub const SLOW_PERIOD_MS: u64 = 100;

/// A board that can be started.
pub struct Ready {
    board: Board,
    image: PathBuf,
    words: Image,
}

impl Ready {
    /// Finds out whether a board can be started here, and has its firmware built unless there is an image.
    ///
    /// # Errors
    /// What lacks, and what to do about it.
    pub fn find(name: &str, image: Option<&Path>, context: &Context) -> Result<Self> {
        let board = boards::find(name)?;
        if board.qemu.is_none() {
            let what = format!("{name} is a board of silicon, and the demo starts one in QEMU");
            return Err(Failure::new(Exit::Usage, what)
                .next("`edgeward board list` shows which are started by qemu")
                .into());
        }
        flash::check_qemu()?;
        let image = match image {
            Some(image) => image.to_owned(),
            None => flash::build(&board, false, context)?,
        };
        let cannot = || format!("cannot read {}", image.display());
        let bytes = std::fs::read(&image).with_context(cannot)?;
        let words = Image::parse(&bytes).map_err(|error| {
            let what = format!("{} is no firmware of a board: {error}", image.display());
            Failure::new(Exit::Error, what)
                .next("leave --image out, so that the firmware is built of this checkout")
        })?;
        let image = image.canonicalize().with_context(cannot)?;
        Ok(Self {
            board,
            image,
            words,
        })
    }

    /// For whom releases are packed that it runs.
    pub fn target(&self) -> Target {
        match self.board.kernels.iter().any(|it| it == "cortex-m") {
            true => Target::CortexM,
            false => Target::Mcu,
        }
    }
}

/// The board, on or off.
pub struct Emulated {
    ready: Ready,
    /// Where its folder is, and what it is told.
    place: PathBuf,
    home: PathBuf,
    broker: SocketAddr,
    /// How much it had logged before its last start.
    logged: usize,
    qemu: Option<Child>,
}

impl Emulated {
    /// A board that never was on before, in a folder of its own in `place`.
    pub fn new(ready: Ready, place: &Path, home: &Path, broker: SocketAddr) -> Self {
        Self {
            ready,
            place: place.to_owned(),
            home: home.to_owned(),
            broker,
            logged: 0,
            qemu: None,
        }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        NAME
    }

    /// What it is, for people.
    pub fn title(&self) -> &str {
        &self.ready.board.title
    }

    /// What kind of board it is.
    pub fn kind(&self) -> &str {
        &self.ready.board.name
    }

    fn file(&self, name: &str) -> PathBuf {
        self.place.join(NAME).join(name)
    }

    fn told(&self) -> PathBuf {
        self.place.join("flash.json")
    }

    fn errors(&self) -> PathBuf {
        self.place.join("flash.log")
    }

    /// Starts it, after a cut of its power where it was on; its sensor measures this from now on.
    pub fn measure(&mut self, recording: &[u8]) -> Result<()> {
        self.cut_power()?;
        std::fs::write(self.place.join("recording.txt"), recording)?;
        self.start()
    }

    /// Starts it as anybody does: the command becomes QEMU.
    pub fn start(&mut self) -> Result<()> {
        let errors = File::options()
            .create(true)
            .append(true)
            .open(self.errors())?;
        self.logged = self.log().len();
        let mut flash = Command::new(std::env::current_exe()?);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("EDGEWARD_") {
                flash.env_remove(name);
            }
        }
        flash
            .current_dir(&self.place)
            .args(["flash", NAME, "--board", &self.ready.board.name])
            .args(["--fleet", FLEET, "--tag", "press", "-o", "json"])
            .args(["--samples", "recording.txt"])
            .args(["--broker", &self.broker.to_string()])
            .arg("--home")
            .arg(&self.home)
            .arg("--image")
            .arg(&self.ready.image)
            .stdin(Stdio::null())
            .stdout(File::create(self.told())?)
            .stderr(errors);
        self.qemu = Some(flash.spawn().context("starting the emulated board")?);
        Ok(())
    }

    /// Kills QEMU: its power goes.
    pub fn cut_power(&mut self) -> Result<()> {
        if let Some(mut qemu) = self.qemu.take() {
            qemu.kill()?;
            qemu.wait()?;
        }
        Ok(())
    }

    /// What `edgeward flash` said that it did.
    pub fn flashed(&self) -> Result<serde_json::Value> {
        Ok(serde_json::from_slice(&std::fs::read(self.told())?)?)
    }

    /// Before its first start there is none.
    fn log(&self) -> Vec<u8> {
        std::fs::read(self.file(logs::LOG)).unwrap_or_default()
    }

    /// What it has logged since its last start, a line each.
    fn said(&self) -> String {
        let log = self.log();
        words(
            &self.ready.words,
            log.get(self.logged..).unwrap_or_default(),
        )
    }

    /// Number of its boot, and what it says of the slots in it, once it does.
    pub fn boot(&mut self, patience: Duration) -> Result<(u32, String)> {
        let mut boot = None;
        let said = wait_until(patience, || {
            self.is_on()?;
            let said = self.said();
            let boots = said.lines().filter_map(|line| line.strip_prefix("boot "));
            let mut boots = boots.filter_map(|rest| rest.split_once(' '));
            boot = boots.find_map(|(n, slots)| Some((n.parse().ok()?, slots.to_owned())));
            Ok(boot.is_some())
        })?;
        ensure!(said, "no boot was said: {}", self.log_tail());
        boot.context("a boot")
    }

    /// The key that it says as it starts.
    pub fn key(&mut self, patience: Duration) -> Result<PublicKey> {
        let begin = format!("device {NAME} key ");
        let mut key = None;
        let said = wait_until(patience, || {
            self.is_on()?;
            let said = self.said();
            let mut keys = said.lines().filter_map(|line| line.split_once(&begin));
            key = keys.find_map(|(_, key)| unhex::<32>(key));
            Ok(key.is_some())
        })?;
        ensure!(said, "the board's key was not said: {}", self.log_tail());
        key.map(PublicKey).context("a key")
    }

    /// An error where the process has ended by itself, which that of a board never does.
    fn is_on(&mut self) -> Result<()> {
        let ended = self.qemu.as_mut().map(Child::try_wait).transpose()?;
        if let Some(status) = ended.flatten() {
            bail!(
                "the board's process ended with {status}: {}",
                self.log_tail()
            );
        }
        Ok(())
    }

    /// Chunks that one slot of its flash holds of a bundle whose first it holds.
    pub fn holds(&self, bundle: &[u8]) -> Result<usize> {
        let flash = std::fs::read(self.file("flash.bin"))?;
        let sectors: Vec<&[u8]> = flash.chunks(CHUNK_BYTES).collect();
        let chunks: Vec<&[u8]> = bundle.chunks(CHUNK_BYTES).collect();
        let is = |(chunk, held): &(&&[u8], &&[u8])| held.starts_with(chunk);
        let begin = sectors.iter().position(|held| is(&(&chunks[0], held)));
        let Some(begin) = begin else { return Ok(0) };
        Ok(chunks.iter().zip(&sectors[begin..]).filter(is).count())
    }

    /// The end of what it logged, for a report of something unexpected.
    pub fn log_tail(&self) -> String {
        let errors = std::fs::read_to_string(self.errors()).unwrap_or_default();
        let said = self.said();
        let lines = errors.lines().chain(said.lines());
        let lines: Vec<&str> = lines.collect();
        let last = lines.get(lines.len().saturating_sub(8)..);
        format!("{NAME}: {}", last.unwrap_or_default().join(" | "))
    }
}

impl Drop for Emulated {
    fn drop(&mut self) {
        // The process may be gone already, and nobody is left to be told.
        let _ = self.cut_power();
    }
}
