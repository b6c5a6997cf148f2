//! What tests share.

use std::path::PathBuf;

/// The corpus, or `None` with a line that says that the test was skipped.
pub fn corpus() -> Option<PathBuf> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let corpus = match std::env::var_os("EDGEWARD_CORPUS") {
        Some(path) => path.into(),
        None => root.join("../shared/corpus"),
    };
    if corpus.is_dir() {
        return Some(corpus);
    }
    println!("skipped: no corpus at {}", corpus.display());
    None
}
