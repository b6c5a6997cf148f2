//! The agent's command line, for its own binary and for the host command.

use super::config::Config;
use super::key;
use anyhow::{Context, Result};
use clap::Parser;
use edgeward::trust::Signer;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tracing_subscriber::EnvFilter;

/// Runs a board: fetches releases, answers samples, watches for drift and reports.
#[derive(Debug, Parser)]
#[command(name = "edgeward-agent", version)]
pub struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Print the device's public key (made if there is none yet) and end.
    #[arg(long)]
    pub print_key: bool,
}

/// Runs the agent as a program: parses `args` (the first is the program's name), logs to stderr,
/// stops in good order on SIGTERM and SIGINT.
pub fn main_from_args<I, T>(args: I) -> ExitCode
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => {
            // Where stderr is gone there is nobody to tell.
            let _ = error.print();
            return ExitCode::from(error.exit_code().clamp(0, 255) as u8);
        }
    };
    main(&args)
}

/// Runs the agent as a program, its arguments parsed.
#[must_use]
pub fn main(args: &Args) -> ExitCode {
    match work(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("edgeward-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn work(args: &Args) -> Result<()> {
    let config = Config::load(&args.config)?;
    if args.print_key {
        let key = key::load_or_create(&config.key)?.public_key();
        println!("{}", super::stats::hex(&key.0));
        return Ok(());
    }
    let filter = EnvFilter::try_new(&config.log).context("log: not a filter")?;
    let logging = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
    if logging.is_err() {
        tracing::debug!("logging is set up already");
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        // A second signal ends the process at once.
        signal_hook::flag::register_conditional_shutdown(signal, 1, stop.clone())?;
        signal_hook::flag::register(signal, stop.clone())?;
    }
    super::run(&config, &stop)
}
