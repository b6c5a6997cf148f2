//! Boards of one's own: what `edgeward board new` makes of each board here compiles as it is.

use crate::bare_metal::{self, Std};
use crate::{bench_linux, boards, step};
use anyhow::{Result, ensure};
use std::path::Path;
use std::process::Command;

/// Makes a crate like each board's and builds it, without the network: the boards themselves were built before. The
/// host command is the one that the tests were run with.
pub fn check(root: &Path) -> Result<()> {
    let edgeward = bench_linux::target(root).join("release/edgeward");
    ensure!(
        edgeward.is_file(),
        "no {}, which the tests build",
        edgeward.display()
    );
    for like in boards::all(root)? {
        let folder = root.join("target/own").join(&like);
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        let mut new = Command::new(&edgeward);
        new.args(["board", "new", "own", "--like", &like, "--folder"])
            .arg(&folder)
            .arg("--checkout")
            .arg(root);
        step(&format!("a board like {like}"), &mut new)?;
        let processor = boards::processor(root, &like)?;
        let mut build = bare_metal::board_cargo(&folder, &processor, Std::AsItComes)?;
        build
            .args(["--quiet", "--offline", "--target-dir"])
            .arg(root.join("target/boards"));
        step(&format!("its firmware, like {like}"), &mut build)?;
    }
    Ok(())
}
