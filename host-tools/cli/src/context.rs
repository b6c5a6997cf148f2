//! What every command is given: settings, the home folder, and where to print.

use crate::Global;
use crate::config::Config;
use crate::output::{self, Out};
use std::path::PathBuf;

/// The surroundings of a command.
pub struct Context {
    /// The folder of keys and store.
    pub home: PathBuf,
    /// Where results and progress go.
    pub out: Out,
}

impl Context {
    /// Reads the settings in their order: command line, environment, file, defaults.
    pub fn new(global: &Global, config: &Config) -> Self {
        let home = global.home.clone().or_else(|| config.home.clone());
        let format = global.output.or(config.output);
        start_log(global.verbose, global.quiet);
        Self {
            home: home.unwrap_or_else(|| PathBuf::from(".edgeward")),
            out: Out::new(format.unwrap_or_default(), global.quiet),
        }
    }
}

/// Sends the log to stderr. `EDGEWARD_LOG` goes before the flags.
///
/// The embedded broker calls every client that hangs up an error; it is heard from `-v` on.
fn start_log(verbose: u8, quiet: bool) {
    let level = match (quiet, verbose) {
        (true, _) => "error,rumqttd=off",
        (false, 0) => "warn,rumqttd=off",
        (false, 1) => "info",
        (false, _) => "debug",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("EDGEWARD_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    // A second call (in tests) leaves the first subscriber in place, which is what we want.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(output::colour(&std::io::stderr()))
        .try_init();
}
