//! Builds for later stages beside one that mostly waits.
//!
//! Half of the tests' time is spent in waiting for brokers, boards and clocks. What later stages will want built
//! is built meanwhile, at the lowest priority. A later stage runs the same build again and finds it done; one
//! that failed here fails there, in sight.

use anyhow::{Context, Result};
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};

/// Builds that are under way.
pub struct Ahead(JoinHandle<()>);

impl Ahead {
    /// Begins to build, one after the other; what they print goes to `target/ahead.log`.
    ///
    /// # Errors
    /// When there is no log.
    pub fn start(root: &Path, builds: Vec<Command>) -> Result<Self> {
        let path = root.join("target/ahead.log");
        let log = File::create(&path).with_context(|| path.display().to_string())?;
        let work = move || {
            for build in builds {
                let (Ok(out), Ok(err)) = (log.try_clone(), log.try_clone()) else {
                    return;
                };
                let mut build = patient(&build);
                // The stage that wants it says what is wrong with it.
                let _ = build.stdin(Stdio::null()).stdout(out).stderr(err).status();
            }
        };
        Ok(Self(thread::spawn(work)))
    }

    /// Waits until all are built.
    pub fn wait(self) {
        // A panic there has been printed, and the stage builds for itself.
        let _ = self.0.join();
    }
}

/// The same command at the lowest priority.
fn patient(command: &Command) -> Command {
    let mut patient = Command::new("nice");
    patient.args(["-n", "19"]).arg(command.get_program());
    patient.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => patient.env(name, value),
            None => patient.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        patient.current_dir(folder);
    }
    patient
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cargo;

    #[test]
    fn a_patient_command_is_the_same_command() {
        let mut command = cargo(Path::new("/"));
        command.args(["build", "--release"]).env("A", "b");
        let patient = patient(&command);
        let words: Vec<_> = patient.get_args().collect();
        assert_eq!(words, ["-n", "19", "cargo", "build", "--release"]);
        assert_eq!(patient.get_current_dir(), Some(Path::new("/")));
        let envs: Vec<_> = patient.get_envs().collect();
        assert!(envs.contains(&("A".as_ref(), Some("b".as_ref()))));
        assert!(envs.contains(&("RUSTUP_TOOLCHAIN".as_ref(), None)));
    }
}
