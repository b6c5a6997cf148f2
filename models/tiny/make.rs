//! Writes seeded models of the MLPerf Tiny shapes, or twins of TFLite models in ONNX: see `README.md`.

#[path = "../../host-tools/compiler/tests/common/tflite.rs"]
#[allow(dead_code, reason = "tests break files, too")]
mod flat;
mod onnx;
mod shapes;
mod tflite;

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [folder] => seeded(Path::new(folder)),
        [folder, models] => twins(Path::new(folder), Path::new(models)),
        _ => Err("usage: tiny FOLDER [TFLITE_FOLDER]".into()),
    }
}

fn seeded(folder: &Path) -> Result<(), Box<dyn Error>> {
    for (name, graph) in shapes::all() {
        std::fs::write(
            folder.join(format!("{name}-shape.tflite")),
            tflite::write(&graph)?,
        )?;
        std::fs::write(
            folder.join(format!("{name}-shape.onnx")),
            onnx::write(&graph)?,
        )?;
    }
    Ok(())
}

fn twins(folder: &Path, models: &Path) -> Result<(), Box<dyn Error>> {
    for entry in std::fs::read_dir(models)? {
        let path = entry?.path();
        let (Some(stem), Some("tflite")) = (
            path.file_stem(),
            path.extension().and_then(|it| it.to_str()),
        ) else {
            continue;
        };
        let name = stem.to_string_lossy();
        let twin = folder.join(format!("{name}.onnx"));
        if twin.exists() {
            continue;
        }
        let graph = edgeward_compiler::tflite::read(&std::fs::read(&path)?)?;
        match onnx::write(&graph) {
            Ok(bytes) => std::fs::write(twin, bytes)?,
            Err(missing) => eprintln!("{name} has no twin in ONNX: {missing}"),
        }
    }
    Ok(())
}
