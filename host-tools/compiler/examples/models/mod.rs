//! The models that examples run: seeded ones always, those of the corpus where it is.

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../../../models/tiny/shapes.rs"]
pub mod shapes;

use edgeward_compiler::graph::Graph;
use std::error::Error;
use std::path::PathBuf;

/// Short names of the corpus's models, and the names of their files.
pub const CORPUS: [(&str, &str); 5] = [
    ("kws", "kws_ref_model"),
    ("vww", "vww_96_int8"),
    ("ic", "pretrainedResnet_quant"),
    ("ad", "ad01_int8"),
    ("wake-word", "str_ww_ref_model"),
];

/// The folder of the corpus's models, where it is.
pub fn corpus() -> Option<PathBuf> {
    Some(common::corpus()?.join("models"))
}

/// All models by name; those with seeded weights are `…-shape`.
#[allow(dead_code, reason = "one example has lists of its own")]
pub fn all() -> Result<Vec<(String, Graph)>, Box<dyn Error>> {
    let mut models: Vec<_> = shapes::all()
        .into_iter()
        .map(|(name, graph)| (format!("{name}-shape"), graph))
        .collect();
    if let Some(corpus) = corpus() {
        for (name, file) in CORPUS {
            let bytes = std::fs::read(corpus.join(format!("{file}.tflite")))?;
            models.push((name.to_owned(), edgeward_compiler::tflite::read(&bytes)?));
        }
    }
    Ok(models)
}
