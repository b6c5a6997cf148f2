//! Exit codes, and errors that choose one.

use crate::output::Format;
use edgeward_host::keys::KeyError;
use edgeward_host::mqtt::Failure::{
    Authority, ClientCertificate, Credentials, NotAuthorized, Silent, Unreachable,
};
use edgeward_host::mqtt::MqttError;
use edgeward_host::store::StoreError;
use std::process::ExitCode;
use std::{fmt, io};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All is well.
    Ok = 0,
    /// It failed.
    Error = 1,
    /// It was asked wrongly.
    Usage = 2,
    /// A policy refused it: signature, downgrade, wrong board, golden mismatch, skew.
    Refused = 3,
    /// It was aborted or rolled back.
    Aborted = 4,
    /// It took too long.
    TimedOut = 5,
    /// Some of it was done.
    Partly = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error that ends the command with a code of its own, and says what to do next.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    what: String,
    next: Option<String>,
}

impl Failure {
    /// Ends with `exit`; `what` says what was wrong, and where.
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self {
            exit,
            what: what.into(),
            next: None,
        }
    }

    /// Says what to do next.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failure {}

/// Prints an error on stderr, as text or as one JSON object, and says how to exit: as the error
/// chose, as timed out when the broker took too long, else with `default`.
pub fn report(error: &anyhow::Error, format: Format, default: Exit) -> Exit {
    let failure = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<Failure>());
    let timed_out = error
        .chain()
        .any(|cause| matches!(cause.downcast_ref(), Some(MqttError::Timeout { .. })));
    let default = if timed_out { Exit::TimedOut } else { default };
    let exit = failure.map_or(default, |failure| failure.exit);
    let next = failure
        .and_then(|failure| failure.next.as_deref())
        .or_else(|| error.chain().find_map(advice));
    tell(&words(error.as_ref()), next, format, exit);
    exit
}

/// An error and its causes in one line. Some say their cause in their own words already; it is said once.
pub fn words(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        // Some end with a new line, which whoever repeats them leaves out.
        if !text.contains(said.trim_end()) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = cause.source();
    }
    text
}

/// Prints what was wrong and what to do next on stderr.
pub fn tell(text: &str, next: Option<&str>, format: Format, exit: Exit) {
    match format {
        Format::Json => {
            let object = serde_json::json!({ "error": text, "next": next, "exit": exit as u8 });
            eprintln!("{object}");
        }
        Format::Table => {
            eprintln!("error: {text}");
            if let Some(next) = next {
                eprintln!("next: {next}");
            }
        }
    }
}

/// What to do about errors that a first try meets in any command.
fn advice(cause: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    match cause.downcast_ref() {
        Some(MqttError::Timeout { failure, .. }) => {
            return Some(match failure {
                None | Some(Unreachable(_) | Silent) => {
                    "is it running? `edgeward serve --with-broker` holds one; --broker names another"
                }
                Some(failure) => failure.advice(),
            });
        }
        Some(MqttError::NoConnection { failure, .. }) => {
            return Some(match failure {
                Authority => {
                    "name the certificate of the authority that signed the broker's with --broker-ca FILE (or `system`)"
                }
                Credentials => {
                    "check --broker-user, EDGEWARD_BROKER_PASSWORD and --broker-password-file"
                }
                NotAuthorized => {
                    "give --broker-user and a password if there are none; or the broker's access list keeps this client out"
                }
                ClientCertificate(_) => {
                    "give --broker-cert and --broker-key that the broker's authority signed"
                }
                failure => failure.advice(),
            });
        }
        Some(MqttError::Refused { .. }) => {
            return Some("let the broker's access list (acl_file in Mosquitto) permit it");
        }
        None => {}
    }
    if let Some(error) = cause.downcast_ref() {
        return key_advice(error);
    }
    match cause.downcast_ref().map(io::Error::kind) {
        Some(io::ErrorKind::NotFound) => {
            return Some("is the path right? it counts from the present folder");
        }
        Some(io::ErrorKind::PermissionDenied) => {
            return Some("give this user the right to it, or name another file");
        }
        _ => {}
    }
    match cause.downcast_ref() {
        Some(StoreError::RolloutExists(_)) => Some("name this one otherwise with --id"),
        Some(StoreError::Open { .. }) => Some("may this user read it? --home names another folder"),
        _ => None,
    }
}

/// What to do about an error of the folder of keys.
fn key_advice(error: &KeyError) -> Option<&'static str> {
    Some(match error {
        KeyError::NoRoot(_) => "make keys with `edgeward keys init`, or point --home to them",
        KeyError::Exists(_) => "`edgeward keys list` shows them; --home makes others elsewhere",
        KeyError::TooFew { .. } => {
            "bring the private keys (*.p8) back into that folder for this step, or let those who have them sign one after the other (`edgeward sign`; `edgeward keys rotate --partial`)"
        }
        KeyError::NoSuchKey(_) => "`edgeward keys list` shows the keys",
        KeyError::NotNew(_) | KeyError::TooMany { .. } => {
            "each who shall hold a key makes a new one with `edgeward keys make`; give those with --public"
        }
        KeyError::Needed { .. } => "add --replace, which makes a new key in its place",
        KeyError::Root { .. } => "restore the folder from a copy: this root was changed",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn a_missing_folder_of_keys_is_advised_on_wherever_it_is_met() {
        let missing: Result<(), _> = Err(KeyError::NoRoot("keys".into()));
        let error = missing.context("v1.bundle").expect_err("an error");
        let found = error.chain().find_map(advice);
        assert!(found.is_some_and(|next| next.contains("keys init")));
        let other = anyhow::anyhow!("no such file");
        assert_eq!(other.chain().find_map(advice), None);
    }

    #[test]
    fn a_cause_is_said_once() {
        let twice = anyhow::anyhow!("cut short").context("not a bundle: cut short");
        let error = twice.context("v1.bundle");
        assert_eq!(words(error.as_ref()), "v1.bundle: not a bundle: cut short");
        let repeated = anyhow::anyhow!("no key `a`\n").context("m.toml: no key `a`");
        assert_eq!(words(repeated.as_ref()), "m.toml: no key `a`");
    }
}
