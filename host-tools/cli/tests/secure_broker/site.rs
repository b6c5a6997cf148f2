//! A Mosquitto that wants certificates.

use crate::common::certificates::{Authority, ExtendedKeyUsagePurpose};
use crate::common::process::{Running, free_ports};
use crate::common::{edgeward, model, run};
use crate::{BOARD_PASSWORD, HOST_PASSWORD};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A Mosquitto with three ports, and a home for the host.
pub struct Site {
    folder: tempfile::TempDir,
    /// TLS and a password.
    pub tls: u16,
    /// A password without TLS.
    pub plain: u16,
    /// TLS and a client's certificate.
    pub mutual: u16,
    pub mosquitto: Running,
}

impl Site {
    /// Nothing where there is no Mosquitto; a line says so.
    pub fn new() -> Option<Self> {
        let named = std::env::var_os("EDGEWARD_MOSQUITTO").map(PathBuf::from);
        let program = named.unwrap_or_else(|| "/usr/sbin/mosquitto".into());
        let passwords = Path::new("/usr/bin/mosquitto_passwd");
        if !program.exists() || !passwords.exists() {
            println!("skipped: no {} or mosquitto_passwd", program.display());
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        let authority = Authority::new("the site");
        authority.write(path, "ca");
        Authority::new("a stranger").write(path, "stranger");
        authority.sign(
            path,
            "server",
            &["localhost"],
            ExtendedKeyUsagePurpose::ServerAuth,
        );
        authority.sign(
            path,
            "client",
            &["host"],
            ExtendedKeyUsagePurpose::ClientAuth,
        );
        for (user, password) in [("host", HOST_PASSWORD), ("board", BOARD_PASSWORD)] {
            std::fs::write(path.join(format!("{user}.password")), password).expect("written");
        }
        std::fs::write(path.join("wrong.password"), "12345").expect("written");
        std::fs::write(
            path.join("passwords"),
            format!("host:{HOST_PASSWORD}\nboard:{BOARD_PASSWORD}\n"),
        )
        .expect("written");
        let hashed = Command::new(passwords)
            .arg("-U")
            .arg(path.join("passwords"))
            .status();
        assert!(hashed.expect("it runs").success());

        let [tls, plain, mutual] = free_ports();
        let config = settings(path, [tls, plain, mutual]);
        std::fs::write(path.join("mosquitto.conf"), config).expect("written");
        let mut command = Command::new(program);
        command.arg("-v").arg("-c").arg(path.join("mosquitto.conf"));
        let mosquitto = Running::start(&mut command);
        mosquitto.until_it_says("running");
        Some(Self {
            folder,
            tls,
            plain,
            mutual,
            mosquitto,
        })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        edgeward(self.folder.path(), args)
    }

    pub fn json(&self, args: &[&str]) -> Value {
        let mut command = self.command(args);
        let output = run(command.args(["-o", "json"]), 0);
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let last = text.lines().last().expect("output");
        serde_json::from_str(last).unwrap_or_else(|_| serde_json::from_str(&text).expect("JSON"))
    }

    /// A release of the motion model, signed.
    pub fn release(&self) {
        self.json(&["keys", "init"]);
        self.json(&["pack", &model("v1.toml"), "--out", "v1.bundle", "--sign"]);
    }

    /// Writes the host's `edgeward.toml`.
    pub fn configure(&self, lines: &str) {
        std::fs::write(self.path("edgeward.toml"), lines).expect("written");
    }

    /// Writes a board's `agent.toml`.
    pub fn configure_board(&self, broker: &str) {
        let text = format!(
            "fleet = 'default'\ndevice = 'board-1'\nflash = {{ bytes = 2097152 }}\n\
             [source]\nlisten = 'samples.sock'\n\
             [broker]\nkeep_alive_s = 5\nreconnect_max_s = 1\n{broker}"
        );
        std::fs::write(self.path("agent.toml"), text).expect("written");
    }

    pub fn board(&self) -> Running {
        Running::start(&mut self.command(&["agent", "--config", "agent.toml"]))
    }
}

fn settings(path: &Path, [tls, plain, mutual]: [u16; 3]) -> String {
    let path = path.display();
    let certificates =
        format!("cafile {path}/ca.pem\ncertfile {path}/server.pem\nkeyfile {path}/server.key\n");
    // As root, Mosquitto would become a user who may not read this folder.
    format!(
        "user root\nper_listener_settings true\nlog_dest stderr\nmax_queued_messages 0\n\
         listener {tls} 127.0.0.1\nallow_anonymous false\npassword_file {path}/passwords\n\
         {certificates}\
         listener {plain} 127.0.0.1\nallow_anonymous false\npassword_file {path}/passwords\n\
         listener {mutual} 127.0.0.1\nallow_anonymous true\nrequire_certificate true\n\
         {certificates}"
    )
}
