//! Proves that the core needs neither std nor alloc.

use crate::{cargo, clean, setup, shown, step};
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The target of a Cortex-M4 or M7 with a floating-point unit.
const TARGET: &str = "thumbv7em-none-eabihf";
/// Debian's compiler and the sources of its standard library.
const DEBIAN: &[(&str, &str)] = &[
    ("rustc-web", "/usr/bin/rustc"),
    ("cargo-web", "/usr/bin/cargo"),
    ("rust-web-src", "/usr/lib/rustlib/src/rust/library/core"),
];

/// Links the core into an image that has a panic handler and no allocator, for a bare-metal target,
/// by whichever toolchain can do it here. The compiler refuses such an image when any crate in it
/// asks for alloc.
pub fn check(root: &Path) -> Result<()> {
    let folder = root.join("target/bare-metal");
    let probe = write_probe(root, &folder.join("probe"))?;
    let mut command = if rustup_has_target() {
        cargo(&probe)
    } else {
        let missing: Vec<&str> = DEBIAN
            .iter()
            .filter(|(_, file)| !Path::new(file).exists())
            .map(|(package, _)| *package)
            .collect();
        setup::install(&missing)?;
        if DEBIAN.iter().any(|(_, file)| !Path::new(file).exists()) {
            bail!(
                "no toolchain for {TARGET}: run `rustup target add {TARGET}`, or on Debian 12 install {}",
                names(DEBIAN)
            );
        }
        let mut command = Command::new("/usr/bin/cargo");
        clean(&mut command);
        command
            .current_dir(&probe)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTC", "/usr/bin/rustc");
        command
    };
    command.args(["build", "--release", "--target", TARGET]);
    if !rustup_has_target() {
        command.arg("-Zbuild-std=core,alloc");
    }
    command.arg("--target-dir").arg(&folder);
    step("core without std and without an allocator", &mut command)
}

/// A library for a microcontroller that holds the core and nothing else.
fn write_probe(root: &Path, folder: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(folder.join("src"))?;
    std::fs::write(
        folder.join("Cargo.toml"),
        format!(
            "[package]\nname = \"probe\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n\
             [lib]\ncrate-type = [\"staticlib\"]\n[dependencies]\nedgeward = {{ path = {:?} }}\n\
             [profile.release]\npanic = \"abort\"\n",
            root
        ),
    )?;
    std::fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock"))?;
    std::fs::write(
        folder.join("src/lib.rs"),
        "#![no_std]\npub use edgeward;\n#[panic_handler]\n\
         fn panic(_: &core::panic::PanicInfo) -> ! {\n    loop {}\n}\n",
    )?;
    Ok(folder.to_owned())
}

/// Whether rustup has the target, or can fetch it.
fn rustup_has_target() -> bool {
    let listed = Command::new("rustup")
        .args(["target", "list", "--installed"])
        .output()
        .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(TARGET));
    if listed {
        return true;
    }
    let mut add = Command::new("rustup");
    add.args(["target", "add", TARGET])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    eprintln!("    {}", shown(&add));
    add.status().is_ok_and(|status| status.success())
}

/// The packages' names for a message.
fn names(packages: &[(&str, &str)]) -> String {
    let names: Vec<&str> = packages.iter().map(|(package, _)| *package).collect();
    names.join(" ")
}
