//! `edgeward-agent`: the agent for Linux boards.

use edgeward::engine::pool::PoolAllocator;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: PoolAllocator = PoolAllocator::system();

fn main() -> ExitCode {
    edgeward_firmware::linux::main_from_args(std::env::args_os())
}
