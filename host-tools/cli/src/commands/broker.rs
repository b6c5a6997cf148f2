//! `edgeward broker`: the embedded broker as a process.

use crate::context::Context;
use crate::exit::Exit;
use anyhow::Result;
use edgeward_host::broker::{Options, start};
use std::net::IpAddr;

/// Run the embedded MQTT broker until it is stopped. It keeps everything in memory; a site runs
/// Mosquitto.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  edgeward broker\n  edgeward broker --port 0 -o json   # a free port, printed"
)]
pub struct Args {
    /// Where to listen. Anything but loopback opens the broker to the network, without passwords.
    #[arg(long, default_value = "127.0.0.1")]
    address: IpAddr,
    /// Port for MQTT 3.1.1; 0 for a free one.
    #[arg(long, default_value_t = 1883)]
    port: u16,
    /// Port for MQTT 5 as well; 0 for a free one.
    #[arg(long)]
    port_v5: Option<u16>,
}

/// Runs it.
pub fn run(args: &Args, context: &Context) -> Result<Exit> {
    let options = Options {
        address: args.address,
        port: args.port,
        port_v5: args.port_v5,
    };
    let listening = start(&options)?;
    let value = serde_json::json!({ "mqtt_3_1_1": listening.v4, "mqtt_5": listening.v5 });
    context.out.emit(&value, |_, w| {
        write!(w, "listening on {} (MQTT 3.1.1)", listening.v4)?;
        if let Some(v5) = listening.v5 {
            write!(w, " and {v5} (MQTT 5)")?;
        }
        writeln!(w)
    })?;
    loop {
        std::thread::park();
    }
}
