//! `edgeward serve`: collector, rollout controller, dashboard and metrics.

use super::broker::free;
use super::change::{Changes, DryRun};
use super::fleet::{Fleet, Wait, look_if_any, store_path};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::stop;
use anyhow::Result;
use edgeward::trust::Role;
use edgeward_host::broker::{self, Broker};
use edgeward_host::catalog::Catalog;
use edgeward_host::collector::Collector;
use edgeward_host::controller::Controller;
use edgeward_host::keys::KeyError;
use edgeward_host::mqtt::{Mqtt, Options};
use edgeward_host::web;
use std::net::SocketAddr;
use std::sync::Arc;

/// Collect what boards report, acknowledge it, drive rollouts, and show the fleet on a page and as
/// Prometheus metrics. Runs until it is stopped (SIGINT, SIGTERM), which loses nothing, or until a part of
/// it fails (exit code 1).
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  edgeward serve --with-broker\n  edgeward serve --broker mqtts://site-broker --broker-ca ca.pem --http 127.0.0.1:9470"
)]
pub struct Args {
    #[command(flatten)]
    fleet: Fleet,
    /// Run the embedded broker in this process as well, on the port of --broker, which has to name this
    /// machine's loopback.
    #[arg(long)]
    with_broker: bool,
    /// Where to serve the dashboard (/), /metrics and /api/fleet. None of them has a password: other
    /// machines belong behind a proxy that has one.
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
    if args.with_broker {
        check_embedded(args.fleet.broker(), &mqtt)?;
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
    if !args.http.ip().is_loopback() {
        tracing::warn!(
            address = %args.http,
            "the dashboard has no password, and every machine that reaches this address sees it; \
             serve it on loopback, behind a proxy that has one"
        );
    }
    let changes = args.dry_run.changes();
    if changes.are_only_said() {
        return check(args, &mqtt, changes, context);
    }
    serve(args, &mqtt, context)
}

/// Runs all of it until a signal comes, or a part ends by itself.
fn serve(args: &Args, mqtt: &Options, context: &Context) -> Result<Exit> {
    let (fleet, keys) = (&args.fleet.fleet, args.fleet.keys(context));
    let stop = stop::flag()?;
    let options = broker::Options {
        port: mqtt.port,
        ..broker::Options::default()
    };
    let broker = args.with_broker.then(|| Broker::start(&options));
    let broker = broker.transpose()?;
    let store = args.fleet.store(context)?;
    let collector = Collector::start(mqtt, Arc::clone(&store), &keys, fleet)?;
    let controller = Controller::new(
        &args.fleet.mqtt("controller")?,
        Arc::clone(&store),
        &context.home,
        fleet,
    );
    let controller = controller.spawn();
    let server = web::Server::start(args.http, store, Catalog::at(&context.home), fleet)?;
    let value = described(args, server.address());
    context.out.emit_line(&value, |_, w| {
        writeln!(
            w,
            "collecting fleet {fleet} from {}; dashboard http://{}/, metrics http://{}/metrics",
            args.fleet.broker(),
            server.address(),
            server.address()
        )
    })?;
    let ended = stop::wait(
        &stop,
        &[
            ("collector", &|| collector.has_ended()),
            ("rollout controller", &|| controller.has_ended()),
            ("web server", &|| server.has_ended()),
            ("embedded broker", &|| {
                broker.as_ref().is_some_and(Broker::has_ended)
            }),
        ],
    );
    // Each waits for its thread, and the broker is there until the last has said goodbye.
    drop(server);
    drop(controller);
    drop(collector);
    drop(broker);
    ended?;
    Ok(Exit::Ok)
}

/// Checks that the embedded broker can be the one that is asked for.
fn check_embedded(broker: &str, mqtt: &Options) -> Result<()> {
    let usage = |what: String, next: &str| Err(Failure::new(Exit::Usage, what).next(next).into());
    if mqtt.tls.is_some() || mqtt.credentials.is_some() {
        let what = "the embedded broker knows neither TLS nor passwords".to_owned();
        return usage(what, "run Mosquitto, and serve without --with-broker");
    }
    let address = broker::Options::default().address;
    let listens = mqtt.host.eq_ignore_ascii_case("localhost") || mqtt.host.parse() == Ok(address);
    if !listens {
        return usage(
            format!(
                "--with-broker runs a broker that listens on {address}, and --broker names another: {broker}"
            ),
            "leave --with-broker out to use that one, or --broker to use the embedded one",
        );
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_broker_goes_by_its_address_and_as_localhost() {
        for (host, fits) in [
            ("127.0.0.1", true),
            ("localhost", true),
            ("LocalHost", true),
            ("127.0.0.2", false),
            ("::1", false),
            ("localhost.example", false),
        ] {
            let options = Options::new("c", host, 1883);
            assert_eq!(check_embedded(host, &options).is_ok(), fits, "{host}");
        }
    }
}
