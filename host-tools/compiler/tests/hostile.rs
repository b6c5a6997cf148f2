//! Broken TFLite files end in errors, never in a panic.

mod common;

use common::corpus;
use edgeward_compiler::{CompileError, Options, Reason, compile, tflite};

#[test]
fn bytes_that_are_no_model() {
    for bytes in [
        &b""[..],
        b"TFL3",
        b"\x08\0\0\0TFL3",
        b"\xff\xff\xff\xffTFL3\0\0\0\0",
        b"\0\0\0\0TFL3",
    ] {
        let error = compile(bytes, &Options::linux()).unwrap_err();
        let typed = matches!(
            error,
            CompileError::NotThisFormat { .. }
                | CompileError::Malformed { .. }
                | CompileError::Inconsistent { .. }
                | CompileError::Onnx(_)
        );
        assert!(typed, "{bytes:?}: {error}");
    }
}

#[test]
fn cut_files() {
    let Some(corpus) = corpus() else { return };
    let bytes = std::fs::read(corpus.join("models/kws_ref_model.tflite")).unwrap();
    for len in (0..bytes.len()).step_by(613) {
        assert!(tflite::read(&bytes[..len]).is_err(), "{len} bytes");
    }
}

#[test]
fn flipped_bytes() {
    let Some(corpus) = corpus() else { return };
    for model in ["kws_ref_model", "ad01_int8", "pretrainedResnet_quant"] {
        let mut bytes = std::fs::read(corpus.join(format!("models/{model}.tflite"))).unwrap();
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut refused = 0;
        for _ in 0..1500 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            // Most of a file is weights; what surrounds them lies at both ends.
            let at = (random >> 20) as usize % 12_000;
            let at = if random & 1 == 0 {
                at
            } else {
                bytes.len() - 1 - at
            };
            let before = bytes[at];
            bytes[at] ^= (random >> 8) as u8 | 1;
            let checked = tflite::read(&bytes).and_then(|mut graph| {
                edgeward_compiler::border::strip(&mut graph);
                edgeward_compiler::check::check(&graph)
            });
            refused += usize::from(checked.is_err());
            bytes[at] = before;
        }
        assert!(refused > 20, "{model}: {refused}");
    }
}

#[test]
fn what_programs_do_not_have_is_named() {
    let Some(corpus) = corpus() else { return };
    let bytes = std::fs::read(corpus.join("models/kws_ref_model.tflite")).unwrap();
    // The table of codes names SOFTMAX (25) once as its byte; RANK (110) is no operator of programs.
    let mut found = 0;
    for at in 0..bytes.len() {
        if bytes[at] != 25 {
            continue;
        }
        let mut changed = bytes.clone();
        changed[at] = 110;
        if let Err(CompileError::Refused(refusal)) = compile(&changed, &Options::linux())
            && refusal.reason == Reason::Operator
        {
            assert_eq!(refusal.operator, "RANK");
            assert_eq!(refusal.index, 12);
            let text = refusal.to_string();
            assert!(
                text.contains("operator 12 RANK") && text.contains("tract"),
                "{text}"
            );
            found += 1;
        }
    }
    assert_eq!(found, 1);
}
