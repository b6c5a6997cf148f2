//! `edgeward broker`: the embedded broker as a process.

use super::change::DryRun;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::stop;
use anyhow::Result;
use edgeward_host::broker::{Broker, Options};
use std::net::{IpAddr, SocketAddr, TcpListener};

/// Run the embedded MQTT broker until it is stopped (SIGINT, SIGTERM). It keeps everything in memory;
/// a site runs Mosquitto.
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
    #[command(flatten)]
    dry_run: DryRun,
}

/// Runs it.
pub fn run(args: &Args, context: &Context) -> Result<Exit> {
    let options = Options {
        address: args.address,
        port: args.port,
        port_v5: args.port_v5,
    };
    let mut changes = args.dry_run.changes();
    let v4 = free(args.address, args.port)?;
    let v5 = args.port_v5.map(|port| free(args.address, port));
    let v5 = v5.transpose()?;
    let what = format!("listen on {v4} until it is stopped");
    let stop = stop::flag()?;
    let broker = changes.make(what, || Ok(Broker::start(&options)?))?;
    let (v4, v5) = broker.as_ref().map_or((v4, v5), |broker| {
        let listening = broker.listening();
        (listening.v4, listening.v5)
    });
    let value = serde_json::json!({ "mqtt_3_1_1": v4, "mqtt_5": v5 });
    let ran = broker.is_some();
    changes.emit(context, &value, |_, w| {
        if !ran {
            return Ok(());
        }
        write!(w, "listening on {v4} (MQTT 3.1.1)")?;
        if let Some(v5) = v5 {
            write!(w, " and {v5} (MQTT 5)")?;
        }
        writeln!(w)
    })?;
    if let Some(broker) = broker {
        stop::wait(&stop, &[("broker", &|| broker.has_ended())])?;
    }
    Ok(Exit::Ok)
}

/// Checks that a port can be listened on, and lets go of it.
pub fn free(address: IpAddr, port: u16) -> Result<SocketAddr> {
    let asked = SocketAddr::new(address, port);
    let listener = TcpListener::bind(asked).map_err(|error| {
        let what = format!("cannot listen on {asked}: {error}");
        Failure::new(Exit::Error, what).next("stop who does, or choose another port")
    })?;
    Ok(if port == 0 {
        asked
    } else {
        listener.local_addr()?
    })
}
