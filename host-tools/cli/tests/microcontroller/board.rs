//! A board in QEMU.

use crate::common::process::{PATIENCE, Running, wait_until};
use crate::site::Site;
use edgeward_logs::{Image, words};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

pub use crate::common::firmware::{image, image_for_m7, lean_image};

/// A board, on or off.
pub struct Board<'a> {
    site: &'a Site,
    /// What board it is: a name, or the folder of a crate.
    kind: &'static str,
    /// Its firmware, where that is built.
    image: Option<String>,
    /// What its sensor measures from its next start on.
    samples: String,
    qemu: Option<Running>,
}

impl<'a> Board<'a> {
    pub const NAME: &'static str = "press-03";

    /// A board that never was on before.
    pub fn flash(site: &'a Site, image: &str) -> Self {
        Self::of_kind(site, "qemu-mps2-an386", Some(image))
    }

    /// The same of any kind.
    pub fn of_kind(site: &'a Site, kind: &'static str, image: Option<&str>) -> Self {
        let mut board = Self {
            site,
            kind,
            image: image.map(str::to_owned),
            samples: "recording.txt".to_owned(),
            qemu: None,
        };
        board.start();
        board
    }

    pub fn start(&mut self) {
        let mut qemu = self.site.command(&[
            "flash",
            Self::NAME,
            "--board",
            self.kind,
            "--samples",
            &self.samples,
        ]);
        qemu.args(&self.site.for_boards).args(["-o", "json"]);
        match &self.image {
            Some(image) => qemu.args(["--image", image]),
            None => building(&mut qemu),
        };
        self.qemu = Some(Running::start(&mut qemu));
    }

    /// Ends it as a power cut would.
    pub fn cut_power(&mut self) {
        self.qemu = None;
    }

    /// Its power goes and comes back, and its sensor measures what this file says.
    pub fn restart_measuring(&mut self, samples: &str) {
        self.cut_power();
        self.samples = samples.to_owned();
        self.start();
    }

    /// What its sensor measures as soon as it begins its recording again: lines behind the header.
    pub fn measures(&self, lines: &str) {
        let text =
            format!("edgeward-source schema=1 dtype=f32 features=ax,ay,az,gx,gy,gz\n{lines}");
        // The board reads it meanwhile: one that is empty for a moment would have no sample ever.
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(self.path("samples.txt"));
        let mut file = file.expect("the recording");
        file.write_all(text.as_bytes()).expect("written");
        file.set_len(text.len() as u64).expect("cut");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.site.path(Self::NAME).join(name)
    }

    /// What it has said on its UART, in words.
    pub fn said(&self) -> String {
        said(self.site)
    }

    /// Waits until it has said these words on its UART.
    pub fn until_it_says(&self, words: &str) {
        wait_until(words, PATIENCE, || {
            let said = self.said();
            said.contains(words).then_some(()).ok_or(said)
        });
    }

    /// Waits until it has said these words in its boot of that number.
    pub fn until_boot_says(&self, boot: u32, words: &str) {
        let begin = format!("\nboot {boot} ");
        wait_until(&format!("{words} in boot {boot}"), PATIENCE, || {
            let said = self.said();
            let since = said.split_once(&begin).map(|(_, since)| since);
            let there = since.is_some_and(|since| since.contains(words));
            there.then_some(()).ok_or(said)
        });
    }

    /// The key that it says at its start.
    pub fn key(&self) -> String {
        let what = format!("device {} key ", Self::NAME);
        wait_until("the board's key", PATIENCE, || {
            let said = self.said();
            let line = said.lines().find_map(|line| line.split_once(&what));
            let key = line.map(|(_, key)| key.to_owned());
            key.filter(|key| key.len() == 64).ok_or_else(|| {
                let qemu = self.qemu.as_ref().map(Running::said);
                format!("{said}; {qemu:?}")
            })
        })
    }

    /// Waits until its flash holds these bytes somewhere.
    pub fn until_flash_holds(&self, bytes: &[u8]) {
        wait_until("a chunk in flash", PATIENCE, || {
            let flash = std::fs::read(self.path("flash.bin")).expect("flash");
            let holds = flash.chunks_exact(bytes.len()).any(|part| part == bytes);
            holds.then_some(()).ok_or_else(|| self.said())
        });
    }
}

/// What the board of a site has said on its UART, in words: a line each.
pub fn said(site: &Site) -> String {
    let folder = site.path(Board::NAME);
    // Before its first start there is neither.
    let (Ok(log), Ok(image)) = (
        std::fs::read(folder.join("uart.log")),
        std::fs::read(folder.join("firmware.elf")),
    ) else {
        return String::new();
    };
    let image = Image::parse(&image).expect("an image with a log");
    words(&image, &log)
}

/// Has a command that builds firmware do so from what is here already.
fn building(command: &mut Command) -> &mut Command {
    // What it leans on is compiled there.
    let image = std::env::var("EDGEWARD_MCU_IMAGE").expect("a test asks for it first");
    let target = std::path::Path::new(&image).ancestors().nth(3);
    command
        .env("CARGO_TARGET_DIR", target.expect("a target folder"))
        .env("CARGO_NET_OFFLINE", "true")
        .env_remove("CARGO")
        .env_remove("CARGO_MANIFEST_DIR")
}
