//! A board in QEMU.

use crate::common::process::{PATIENCE, Running, wait_until};
use crate::site::Site;
use std::io::Write;
use std::path::PathBuf;

/// The firmware, where it was built and QEMU is there; otherwise a line says what is missing.
pub fn image() -> Option<String> {
    let qemu = std::path::Path::new("/usr/bin/qemu-system-arm");
    let Ok(image) = std::env::var("EDGEWARD_MCU_IMAGE") else {
        println!("skipped: EDGEWARD_MCU_IMAGE names no firmware; `cargo xtask test` builds it");
        return None;
    };
    if !qemu.exists() {
        println!("skipped: no {}", qemu.display());
        return None;
    }
    assert!(std::path::Path::new(&image).exists(), "no {image}");
    Some(image)
}

/// A board, on or off.
pub struct Board<'a> {
    site: &'a Site,
    image: String,
    /// What its sensor measures from its next start on.
    samples: String,
    qemu: Option<Running>,
}

impl<'a> Board<'a> {
    pub const NAME: &'static str = "press-03";

    /// A board that never was on before.
    pub fn flash(site: &'a Site, image: &str) -> Self {
        let mut board = Self {
            site,
            image: image.to_owned(),
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
            "qemu-mps2-an386",
            "--image",
            &self.image,
            "--samples",
            &self.samples,
        ]);
        qemu.args(&self.site.for_boards).args(["-o", "json"]);
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

    /// What it has said on its UART.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.path("uart.log")).unwrap_or_default()
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
        let begin = format!(" boot {boot} ");
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
