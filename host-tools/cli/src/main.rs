//! `edgeward`, the host command: everything a person does with models, releases and boards.
//!
//! A command group is a file in `commands/`. To add one: a file with its clap arguments and a
//! `run(args, &Context) -> anyhow::Result<Exit>`, a variant in [`Command`], a line in [`dispatch`].

mod agent;
mod commands;
mod config;
mod context;
mod exit;
mod output;

use clap::{Parser, Subcommand};
use commands::completions;
use context::Context;
use exit::Exit;
use std::path::PathBuf;
use std::process::ExitCode;

const AFTER_HELP: &str = "\
Your own model in four commands:
  edgeward keys init
  edgeward import model.onnx
  edgeward pack model.toml -o model.bundle --sign
  edgeward eval model.bundle --data test.csv

Exit codes: 0 ok, 1 error, 2 usage, 3 refused by policy (signature, downgrade, wrong board, golden
mismatch, skew), 4 aborted or rolled back, 5 timed out, 6 partly done.

Settings come from the command line, then EDGEWARD_* variables, then `edgeward.toml`.";

/// Packs models for edge boards, releases them, and watches that they stay right.
#[derive(Debug, Parser)]
#[command(name = "edgeward", version, after_help = AFTER_HELP, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, clap::Args)]
struct Global {
    /// How results are printed on stdout.
    #[arg(short, long, global = true, value_enum, env = "EDGEWARD_OUTPUT")]
    output: Option<output::Format>,
    /// The folder of keys and store [default: ./.edgeward].
    #[arg(long, global = true, value_name = "DIR", env = "EDGEWARD_HOME")]
    home: Option<PathBuf>,
    /// The configuration file [default: edgeward.toml of this folder, if there is one].
    #[arg(long, global = true, value_name = "FILE", env = "EDGEWARD_CONFIG")]
    config: Option<PathBuf>,
    /// Say more on stderr; twice for more.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Say nothing on stderr but errors.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print a script that completes this command in a shell.
    Completions(completions::Args),
}

fn dispatch(command: Command, context: &Context) -> anyhow::Result<Exit> {
    match command {
        Command::Completions(args) => completions::run(&args, context),
    }
}

fn main() -> ExitCode {
    if let Some(ended) = agent::intercept() {
        return ended;
    }
    let cli = Cli::parse();
    let context = match Context::new(&cli.global) {
        Ok(context) => context,
        Err(error) => {
            let format = cli.global.output.unwrap_or_default();
            return exit::report(&error, format, Exit::Usage).into();
        }
    };
    match dispatch(cli.command, &context) {
        Ok(exit) => exit.into(),
        Err(error) => exit::report(&error, context.out.format(), Exit::Error).into(),
    }
}
