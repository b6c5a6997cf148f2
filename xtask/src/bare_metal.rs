//! Proves that the core needs neither std nor alloc.

use crate::{cargo, clean, setup, shown, step};
use anyhow::{Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The target of a Cortex-M4 or M7 with a floating-point unit.
pub const TARGET: &str = "thumbv7em-none-eabihf";
/// Debian's compiler and the sources of its standard library.
const DEBIAN: &[(&str, &str)] = &[
    ("rustc-web", "/usr/bin/rustc"),
    ("cargo-web", "/usr/bin/cargo"),
    ("rust-web-src", "/usr/lib/rustlib/src/rust/library/core"),
    ("lld-19", "/usr/bin/ld.lld-19"),
];

/// Links the core into an image that has a panic handler and no allocator, for a bare-metal target,
/// by whichever toolchain can do it here. The compiler refuses such an image when any crate in it
/// asks for alloc.
pub fn check(root: &Path) -> Result<()> {
    let folder = root.join("target/bare-metal");
    let probe = write_probe(root, &folder.join("probe"))?;
    let mut command = board_cargo(&probe, TARGET, Std::AsItComes)?;
    command.arg("--target-dir").arg(&folder);
    step("core without std and without an allocator", &mut command)
}

/// What an image leans on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Std {
    /// The standard library as it comes with the compiler, or as it is where the compiler comes without.
    AsItComes,
    /// One that is built for size, in which a panic says nothing: it is an instruction that faults, and the
    /// address of it is what is left.
    Lean,
}

/// `cargo build --release` in `folder` for a board's processor.
pub fn board_cargo(folder: &Path, processor: &str, std: Std) -> Result<Command> {
    let toolchain = Toolchain::find(processor)?;
    let target = match std {
        Std::AsItComes => processor.to_owned(),
        Std::Lean => {
            toolchain.have_sources()?;
            toolchain.have_silent_panics()?;
            without_frame_pointers(folder, toolchain, processor)?
        }
    };
    let mut command = toolchain.cargo(folder, "build", &target, STD);
    // They would take the place of those below and of the folder's own.
    command.env_remove("RUSTFLAGS");
    command.env_remove("CARGO_ENCODED_RUSTFLAGS");
    if toolchain == Toolchain::Debian {
        // Debian's compiler has no linker of its own for the target.
        command.args(["--config", &linker(processor)]);
    }
    let mut flags = short_paths(folder, toolchain)?;
    if std == Std::Lean {
        if toolchain == Toolchain::Rustup {
            command.env("RUSTC_BOOTSTRAP", "1");
            command.arg(format!("-Zbuild-std={STD}"));
        }
        command.arg("-Zbuild-std-features=optimize_for_size");
        if target != processor && toolchain.cargo_asks_for_specifications()? {
            command.arg("-Zjson-target-spec");
        }
        flags.extend(SILENT.map(str::to_owned));
        // By which an address is found again: https://docs.rs/addr2line. Flash has nothing of it.
        command.args(["--config", "profile.release.debug=\"line-tables-only\""]);
    }
    // They come on top of those in the folder's own configuration.
    command.args([
        "--config",
        &setting(processor, &format!("rustflags={flags:?}")),
    ]);
    Ok(command)
}

/// What has an image tell files by their names in the checkout, in a package or in the standard library: it names
/// no folder of this machine, and what panics say takes less room. (The order of its functions may still depend on the
/// folder: cargo takes paths into the names of symbols.)
fn short_paths(folder: &Path, toolchain: Toolchain) -> Result<Vec<String>> {
    let mut long = Vec::new();
    // The checkout stands around the folder of the boards.
    long.extend(folder.parent().map(Path::to_owned));
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(std::env::home_dir()?.join(".cargo")));
    // A folder each registry; none before the first build, which names files by their whole paths then.
    let registries = home.and_then(|home| std::fs::read_dir(home.join("registry/src")).ok());
    for registry in registries.into_iter().flatten() {
        long.push(registry?.path());
    }
    long.push(toolchain.sysroot()?.join("lib/rustlib/src/rust"));
    let flag = |path: PathBuf| format!("--remap-path-prefix={}/=", path.display());
    Ok(long.into_iter().map(flag).collect())
}

/// A processor's target in whose functions no register holds the frame: only its specification can say so. Its file
/// is named as the target, so that settings and folders are the same.
fn without_frame_pointers(folder: &Path, toolchain: Toolchain, processor: &str) -> Result<String> {
    let mut command = toolchain.rustc();
    command.env("RUSTC_BOOTSTRAP", "1").args([
        "-Zunstable-options",
        "--print",
        "target-spec-json",
        "--target",
        processor,
    ]);
    let output = command.output()?;
    ensure!(
        output.status.success(),
        "the compiler does not print its specification of {processor}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let known = String::from_utf8(output.stdout)?;
    let text = known.replace(
        "\"frame-pointer\": \"always\"",
        "\"frame-pointer\": \"may-omit\"",
    );
    if text == known {
        // It keeps none by itself.
        return Ok(processor.to_owned());
    }
    // The checkout stands around the folder of the boards.
    let targets = folder.join("../target/boards-lean");
    std::fs::create_dir_all(&targets)?;
    let path = targets.canonicalize()?.join(format!("{processor}.json"));
    // A file that is written anew has everything compiled anew.
    if std::fs::read_to_string(&path).ok().as_ref() != Some(&text) {
        std::fs::write(&path, text)?;
    }
    Ok(path.display().to_string())
}

/// Why no lean image can be built here, where that is so.
pub fn no_lean(processor: &str) -> Result<Option<String>> {
    let toolchain = Toolchain::find(processor)?;
    let there = toolchain.have_sources();
    let there = there.and_then(|()| toolchain.have_silent_panics());
    Ok(there.err().map(|reason| format!("{reason:#}")))
}

/// The crates of the standard library that are in an image.
const STD: &str = "core,alloc";
/// What makes a panic an instruction that faults, and has what is for developers alone say nothing.
const SILENT: [&str; 3] = [
    "-Zunstable-options",
    "-Cpanic=immediate-abort",
    "-Zfmt-debug=none",
];

/// A setting of cargo for a processor. Cargo looks its name up part by part: in quotes it finds none that has a dot.
fn setting(processor: &str, what: &str) -> String {
    format!("target.{processor}.{what}")
}

/// The setting that names Debian's linker for a processor.
fn linker(processor: &str) -> String {
    setting(processor, "linker=\"ld.lld-19\"")
}

/// Who compiles for another processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Toolchain {
    /// rustup's toolchain, which has the target.
    Rustup,
    /// Debian's, which has the sources of the standard library.
    Debian,
}

impl Toolchain {
    /// rustup's where it has the target or can fetch it, else Debian's, which is installed where that
    /// is possible.
    pub fn find(target: &str) -> Result<Self> {
        if rustup_has_target(target) {
            return Ok(Self::Rustup);
        }
        let missing: Vec<&str> = DEBIAN
            .iter()
            .filter(|(_, file)| !Path::new(file).exists())
            .map(|(package, _)| *package)
            .collect();
        setup::install(&missing)?;
        if DEBIAN.iter().any(|(_, file)| !Path::new(file).exists()) {
            bail!(
                "no toolchain for {target}: run `rustup target add {target}`, or on Debian 12 install {}",
                names(DEBIAN)
            );
        }
        Ok(Self::Debian)
    }

    /// What its compiler calls itself.
    pub fn version(self) -> Result<String> {
        let output = self.rustc().arg("--version").output()?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn rustc(self) -> Command {
        let mut command = match self {
            Self::Rustup => Command::new("rustc"),
            Self::Debian => Command::new("/usr/bin/rustc"),
        };
        clean(&mut command);
        command
    }

    /// Whether cargo takes a target's specification only with a flag.
    fn cargo_asks_for_specifications(self) -> Result<bool> {
        let mut command = match self {
            Self::Rustup => Command::new("cargo"),
            Self::Debian => Command::new("/usr/bin/cargo"),
        };
        clean(&mut command);
        let help = command
            .env("RUSTC_BOOTSTRAP", "1")
            .args(["-Z", "help"])
            .output()?;
        Ok(String::from_utf8_lossy(&help.stdout).contains("json-target-spec"))
    }

    /// Where the compiler and its libraries are.
    fn sysroot(self) -> Result<PathBuf> {
        let output = self.rustc().args(["--print", "sysroot"]).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().into())
    }

    /// Sees to the sources of the standard library: Debian's are a package that [`Toolchain::find`] asked for.
    fn have_sources(self) -> Result<()> {
        let there = || -> Result<bool> {
            let core = "lib/rustlib/src/rust/library/core/Cargo.toml";
            Ok(self.sysroot()?.join(core).exists())
        };
        if !there()? && self == Self::Rustup {
            let mut add = Command::new("rustup");
            clean(&mut add);
            // Whether that went well shows below.
            let _ = add
                .args(["component", "add", "rust-src"])
                .stdout(Stdio::null())
                .status();
        }
        ensure!(
            there()?,
            "a lean image wants the standard library's sources: run `rustup component add rust-src`"
        );
        Ok(())
    }

    /// Fails where the compiler knows of no panic that says nothing.
    fn have_silent_panics(self) -> Result<()> {
        let mut command = self.rustc();
        command.env("RUSTC_BOOTSTRAP", "1");
        command.args(SILENT).args(["--print", "cfg"]);
        let known = command.output()?.status.success();
        ensure!(
            known,
            "a lean image wants a compiler that knows -Cpanic=immediate-abort, and this is {}",
            self.version()?
        );
        Ok(())
    }

    /// `cargo ACTION --release` in `folder` for the target; `std` are the crates of the standard
    /// library that Debian's toolchain builds.
    pub fn cargo(self, folder: &Path, action: &str, target: &str, std: &str) -> Command {
        let mut command = match self {
            Self::Rustup => cargo(folder),
            Self::Debian => {
                let mut command = Command::new("/usr/bin/cargo");
                clean(&mut command);
                command
                    .current_dir(folder)
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env("RUSTC", "/usr/bin/rustc");
                command
            }
        };
        command.args([action, "--release", "--target", target]);
        // Who wants other figures says so for one image.
        command.env_remove(crate::boards::FIGURES);
        if self == Self::Debian {
            command.arg(format!("-Zbuild-std={std}"));
        }
        command
    }
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
fn rustup_has_target(target: &str) -> bool {
    let listed = Command::new("rustup")
        .args(["target", "list", "--installed"])
        .output()
        .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(target));
    if listed {
        return true;
    }
    let mut add = Command::new("rustup");
    add.args(["target", "add", target])
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_names_no_folder_of_the_machine() {
        let toolchain = Toolchain::Rustup;
        let flags = short_paths(Path::new("/home/me/edgeward/boards"), toolchain).unwrap();
        let checkout = "--remap-path-prefix=/home/me/edgeward/=";
        assert_eq!(flags.first().map(String::as_str), Some(checkout));
        let sources = "lib/rustlib/src/rust/=";
        assert!(flags.last().is_some_and(|last| last.ends_with(sources)));
        // This was built of packages, so that there is a registry.
        assert!(
            flags.iter().any(|flag| flag.contains("/registry/src/")),
            "{flags:?}"
        );
    }
}
