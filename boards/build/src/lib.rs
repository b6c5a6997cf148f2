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

/// What a model may have, and how much of that where `board.toml` does not say.
const MODEL: [(&str, u32); 3] = [("FEATURES", 16), ("OUTPUTS", 16), ("INPUTS", 1024)];
/// Most features and outputs that a release may have: no host packs one of more.
const MOST: [(&str, u32); 2] = [("FEATURES", 128), ("OUTPUTS", 32)];
/// Bytes of the stack at least, whatever a model may have: checks of signatures were measured with 25,808 once, and 20,736.
const STACK: u32 = 28 * 1024;
/// The same where features say it, and for each of them: the outbox may have three summaries of 120 bytes a feature
/// there. A board of 64 was measured with 28,476.
const STACK_BY_FEATURES: (u32, u32) = (12 * 1024, 360);
/// The environment variable that names another file beside `board.toml`, whose figures take the place of those there.
const INSTEAD: &str = "EDGEWARD_FIGURES";

/// Writes `board.rs` and `memory.x` into the build's folder and tells the linker what it needs; `more` goes
/// to the end of `memory.x`.
///
/// # Panics
/// Where `board.toml` has no memory, or figures of a model that are none, or a file can't be read or written.
pub fn run(more: &str) {
    let folder = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let out = PathBuf::from(std::env::var("OUT_DIR").expect("cargo sets it"));
    let read = |name: &str| {
        println!("cargo:rerun-if-changed={name}");
        let text = std::fs::read_to_string(Path::new(&folder).join(name));
        numbers(&text.unwrap_or_else(|error| panic!("{name}: {error}")))
    };
    println!("cargo:rerun-if-env-changed={INSTEAD}");
    // Who is asked for a figure takes the first.
    let mut numbers = std::env::var(INSTEAD).map_or_else(|_| Vec::new(), |name| read(&name));
    numbers.extend(read("board.toml"));
    let numbers = figures(numbers).unwrap_or_else(|error| panic!("board.toml: {error}"));
    write(&out.join("board.rs"), &constants(&numbers));
    write(&out.join("memory.x"), &(memory(&numbers) + BUILD_ID + more));
    println!("cargo:rustc-link-search={}", out.display());
    for argument in ["-Tlink.x", "-Tdefmt.x", "--nmagic", "--build-id=sha1"] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}

/// A number for each name, the first that there is, and all of `[model]`.
fn figures(numbers: Vec<(String, u32)>) -> Result<Vec<(String, u32)>, String> {
    let mut figures: Vec<(String, u32)> = Vec::new();
    let defaults = MODEL.map(|(key, value)| (format!("MODEL_{key}"), value));
    for (name, value) in numbers.into_iter().chain(defaults) {
        if let Some(key) = name.strip_prefix("MODEL_")
            && MODEL.iter().all(|(known, _)| *known != key)
        {
            let key = key.to_lowercase();
            return Err(format!(
                "[model] has features, outputs and inputs, no {key}"
            ));
        }
        if figures.iter().all(|(known, _)| *known != name) {
            figures.push((name, value));
        }
    }
    let found = |name: &str| {
        let found = figures.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| *value)
    };
    let figure = |key: &str| found(&format!("MODEL_{key}")).unwrap_or(0);
    for (key, most) in MOST {
        let (value, key) = (figure(key), key.to_lowercase());
        if !(1..=most).contains(&value) {
            return Err(format!(
                "[model] {key} = {value}: give 1 to {most}, no release has more"
            ));
        }
    }
    if figure("INPUTS") < figure("FEATURES") {
        return Err(format!(
            "[model] inputs = {}: give at least as many as there are features, {}, since an input tensor has an \
             element of each",
            figure("INPUTS"),
            figure("FEATURES"),
        ));
    }
    let (features, stack) = (figure("FEATURES"), found("STACK_BYTES"));
    let least = STACK.max(STACK_BY_FEATURES.0 + STACK_BY_FEATURES.1 * features);
    if let Some(bytes) = stack.filter(|&bytes| bytes < least) {
        return Err(format!(
            "[stack] bytes = {bytes}: give at least {least} for {features} features, or fewer features"
        ));
    }
    Ok(figures)
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
///
/// # Panics
/// Where something of `[model]` is no number: it would be taken for one that is not said.
fn numbers(text: &str) -> Vec<(String, u32)> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in text.lines() {
        // A text with a sign of a comment in it is cut, and is no number all the same.
        let line = line.split_once('#').map_or(line, |(line, _)| line).trim();
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = name.trim().to_uppercase();
            assert!(
                section != "MODEL" || name.trim() == "model",
                "[{name}]: write [model]"
            );
        } else if let Some((key, value)) = line.split_once('=') {
            assert!(
                !(section.is_empty() && key.trim().starts_with("model")),
                "{line}: give the figures in a section [model]"
            );
            match number(value.trim()) {
                Some(value) => {
                    found.push((format!("{section}_{}", key.trim().to_uppercase()), value))
                }
                None if section == "MODEL" => panic!("[model] {line}: give a number"),
                None => {}
            }
        }
    }
    found
}

fn number(text: &str) -> Option<u32> {
    let digits = text.replace('_', "");
    match digits.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => digits.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::{figures, numbers};

    fn model(text: &str) -> Result<[u32; 3], String> {
        let figures = figures(numbers(text))?;
        let figure = |wanted: &str| {
            let mut found = figures.iter().filter(|(name, _)| name == wanted);
            let (Some((_, value)), None) = (found.next(), found.next()) else {
                panic!("{wanted} in {figures:?}");
            };
            *value
        };
        Ok(["MODEL_FEATURES", "MODEL_OUTPUTS", "MODEL_INPUTS"].map(figure))
    }

    #[test]
    fn what_a_model_may_have_is_said_or_has_a_default() {
        assert_eq!(model("[arena]\nbytes = 1"), Ok([16, 16, 1024]));
        let text = "[model] # of ours\nfeatures = 20 # sensors\ninputs = 1_200\n[arena]\nbytes = 1";
        assert_eq!(model(text), Ok([20, 16, 1200]));
        // The file that is read first counts.
        let both = [text, "[model]\nfeatures = 3\noutputs = 4"].join("\n");
        assert_eq!(model(&both), Ok([20, 4, 1200]));
        assert_eq!(
            model("[model]\nfeatures = 128\noutputs = 32\n[stack]\nbytes = 58_368"),
            Ok([128, 32, 1024])
        );
    }

    #[test]
    fn figures_that_are_none_are_refused_with_what_to_do() {
        for (text, said) in [
            ("features = 0", "1 to 128"),
            ("features = 129", "1 to 128"),
            ("outputs = 33", "1 to 32"),
            (
                "features = 20\ninputs = 19",
                "at least as many as there are features, 20",
            ),
            ("feature = 20", "no feature"),
            (
                "features = 57\n[stack]\nbytes = 32_768",
                "give at least 32808 for 57 features",
            ),
            (
                "features = 16\n[stack]\nbytes = 20480",
                "give at least 28672 for 16 features",
            ),
        ] {
            let error = model(&format!("[model]\n{text}")).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
        for text in [
            "[model]\nfeatures = many",
            "[Model]\nfeatures = 20",
            "model = { features = 20 }",
            "model.features = 20",
        ] {
            assert!(std::panic::catch_unwind(|| model(text)).is_err(), "{text}");
        }
    }
}
