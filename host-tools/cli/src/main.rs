//! `edgeward`, the host command: everything a person does with models, releases and boards.
//!
//! A command group is a file in `commands/`. To add one: a file with its clap arguments and a
//! `run(args, &Context) -> anyhow::Result<Exit>`, a variant in [`Command`], a line in [`dispatch`].

mod agent;
mod boards;
mod commands;
mod config;
mod context;
mod demo;
mod exit;
mod output;
mod stop;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use commands::{
    board, broker, completions, device, eval, flash, import, inspect, keys, logs, pack, publish,
    quantize, record, rollout, serve, watch,
};
use config::Config;
use context::Context;
use exit::Exit;
use output::Format;
use std::path::PathBuf;
use std::process::ExitCode;

const AFTER_HELP: &str = "\
Your own model in four commands:
  edgeward keys init
  edgeward import model.onnx
  edgeward pack model.toml --out model.bundle --sign
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
    /// How results are printed on stdout [default: table].
    #[arg(
        short,
        long,
        global = true,
        value_name = "table|json",
        env = "EDGEWARD_OUTPUT",
        value_parser = output::format_of
    )]
    output: Option<Format>,
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
    /// Show the whole loop on this machine: three boards, a broker, a collector, updates, failures.
    Demo(demo::Args),
    /// Say what a model is, and which boards can run it.
    Import(import::Args),
    /// Make an int8 ONNX model of a float one, calibrated with some of its inputs.
    Quantize(quantize::Args),
    /// Measure the profile of a model's training data.
    Profile(pack::ProfileArgs),
    /// Pack a model with its profile, policy and golden vectors into a bundle.
    Pack(pack::PackArgs),
    /// Sign a bundle with the release keys at hand.
    Sign(pack::SignArgs),
    /// Check a bundle as a board does.
    Verify(pack::VerifyArgs),
    /// Show what a bundle holds, who signed it, and why a board would refuse it.
    Inspect(inspect::Args),
    /// Stream labelled recordings through a release as a board does, and say how it did.
    Eval(eval::EvalArgs),
    /// Predict from a file or from stdin.
    Run(eval::RunArgs),
    /// Make, list, rotate, revoke and export keys.
    Keys(keys::Args),
    /// Enroll, list, show and forget boards.
    Device(device::Args),
    /// List the microcontroller boards, and begin one of your own.
    Board(board::Args),
    /// Build a microcontroller board's firmware, provision the board, and start it.
    Flash(flash::Args),
    /// Show what a microcontroller board logs.
    Logs(logs::Args),
    /// Put a signed bundle's chunks onto the broker.
    Publish(publish::Args),
    /// Bring a release to the fleet in phases, and see how far it is.
    #[command(subcommand)]
    Rollout(rollout::Command),
    /// Send old content to the whole fleet as a new release.
    Rollback(rollout::Rollback),
    /// Follow what boards report.
    Watch(watch::Args),
    /// Pull and show flight records: the last inputs, outputs and events of a board.
    Record(record::Args),
    /// Run recorded inputs again on this machine, and compare every output with the board's.
    Replay(record::ReplayArgs),
    /// Collect, acknowledge, drive rollouts, serve dashboard and metrics.
    Serve(serve::Args),
    /// Run the embedded MQTT broker.
    Broker(broker::Args),
    /// Run a Linux board: fetch releases, answer samples, watch for drift, report.
    Agent(agent::Args),
    /// Print a script that completes this command in a shell.
    Completions(completions::Args),
}

fn dispatch(command: Command, context: &Context) -> anyhow::Result<ExitCode> {
    let exit = match command {
        Command::Agent(args) => return Ok(agent::run(args)),
        Command::Demo(args) => demo::run(&args, context),
        Command::Board(args) => board::run(&args, context),
        Command::Flash(args) => flash::run(&args, context),
        Command::Logs(args) => logs::run(&args, context),
        Command::Publish(args) => publish::run(&args, context),
        Command::Rollout(command) => rollout::run(&command, context),
        Command::Rollback(args) => rollout::rollback(&args, context),
        Command::Watch(args) => watch::run(&args, context),
        Command::Serve(args) => serve::run(&args, context),
        Command::Broker(args) => broker::run(&args, context),
        Command::Import(args) => import::run(&args, context),
        Command::Quantize(args) => quantize::run(&args, context),
        Command::Profile(args) => pack::run_profile(&args, context),
        Command::Pack(args) => pack::run(args, context),
        Command::Sign(args) => pack::run_sign(&args, context),
        Command::Verify(args) => pack::run_verify(&args, context),
        Command::Inspect(args) => inspect::run(&args, context),
        Command::Eval(args) => eval::run_eval(&args, context),
        Command::Run(args) => eval::run(&args, context),
        Command::Keys(args) => keys::run(args, context),
        Command::Device(args) => device::run(args, context),
        Command::Record(args) => record::run(&args, context),
        Command::Replay(args) => record::run_replay(&args, context),
        Command::Completions(args) => completions::run(&args, context),
    }?;
    Ok(exit.into())
}

fn main() -> ExitCode {
    if let Some(ended) = agent::intercept() {
        return ended;
    }
    let mut cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    let config = match Config::load(cli.global.config.as_deref()) {
        Ok(config) => config,
        Err(error) => {
            let format = cli.global.output.unwrap_or_default();
            return exit::report(&error, format, Exit::Usage).into();
        }
    };
    if let Some(command) = config.defaults(Cli::command()) {
        // The arguments once more, now that the defaults are known.
        cli = match parsed(command) {
            Ok(cli) => cli,
            Err(error) => return misused(&error),
        };
    }
    let context = Context::new(&cli.global, &config);
    match dispatch(cli.command, &context) {
        Ok(code) => code,
        Err(error) => exit::report(&error, context.out.format(), Exit::Error).into(),
    }
}

fn parsed(command: clap::Command) -> Result<Cli, clap::Error> {
    Cli::from_arg_matches(&command.try_get_matches()?)
}

/// Prints what is wrong with the arguments, or the help or version that was asked for. Where JSON was
/// asked for, what is wrong is JSON too.
fn misused(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() || !output::json_is_asked_for(std::env::args_os()) {
        // Nobody can be told when this fails.
        let _ = error.print();
        return u8::try_from(error.exit_code()).map_or(Exit::Usage.into(), ExitCode::from);
    }
    let text = error.to_string();
    // What follows is the usage, which people read with --help.
    let lines = text.lines().map(str::trim);
    let lines =
        lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let what: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    let what = what.join(" ");
    let what = what.strip_prefix("error: ").unwrap_or(&what);
    let next = "`edgeward --help` and `edgeward COMMAND --help` show how it is asked";
    exit::tell(what, Some(next), Format::Json, Exit::Usage);
    Exit::Usage.into()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }

    /// Every command that has none below it, by its words.
    fn leaves(command: &clap::Command, words: &str, found: &mut Vec<(String, String)>) {
        let words = format!("{words}{}", command.get_name());
        if command.has_subcommands() {
            let below = command.get_subcommands().filter(|c| !c.is_hide_set());
            below.for_each(|below| leaves(below, &format!("{words} "), found));
        } else {
            let help = command.get_after_help().map(ToString::to_string);
            found.push((words, help.unwrap_or_default()));
        }
    }

    #[test]
    fn every_command_has_an_example_that_it_understands() {
        let mut found = Vec::new();
        leaves(&super::Cli::command(), "", &mut found);
        assert!(found.len() > 20, "{found:?}");
        for (words, help) in found {
            let examples: Vec<&str> = help
                .lines()
                .filter(|line| line.starts_with("  "))
                .flat_map(|line| line.split(['|', '#', '>']))
                .map(str::trim)
                .filter(|part| part.starts_with(&words))
                .collect();
            assert!(
                help.contains("Example") && !examples.is_empty(),
                "`{words}` has no example in {help:?}"
            );
            for example in examples {
                let parsed = super::Cli::command().try_get_matches_from(example.split(' '));
                let error = parsed.err().map(|error| error.to_string());
                assert_eq!(error, None, "{example}");
            }
        }
    }

    #[test]
    fn every_command_has_a_dry_run_or_says_that_it_changes_nothing() {
        fn check(command: &clap::Command, words: &str) {
            let words = format!("{words} {}", command.get_name());
            let below = command.get_subcommands().filter(|c| !c.is_hide_set());
            below.for_each(|below| check(below, &words));
            // A board's own program has nothing to rehearse.
            if command.has_subcommands() || command.get_name() == super::agent::NAME {
                return;
            }
            let has = command.get_arguments().any(|arg| arg.get_id() == "dry_run");
            let help = command.get_after_help().map(ToString::to_string);
            let says = help.is_some_and(|help| help.contains("Changes nothing"));
            assert!(has != says, "`{words}`: {has} and {says}");
        }
        check(&super::Cli::command(), "");
    }

    #[test]
    fn hosts_and_boards_agree_on_the_largest_model() {
        assert_eq!(edgeward_host::MAX_FEATURES, edgeward_firmware::MAX_FEATURES);
        assert_eq!(edgeward_host::MAX_OUTPUTS, edgeward_firmware::MAX_OUTPUTS);
    }
}
