//! `edgeward publish`: a signed bundle's chunks onto the broker.

use super::fleet::{Fleet, Wait};
use crate::context::Context;
use crate::exit::Exit;
use anyhow::{Context as _, Result};
use edgeward::bundle::Bundle;
use edgeward_host::collector::now_ms;
use edgeward_host::controller::keep_release;
use edgeward_host::keys::hex;
use edgeward_host::mqtt::Mqtt;
use edgeward_host::release::Release;
use edgeward_host::store::ReleaseRecord;
use std::path::PathBuf;

/// Publish a signed bundle: its chunks become retained messages that boards fetch at their own pace.
/// Nothing is installed by it; `edgeward rollout start` does that.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  edgeward publish motion.bundle --broker mqtts://site-broker --broker-ca ca.pem\n  edgeward publish motion.bundle --dry-run"
)]
pub struct Args {
    /// The bundle.
    bundle: PathBuf,
    #[command(flatten)]
    fleet: Fleet,
    /// Check everything and publish nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: Wait,
}

/// Runs it.
pub fn run(args: &Args, context: &Context) -> Result<Exit> {
    let bytes = std::fs::read(&args.bundle).with_context(|| args.bundle.display().to_string())?;
    let release = match Release::open(&bytes, &args.fleet.keys(context).root()?) {
        Ok(release) => release,
        Err(error) => {
            return Ok(crate::exit::report(
                &anyhow::Error::new(error).context(args.bundle.display().to_string()),
                context.out.format(),
                Exit::Refused,
            ));
        }
    };
    let chunks = release.chunks().len();
    if !args.dry_run {
        let store = args.fleet.store(context)?;
        keep_release(&context.home, &bytes, &args.fleet.keys(context).root()?)?;
        let mqtt = Mqtt::connect(&args.fleet.mqtt("publish")?);
        let bar = context.out.bar(chunks as u64, "publishing");
        release.publish(&mqtt, |done| bar.set_position(done as u64));
        mqtt.flush(args.wait.timeout())?;
        bar.finish_and_clear();
        let target = release.target();
        store.save_release(&ReleaseRecord {
            digest: hex(release.digest()),
            name: Bundle::open(&bytes)?.manifest().name.to_owned(),
            version: target.version.as_str().to_owned(),
            counter: target.counter,
            class: target.class,
            head_bytes: target.head_bytes,
            total_bytes: target.total_bytes,
            published_ms: now_ms(),
        })?;
        store.audit("publish", &hex(release.digest()), now_ms())?;
    }
    let value = serde_json::json!({
        "digest": hex(release.digest()),
        "version": release.target().version.as_str(),
        "counter": release.target().counter,
        "chunks": chunks,
        "bytes": bytes.len(),
        "dry_run": args.dry_run,
    });
    context.out.emit(&value, |value, w| {
        let verb = if args.dry_run {
            "would publish"
        } else {
            "published"
        };
        writeln!(
            w,
            "{verb} {} ({} chunks, {} bytes)",
            value["version"],
            chunks,
            bytes.len()
        )?;
        writeln!(w, "digest {}", hex(release.digest()))
    })?;
    Ok(Exit::Ok)
}
