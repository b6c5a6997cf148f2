//! `import` over every model of `models/broken`: a typed error, or boards that refuse it and say why and
//! what to do. What it says is in `models/broken/refusals.txt`.

#[path = "../../../models/broken/files.rs"]
#[allow(dead_code, reason = "what compilers are told is for their tests")]
mod files;

use edgeward_compiler::{CompileError, Options, compile};
use edgeward_host::import::{BoardReport, Import, ImportError, import};
use edgeward_host::model::{EngineChoice, Model};
use files::{Expected, File, flat, onnx};
use std::fmt::Write;
use std::path::Path;

/// What a board's line says, and what it lacks.
fn board(board: &BoardReport, said: &mut String) -> Option<&'static str> {
    let (class, engine) = (board.class, board.engine);
    let next = board.next.as_deref().unwrap_or_default();
    let why = board.why.lines().next().unwrap_or_default();
    let runs = if board.runs { "runs" } else { "refused" };
    let _ = write!(said, "\n  {class}, {engine}: {runs}: {why}");
    if !next.is_empty() {
        let _ = write!(said, "; {next}");
    }
    if board.runs {
        return None;
    }
    // A compiler's message ends with what to do.
    (next.is_empty() && !why.contains("; ")).then_some("what to do")
}

/// What a file's boards lack.
fn judged(file: &File, bytes: &[u8], import: &Import, said: &mut String) -> Option<&'static str> {
    let [linux, mcu] = &import.boards[..] else {
        return Some("a line a class of boards");
    };
    let lack = board(linux, said).or(board(mcu, said));
    if mcu.runs || linux.runs && (file.contradicts || linux.engine == "program") {
        return Some("a refusal");
    }
    let error = compile(bytes, &Options::linux()).err()?;
    if mcu.why != error.to_string() {
        return Some("the compiler's words");
    }
    let sound = matches!(
        error,
        CompileError::Refused(_) | CompileError::TooLarge { .. }
    );
    let after = matches!(file.expected, Expected::Tflite(_) | Expected::Operator(_));
    if after && !sound {
        return Some("an error: it contradicts itself");
    }
    lack
}

/// Nothing else than the change is wrong with a file: without it every engine takes the model.
#[test]
fn the_sound_ones_run() {
    let (onnx, tflite) = (onnx::bytes(onnx::sound()), flat::Model::sound().bytes());
    for bytes in [&onnx, &tflite] {
        let import = import(bytes).unwrap_or_else(|error| panic!("{error}"));
        assert!(
            import
                .boards
                .iter()
                .all(|it| it.runs && it.engine == "program")
        );
    }
    if let Err(error) = Model::load(&onnx, EngineChoice::Tract) {
        panic!("{error}");
    }
}

#[test]
fn each_is_refused_in_words() {
    let folder = tempfile::tempdir().expect("a folder for the models");
    let mut files = files::write(folder.path()).expect("the models are written");
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let (mut all, mut wrong) = (String::new(), Vec::new());
    for file in &files {
        let bytes = std::fs::read(folder.path().join(&file.name)).expect("the model is read");
        let mut said = file.name.clone();
        let lack = match import(&bytes) {
            Ok(import) => judged(file, &bytes, &import, &mut said),
            Err(error) => {
                let typed = match (file.expected, &error) {
                    (Expected::Tflite(_), ImportError::Tflite(error)) => {
                        !matches!(error, CompileError::Refused(_))
                    }
                    (Expected::Onnx(_), ImportError::Onnx(_)) => true,
                    _ => false,
                };
                let _ = write!(said, "\n  error: {error}; {}", error.next());
                (!typed).then_some("the kind")
            }
        };
        if let Some(lack) = lack {
            wrong.push(format!("lacks {lack}: {said}"));
        }
        all += &(said + "\n");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/broken/refusals.txt");
    if std::env::var_os("EDGEWARD_BLESS").is_some() {
        std::fs::write(&path, &all).expect("the refusals are written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let changed = all.lines().zip(committed.lines()).find(|(a, b)| a != b);
    assert!(
        all == committed,
        "refusals.txt says otherwise (EDGEWARD_BLESS=1 rewrites it): {changed:?}"
    );
}
