//! What the build script of a board's crate does: constants and the linker's memory map of its
//! `board.toml`, so that host, firmware and linker agree.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Where an image says which one it is: the linker's hash of it, for `edgeward logs`.
const BUILD_ID: &str = "
SECTIONS
{
  .note.gnu.build-id : ALIGN(4)
  {
    __edgeward_build_id = .;
    KEEP(*(.note.gnu.build-id));
  } > FLASH
}
INSERT AFTER .rodata;
";

/// Writes `board.rs` and `memory.x` into the build's folder and tells the linker what it needs; `more` goes
/// to the end of `memory.x`.
///
/// # Panics
/// Where `board.toml` has no memory, or a file can't be read or written.
pub fn run(more: &str) {
    let folder = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let out = PathBuf::from(std::env::var("OUT_DIR").expect("cargo sets it"));
    let text = std::fs::read_to_string(Path::new(&folder).join("board.toml"));
    let numbers = numbers(&text.expect("board.toml"));
    write(&out.join("board.rs"), &constants(&numbers));
    write(&out.join("memory.x"), &(memory(&numbers) + BUILD_ID + more));
    println!("cargo:rustc-link-search={}", out.display());
    for argument in ["-Tlink.x", "-Tdefmt.x", "--nmagic", "--build-id=sha1"] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    println!("cargo:rerun-if-changed=board.toml");
}

/// What the firmware knows of the board.
fn constants(numbers: &[(String, u32)]) -> String {
    // The memory is the linker's business, the budget that of `cargo xtask size`.
    let of_others = |name: &str| name.starts_with("MEMORY") || name.starts_with("BUDGET");
    let mut text = String::new();
    for (name, value) in numbers.iter().filter(|(name, _)| !of_others(name)) {
        // Writing to a string can't fail.
        let _ = writeln!(
            text,
            "/// From `board.toml`.\npub const {name}: u32 = {value};"
        );
    }
    text
}

/// The memory that the linker may use, and the stack for which it must leave room.
fn memory(numbers: &[(String, u32)]) -> String {
    let find = |wanted: &str| {
        let found = numbers.iter().find(|(name, _)| name == wanted);
        found.unwrap_or_else(|| panic!("board.toml: no {wanted}")).1
    };
    let region = |name: &str| {
        let (origin, len) = (
            format!("MEMORY_{name}_ORIGIN"),
            format!("MEMORY_{name}_BYTES"),
        );
        format!(
            "  {name} : ORIGIN = {:#010x}, LENGTH = {}\n",
            find(&origin),
            find(&len)
        )
    };
    format!(
        "MEMORY\n{{\n{}{}}}\n\nASSERT(_stack_start - _stack_end >= {}, \"\
         RAM has no room for the [stack] of board.toml\");\n",
        region("FLASH"),
        region("RAM"),
        find("STACK_BYTES"),
    )
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// The numbers of a TOML file, by section and key: nothing else of it is needed here.
fn numbers(text: &str) -> Vec<(String, u32)> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = name.to_uppercase();
        } else if let Some((key, value)) = line.split_once('=')
            && let Some(value) = number(value.trim())
        {
            found.push((format!("{section}_{}", key.trim().to_uppercase()), value));
        }
    }
    found
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(&digits.replace('_', ""), 16).ok(),
        None => text.parse().ok(),
    }
}
