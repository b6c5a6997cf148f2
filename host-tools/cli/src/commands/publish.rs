//! `edgeward publish`: a signed bundle's chunks onto the broker.

use super::change::DryRun;
use super::fleet::{Fleet, Wait, look_if_any, store_path};
use super::release;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use anyhow::Result;
use edgeward::bundle::Bundle;
use edgeward::trust::Digest32;
use edgeward_host::collector::now_ms;
use edgeward_host::controller::{keep_release, releases_folder};
use edgeward_host::keys::{hex, unhex};
use edgeward_host::mqtt::Mqtt;
use edgeward_host::release::{chunks, needed, withdraw};
use edgeward_host::store::ReleaseRecord;
use std::path::{Path, PathBuf};

/// Publish a signed bundle: its chunks become retained messages that boards fetch at their own pace.
/// Nothing is installed by it; `edgeward rollout start` does that. With --withdraw, take a release off the
/// broker again.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  edgeward publish motion.bundle --broker mqtts://site-broker --broker-ca ca.pem\n  edgeward publish motion.bundle --dry-run\n  edgeward publish --withdraw 2f0a41c9b6d35e8f7a1d0c4b9e82f6735a6c1de0948b7f23c5d8e1a09b4f6c72 --dry-run"
)]
pub struct Args {
    /// The bundle.
    #[arg(required_unless_present = "withdraw")]
    bundle: Option<PathBuf>,
    /// Remove the chunks of the release with this digest from the broker instead. Refused while the newest
    /// rollout of a fleet names it, or a board is at it. The copy in the home folder stays.
    #[arg(long, value_name = "DIGEST", conflicts_with = "bundle", value_parser = digest)]
    withdraw: Option<Digest>,
    #[command(flatten)]
    fleet: Fleet,
    #[command(flatten)]
    dry_run: DryRun,
    #[command(flatten)]
    wait: Wait,
}

/// The digest of a bundle, as `publish` prints it.
#[derive(Debug, Clone, Copy)]
struct Digest(Digest32);

fn digest(text: &str) -> Result<Digest, String> {
    let digest = unhex(text).map(Digest);
    digest.ok_or_else(|| "a digest has 64 hexadecimal digits, as `publish` prints them".to_owned())
}

/// Runs it.
pub fn run(args: &Args, context: &Context) -> Result<Exit> {
    match (&args.bundle, args.withdraw) {
        (Some(bundle), _) => publish(args, bundle, context),
        (None, Some(Digest(digest))) => take_back(args, &digest, context),
        // The arguments' own rules keep this out.
        (None, None) => Err(Failure::new(Exit::Usage, "neither a bundle nor --withdraw").into()),
    }
}

/// Bytes of a release that was published from here.
fn size(digest: &str, context: &Context) -> Result<u32> {
    let recorded = look_if_any(context, |store| {
        let releases = store.releases()?.into_iter();
        let mut found = releases.filter(|release| release.digest == digest);
        Ok(found.next().map(|release| release.total_bytes))
    })?;
    if let Some(bytes) = recorded.flatten() {
        return Ok(bytes);
    }
    let copy = releases_folder(&context.home).join(format!("{digest}.bundle"));
    let kept = std::fs::metadata(&copy).ok();
    let bytes = kept.and_then(|kept| u32::try_from(kept.len()).ok());
    bytes.ok_or_else(|| {
        let what = format!(
            "release {digest} was not published from {}",
            context.home.display()
        );
        Failure::new(Exit::Error, what)
            .next("--home names another folder; what it published is in its folder `releases`")
            .into()
    })
}

/// Runs `publish --withdraw`.
fn take_back(args: &Args, digest: &Digest32, context: &Context) -> Result<Exit> {
    let name = hex(digest);
    let bytes = size(&name, context)?;
    let needed = look_if_any(context, |store| {
        Ok(needed(store, &args.fleet.fleet, digest)?)
    })?;
    if let Some(by) = needed.flatten() {
        let what = format!("release {name} is needed by {by}");
        return Err(Failure::new(Exit::Refused, what)
            .next("start another rollout, and withdraw it once that is done")
            .into());
    }
    let mqtt = Mqtt::connect(&args.fleet.mqtt("publish")?);
    mqtt.connected(args.wait.timeout())?;
    let mut changes = args.dry_run.changes();
    let chunks = chunks(bytes);
    let what = format!("remove {chunks} chunks from {}", args.fleet.broker());
    changes.make(what, || {
        withdraw(&mqtt, digest, bytes);
        Ok(mqtt.flush(args.wait.timeout())?)
    })?;
    let what = format!("note it in {}", store_path(&context.home).display());
    changes.make(what, || {
        let store = args.fleet.store(context)?;
        Ok(store.audit("withdraw", &name, now_ms())?)
    })?;
    let value = serde_json::json!({ "digest": name, "chunks": chunks, "bytes": bytes });
    changes.emit(context, &value, |_, w| match changes.are_only_said() {
        true => writeln!(w, "release {name}"),
        false => writeln!(w, "withdrew {name} ({chunks} chunks)"),
    })?;
    Ok(Exit::Ok)
}

fn publish(args: &Args, bundle: &Path, context: &Context) -> Result<Exit> {
    let bytes = release::read(bundle)?;
    let root = args.fleet.keys(context).root()?;
    let release = release::open(bundle, &bytes, &root)?;
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
