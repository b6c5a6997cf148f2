//! Every model of `models/broken` ends in an error of the kind that fits, which names what is wrong,
//! where, and what to do; for each layout.

#[path = "../../../models/broken/files.rs"]
#[allow(dead_code, reason = "which boards run a file is the importer's to say")]
mod files;

use edgeward::program::Layout;
use edgeward_compiler::{CompileError, Options, Reason, compile};
use files::tflite::Is;
use files::{Expected, File, flat, onnx};
use std::path::Path;

fn kind(error: &CompileError) -> Is {
    match error {
        CompileError::NotThisFormat { .. } => Is::NotThisFormat,
        CompileError::Malformed { .. } => Is::Malformed,
        CompileError::Inconsistent { .. } => Is::Inconsistent,
        CompileError::TooLarge { .. } => Is::TooLarge,
        CompileError::Refused(refusal) => match refusal.reason {
            Reason::Operator => Is::Operator,
            Reason::Custom(_) => Is::Custom,
            Reason::Type { .. } => Is::Type,
            Reason::Setting { .. } => Is::Setting,
            Reason::Shape { .. } => Is::Shape,
            Reason::Quantization(_) => Is::Quantization,
            Reason::NotConstant => Is::NotConstant,
            Reason::DynamicShape => Is::DynamicShape,
            Reason::Border(_) => Is::Border,
            Reason::State => Is::State,
            Reason::Sparse => Is::Sparse,
            Reason::External => Is::External,
            _ => Is::Other,
        },
        _ => Is::Other,
    }
}

/// Where the error lacks something: what a file that is expected so must be told.
fn lacks(file: &File, error: &CompileError) -> Option<&'static str> {
    let text = error.to_string();
    if !file.words.iter().all(|word| text.contains(word)) {
        return Some("words");
    }
    match (file.expected, error) {
        (Expected::Onnx(place), CompileError::Onnx(error)) if error.place == place => {
            // A file and a graph as a whole are no tensor.
            let whole = matches!(place, "the file" | "the graph");
            let named = whole || !error.tensor.is_empty() && text.contains(&error.tensor);
            match (named, error.why.is_empty(), error.advice.is_empty()) {
                (false, ..) => Some("the tensor"),
                (_, false, false) => None,
                _ => Some("why, or what to do"),
            }
        }
        (Expected::Tflite(is) | Expected::Operator(is), error) if kind(error) == is => {
            let advised = match error {
                CompileError::Refused(refusal) => {
                    // How many tensors lie at a border is about none of them.
                    let border = matches!(refusal.reason, Reason::Border(_));
                    if refusal.tensor.as_ref().is_none_or(String::is_empty) && !border {
                        return Some("the tensor");
                    }
                    text.ends_with(refusal.reason.advice())
                }
                _ => text.contains("; export ") || text.contains("; make "),
            };
            (!advised).then_some("what to do")
        }
        _ => Some("the kind"),
    }
}

#[test]
fn each_is_an_error_that_says_so() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("broken");
    std::fs::create_dir_all(&folder).expect("a folder for the models");
    let files = files::write(&folder).expect("the models are written");
    let mut wrong = Vec::new();
    for file in &files {
        let bytes = std::fs::read(folder.join(&file.name)).expect("the model is read");
        let layouts = [Options::mcu(Layout::CortexM), Options::mcu(Layout::Natural)];
        for options in layouts.into_iter().chain([Options::linux()]) {
            let said = match compile(&bytes, &options) {
                Ok(_) => "it compiles".into(),
                Err(error) => match lacks(file, &error) {
                    None => continue,
                    Some(lack) => format!("lacks {lack}: {error:?}\n    {error}"),
                },
            };
            let (name, expected, words) = (&file.name, file.expected, file.words);
            wrong.push(format!("{name}: {said}\n    wanted {expected:?} {words:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_sound_ones_compile() {
    for options in [Options::linux(), Options::mcu(Layout::CortexM)] {
        let compiled = compile(&flat::Model::sound().bytes(), &options);
        let compiled = compiled.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(compiled.report.operators.len(), 2);
        let compiled = compile(&onnx::bytes(onnx::sound()), &options);
        let compiled = compiled.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(compiled.report.output_shape, [1, 3, 5, 5]);
    }
}

/// At no length does a file that was cut compile, or end anything.
#[test]
fn cut_files_are_errors() {
    let tflite = flat::Model::sound().bytes();
    let mut onnx = onnx::bytes(onnx::sound());
    // The versions of the operators come last: without them the file is whole.
    onnx.truncate(onnx.len() - 4);
    for (whole, longest) in [(&tflite, tflite.len() - 1), (&onnx, onnx.len())] {
        for len in 0..longest {
            let error = compile(&whole[..len], &Options::linux());
            assert!(error.is_err(), "{len} of {} bytes", whole.len());
        }
    }
}
