//! `edgeward completions`.

use crate::context::Context;
use crate::exit::Exit;
use crate::output::Format;
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
    match context.out.format() {
        Format::Table => context.out.raw(&script)?,
        Format::Json => {
            let script = String::from_utf8(script)?;
            let value = serde_json::json!({ "shell": args.shell.to_string(), "script": script });
            context.out.emit(&value, |_, _| Ok(()))?;
        }
    }
    Ok(Exit::Ok)
}
