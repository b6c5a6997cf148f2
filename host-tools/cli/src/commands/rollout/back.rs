//! `edgeward rollback`: old content as a new release.

use super::{Changed, Line, begin, check_counters, default_id};
use crate::commands::fleet::look_or_empty;
use crate::commands::release;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use anyhow::{Context as _, Result};
use edgeward::bundle::{Bundle, write};
use edgeward::telemetry::Id;
use edgeward::trust::Role;
use edgeward_host::collector::now_ms;
use edgeward_host::controller::boards;
use edgeward_host::keys::KeyError;
use edgeward_host::release::{Changes as ReleaseChanges, Release, repack};
use edgeward_host::rollout::{BoardView, Plan, Rollout};
use edgeward_host::store::Store;
use std::path::{Path, PathBuf};

/// Send old content to the whole fleet, as a new release: no board goes below the counter that it
/// confirmed, so the content is packed again under the next counter and signed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  edgeward rollback --to motion-1.0.0.bundle\n  edgeward rollback --to motion-1.0.0.bundle --out again.bundle   # where the release key is elsewhere\n\nWith --out, `edgeward sign again.bundle` where the release key is, then\n`edgeward rollout start again.bundle --phases 100% --soak 0` here.\n\nThe counter is one more than this host knows of or a board reports. A board that reports one more than\n1000 above what is known here is left out of that, with a note; where every board does, exit code 3."
)]
pub struct Rollback {
    /// The bundle that worked.
    #[arg(long)]
    to: PathBuf,
    /// Only write the new release to this file, signed by what release keys are at hand, if any.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    by: Changed,
}

/// Runs `edgeward rollback`.
pub fn rollback(args: &Rollback, context: &Context) -> Result<Exit> {
    let keys = args.by.fleet.keys(context);
    let root = keys.root()?;
    let old = release::read(&args.to)?;
    release::open(&args.to, &old, &root)?;
    let counter = look_or_empty(context, |store| {
        next_counter(store, &args.by.fleet.fleet, &old, context)
    })?;
    let mut bundle = repack(
        &old,
        &ReleaseChanges {
            counter: Some(counter),
            ..ReleaseChanges::default()
        },
    )?;
    if let Some(out) = &args.out {
        return write_again(args, out, bundle, context);
    }
    for signer in keys.signers(Role::Release)? {
        write::sign(&mut bundle, &signer)?;
    }
    let release = Release::open(&bundle, &root)?;
    let plan = Plan {
        id: Id::try_from(default_id("rollback", now_ms()).as_str()).unwrap_or_default(),
        fleet: Id::try_from(args.by.fleet.fleet.as_str()).unwrap_or_default(),
        targets: vec![release.target().clone()],
        tags: Vec::new(),
        phases: vec![1000],
        soak_ms: 0,
        max_failures: u32::MAX,
        deadline_ms: 0,
        min_confirmed_per_mille: 0,
        expires_after_s: 7 * 86_400,
    };
    let rollout = Rollout::start(plan, now_ms())?;
    check_counters(&rollout, context)?;
    let line = Line::check(&args.by, context)?;
    begin(line, &[bundle], &rollout)
}

/// Writes the release that sends old content again, for whoever has the release keys to sign.
fn write_again(
    args: &Rollback,
    out: &Path,
    mut bundle: Vec<u8>,
    context: &Context,
) -> Result<Exit> {
    let keys = args.by.fleet.keys(context);
    match keys.signers_at_hand(Role::Release) {
        Err(KeyError::TooFew { .. }) => {}
        signers => {
            for signer in signers? {
                write::sign(&mut bundle, &signer)?;
            }
        }
    }
    let mut changes = args.by.dry_run.changes();
    release::write(&mut changes, out, &bundle)?;
    let missing = release::missing_signatures(&bundle, &keys.root()?);
    release::tell_missing(missing, context);
    let opened = Bundle::open(&bundle)?;
    let manifest = opened.manifest();
    let value = serde_json::json!({
        "bundle": out, "version": manifest.version, "counter": manifest.counter, "missing": missing,
    });
    changes.emit(context, &value, |_, w| {
        let (version, counter) = (manifest.version, manifest.counter);
        writeln!(w, "{}: version {version}, counter {counter}", out.display())
    })?;
    Ok(Exit::Ok)
}

/// How far a board's counter may be ahead of all that the host knows of. Whoever has a board's key could
/// use up the fleet's counters otherwise.
const MOST_AHEAD: u32 = 1000;

/// One more than any counter that the host knows of, or that a board of the fleet reports: another host may
/// have sent a release there. A board that is out of all reach keeps the others from nothing.
fn next_counter(store: &dyn Store, fleet: &str, old: &[u8], context: &Context) -> Result<u32> {
    let known = store.releases()?.into_iter().map(|release| release.counter);
    let rolled = store
        .rollouts(fleet)?
        .into_iter()
        .flat_map(|rollout| rollout.plan.targets);
    let own = Bundle::open(old)?.manifest().counter;
    let here = known.chain(rolled.map(|target| target.counter)).max();
    let here = here.unwrap_or(0).max(own);
    let reported = |board: &BoardView| {
        let counter = board.counters.iter().copied().max();
        counter.unwrap_or(0).max(board.floor)
    };
    let boards = boards(store, fleet)?;
    let (far, near): (Vec<_>, Vec<_>) = boards
        .iter()
        .filter(|board| board.reported)
        .partition(|board| reported(board).saturating_sub(here) > MOST_AHEAD);
    for board in &far {
        let (device, counter) = (&board.device, reported(board));
        let what =
            format!("{device} reports counter {counter}, and none above {here} is known here");
        if near.is_empty() {
            let next = format!(
                "if another host sent that, pack the content again with counter = {} or higher and roll it \
                 out; else `edgeward device forget {device}`: counters can't be taken back",
                counter.saturating_add(1)
            );
            return Err(Failure::new(Exit::Refused, what).next(next).into());
        }
        context.out.say(format!(
            "note: {what}; it will refuse this release. Where its key may be in other hands, `edgeward device \
             forget {device}`"
        ));
    }
    let highest = near.into_iter().map(reported).max().unwrap_or(0).max(here);
    highest
        .checked_add(1)
        .with_context(|| format!("no counter is left for fleet {fleet} ({highest})"))
}
