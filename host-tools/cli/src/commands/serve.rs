//! `edgeward serve`: collector, rollout controller, dashboard and metrics.

use super::fleet::Fleet;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use anyhow::Result;
use edgeward_host::broker;
use edgeward_host::catalog::Catalog;
use edgeward_host::collector::Collector;
use edgeward_host::controller::Controller;
use edgeward_host::web;
use std::net::SocketAddr;
use std::sync::Arc;

/// Collect what boards report, acknowledge it, drive rollouts, and show the fleet on a page and as
/// Prometheus metrics. Runs until it is stopped; stopping it loses nothing.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  edgeward serve --with-broker\n  edgeward serve --broker mqtts://site-broker --broker-ca ca.pem --http 0.0.0.0:9464"
)]
pub struct Args {
    #[command(flatten)]
    fleet: Fleet,
    /// Run the embedded broker in this process as well, on the port of --broker.
    #[arg(long)]
    with_broker: bool,
    /// Where to serve the dashboard (/), /metrics and /api/fleet.
    #[arg(long, default_value = "127.0.0.1:9464", env = "EDGEWARD_HTTP")]
    http: SocketAddr,
}

/// Runs it.
pub fn run(args: &Args, context: &Context) -> Result<Exit> {
    let mqtt = args.fleet.mqtt("collector")?;
    if args.with_broker {
        if mqtt.tls.is_some() || mqtt.credentials.is_some() {
            let what = "the embedded broker knows neither TLS nor passwords";
            let failure = Failure::new(Exit::Usage, what);
            return Err(failure
                .next("run Mosquitto, and serve without --with-broker")
                .into());
        }
        broker::start(&broker::Options {
            port: mqtt.port,
            ..broker::Options::default()
        })?;
    }
    let store = args.fleet.store(context)?;
    let keys = args.fleet.keys(context);
    let _collector = Collector::start(&mqtt, Arc::clone(&store), &keys, &args.fleet.fleet)?;
    let controller = Controller::new(
        &args.fleet.mqtt("controller")?,
        Arc::clone(&store),
        &context.home,
        &args.fleet.fleet,
    );
    let _controller = controller.spawn();
    let server = web::Server::start(
        args.http,
        store,
        Catalog::at(&context.home),
        &args.fleet.fleet,
    )?;
    let value = serde_json::json!({
        "fleet": args.fleet.fleet, "broker": args.fleet.broker(), "http": server.address(),
    });
    context.out.emit_line(&value, |_, w| {
        writeln!(
            w,
            "collecting fleet {} from {}; dashboard http://{}/, metrics http://{}/metrics",
            args.fleet.fleet,
            args.fleet.broker(),
            server.address(),
            server.address()
        )
    })?;
    loop {
        std::thread::park();
    }
}
