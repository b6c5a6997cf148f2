//! The models of this folder: broken and unsupported ones, with what an importer shall say of them.

#[path = "../../host-tools/compiler/tests/common/tflite.rs"]
#[allow(dead_code, reason = "other models need more of it")]
pub mod flat;
pub mod onnx;
#[path = "../../host-tools/compiler/src/onnx/proto.rs"]
#[allow(
    dead_code,
    missing_docs,
    reason = "the messages as the importer declares them"
)]
mod proto;
pub mod tflite;

use std::collections::BTreeSet;
use std::path::Path;
use tflite::Is;

/// A model that no board shall take for more than it is.
pub struct File {
    /// Its name in the folder.
    pub name: String,
    /// Its content.
    pub bytes: Vec<u8>,
    /// Whether it contradicts itself or its format, so that nothing may run it.
    pub contradicts: bool,
    /// What a compiler says.
    pub expected: Expected,
    /// Words of the message.
    pub words: &'static [&'static str],
}

/// The error of a compiler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// That of an ONNX file, and the place that it names.
    Onnx(&'static str),
    /// That of a TFLite file.
    Tflite(Is),
}

/// All of them. No two have the same name.
pub fn all() -> Vec<File> {
    let mut files = Vec::new();
    for (cases, contradicts) in [
        (onnx::BROKEN, true),
        (onnx::LENIENT, false),
        (onnx::UNSUPPORTED, false),
        (onnx::HUGE, false),
    ] {
        for &(what, change, place, words) in cases {
            let mut graph = onnx::sound();
            change(&mut graph);
            let expected = Expected::Onnx(place);
            let bytes = onnx::bytes(graph);
            files.push(file(what, "onnx", bytes, contradicts, expected, words));
        }
    }
    for (cases, contradicts) in [
        (tflite::INCONSISTENT, true),
        (tflite::UNSUPPORTED, false),
        (tflite::HUGE, false),
    ] {
        for &(what, change, is, words) in cases {
            let mut model = flat::Model::sound();
            change(&mut model);
            let expected = Expected::Tflite(is);
            let bytes = model.bytes();
            files.push(file(what, "tflite", bytes, contradicts, expected, words));
        }
    }
    files.extend(cut());
    let names: BTreeSet<_> = files.iter().map(|file| &file.name).collect();
    assert_eq!(names.len(), files.len(), "two files have one name");
    files
}

/// Sound files that end too early, or are something else.
fn cut() -> Vec<File> {
    let (onnx, tflite) = (onnx::bytes(onnx::sound()), flat::Model::sound().bytes());
    let no_file = Expected::Onnx("the file");
    let said: &[&str] = &["not an ONNX model"];
    let malformed = Expected::Tflite(Is::Malformed);
    let none: &[&str] = &["byte"];
    let quarter = |bytes: &[u8], quarters: usize| bytes[..bytes.len() * quarters / 4].to_vec();
    vec![
        file(
            "an empty file",
            "onnx",
            Vec::new(),
            true,
            no_file,
            &["no graph"],
        ),
        file(
            "a quarter of a file",
            "onnx",
            quarter(&onnx, 1),
            true,
            no_file,
            said,
        ),
        file(
            "half a file",
            "onnx",
            quarter(&onnx, 2),
            true,
            no_file,
            said,
        ),
        file(
            "three quarters",
            "onnx",
            quarter(&onnx, 3),
            true,
            no_file,
            said,
        ),
        file(
            "a text",
            "onnx",
            b"a model it is not".to_vec(),
            true,
            no_file,
            said,
        ),
        file(
            "the head alone",
            "tflite",
            tflite[..8].to_vec(),
            true,
            malformed,
            none,
        ),
        file(
            "a quarter of a file",
            "tflite",
            quarter(&tflite, 1),
            true,
            malformed,
            none,
        ),
        file(
            "half a file",
            "tflite",
            quarter(&tflite, 2),
            true,
            malformed,
            none,
        ),
        file(
            "three quarters",
            "tflite",
            quarter(&tflite, 3),
            true,
            malformed,
            none,
        ),
    ]
}

fn file(
    what: &str,
    kind: &str,
    bytes: Vec<u8>,
    contradicts: bool,
    expected: Expected,
    words: &'static [&'static str],
) -> File {
    let name: String = what
        .chars()
        .map(|it| if it.is_ascii_alphanumeric() { it } else { '-' })
        .collect();
    File {
        name: format!("{}.{kind}", name.to_lowercase()),
        bytes,
        contradicts,
        expected,
        words,
    }
}

/// Writes all of them into a folder.
///
/// # Errors
/// When the folder can't be written.
pub fn write(folder: &Path) -> std::io::Result<Vec<File>> {
    let files = all();
    for file in &files {
        std::fs::write(folder.join(&file.name), &file.bytes)?;
    }
    Ok(files)
}
