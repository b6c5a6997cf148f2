//! `edgeward rollout` and `edgeward rollback`.

mod back;

use super::change::{Changes, DryRun};
use super::fleet::{Fleet, Wait, look, look_or_empty, seconds, store_path};
use super::release;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::output::Table;
use anyhow::{Context as _, Result};
use edgeward::telemetry::{Id, Text};
use edgeward::topic::is_name;
use edgeward::trust::Role;
use edgeward_host::collector::now_ms;
use edgeward_host::controller::{
    Controller, boards, in_cohort, keep_release, releases_folder, set_state,
};
use edgeward_host::keys::hex;
use edgeward_host::mqtt::{Mqtt, Options};
use edgeward_host::names::readable;
use edgeward_host::rollout::{BoardView, Counts, Plan, Rollout, State};
use edgeward_host::store::{Store, StoreError};
use serde::Serialize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use back::{Rollback, rollback};

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
    #[command(after_help = "Example:\n  edgeward rollout history -o json\n\nChanges nothing.")]
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
    by: Changed,
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
    #[arg(long, default_value_t = 3600, value_parser = seconds(0))]
    soak: u64,
    /// Boards that may refuse or revert the release before the rollout stops. Where more do so or fall
    /// silent over it, it pauses.
    #[arg(long, default_value_t = 0)]
    max_failures: u32,
    /// Seconds after which a phase is late: boards that have not begun no longer hold up the next one,
    /// provided that --min-confirmed have confirmed; else the rollout pauses, and `rollout status` says
    /// why. Boards that have begun get as long again, and those that are silent for so long pause the
    /// rollout beyond --max-failures. Time in which `edgeward serve` has no broker does not count. The
    /// last phase waits for its boards. 0 waits for ever.
    #[arg(long, default_value_t = 86_400, value_parser = seconds(0))]
    deadline: u64,
    /// Share of a phase's boards that must have confirmed the release before it gives way to the next
    /// [default: one board].
    #[arg(long, value_name = "SHARE", value_parser = share)]
    min_confirmed: Option<u16>,
    /// Seconds that each signed desired state holds; `edgeward serve` renews it.
    #[arg(long, default_value_t = 7 * 86_400, value_parser = seconds(1))]
    expires: u64,
}

/// `rollout status`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  edgeward rollout status\n  edgeward rollout status --watch --timeout 600 -o json\n\nExit codes: 4 it was aborted, 5 it had not ended in time, 6 it is done and boards failed, or it\npaused by itself and waits for somebody to `resume` or `abort` it. One that was paused by hand is\nfollowed on.\nChanges nothing."
)]
pub struct Status {
    #[command(flatten)]
    fleet: Fleet,
    /// Follow it until it ends, or pauses by itself.
    #[arg(long)]
    watch: bool,
    /// Seconds to follow it at most.
    #[arg(long, default_value_t = 3600, value_parser = seconds(0))]
    timeout: u64,
}

/// The rollout commands that only look.
#[derive(Debug, clap::Args)]
pub struct Named {
    #[command(flatten)]
    fleet: Fleet,
}

/// What every command takes that changes how a rollout stands.
#[derive(Debug, clap::Args)]
pub struct Changed {
    #[command(flatten)]
    fleet: Fleet,
    #[command(flatten)]
    publishing: Publishing,
    #[command(flatten)]
    dry_run: DryRun,
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
    let root = args.by.fleet.keys(context).root()?;
    let mut targets = Vec::new();
    let mut files = Vec::new();
    for path in &args.bundles {
        let bytes = release::read(path)?;
        let release = release::open(path, &bytes, &root)?;
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
        fleet: Id::try_from(args.by.fleet.fleet.as_str()).unwrap_or_default(),
        targets,
        tags: tags(&args.tags)?,
        phases: args.phases.clone(),
        soak_ms: args.soak * 1000,
        max_failures: args.max_failures,
        deadline_ms: args.deadline * 1000,
        min_confirmed_per_mille: args.min_confirmed.unwrap_or(0),
        expires_after_s: args.expires,
    };
    let rollout = Rollout::start(plan, now_ms())
        .map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    check_counters(&rollout, context)?;
    let line = Line::check(&args.by, context)?;
    begin(line, &files, &rollout)
}

/// Refuses a release whose counter every board would refuse.
fn check_counters(rollout: &Rollout, context: &Context) -> Result<()> {
    let boards = look_or_empty(context, |store| Ok(boards(store, &rollout.plan.fleet)?))?;
    rollout.check_counters(&boards, &in_cohort).map_err(|refused| {
        let next = format!(
            "pack it again with counter = {} or higher; `edgeward rollback --to BUNDLE` does so with old content",
            refused.wanted
        );
        Failure::new(Exit::Refused, refused.to_string()).next(next).into()
    })
}

/// What a command needs that changes how the fleet's newest rollout stands.
struct Line<'a> {
    fleet: &'a Fleet,
    publishing: &'a Publishing,
    context: &'a Context,
    broker: Options,
    changes: Changes,
}

impl<'a> Line<'a> {
    /// Checks what publishing takes: the options, the keys, and in a dry run the broker, which the
    /// command itself is about to meet.
    fn check(args: &'a Changed, context: &'a Context) -> Result<Self> {
        let (fleet, publishing) = (&args.fleet, &args.publishing);
        // What is wrong with the broker's options is wrong before anything is stored.
        let broker = fleet.mqtt("rollout")?;
        fleet.keys(context).signers(Role::Rollout)?;
        let changes = args.dry_run.changes();
        if changes.are_only_said() && !publishing.no_wait {
            Mqtt::connect(&broker).connected(publishing.wait.timeout())?;
        }
        Ok(Self {
            fleet,
            publishing,
            context,
            broker,
            changes,
        })
    }

    /// Publishes the newest rollout's standing at once, whether or not `edgeward serve` runs.
    fn publish(&mut self) -> Result<()> {
        if self.publishing.no_wait {
            self.context.out.say("`edgeward serve` publishes it");
            return Ok(());
        }
        let what = format!("publish it at {}", self.fleet.broker());
        self.changes.make(what, || {
            let store = self.fleet.store(self.context)?;
            let (home, fleet) = (&self.context.home, &self.fleet.fleet);
            let mut controller = Controller::new(&self.broker, store, home, fleet);
            controller.step()?;
            let flushed = controller.mqtt().flush(self.publishing.wait.timeout());
            flushed
                .context("it is noted here, and `edgeward serve` publishes it once it has a broker")
        })?;
        Ok(())
    }

    fn show(&self, rollout: &Rollout) -> Result<Exit> {
        let counts = look_or_empty(self.context, |store| {
            let boards = boards(store, &rollout.plan.fleet)?;
            Ok(counts(rollout, &boards))
        })?;
        show(self.context, &self.changes, rollout, &counts)?;
        Ok(Exit::Ok)
    }
}

/// Keeps the bundles, stores the rollout, publishes its first phase and shows it.
fn begin(mut line: Line<'_>, bundles: &[Vec<u8>], rollout: &Rollout) -> Result<Exit> {
    let (fleet, context) = (line.fleet, line.context);
    let mut rollout = rollout.clone();
    rollout.after_sequence = look_or_empty(context, |store| {
        let all = store.rollouts(&fleet.fleet)?;
        if all.iter().any(|other| other.plan.id == rollout.plan.id) {
            return Err(StoreError::RolloutExists(rollout.plan.id.to_string()).into());
        }
        // Numbers from here on are drawn for the new one.
        Ok(store.last_desired(&fleet.fleet)? + 1)
    })?;
    let root = fleet.keys(context).root()?;
    for (bytes, target) in bundles.iter().zip(&rollout.plan.targets) {
        let copy = releases_folder(&context.home).join(format!("{}.bundle", hex(&target.digest)));
        let what = format!("keep counter {} as {}", target.counter, copy.display());
        line.changes
            .make(what, || Ok(keep_release(&context.home, bytes, &root)?))?;
    }
    let what = format!(
        "start {} in {}",
        rollout.plan.id,
        store_path(&context.home).display()
    );
    let started = line.changes.make(what, || {
        let store = fleet.store(context)?;
        let started = store.start_rollout(&rollout, now_ms())?;
        store.audit("rollout", &format!("{} started", started.plan.id), now_ms())?;
        Ok(started)
    })?;
    line.publish()?;
    line.show(&started.unwrap_or(rollout))
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
    let newest = store.newest_rollout(fleet)?;
    newest.ok_or_else(|| {
        Failure::new(Exit::Error, format!("fleet {fleet} has no rollout"))
            .next("start one with `edgeward rollout start BUNDLE`")
            .into()
    })
}

/// The boards of the present phase, as far as `edgeward serve` could hear them.
fn counts(rollout: &Rollout, boards: &[BoardView]) -> Counts {
    rollout.counts(boards, &in_cohort, rollout.phase_time_ms(now_ms()))
}

fn show(context: &Context, changes: &Changes, rollout: &Rollout, counts: &Counts) -> Result<()> {
    let mut value = serde_json::json!({ "rollout": rollout, "counts": counts });
    readable(&mut value);
    changes.emit_line(context, &value, |_, w| {
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
            state_words(rollout)
        )?;
        writeln!(
            w,
            "boards in this phase: {} ({} confirmed, {} busy, {} silent, {} waiting, {} failed)",
            counts.targeted,
            counts.confirmed,
            counts.busy,
            counts.silent,
            counts.waiting,
            counts.failed
        )?;
        if counts.targeted == 0 {
            writeln!(w, "no enrolled board is in it")?;
        }
        Ok(())
    })
}

fn state_words(rollout: &Rollout) -> String {
    match &rollout.state {
        State::Running => "running".to_owned(),
        State::Paused => match &rollout.paused_why {
            Some(why) => format!("paused: {why}; `edgeward rollout resume` or `abort`"),
            None => "paused".to_owned(),
        },
        State::Aborted { why } => format!("aborted: {why}"),
        State::Done => "done".to_owned(),
    }
}

fn status(args: &Status, context: &Context) -> Result<Exit> {
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    let mut shown = None;
    loop {
        let (rollout, counts) = look(context, |store| {
            let rollout = newest(store, &args.fleet.fleet)?;
            let boards = boards(store, &args.fleet.fleet)?;
            let counts = counts(&rollout, &boards);
            Ok((rollout, counts))
        })?;
        let failed = counts.failed;
        let state = rollout.state.clone();
        let paused_itself = state == State::Paused && rollout.paused_why.is_some();
        let is_new = shown.as_ref().is_none_or(|(before, counted)| {
            // That the host listens on is nothing to tell.
            let before = Rollout {
                listening: rollout.listening,
                ..Rollout::clone(before)
            };
            (&before, counted) != (&rollout, &counts)
        });
        if is_new {
            show(context, &Changes::none(), &rollout, &counts)?;
            shown = Some((rollout, counts));
        }
        match state {
            State::Aborted { .. } => return Ok(Exit::Aborted),
            State::Done if failed > 0 => return Ok(Exit::Partly),
            State::Done => return Ok(Exit::Ok),
            // Nothing more comes of it until somebody has had a look.
            State::Paused if paused_itself => return Ok(Exit::Partly),
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
    let fleet = &args.fleet.fleet;
    let before = look(context, |store| newest(store, fleet))?;
    let impossible = |rollout: &Rollout| {
        let state = state_words(rollout);
        let what = format!("{} is {state}; it can't be {verb}", rollout.plan.id);
        Failure::new(Exit::Error, what).next("`edgeward rollout history` shows all rollouts")
    };
    let state = to(&before.state).ok_or_else(|| impossible(&before))?;
    let mut line = Line::check(args, context)?;
    let what = format!("note that {} is {verb}", before.plan.id);
    let changed = line.changes.make(what, || {
        let store = args.fleet.store(context)?;
        // `edgeward serve` may have changed it since.
        let changed = set_state(store.as_ref(), fleet, to)?;
        let (before, after) = changed.context("the rollout is gone")?;
        if before.state == after.state {
            return Err(impossible(&before).into());
        }
        Ok(after)
    })?;
    line.publish()?;
    line.show(&changed.unwrap_or(Rollout { state, ..before }))
}

/// A rollout among all of its fleet. The field names are stable.
#[derive(Serialize)]
struct Past {
    #[serde(flatten)]
    rollout: Rollout,
    /// It had not ended when the next one began.
    superseded: bool,
}

fn history(args: &Named, context: &Context) -> Result<Exit> {
    let rollouts = look(context, |store| Ok(store.rollouts(&args.fleet.fleet)?))?;
    // Only the newest one goes on: what it found open will never end by itself.
    let open = |state: &State| matches!(state, State::Running | State::Paused);
    let rollouts: Vec<Past> = rollouts
        .into_iter()
        .enumerate()
        .map(|(at, rollout)| Past {
            superseded: at > 0 && open(&rollout.state),
            rollout,
        })
        .collect();
    let mut value = serde_json::json!({ "rollouts": rollouts });
    readable(&mut value);
    context.out.emit(&value, |_, w| {
        let mut table = Table::new(["rollout", "version", "counter", "phase", "state"]);
        for Past {
            rollout,
            superseded,
        } in &rollouts
        {
            let state = match superseded {
                true => "superseded".to_owned(),
                false => state_words(rollout),
            };
            let target = rollout.plan.targets.first();
            table.row([
                rollout.plan.id.to_string(),
                target.map_or(String::new(), |target| target.version.to_string()),
                target.map_or(String::new(), |target| target.counter.to_string()),
                format!("{} of {}", rollout.phase + 1, rollout.plan.phases.len()),
                state,
            ]);
        }
        table.write(w)
    })?;
    Ok(Exit::Ok)
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
