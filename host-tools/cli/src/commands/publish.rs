//! `edgeward publish`: a signed bundle's chunks onto the broker.

use super::change::DryRun;
use super::fleet::{Fleet, Wait, look_if_any, store_path};
use super::release;
use crate::context::Context;
use crate::exit::Exit;
use anyhow::Result;
use edgeward::bundle::Bundle;
use edgeward_host::collector::now_ms;
use edgeward_host::controller::{keep_release, releases_folder};
use edgeward_host::keys::hex;
use edgeward_host::mqtt::Mqtt;
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
    #[command(flatten)]
    dry_run: DryRun,
    #[command(flatten)]
    wait: Wait,
}

/// Runs it.
pub fn run(args: &Args, context: &Context) -> Result<Exit> {
    let bytes = release::read(&args.bundle)?;
    let root = args.fleet.keys(context).root()?;
    let release = release::open(&args.bundle, &bytes, &root)?;
    let (target, digest) = (release.target(), hex(release.digest()));
    let chunks = release.chunks().len();
    let mqtt = Mqtt::connect(&args.fleet.mqtt("publish")?);
    mqtt.connected(args.wait.timeout())?;
    look_if_any(context, |_| Ok(()))?;

    let mut changes = args.dry_run.changes();
    let copy = releases_folder(&context.home).join(format!("{digest}.bundle"));
    changes.make(format!("keep a copy as {}", copy.display()), || {
        Ok(keep_release(&context.home, &bytes, &root)?)
    })?;
    let what = format!("publish {chunks} chunks at {}", args.fleet.broker());
    changes.make(what, || {
        let bar = context.out.bar(chunks as u64, "publishing");
        release.publish(&mqtt, |done| bar.set_position(done as u64));
        mqtt.flush(args.wait.timeout())?;
        bar.finish_and_clear();
        Ok(())
    })?;
    let what = format!("note it in {}", store_path(&context.home).display());
    changes.make(what, || {
        let store = args.fleet.store(context)?;
        store.save_release(&ReleaseRecord {
            digest: digest.clone(),
            name: Bundle::open(&bytes)?.manifest().name.to_owned(),
            version: target.version.as_str().to_owned(),
            counter: target.counter,
            class: target.class,
            head_bytes: target.head_bytes,
            total_bytes: target.total_bytes,
            published_ms: now_ms(),
        })?;
        Ok(store.audit("publish", &digest, now_ms())?)
    })?;
    let value = serde_json::json!({
        "digest": digest, "version": target.version.as_str(), "counter": target.counter,
        "chunks": chunks, "bytes": bytes.len(),
    });
    changes.emit(context, &value, |_, w| {
        let of = format!(
            "{} ({chunks} chunks, {} bytes)",
            target.version,
            bytes.len()
        );
        match changes.are_only_said() {
            true => writeln!(w, "version {of}")?,
            false => writeln!(w, "published {of}")?,
        }
        writeln!(w, "digest {digest}")
    })?;
    Ok(Exit::Ok)
}
