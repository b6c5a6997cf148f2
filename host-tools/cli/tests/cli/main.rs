//! The command as a person or a script uses it: real processes, exit codes, and JSON whose field
//! names stay.
//!
//! Field names are compared with `tests/snapshots`; `EDGEWARD_BLESS=1` writes them anew.

mod boards;
#[path = "../common/mod.rs"]
#[allow(dead_code, reason = "each test takes what it needs")]
mod common;
mod keys;
mod models;
mod releases;
mod usage;

use common::{Place, model};

/// Copies the motion model's files and changes the manifest of release 1.
fn altered(place: &Place, from: &str, to: &str) -> String {
    for name in [
        "motion-v1.onnx",
        "train.csv",
        "outputs-v1.npy",
        "golden-v1-input.npy",
        "golden-v1-output.npy",
    ] {
        std::fs::copy(model(name), place.path(name)).expect("copied");
    }
    let manifest = std::fs::read_to_string(model("v1.toml")).expect("the manifest");
    assert!(manifest.contains(from), "{from}");
    std::fs::write(place.path("m.toml"), manifest.replace(from, to)).expect("written");
    "m.toml".to_owned()
}
