//! `edgeward agent`: the agent for Linux boards, run by the same program.
//!
//! Hidden, and taken before the other arguments are read: it has its own configuration file, its own
//! log, and no business with the host's keys and store. A site that installs one binary can run
//! boards with it; the demo does.

use edgeward::engine::pool::PoolAllocator;
use std::process::ExitCode;

/// Recycles what engines allocate, and counts what reaches the system; see `docs/ALLOCATION.md`.
#[global_allocator]
static ALLOCATOR: PoolAllocator = PoolAllocator::system();

/// Runs the agent when the first argument asks for it.
pub fn intercept() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1).peekable();
    if args.peek().is_none_or(|first| first != "agent") {
        return None;
    }
    Some(edgeward_firmware::linux::main_from_args(args))
}
