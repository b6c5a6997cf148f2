//! Firmware of microcontroller boards.

use crate::bare_metal::{self, Std, Toolchain};
use crate::elf::Elf;
use crate::tally::{self, Tally};
use crate::{cargo, step};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The board on which the firmware of microcontrollers is tested.
pub const TESTED: &str = "qemu-mps2-an386";
/// The one on which it is started, since its processor is another one.
pub const STARTED: &str = "qemu-mps2-an500";

/// The environment variable by which a board is built with other figures, and the file that has those of keyword
/// spotting.
pub const FIGURES: &str = "EDGEWARD_FIGURES";
pub const KWS: &str = "kws.toml";

/// How a firmware is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Build {
    /// Whether all of it is, TLS too.
    pub tls: bool,
    /// What it leans on.
    pub std: Std,
    /// Whether its figures are those of keyword spotting, of `kws.toml`.
    pub kws: bool,
}

impl Build {
    /// All of it.
    pub const WHOLE: Self = Self {
        tls: true,
        std: Std::AsItComes,
        kws: false,
    };
    /// Without TLS.
    pub const PLAIN: Self = Self {
        tls: false,
        ..Self::WHOLE
    };
    /// The same with the figures of keyword spotting.
    pub const fn kws(self) -> Self {
        Self { kws: true, ..self }
    }
    /// The same without words for panics.
    pub const fn lean(self) -> Self {
        Self {
            std: Std::Lean,
            ..self
        }
    }
}

/// Whether a board's firmware can have TLS.
pub fn has_tls(root: &Path, name: &str) -> Result<bool> {
    let path = root.join("boards").join(name).join("Cargo.toml");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(text.lines().any(|line| line.starts_with("tls = [")))
}

/// Builds the firmware of a board and gives the image, in which there is no allocator.
pub fn image(root: &Path, name: &str, build: Build) -> Result<PathBuf> {
    let (mut command, image) = building(root, name, build)?;
    let mut title = format!("firmware of {name}");
    if build.kws {
        title += " for keyword spotting";
    }
    if !build.tls {
        title += " without TLS";
    }
    if build.std == Std::Lean {
        title += ", lean";
    }
    step(&title, &mut command)?;
    check_no_allocator(&image)?;
    check_no_folder(&image, root)?;
    Ok(image)
}

/// What builds the tested board's firmware with the figures of keyword spotting.
pub fn kws_builds(root: &Path) -> Result<[Command; 2]> {
    let build = |build: Build| building(root, TESTED, build.kws()).map(|(command, _)| command);
    Ok([build(Build::PLAIN)?, build(Build::WHOLE)?])
}

/// What builds the firmware of a board, and where the image is then.
fn building(root: &Path, name: &str, build: Build) -> Result<(Command, PathBuf)> {
    let processor = processor(root, name)?;
    // Folders of their own: in one, each would be built again after the other.
    let target = root.join(match (build.std, build.kws) {
        (Std::AsItComes, false) => "target/boards",
        (Std::AsItComes, true) => "target/boards-kws",
        (Std::Lean, false) => "target/boards-lean",
        (Std::Lean, true) => "target/boards-lean-kws",
    });
    let package = format!("edgeward-{name}");
    let mut command = bare_metal::board_cargo(&root.join("boards"), &processor, build.std)?;
    command
        .args(["--quiet", "--locked", "-p", &package, "--target-dir"])
        .arg(&target);
    if build.kws {
        command.env(FIGURES, KWS);
    }
    if !build.tls {
        command.arg("--no-default-features");
    }
    let image = target.join(processor).join("release").join(package);
    Ok((command, image))
}

/// Fails when an image names the folder of the checkout, which is nobody's business and of another length elsewhere.
fn check_no_folder(image: &Path, root: &Path) -> Result<()> {
    let bytes = std::fs::read(image).with_context(|| image.display().to_string())?;
    let folder = format!("{}/", root.display());
    let named = bytes
        .windows(folder.len())
        .any(|it| it == folder.as_bytes());
    ensure!(!named, "{} names {folder}", image.display());
    Ok(())
}

/// The tested board's firmware, built lean; none, and said so, where that can't be.
pub fn lean_image(root: &Path, tally: &mut Tally) -> Result<Option<PathBuf>> {
    if let Some(reason) = bare_metal::no_lean(&processor(root, TESTED)?)? {
        tally.skip("lean firmware", &reason);
        return Ok(None);
    }
    image(root, TESTED, Build::WHOLE.lean()).map(Some)
}

/// Lints what the emulated boards are made of: a workspace of its own, which the lints of this one do not
/// see. With Debian's toolchain it says that it was skipped.
pub fn lint(root: &Path, tally: &mut Tally) -> Result<()> {
    const TITLE: &str = "lints of the boards";
    let processor = processor(root, TESTED)?;
    let toolchain = Toolchain::find(&processor)?;
    if toolchain != Toolchain::Rustup {
        tally.skip(TITLE, tally::NO_CLIPPY);
        return Ok(());
    }
    let mut command = toolchain.cargo(&root.join("boards"), "clippy", &processor, "");
    command.args(["--quiet", "--locked", "--target-dir"]);
    command.arg(root.join("target/boards"));
    for package in ["board", "mps2", TESTED, STARTED] {
        command.args(["-p", &format!("edgeward-{package}")]);
    }
    step(TITLE, command.args(["--", "-D", "warnings"]))
}

/// Tests what the build scripts of boards do: in the workspace of the boards, which the tests of this one do not see.
pub fn test_build_script(root: &Path, tally: &mut Tally) -> Result<()> {
    let mut tests = cargo(&root.join("boards"));
    tests.args(["test", "--quiet", "--locked", "-p", "edgeward-board-build"]);
    tests.arg("--target-dir").arg(root.join("target/boards"));
    let log = root.join("target/test-boards.log");
    tally.add(tally::run("build scripts of boards", tests, &log)?);
    Ok(())
}

/// Every board: a folder with a `board.toml`.
pub fn all(root: &Path) -> Result<Vec<String>> {
    let folder = root.join("boards");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        names.extend(name.filter(|_| path.join("board.toml").is_file()));
    }
    names.sort();
    Ok(names)
}

/// The compiler's name of a board's processor.
pub fn processor(root: &Path, name: &str) -> Result<String> {
    let path = root.join("boards").join(name).join("board.toml");
    let Ok(text) = std::fs::read_to_string(&path) else {
        let known = all(root)?.join(", ");
        bail!("boards/{name} is no board: it has no board.toml; there are {known}");
    };
    let line = text.lines().find_map(|line| line.strip_prefix("target = "));
    let value = line.map(|value| value.trim_matches('"').to_owned());
    value.with_context(|| format!("{}: no target", path.display()))
}

/// Names of C's allocators: whole ones, as they are linked.
const OF_C: [&str; 5] = ["malloc", "calloc", "realloc", "free", "_sbrk"];
/// What is in the names of what the compiler makes for an allocator of Rust's.
const OF_RUST: [&str; 6] = [
    "__rust_alloc",
    "__rust_dealloc",
    "__rust_realloc",
    "__rust_no_alloc_shim",
    "__rg_",
    "__rdl_",
];

/// Fails when a name in an image is an allocator's, or of the crate `alloc`. `boards/common/src/heap.rs` sees to
/// it that there is none; this is for boards that do not lean on that crate, as far as names tell.
fn check_no_allocator(image: &Path) -> Result<()> {
    let bytes = std::fs::read(image).with_context(|| image.display().to_string())?;
    let symbols = Elf(&bytes).symbols().context("no 32-bit ELF image")?;
    ensure!(
        !symbols.is_empty(),
        "{} has no symbols to look through",
        image.display()
    );
    let found = symbols.iter().find(|symbol| allocates(symbol.name));
    ensure!(
        found.is_none(),
        "{} has an allocator: {}",
        image.display(),
        found.map_or("", |symbol| symbol.name)
    );
    Ok(())
}

/// Whether a symbol is an allocator's, or of what needs one.
fn allocates(name: &str) -> bool {
    OF_C.contains(&name)
        || OF_RUST.iter().any(|part| name.contains(part))
        || name.starts_with("_ZN5alloc")
        || name.match_indices("_5alloc").any(|(at, _)| {
            // A crate's name stands behind its hash, one of a module behind the crate's.
            let hash = name.get(..at).and_then(|before| before.rsplit_once("Cs"));
            hash.is_some_and(|(_, hash)| hash.bytes().all(|byte| byte.is_ascii_alphanumeric()))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocators_are_known_by_their_names() {
        for name in [
            "malloc",
            "__rust_alloc",
            "_RNvCsj4CZ6flxxfE_7___rustc12___rust_alloc",
            "_ZN7___rustc12___rust_alloc17h0123456789abcdefE",
            "_RNvCsj4CZ6flxxfE_7___rustc14___rust_dealloc",
            "_RNvCsj4CZ6flxxfE_7___rustc35___rust_no_alloc_shim_is_unstable_v2",
            "_ZN5alloc7raw_vec19RawVec$LT$T$C$A$GT$8grow_one17h0123456789abcdefE",
            "_RNvNtCsh1hbHtQHSSW_5alloc7raw_vec17capacity_overflow",
        ] {
            assert!(allocates(name), "{name}");
        }
        for name in [
            "memcpy",
            "_ZN8edgeward7program5Arena8allocate17h0123456789abcdefE",
            "_RNvMNtNtCs7ldSeZOOJos_4core5alloc6layoutNtB2_6Layout5array",
            "free_running_timer",
        ] {
            assert!(!allocates(name), "{name}");
        }
    }

    /// What the compiler says of a program with `boards/common/src/heap.rs` in it, under this name; nothing where
    /// it takes it.
    fn compiled(folder: &Path, name: &str) -> Option<String> {
        const PROGRAM: &str = r"
            #![no_std]
            #![no_main]
            extern crate alloc;
            use heap as _;

            #[panic_handler]
            fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
                loop {}
            }

            #[cfg(brings)]
            mod own {
                use core::alloc::{GlobalAlloc, Layout};
                struct Own;
                unsafe impl GlobalAlloc for Own {
                    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
                        core::ptr::null_mut()
                    }
                    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
                }
                #[global_allocator]
                static OWN: Own = Own;
            }

            #[unsafe(no_mangle)]
            pub extern fn _start() -> ! {
                #[cfg(boxes)]
                core::hint::black_box(alloc::boxed::Box::new(1));
                #[cfg(lists)]
                core::hint::black_box(alloc::vec::Vec::<u8>::with_capacity(9));
                loop {}
            }";
        let heap = concat!(env!("CARGO_MANIFEST_DIR"), "/../boards/common/src/heap.rs");
        let rustc = |arguments: &[&str]| {
            let output = Command::new("rustc")
                .current_dir(folder)
                .args([
                    "--edition",
                    "2024",
                    "-C",
                    "opt-level=z",
                    "-C",
                    "panic=abort",
                ])
                .args(arguments)
                .output();
            let output = output.expect("a compiler");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            (!output.status.success()).then_some(said)
        };
        let text = format!("#![no_std]\n#[path = {heap:?}]\nmod heap;\n");
        std::fs::write(folder.join("heap.rs"), text).expect("written");
        std::fs::write(folder.join("program.rs"), PROGRAM).expect("written");
        let library = ["--crate-type", "lib", "-C", "embed-bitcode=yes", "heap.rs"];
        assert_eq!(rustc(&library), None);
        let program = ["-C", "lto=fat", "-C", "link-arg=-nostartfiles"];
        let with = ["--extern", "heap=libheap.rlib", "--cfg", name, "program.rs"];
        rustc(&[&program[..], &with].concat())
    }

    #[test]
    fn an_image_with_an_allocator_is_refused() {
        let folder = std::env::temp_dir().join(format!("edgeward-heap-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let said = ["nothing", "boxes", "lists", "brings"].map(|name| compiled(&folder, name));
        std::fs::remove_dir_all(&folder).expect("removed");
        let [nothing, boxes, lists, brings] = said;
        assert_eq!(nothing, None);
        for used in [boxes, lists] {
            let used = used.expect("it allocates");
            assert!(used.contains("edgeward_images_have_no_allocator"), "{used}");
        }
        let brings = brings.expect("there are two");
        assert!(
            brings.contains("conflicts with global allocator"),
            "{brings}"
        );
    }
}
