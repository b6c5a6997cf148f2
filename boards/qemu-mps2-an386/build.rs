//! Makes constants and the linker's memory map of `board.toml`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

fn main() {
    let folder = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let out = PathBuf::from(std::env::var("OUT_DIR").expect("cargo sets it"));
    let text = std::fs::read_to_string(Path::new(&folder).join("board.toml"));
    let numbers = numbers(&text.expect("board.toml"));
    let mut constants = String::new();
    // The memory is the linker's business, the budget that of `cargo xtask size`.
    let of_others = |name: &str| name.starts_with("MEMORY") || name.starts_with("BUDGET");
    let of_firmware = numbers.iter().filter(|(name, _)| !of_others(name));
    for (name, value) in of_firmware {
        // Writing to a string can't fail.
        let _ = writeln!(
            constants,
            "/// From `board.toml`.\npub const {name}: u32 = {value};"
        );
    }
    write(&out.join("board.rs"), &constants);
    let find = |wanted: &str| {
        let found = numbers.iter().find(|(name, _)| name == wanted);
        found.unwrap_or_else(|| panic!("board.toml: no {wanted}")).1
    };
    let (flash, ram) = (find("MEMORY_FLASH_BYTES"), find("MEMORY_RAM_BYTES"));
    // The first is where the processor starts; the 16 MB at 0x21000000 stand for the slots' flash.
    let memory = format!(
        "MEMORY\n{{\n  FLASH : ORIGIN = 0x00000000, LENGTH = {flash}\n  \
         RAM : ORIGIN = 0x20000000, LENGTH = {ram}\n}}\n"
    );
    write(&out.join("memory.x"), &memory);
    println!("cargo:rustc-link-search={}", out.display());
    println!("cargo:rustc-link-arg-bins=-Tlink.x");
    println!("cargo:rustc-link-arg-bins=--nmagic");
    println!("cargo:rerun-if-changed=board.toml");
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
            && let Ok(value) = value.trim().parse()
        {
            found.push((format!("{section}_{}", key.trim().to_uppercase()), value));
        }
    }
    found
}
