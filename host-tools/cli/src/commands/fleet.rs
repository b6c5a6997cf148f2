//! What the commands that deal with a running fleet have in common: broker, fleet, store, keys.

use crate::context::Context;
use anyhow::{Result, bail};
use edgeward::topic::is_name;
use edgeward_host::keys::KeyStore;
use edgeward_host::mqtt::Options;
use edgeward_host::store::Store;
use edgeward_host::store::sqlite::Sqlite;
use std::path::Path;
use std::sync::Arc;

/// Where the fleet is.
#[derive(Debug, Clone, clap::Args)]
pub struct Fleet {
    /// The fleet.
    #[arg(long, default_value = "default", env = "EDGEWARD_FLEET")]
    pub fleet: String,
    /// The broker, as host:port.
    #[arg(long, default_value = "127.0.0.1:1883", env = "EDGEWARD_BROKER")]
    pub broker: String,
}

impl Fleet {
    /// How to reach the broker, under a name that no other process has.
    pub fn mqtt(&self, role: &str) -> Result<Options> {
        if !is_name(&self.fleet) {
            bail!(
                "--fleet {:?}: 1 to 32 letters, digits, `-` and `_`",
                self.fleet
            );
        }
        let (host, port) = match self.broker.rsplit_once(':') {
            Some((host, port)) => match port.parse() {
                Ok(port) => (host, port),
                Err(_) => bail!(
                    "--broker {:?}: {port:?} is no port; write host:port",
                    self.broker
                ),
            },
            None => (self.broker.as_str(), 1883),
        };
        Ok(Options {
            client_id: format!("edgeward-{role}-{}", std::process::id()),
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            credentials: None,
        })
    }

    /// The host's memory.
    pub fn store(&self, context: &Context) -> Result<Arc<dyn Store>> {
        Ok(Arc::new(Sqlite::open(&store_path(&context.home))?))
    }

    /// The host's keys.
    pub fn keys(&self, context: &Context) -> KeyStore {
        KeyStore::at(&context.home)
    }
}

/// The store's file in the home folder.
pub fn store_path(home: &Path) -> std::path::PathBuf {
    home.join("store.db")
}
