//! Firmware of microcontroller boards.

use crate::elf::Elf;
use crate::{bare_metal, step};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};

/// The board on which the firmware of microcontrollers is tested.
pub const TESTED: &str = "qemu-mps2-an386";
/// The one on which it is started, since its processor is another one.
pub const STARTED: &str = "qemu-mps2-an500";

/// How much of the firmware is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// All of it.
    Whole,
    /// Without TLS.
    Plain,
}

/// Whether a board's firmware can have TLS.
pub fn has_tls(root: &Path, name: &str) -> Result<bool> {
    let path = root.join("boards").join(name).join("Cargo.toml");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(text.lines().any(|line| line.starts_with("tls = [")))
}

/// Builds the firmware of a board and gives the image, in which there is no allocator.
pub fn image(root: &Path, name: &str, build: Build) -> Result<PathBuf> {
    let processor = processor(root, name)?;
    let target = root.join("target/boards");
    let package = format!("edgeward-{name}");
    let mut command = bare_metal::board_cargo(&root.join("boards"), &processor)?;
    command
        .args(["--quiet", "--locked", "-p", &package, "--target-dir"])
        .arg(&target);
    let title = match build {
        Build::Whole => format!("firmware of {name}"),
        Build::Plain => {
            command.arg("--no-default-features");
            format!("firmware of {name} without TLS")
        }
    };
    step(&title, &mut command)?;
    let image = target.join(processor).join("release").join(package);
    check_no_allocator(&image)?;
    Ok(image)
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

/// Names that an allocator has, of Rust's or of C's: whole ones, as they are linked.
const ALLOCATORS: [&str; 10] = [
    "__rust_alloc",
    "__rust_alloc_zeroed",
    "__rust_realloc",
    "__rust_dealloc",
    "__rust_no_alloc_shim_is_unstable",
    "malloc",
    "calloc",
    "realloc",
    "free",
    "_sbrk",
];

/// Fails when something in an image allocates.
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

/// Whether a symbol is an allocator's. Those of Rust are mangled where the compiler makes them itself.
fn allocates(name: &str) -> bool {
    let rust = [
        "__rust_alloc",
        "__rust_realloc",
        "__rg_alloc",
        "__rdl_alloc",
    ];
    ALLOCATORS.contains(&name) || rust.iter().any(|part| name.contains(part))
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
        ] {
            assert!(allocates(name), "{name}");
        }
        for name in [
            "memcpy",
            "_ZN8edgeward7program5Arena8allocate17h0123456789abcdefE",
            "free_running_timer",
        ] {
            assert!(!allocates(name), "{name}");
        }
    }
}
