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
    /// That of an operator, once an ONNX file has been read.
    Operator(Is),
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
    files.push(overflow());
    files.extend(cut());
    let names: BTreeSet<_> = files.iter().map(|file| &file.name).collect();
    assert_eq!(names.len(), files.len(), "two files have one name");
    files
}

/// Scales each of which is a number, and whose product is none that a kernel multiplies by.
fn overflow() -> File {
    let mut graph = onnx::sound();
    let weights = graph.initializers.iter_mut().find(|it| it.name == "ws");
    weights.expect("the sound model has them").floats = vec![3e38; 3];
    let expected = Expected::Operator(Is::Quantization);
    let bytes = onnx::bytes(graph);
    let what = "a multiplier that overflows";
    file(
        what,
        "onnx",
        bytes,
        false,
        expected,
        &["Conv", "\"w\"", "factor of 6"],
    )
}

/// Sound files that end too early, or are something else.
fn cut() -> Vec<File> {
    let (onnx, tflite) = (onnx::bytes(onnx::sound()), flat::Model::sound().bytes());
    let no_file = Expected::Onnx("the file");
    let said: &'static [&'static str] = &["not an ONNX model"];
    let malformed = Expected::Tflite(Is::Malformed);
    let none: &'static [&'static str] = &["byte"];
    fn quarter(bytes: &[u8], quarters: usize) -> &[u8] {
        &bytes[..bytes.len() * quarters / 4]
    }
    /// Name, ending, bytes, what is expected, and words of the refusal.
    type Case<'a> = (
        &'a str,
        &'a str,
        &'a [u8],
        Expected,
        &'static [&'static str],
    );
    let cases: [Case<'_>; 9] = [
        ("an empty file", "onnx", &[], no_file, &["no graph"]),
        (
            "a quarter of a file",
            "onnx",
            quarter(&onnx, 1),
            no_file,
            said,
        ),
        ("half a file", "onnx", quarter(&onnx, 2), no_file, said),
        ("three quarters", "onnx", quarter(&onnx, 3), no_file, said),
        ("a text", "onnx", b"a model it is not", no_file, said),
        ("the head alone", "tflite", &tflite[..8], malformed, none),
        (
            "a quarter of a file",
            "tflite",
            quarter(&tflite, 1),
            malformed,
            none,
        ),
        (
            "half a file",
            "tflite",
            quarter(&tflite, 2),
            malformed,
            none,
        ),
        (
            "three quarters",
            "tflite",
            quarter(&tflite, 3),
            malformed,
            none,
        ),
    ];
    let file = |(what, kind, bytes, expected, words): (_, _, &[u8], _, _)| {
        file(what, kind, bytes.to_vec(), true, expected, words)
    };
    cases.into_iter().map(file).collect()
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
