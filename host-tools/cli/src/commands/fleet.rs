//! What the commands that deal with a running fleet have in common: broker, fleet, store, keys.

use crate::context::Context;
use crate::exit::{Exit, Failure};
use anyhow::Result;
use edgeward::topic::is_name;
use edgeward_host::keys::KeyStore;
use edgeward_host::mqtt::{
    Address, Authority, Credentials, Options, Protocol, Tls, TlsConfig, certificates, load_tls,
};
use edgeward_host::store::Store;
use edgeward_host::store::sqlite::Sqlite;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The variable that may hold the password; no option does, since `ps` shows options to everybody.
const PASSWORD: &str = "EDGEWARD_BROKER_PASSWORD";

/// A name of a fleet or device.
pub fn name(text: &str) -> Result<String, String> {
    match is_name(text) {
        true => Ok(text.to_owned()),
        false => Err("no name: 1 to 32 letters, digits, `-` and `_`".to_owned()),
    }
}

/// Where the fleet is.
#[derive(Debug, Clone, clap::Args)]
pub struct Fleet {
    /// The fleet.
    #[arg(long, default_value = "default", env = "EDGEWARD_FLEET", value_parser = name)]
    pub fleet: String,
    #[command(flatten)]
    line: Line,
}

/// How to reach the broker.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Broker")]
struct Line {
    /// The broker: mqtt://host:port, or mqtts://host:port for TLS. `host:port` means mqtt; without a
    /// port it is 1883, or 8883 with TLS.
    #[arg(
        long,
        value_name = "URL",
        default_value = "127.0.0.1:1883",
        env = "EDGEWARD_BROKER"
    )]
    broker: String,
    /// Who signed the broker's certificate: a PEM file, or `system` for whom the operating system
    /// trusts [default with mqtts: system].
    #[arg(long, value_name = "FILE|system", env = "EDGEWARD_BROKER_CA")]
    broker_ca: Option<PathBuf>,
    /// The user name. The password comes from the variable EDGEWARD_BROKER_PASSWORD or from
    /// --broker-password-file, never from an option, which `ps` would show.
    #[arg(long, value_name = "NAME", env = "EDGEWARD_BROKER_USER")]
    broker_user: Option<String>,
    /// A file with the password in its first line. EDGEWARD_BROKER_PASSWORD goes before it.
    #[arg(long, value_name = "FILE", env = "EDGEWARD_BROKER_PASSWORD_FILE")]
    broker_password_file: Option<PathBuf>,
    /// This client's own certificate (PEM), where the broker asks for one; with --broker-key.
    #[arg(long, value_name = "FILE", env = "EDGEWARD_BROKER_CERT")]
    broker_cert: Option<PathBuf>,
    /// The private key of --broker-cert (PEM).
    #[arg(long, value_name = "FILE", env = "EDGEWARD_BROKER_KEY")]
    broker_key: Option<PathBuf>,
    /// Versions of MQTT: `auto` tries 5 first and takes 3.1.1 where the broker has no 5; `5` or
    /// `3.1.1` for that one only.
    #[arg(
        long,
        value_name = "VERSION",
        default_value_t,
        env = "EDGEWARD_BROKER_PROTOCOL"
    )]
    broker_protocol: Protocol,
}

/// How long a command waits for the broker.
#[derive(Debug, Clone, clap::Args)]
pub struct Wait {
    /// Seconds that the broker may take; after them the exit code is 5.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = seconds(0))]
    pub timeout: u64,
}

impl Wait {
    /// The time.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

/// A hundred years.
const MAX_SECONDS: u64 = 100 * 366 * 86_400;

/// A time in seconds, `least` at least; no longer than clocks can count.
pub fn seconds(least: u64) -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(least..=MAX_SECONDS)
}

const PEM: &str = "it is a PEM file with the certificate of whoever signed the broker's";

fn usage(what: impl Into<String>, next: &str) -> anyhow::Error {
    Failure::new(Exit::Usage, what).next(next).into()
}

impl Line {
    fn address(&self) -> Result<Address> {
        let parsed: Result<Address, _> = self.broker.parse();
        // What it says may hold a password, so only the reason is repeated.
        parsed.map_err(|error| Failure::new(Exit::Usage, format!("--broker: {error}")).into())
    }

    fn tls(&self, address: &Address) -> Result<Option<Arc<TlsConfig>>> {
        if !address.tls {
            if self.broker_ca.is_some() || self.broker_cert.is_some() || self.broker_key.is_some() {
                return Err(usage(
                    format!("{address} is a line without TLS, yet certificates are given for it"),
                    "write mqtts://, or leave the certificates out",
                ));
            }
            return Ok(None);
        }
        let ca = self.broker_ca.clone().map(Authority::from);
        let tls = Tls {
            ca: ca.unwrap_or(Authority::System),
            cert: self.broker_cert.clone(),
            key: self.broker_key.clone(),
        };
        let loaded = load_tls(&tls).map_err(|error| {
            let what = format!("TLS to {address}: {error}");
            usage(
                what,
                "--broker-ca, --broker-cert and --broker-key name the files",
            )
        })?;
        Ok(Some(loaded))
    }

    /// Who may have signed the broker's certificate, in DER, for boards that have no list of their own and
    /// no certificate.
    fn authorities(&self) -> Result<Option<Vec<Vec<u8>>>> {
        if !self.address()?.tls {
            return Ok(None);
        }
        if self.broker_cert.is_some() || self.broker_key.is_some() {
            return Err(usage(
                "microcontrollers show no certificate of their own",
                "leave --broker-cert and --broker-key out; a user name and a password will do",
            ));
        }
        let Some(Authority::File(path)) = self.broker_ca.clone().map(Authority::from) else {
            return Err(usage(
                "microcontrollers have no list of authorities",
                "name the file with the certificate of whoever signed the broker's: --broker-ca FILE",
            ));
        };
        let found =
            certificates(&path).map_err(|error| usage(format!("--broker-ca {error}"), PEM))?;
        Ok(Some(found.iter().map(|it| it.to_vec()).collect()))
    }

    fn credentials(&self) -> Result<Option<Credentials>> {
        let given = std::env::var_os(PASSWORD);
        let Some(user) = &self.broker_user else {
            if given.is_some() || self.broker_password_file.is_some() {
                let what = "there is a password for the broker, and no user name";
                return Err(usage(what, "set --broker-user or EDGEWARD_BROKER_USER"));
            }
            return Ok(None);
        };
        if let Some(given) = given {
            let Ok(password) = given.into_string() else {
                return Err(usage(
                    format!("{PASSWORD} is not UTF-8"),
                    "use a password file",
                ));
            };
            return Ok(Some(Credentials::new(user, password)));
        }
        let Some(path) = &self.broker_password_file else {
            return Err(usage(
                format!("no password for the broker's user {user}"),
                "set EDGEWARD_BROKER_PASSWORD, or name a file with --broker-password-file",
            ));
        };
        let read = Credentials::from_file(user, path);
        let read = read.map_err(|error| {
            let what = format!("the password file {}: {error}", path.display());
            Failure::new(Exit::Usage, what)
        })?;
        Ok(Some(read))
    }
}

impl Fleet {
    /// Where the broker is, for people.
    pub fn broker(&self) -> &str {
        &self.line.broker
    }

    /// How to reach the broker, under a name that no other process has.
    pub fn mqtt(&self, role: &str) -> Result<Options> {
        if !is_name(&self.fleet) {
            let what = format!("--fleet {:?}: no name", self.fleet);
            return Err(usage(what, "use 1 to 32 letters, digits, `-` and `_`"));
        }
        let address = self.line.address()?;
        let options = Options {
            protocol: self.line.broker_protocol,
            credentials: self.line.credentials()?,
            tls: self.line.tls(&address)?,
            ..Options::new(client_id(role), address.host.clone(), address.port)
        };
        if options.credentials.is_some() && options.tls.is_none() && !is_here(&address.host) {
            tracing::warn!(broker = %address, "the password crosses the network unencrypted; use mqtts://");
        }
        Ok(options)
    }

    /// Who may have signed the broker's certificate, as microcontrollers are told: certificates in DER;
    /// none for a line without TLS.
    pub fn authorities(&self) -> Result<Option<Vec<Vec<u8>>>> {
        self.line.authorities()
    }

    /// The host's memory, to be changed; made at first use.
    pub fn store(&self, context: &Context) -> Result<Arc<dyn Store>> {
        Ok(Arc::new(Sqlite::open(&store_path(&context.home))?))
    }

    /// The host's keys.
    pub fn keys(&self, context: &Context) -> KeyStore {
        KeyStore::at(&context.home)
    }
}

/// Reads the host's memory and leaves it as it is; an error where there is none.
pub fn look<T>(context: &Context, look: impl FnMut(&dyn Store) -> Result<T>) -> Result<T> {
    look_if_any(context, look)?.ok_or_else(|| {
        let what = format!("there is no store in {}", context.home.display());
        Failure::new(Exit::Error, what)
            .next("`edgeward device enroll` and `edgeward serve` make one; --home names another folder")
            .into()
    })
}

/// As [`look`]; `None` where there is none yet.
pub fn look_if_any<T>(
    context: &Context,
    look: impl FnMut(&dyn Store) -> Result<T>,
) -> Result<Option<T>> {
    edgeward_host::store::look(&store_path(&context.home), look)
}

/// As [`look`]; where there is none yet, at one in which nothing is.
pub fn look_or_empty<T>(
    context: &Context,
    mut look: impl FnMut(&dyn Store) -> Result<T>,
) -> Result<T> {
    match look_if_any(context, &mut look)? {
        Some(seen) => Ok(seen),
        None => look(&Sqlite::in_memory()?),
    }
}

/// A name at the broker that no other process has: one of its own throws off whoever has it already.
/// Numbers of processes would not do, since each container counts its own from 1.
fn client_id(role: &str) -> String {
    // The system seeds RandomState, which is all the randomness that is needed here.
    let random = RandomState::new().hash_one(std::process::id());
    format!("edgeward-{role}-{random:016x}")
}

/// Whether a host is this machine.
fn is_here(host: &str) -> bool {
    let address: Result<IpAddr, _> = host.parse();
    address.map_or(host == "localhost", |address| address.is_loopback())
}

/// The store's file in the home folder.
pub fn store_path(home: &Path) -> PathBuf {
    home.join("store.db")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        fleet: Fleet,
    }

    fn options(args: &[&str]) -> Result<Options> {
        let line = Line::parse_from([&["test"], args].concat());
        line.fleet.mqtt("test")
    }

    fn error(args: &[&str]) -> String {
        format!("{:#}", options(args).expect_err("an error"))
    }

    #[test]
    fn an_address_is_a_url_or_a_host_and_a_port() {
        let plain = options(&["--broker", "site:99"]).expect("options");
        assert_eq!((plain.host.as_str(), plain.port), ("site", 99));
        assert!(plain.tls.is_none() && plain.credentials.is_none());
        let said = error(&["--broker", "mqtt://ali:sesame@site"]);
        assert!(said.contains("EDGEWARD_BROKER_PASSWORD") && !said.contains("sesame"));
    }

    #[test]
    fn halves_are_refused_and_files_are_named() {
        let said = error(&["--broker-ca", "ca.pem"]);
        assert!(said.contains("without TLS"), "{said}");
        let said = error(&["--broker", "mqtts://site", "--broker-ca", "absent.pem"]);
        assert!(said.contains("absent.pem"), "{said}");
        let said = error(&["--broker-user", "ali"]);
        assert!(said.contains("no password"), "{said}");
        let said = error(&["--broker-password-file", "absent"]);
        assert!(said.contains("no user name"), "{said}");
        let said = error(&["--broker-user", "ali", "--broker-password-file", "absent"]);
        assert!(said.contains("absent"), "{said}");
    }

    #[test]
    fn each_client_has_a_name_of_its_own() {
        // As two processes of the same number have, in a container each.
        let names = [(); 2].map(|()| options(&[]).expect("options").client_id);
        assert_ne!(names[0], names[1]);
        assert!(names.iter().all(|name| name.starts_with("edgeward-test-")));
    }

    #[test]
    fn this_machine_is_known() {
        assert!(is_here("localhost") && is_here("127.0.0.1") && is_here("::1"));
        assert!(!is_here("site") && !is_here("10.0.0.1"));
    }
}
