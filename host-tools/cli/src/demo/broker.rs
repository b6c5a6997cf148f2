//! The demo's broker, a process that goes and comes back.

use anyhow::{Context, Result};
use edgeward_host::broker::wait_for;
use edgeward_host::mqtt::Options as MqttOptions;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The broker's process.
pub struct BrokerProcess {
    command: Vec<String>,
    address: SocketAddr,
    /// Where it speaks MQTT 5, which is all that microcontrollers do; none where nobody asked for it.
    pub for_microcontrollers: Option<SocketAddr>,
    child: Option<Child>,
}

impl BrokerProcess {
    /// Starts the embedded broker, or Mosquitto when a path is given.
    pub fn start(folder: &Path, mosquitto: Option<&Path>, microcontrollers: bool) -> Result<Self> {
        let [port, another] = free_ports()?;
        let mut port_v5 = port;
        let command = match mosquitto {
            None => {
                let me = std::env::current_exe()?;
                let mut command = vec![
                    me.display().to_string(),
                    "broker".into(),
                    "--port".into(),
                    port.to_string(),
                ];
                if microcontrollers {
                    port_v5 = another;
                    command.extend(["--port-v5".into(), port_v5.to_string()]);
                }
                command
            }
            Some(path) => {
                let config = folder.join("mosquitto.conf");
                let text = format!(
                    "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n\
                     max_queued_messages 0\nlog_dest none\n"
                );
                std::fs::write(&config, text)?;
                vec![
                    path.display().to_string(),
                    "-c".into(),
                    config.display().to_string(),
                ]
            }
        };
        let at = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut broker = Self {
            command,
            address: at(port),
            for_microcontrollers: microcontrollers.then(|| at(port_v5)),
            child: None,
        };
        broker.up()?;
        Ok(broker)
    }

    /// Starts the process, after [`BrokerProcess::down`] too.
    pub fn up(&mut self) -> Result<()> {
        let child = Command::new(&self.command[0])
            .args(&self.command[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {}", self.command[0]))?;
        self.child = Some(child);
        for address in [Some(self.address), self.for_microcontrollers] {
            address.map_or(Ok(()), |it| wait_for(it, Duration::from_secs(10)))?;
        }
        Ok(())
    }

    /// Its port for everybody who speaks either version.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// How the host reaches it.
    pub fn mqtt(&self, client_id: &str) -> MqttOptions {
        let (host, port) = (self.address.ip().to_string(), self.address.port());
        MqttOptions::new(client_id, host, port)
    }

    /// Kills the process; a broker that keeps nothing on disk forgets everything.
    pub fn down(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for BrokerProcess {
    fn drop(&mut self) {
        // The process may be gone already, and nobody is left to be told.
        let _ = self.down();
    }
}

/// Two of them, which are not the same: both are held until both are known.
fn free_ports() -> Result<[u16; 2]> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let (one, other) = (bind()?, bind()?);
    Ok([one.local_addr()?.port(), other.local_addr()?.port()])
}
