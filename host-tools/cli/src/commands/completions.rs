//! `edgeward completions`.

use crate::context::Context;
use crate::exit::Exit;
use clap::CommandFactory;
use clap_complete::Shell;

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  edgeward completions bash > ~/.local/share/bash-completion/completions/edgeward\n\nPrints the script. Changes nothing."
)]
pub struct Args {
    /// The shell.
    shell: Shell,
}

/// Prints the script.
pub fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut crate::Cli::command(),
        "edgeward",
        &mut script,
    );
    context.out.raw(&script)?;
    Ok(Exit::Ok)
}
