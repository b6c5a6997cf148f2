//! `edgeward agent`: the agent for Linux boards, run by the same program.
//!
//! It has arguments, a configuration file and a log of its own, and no business with the host's keys and
//! store. A site that installs one binary can run boards with it; the demo does.

use edgeward::engine::pool::PoolAllocator;
use std::ffi::OsString;
use std::process::ExitCode;

/// Recycles what engines allocate, and counts what reaches the system; see `docs/ALLOCATION.md`.
#[global_allocator]
static ALLOCATOR: PoolAllocator = PoolAllocator::system();

/// The name of the command.
pub const NAME: &str = "agent";

/// Run a Linux board: fetch releases, answer samples, watch for drift, report.
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    disable_version_flag = true,
    after_help = "Example:\n  edgeward agent --config agent.toml --print-key\n  edgeward agent --config agent.toml\n\nIts options are its own: `edgeward agent --help`. docs/AGENT.md has the rest."
)]
pub struct Args {
    /// The agent's own arguments.
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "AGENT ARGS"
    )]
    rest: Vec<OsString>,
}

/// Runs the agent when the arguments begin with it, behind `-q` or `-v` at most: everything after that word
/// is the agent's, options that the host command has too among it.
pub fn intercept() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    let flags = ["-q", "--quiet", "-v", "-vv", "--verbose"];
    let command = args.find(|arg| flags.iter().all(|flag| arg != flag))?;
    (command == NAME).then(|| {
        let own = [OsString::from("edgeward agent")];
        edgeward_firmware::linux::main_from_args(own.into_iter().chain(args))
    })
}

/// The words behind `edgeward agent`, which [`intercept`] takes before they come here.
pub fn run(args: Args) -> ExitCode {
    let own = [OsString::from("edgeward agent")];
    edgeward_firmware::linux::main_from_args(own.into_iter().chain(args.rest))
}
