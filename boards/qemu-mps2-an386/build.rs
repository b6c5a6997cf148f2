//! Makes constants and the linker's memory map of `board.toml`.

fn main() {
    edgeward_board_build::run("");
}
