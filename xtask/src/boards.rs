//! Firmware of microcontroller boards.

use crate::{bare_metal, step};
use anyhow::{Result, ensure};
use std::path::{Path, PathBuf};

/// The board on which the firmware of microcontrollers is tested.
pub const TESTED: &str = "qemu-mps2-an386";

/// Builds the firmware of a board and gives the image.
pub fn image(root: &Path, name: &str) -> Result<PathBuf> {
    let folder = root.join("boards").join(name);
    ensure!(
        folder.join("board.toml").is_file(),
        "boards/{name} is no board: it has no board.toml"
    );
    let target = root.join("target/boards");
    let package = format!("edgeward-{name}");
    let mut command = bare_metal::board_cargo(&root.join("boards"))?;
    command
        .args(["--quiet", "--locked", "-p", &package, "--target-dir"])
        .arg(&target);
    step(&format!("firmware of {name}"), &mut command)?;
    Ok(target
        .join(bare_metal::TARGET)
        .join("release")
        .join(package))
}
