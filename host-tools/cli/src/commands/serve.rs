//! `edgeward serve`: collector, rollout controller, dashboard and metrics.

use super::broker::free;
use super::change::{Changes, DryRun};
use super::fleet::{Fleet, Wait, look_if_any, store_path};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use anyhow::Result;
use edgeward::trust::Role;
use edgeward_host::broker;
use edgeward_host::catalog::Catalog;
use edgeward_host::collector::Collector;
use edgeward_host::controller::Controller;
use edgeward_host::keys::KeyError;
use edgeward_host::mqtt::{Mqtt, Options};
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
    #[command(flatten)]
    dry_run: DryRun,
    #[command(flatten)]
    wait: Wait,
}

/// Runs it.
pub fn run(args: &Args, context: &Context) -> Result<Exit> {
    let mqtt = args.fleet.mqtt("collector")?;
    if args.with_broker && (mqtt.tls.is_some() || mqtt.credentials.is_some()) {
        let what = "the embedded broker knows neither TLS nor passwords";
        let failure = Failure::new(Exit::Usage, what);
        return Err(failure
            .next("run Mosquitto, and serve without --with-broker")
            .into());
    }
    let keys = args.fleet.keys(context);
    keys.signers(Role::Collector)?;
    // The key that may change what boards run need not lie where telemetry is collected.
    match keys.signers(Role::Rollout) {
        Err(error @ KeyError::TooFew { .. }) => {
            tracing::warn!(%error, "rollouts wait until the keys are there; all else works");
        }
        signers => drop(signers?),
    }
    let changes = args.dry_run.changes();
    if changes.are_only_said() {
        return check(args, &mqtt, changes, context);
    }
    if args.with_broker {
        broker::start(&broker::Options {
            port: mqtt.port,
            ..broker::Options::default()
        })?;
    }
    let store = args.fleet.store(context)?;
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
    let value = described(args, server.address());
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

fn described(args: &Args, http: SocketAddr) -> serde_json::Value {
    serde_json::json!({
        "fleet": args.fleet.fleet, "broker": args.fleet.broker(), "http": http,
    })
}

/// Checks ports, store and broker, and says what would be done.
fn check(args: &Args, mqtt: &Options, mut changes: Changes, context: &Context) -> Result<Exit> {
    let http = free(args.http.ip(), args.http.port())?;
    if args.with_broker {
        let address = broker::Options::default().address;
        let listening = free(address, mqtt.port)?;
        changes.make(format!("run a broker on {listening}"), || Ok(()))?;
    } else {
        Mqtt::connect(mqtt).connected(args.wait.timeout())?;
    }
    if look_if_any(context, |_| Ok(()))?.is_none() {
        let path = store_path(&context.home);
        changes.make(format!("make the store {}", path.display()), || Ok(()))?;
    }
    let fleet = &args.fleet.fleet;
    let broker = args.fleet.broker();
    let what = format!("collect fleet {fleet} from {broker} and drive its rollouts");
    changes.make(what, || Ok(()))?;
    changes.make(format!("serve pages on {http}"), || Ok(()))?;
    changes.emit_line(context, &described(args, http), |_, _| Ok(()))?;
    Ok(Exit::Ok)
}
