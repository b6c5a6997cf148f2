//! `edgeward rollout` and `edgeward rollback`.

use super::fleet::{Fleet, Wait};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::output::Table;
use anyhow::{Context as _, Result};
use edgeward::bundle::{Bundle, write};
use edgeward::telemetry::{Id, Text};
use edgeward::topic::is_name;
use edgeward::trust::Role;
use edgeward_host::collector::now_ms;
use edgeward_host::controller::{Controller, boards, in_cohort, keep_release, set_state};
use edgeward_host::keys::hex;
use edgeward_host::mqtt::Options;
use edgeward_host::release::{Changes, Release, repack};
use edgeward_host::rollout::{Counts, Plan, Rollout, State};
use edgeward_host::store::Store;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bring a release to the fleet in phases. `edgeward serve` advances a rollout and stops it when
/// boards report harm; without it, a rollout stays in its first phase.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Begin with the first phase.
    Start(Start),
    /// Show how far it is; `--watch` follows it until it ends.
    Status(Status),
    /// Hold: boards that have not begun a trial wait.
    #[command(after_help = "Example:\n  edgeward rollout pause --timeout 10")]
    Pause(Changed),
    /// Go on after a pause.
    #[command(after_help = "Example:\n  edgeward rollout resume")]
    Resume(Changed),
    /// Stop: boards that have not confirmed the release give it up.
    #[command(after_help = "Example:\n  edgeward rollout abort")]
    Abort(Changed),
    /// All rollouts of the fleet, the newest first.
    #[command(after_help = "Example:\n  edgeward rollout history -o json")]
    History(Named),
}

/// `rollout start`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  edgeward rollout start motion.bundle --phases 1%,10%,50%,100% --soak 3600\n  edgeward rollout start motion.bundle --tag site-a --phases 100% --dry-run"
)]
pub struct Start {
    /// A signed bundle for each board class; they are published too.
    #[arg(required = true)]
    bundles: Vec<PathBuf>,
    #[command(flatten)]
    fleet: Fleet,
    /// Shares of the fleet, one a phase, ascending.
    #[arg(long, value_delimiter = ',', default_value = "10%,50%,100%", value_parser = share)]
    phases: Vec<u16>,
    /// Only boards with this tag; again for more, all of which a board must have.
    #[arg(long = "tag")]
    tags: Vec<String>,
    /// The rollout's name [default: from version and time].
    #[arg(long)]
    id: Option<String>,
    /// Seconds between the last confirmation of a phase and the next phase.
    #[arg(long, default_value_t = 3600)]
    soak: u64,
    /// Boards that may refuse or revert the release before the rollout stops.
    #[arg(long, default_value_t = 0)]
    max_failures: u32,
    /// Seconds after which silent boards no longer hold up the next phase; 0 waits for ever.
    #[arg(long, default_value_t = 86_400)]
    deadline: u64,
    /// Seconds that each signed desired state holds; `edgeward serve` renews it.
    #[arg(long, default_value_t = 7 * 86_400)]
    expires: u64,
    #[command(flatten)]
    publishing: Publishing,
    /// Check everything, show the boards of the first phase, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

/// `rollout status`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  edgeward rollout status\n  edgeward rollout status --watch --timeout 600 -o json\n\nExit codes: 4 it was aborted, 5 it had not ended in time, 6 it is done and boards failed."
)]
pub struct Status {
    #[command(flatten)]
    fleet: Fleet,
    /// Follow it until it ends.
    #[arg(long)]
    watch: bool,
    /// Seconds to follow it at most.
    #[arg(long, default_value_t = 3600)]
    timeout: u64,
}

/// The rollout commands that only look.
#[derive(Debug, clap::Args)]
pub struct Named {
    #[command(flatten)]
    fleet: Fleet,
}

/// The rollout commands that change its standing.
#[derive(Debug, clap::Args)]
pub struct Changed {
    #[command(flatten)]
    fleet: Fleet,
    #[command(flatten)]
    publishing: Publishing,
    /// Say what would become of it, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Whether and how long a command waits until the broker has what it publishes.
#[derive(Debug, Clone, clap::Args)]
struct Publishing {
    #[command(flatten)]
    wait: Wait,
    /// Note it in the store and leave the publishing to `edgeward serve`.
    #[arg(long, conflicts_with = "timeout")]
    no_wait: bool,
}

/// Send old content to the whole fleet, as a new release: no board goes below the counter that it
/// confirmed, so the content is packed again under the next counter and signed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  edgeward rollback --to motion-1.0.0.bundle")]
pub struct Rollback {
    /// The bundle that worked.
    #[arg(long)]
    to: PathBuf,
    #[command(flatten)]
    fleet: Fleet,
    #[command(flatten)]
    publishing: Publishing,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

/// A share such as `10%` or `2.5%`, in per mille.
fn share(text: &str) -> Result<u16, String> {
    let number = text.trim().trim_end_matches('%').parse::<f64>();
    let per_mille = number.map_err(|_| format!("{text:?} is no share; write 10%"))? * 10.0;
    if !(1.0..=1000.0).contains(&per_mille) {
        return Err(format!("{text:?}: a share is 0.1% to 100%"));
    }
    Ok(per_mille.round() as u16)
}

/// Runs one of the rollout commands.
pub fn run(command: &Command, context: &Context) -> Result<Exit> {
    match command {
        Command::Start(args) => start(args, context),
        Command::Status(args) => status(args, context),
        Command::Pause(args) => change(args, context, "paused", |state| {
            (*state == State::Running).then_some(State::Paused)
        }),
        Command::Resume(args) => change(args, context, "resumed", |state| {
            (*state == State::Paused).then_some(State::Running)
        }),
        Command::Abort(args) => change(args, context, "aborted", |state| {
            let over = matches!(state, State::Aborted { .. });
            (!over).then(|| State::Aborted {
                why: "by hand".to_owned(),
            })
        }),
        Command::History(args) => history(args, context),
    }
}

fn start(args: &Start, context: &Context) -> Result<Exit> {
    let root = args.fleet.keys(context).root()?;
    let mut targets = Vec::new();
    let mut files = Vec::new();
    for path in &args.bundles {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        let release = Release::open(&bytes, &root)
            .map_err(|error| Failure::new(Exit::Refused, format!("{}: {error}", path.display())))?;
        targets.push(release.target().clone());
        files.push(bytes);
    }
    let version = targets[0].version.as_str();
    let id = args
        .id
        .clone()
        .unwrap_or_else(|| default_id(version, now_ms()));
    if !is_name(&id) {
        return Err(Failure::new(
            Exit::Usage,
            format!("--id {id:?}: 1 to 32 letters, digits, `-`, `_`"),
        )
        .into());
    }
    let plan = Plan {
        id: Id::try_from(id.as_str()).unwrap_or_default(),
        fleet: Id::try_from(args.fleet.fleet.as_str()).unwrap_or_default(),
        targets,
        tags: tags(&args.tags)?,
        phases: args.phases.clone(),
        soak_ms: args.soak * 1000,
        max_failures: args.max_failures,
        deadline_ms: args.deadline * 1000,
        expires_after_s: args.expires,
    };
    let mut rollout = Rollout::start(plan, now_ms())
        .map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    if !args.dry_run {
        for bytes in &files {
            keep_release(&context.home, bytes, &root)?;
        }
        begin(&args.fleet, context, &mut rollout, &args.publishing)?;
    }
    let store = args.fleet.store_as_it_is(context)?;
    show(context, store.as_ref(), &rollout, args.dry_run)?;
    Ok(Exit::Ok)
}

/// Stores a rollout and publishes its first phase.
fn begin(
    fleet: &Fleet,
    context: &Context,
    rollout: &mut Rollout,
    publishing: &Publishing,
) -> Result<()> {
    // What is wrong with the broker's options is wrong before anything is stored.
    let broker = fleet.mqtt("rollout")?;
    let store = fleet.store(context)?;
    rollout.after_sequence = store.next_desired(&fleet.fleet)?;
    store.save_rollout(rollout, now_ms())?;
    store.audit("rollout", &format!("{} started", rollout.plan.id), now_ms())?;
    publish_now(fleet, context, store, &broker, publishing)
}

/// Publishes the newest rollout's standing at once, whether or not `edgeward serve` runs.
fn publish_now(
    fleet: &Fleet,
    context: &Context,
    store: std::sync::Arc<dyn Store>,
    broker: &Options,
    publishing: &Publishing,
) -> Result<()> {
    if publishing.no_wait {
        context.out.say("noted; `edgeward serve` publishes it");
        return Ok(());
    }
    let mut controller = Controller::new(broker, store, &context.home, &fleet.fleet);
    controller.step()?;
    let flushed = controller.mqtt().flush(publishing.wait.timeout());
    flushed.context("it is noted here, and `edgeward serve` publishes it once it has a broker")
}

fn tags(tags: &[String]) -> Result<Vec<Text>> {
    tags.iter()
        .map(|tag| {
            Text::try_from(tag.as_str()).map_err(|_| {
                Failure::new(Exit::Usage, format!("--tag {tag:?}: at most 32 bytes")).into()
            })
        })
        .collect()
}

/// A name from the version and the time, within what a name may be.
fn default_id(version: &str, now_ms: u64) -> String {
    let version: String = version
        .chars()
        .map(|letter| {
            if letter.is_ascii_alphanumeric() {
                letter
            } else {
                '-'
            }
        })
        .take(14)
        .collect();
    format!("{version}-{}", now_ms / 1000)
}

fn newest(store: &dyn Store, fleet: &str) -> Result<Rollout> {
    let newest = store.rollouts(fleet)?.into_iter().next();
    newest.ok_or_else(|| {
        Failure::new(Exit::Error, format!("fleet {fleet} has no rollout"))
            .next("start one with `edgeward rollout start BUNDLE`")
            .into()
    })
}

fn show(context: &Context, store: &dyn Store, rollout: &Rollout, dry_run: bool) -> Result<Counts> {
    let boards = boards(store, &rollout.plan.fleet)?;
    let counts = rollout.counts(&boards, &in_cohort);
    let value = serde_json::json!({ "rollout": rollout, "counts": counts, "dry_run": dry_run });
    context.out.emit_line(&value, |_, w| {
        let plan = &rollout.plan;
        writeln!(
            w,
            "{}: version {}, phase {} of {} ({:.1} % of the fleet), {}",
            plan.id,
            plan.targets
                .first()
                .map_or("?", |target| target.version.as_str()),
            rollout.phase + 1,
            plan.phases.len(),
            f64::from(rollout.share()) / 10.0,
            state_words(&rollout.state)
        )?;
        writeln!(
            w,
            "boards in this phase: {} ({} confirmed, {} busy, {} waiting, {} failed){}",
            counts.targeted,
            counts.confirmed,
            counts.busy,
            counts.waiting,
            counts.failed,
            if dry_run { "; nothing was changed" } else { "" }
        )?;
        if counts.targeted == 0 {
            writeln!(w, "no enrolled board that has reported is in it yet")?;
        }
        Ok(())
    })?;
    Ok(counts)
}

fn state_words(state: &State) -> String {
    match state {
        State::Running => "running".to_owned(),
        State::Paused => "paused".to_owned(),
        State::Aborted { why } => format!("aborted: {why}"),
        State::Done => "done".to_owned(),
    }
}

fn status(args: &Status, context: &Context) -> Result<Exit> {
    let store = args.fleet.store(context)?;
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    let mut shown = None;
    loop {
        let rollout = newest(store.as_ref(), &args.fleet.fleet)?;
        let counts = rollout.counts(&boards(store.as_ref(), &args.fleet.fleet)?, &in_cohort);
        if shown.as_ref() != Some(&(rollout.clone(), counts.clone())) {
            show(context, store.as_ref(), &rollout, false)?;
            shown = Some((rollout.clone(), counts.clone()));
        }
        match &rollout.state {
            State::Aborted { .. } => return Ok(Exit::Aborted),
            State::Done if counts.failed > 0 => return Ok(Exit::Partly),
            State::Done => return Ok(Exit::Ok),
            _ if !args.watch => return Ok(Exit::Ok),
            _ if Instant::now() > deadline => return Ok(Exit::TimedOut),
            _ => std::thread::sleep(Duration::from_millis(500)),
        }
    }
}

fn change(
    args: &Changed,
    context: &Context,
    verb: &str,
    to: impl Fn(&State) -> Option<State>,
) -> Result<Exit> {
    let broker = args.fleet.mqtt("rollout")?;
    let store = args.fleet.store(context)?;
    let before = newest(store.as_ref(), &args.fleet.fleet)?;
    let mut after = before.clone();
    if args.dry_run {
        after.state = to(&before.state).unwrap_or_else(|| before.state.clone());
    } else {
        set_state(store.as_ref(), &args.fleet.fleet, to)?;
        after = newest(store.as_ref(), &args.fleet.fleet)?;
    }
    if after.state == before.state {
        return Err(Failure::new(
            Exit::Error,
            format!(
                "{} is {}; it can't be {verb}",
                before.plan.id,
                state_words(&before.state)
            ),
        )
        .into());
    }
    if !args.dry_run {
        let published = std::sync::Arc::clone(&store);
        publish_now(&args.fleet, context, published, &broker, &args.publishing)?;
    }
    show(context, store.as_ref(), &after, args.dry_run)?;
    Ok(Exit::Ok)
}

fn history(args: &Named, context: &Context) -> Result<Exit> {
    let rollouts = args.fleet.store(context)?.rollouts(&args.fleet.fleet)?;
    context
        .out
        .emit(&serde_json::json!({ "rollouts": rollouts }), |_, w| {
            let mut table = Table::new(["rollout", "version", "counter", "phase", "state"]);
            for rollout in &rollouts {
                let target = rollout.plan.targets.first();
                table.row([
                    rollout.plan.id.to_string(),
                    target.map_or(String::new(), |target| target.version.to_string()),
                    target.map_or(String::new(), |target| target.counter.to_string()),
                    format!("{} of {}", rollout.phase + 1, rollout.plan.phases.len()),
                    state_words(&rollout.state),
                ]);
            }
            table.write(w)
        })?;
    Ok(Exit::Ok)
}

/// Runs `edgeward rollback`.
pub fn rollback(args: &Rollback, context: &Context) -> Result<Exit> {
    let store = if args.dry_run {
        args.fleet.store_as_it_is(context)?
    } else {
        args.fleet.store(context)?
    };
    let keys = args.fleet.keys(context);
    let old = std::fs::read(&args.to).with_context(|| args.to.display().to_string())?;
    Release::open(&old, &keys.root()?)
        .map_err(|error| Failure::new(Exit::Refused, format!("{}: {error}", args.to.display())))?;
    let counter = next_counter(store.as_ref(), &args.fleet.fleet, &old)?;
    let mut bundle = repack(
        &old,
        &Changes {
            counter: Some(counter),
            ..Changes::default()
        },
    )?;
    for signer in keys.signers(Role::Release)? {
        write::sign(&mut bundle, &signer)?;
    }
    let release = Release::open(&bundle, &keys.root()?)?;
    let plan = Plan {
        id: Id::try_from(default_id("rollback", now_ms()).as_str()).unwrap_or_default(),
        fleet: Id::try_from(args.fleet.fleet.as_str()).unwrap_or_default(),
        targets: vec![release.target().clone()],
        tags: Vec::new(),
        phases: vec![1000],
        soak_ms: 0,
        max_failures: u32::MAX,
        deadline_ms: 0,
        expires_after_s: 7 * 86_400,
    };
    let mut rollout = Rollout::start(plan, now_ms())?;
    if !args.dry_run {
        let path = keep_release(&context.home, &bundle, &keys.root()?)?;
        context.out.say(format!(
            "packed again as counter {counter}: {}",
            named(&path)
        ));
        begin(&args.fleet, context, &mut rollout, &args.publishing)?;
    }
    show(context, store.as_ref(), &rollout, args.dry_run)?;
    Ok(Exit::Ok)
}

fn named(path: &Path) -> String {
    path.display().to_string()
}

/// One more than any counter that the host knows of.
fn next_counter(store: &dyn Store, fleet: &str, old: &[u8]) -> Result<u32> {
    let known = store.releases()?.into_iter().map(|release| release.counter);
    let rolled = store
        .rollouts(fleet)?
        .into_iter()
        .flat_map(|rollout| rollout.plan.targets);
    let own = Bundle::open(old)?.manifest().counter;
    let highest = known
        .chain(rolled.map(|target| target.counter))
        .chain([own])
        .max();
    highest
        .and_then(|counter| counter.checked_add(1))
        .with_context(|| {
            format!(
                "no counter is left for fleet {fleet} ({})",
                hex(&own.to_be_bytes())
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_per_cent() {
        assert_eq!(share("10%"), Ok(100));
        assert_eq!(share("2.5"), Ok(25));
        assert_eq!(share("100%"), Ok(1000));
        for wrong in ["0%", "101%", "-1", "x", ""] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_default_name_is_a_name() {
        assert!(is_name(&default_id("2.0.0-rc.1+build.very.long", u64::MAX)));
    }
}
