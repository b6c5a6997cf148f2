//! `edgeward device`.

mod list;
mod slots;
mod windows;

use super::change::{Changes, DryRun};
use super::fleet::{look, look_or_empty, seconds, store_path};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use edgeward::bundle::BoardClass;
use edgeward::telemetry::SlotState;
use edgeward::topic::is_name;
use edgeward::trust::PublicKey;
use edgeward::trust::strict::point_is_strict;
use edgeward_host::catalog::Catalog;
use edgeward_host::collector::now_ms;
use edgeward_host::keys::{hex, unhex};
use edgeward_host::names::{class_name, slot_state_name};
use edgeward_host::status::{self, BoardStatus, Running};
use edgeward_host::store::sqlite::Sqlite;
use edgeward_host::store::{Device, Epoch, Store, StoreError, Unknown};
use serde::Serialize;
use std::io::{self, Write};

/// Arguments of `device`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Believe a board's telemetry from now on.
    #[command(
        after_help = "Example:\n  edgeward device enroll board-1 --key 19bf4409...66e1\n\nThe board makes its own key and prints the public half; enrolling twice changes nothing."
    )]
    Enroll(EnrollArgs),
    /// List the enrolled boards and what they run.
    #[command(
        after_help = "Examples:\n  edgeward device list -o json\n  edgeward device list --unknown\n\nA key id is the first 16 hexadecimal digits of the SHA-256 of the public key. An unknown board shows\nthe id that it claims; `device enroll` wants the whole key, which only the board can print.\nChanges nothing."
    )]
    List(ListArgs),
    /// Show one board: what it runs, how it fares, and what it complained of.
    #[command(
        after_help = "Examples:\n  edgeward device show board-1\n  edgeward device show board-1 --since 86400 -o json\n\nChanges nothing."
    )]
    Show(ShowArgs),
    /// Believe a board no longer, and drop what it reported.
    #[command(after_help = "Example:\n  edgeward device forget board-1 --dry-run")]
    Forget(ForgetArgs),
}

#[derive(Debug, clap::Args)]
struct EnrollArgs {
    /// The board's name.
    device: String,
    /// Its public key, 64 hexadecimal digits.
    #[arg(long)]
    key: String,
    /// Its fleet.
    #[arg(long, default_value = "default", env = "EDGEWARD_FLEET")]
    fleet: String,
    /// Its class.
    #[arg(long, value_enum, default_value_t = super::inspect::ClassArg::Linux)]
    class: super::inspect::ClassArg,
    /// The board lost its outbox: take its next one, whatever its clock says.
    #[arg(long)]
    new_outbox: bool,
    #[command(flatten)]
    dry_run: DryRun,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Boards that report and that nobody enrolled, instead.
    #[arg(long)]
    unknown: bool,
    /// Only boards of this fleet [default: all; with --unknown, `default`].
    #[arg(long, env = "EDGEWARD_FLEET")]
    fleet: Option<String>,
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// The board's name.
    device: String,
    /// Count the alarms of the last so many seconds.
    #[arg(long, default_value_t = 3600, value_parser = seconds(0))]
    since: u64,
}

#[derive(Debug, clap::Args)]
struct ForgetArgs {
    /// The board's name.
    device: String,
    #[command(flatten)]
    dry_run: DryRun,
}

/// A device as it is printed. The field names are stable.
#[derive(Debug, Serialize)]
struct DeviceRow {
    device: String,
    fleet: String,
    class: &'static str,
    key: String,
    key_id: String,
    enrolled_ms: u64,
    seen_ms: Option<u64>,
    online: bool,
    epoch: Option<u32>,
    through: u64,
}

impl From<&Device> for DeviceRow {
    fn from(device: &Device) -> Self {
        Self {
            device: device.name.clone(),
            fleet: device.fleet.clone(),
            class: class_name(device.class),
            key: hex(&device.key.0),
            key_id: hex(&device.key.id().0),
            enrolled_ms: device.enrolled_ms,
            seen_ms: device.seen_ms,
            online: device.online,
            epoch: device.epoch,
            through: device.through,
        }
    }
}

/// Runs the command.
pub fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    match args.command {
        Command::Enroll(args) => enroll(&args, context),
        Command::List(args) if args.unknown => list::unknown(&args, context),
        Command::List(args) => list::enrolled(&args, context),
        Command::Show(args) => show_one(&args, context),
        Command::Forget(args) => forget(&args, context),
    }
}

fn open(context: &Context) -> anyhow::Result<Sqlite> {
    Ok(Sqlite::open(&store_path(&context.home))?)
}

fn show_one(args: &ShowArgs, context: &Context) -> anyhow::Result<Exit> {
    let since_ms = now_ms().saturating_sub(args.since * 1000);
    let catalog = Catalog::at(&context.home);
    let (device, status, epochs) = look(context, |store| {
        let device = find(store, &args.device)?;
        let status = status::board(store, &catalog, &device, since_ms)?;
        let epochs = store.epochs(&device.name)?;
        Ok((device, status, epochs))
    })?;
    show_status(&device, &status, epochs, context)
}

fn forget(args: &ForgetArgs, context: &Context) -> anyhow::Result<Exit> {
    let (device, frames) = look(context, |store| {
        let device = find(store, &args.device)?;
        let frames = store.count_frames(&device.name)?;
        Ok((device, frames))
    })?;
    let mut changes = args.dry_run.changes();
    let what = format!(
        "forget {} and the {frames} frames stored of it",
        device.name
    );
    let forgotten = changes.make(what, || {
        let store = open(context)?;
        store.forget(&args.device)?;
        Ok(store.audit("device forget", &args.device, now_ms())?)
    })?;
    if forgotten.is_some() {
        context.out.say(format!("forgot {}", device.name));
    }
    show(&device, &changes, context)
}

fn enroll(args: &EnrollArgs, context: &Context) -> anyhow::Result<Exit> {
    for name in [&args.device, &args.fleet] {
        if !is_name(name) {
            let what = format!("`{name}` is no name: 1 to 32 letters, digits, `-` and `_`");
            return Err(Failure::new(Exit::Usage, what).into());
        }
    }
    let key = unhex::<32>(&args.key).filter(point_is_strict);
    let key = key.ok_or_else(|| {
        let what = format!("`{}` is no Ed25519 public key", args.key);
        Failure::new(Exit::Usage, what)
            .next("give the 64 hexadecimal digits that the board prints as its key")
    })?;
    let device = Device {
        name: args.device.clone(),
        fleet: args.fleet.clone(),
        key: PublicKey(key),
        class: BoardClass::from(args.class),
        enrolled_ms: now_ms(),
        seen_ms: None,
        online: false,
        epoch: None,
        through: 0,
    };
    let look = look_or_empty(context, |store| {
        store.check_key(&device)?;
        Ok((store.device(&device.name)?, store.unknown(&device.fleet)?))
    });
    let (there, unknown) = look.map_err(advised)?;
    warn_of_another_key(&unknown, &device, context);
    let mut changes = args.dry_run.changes();
    if let Some(there) = there {
        if !args.new_outbox {
            same_place(&there, &device)?;
        }
        return enroll_again(args, &there, changes, context);
    }
    let what = format!("enroll {} in fleet {}", device.name, device.fleet);
    let enrolled = changes.make(what, || {
        let store = open(context)?;
        store
            .enroll(&device)
            .map_err(|error| advised(error.into()))?;
        let detail = format!("{} {}", device.name, hex(&device.key.0));
        Ok(store.audit("device enroll", &detail, now_ms())?)
    })?;
    if enrolled.is_some() {
        context.out.say(format!("enrolled {}", device.name));
    }
    show(&device, &changes, context)
}

/// What to do about a key that is another board's.
fn advised(error: anyhow::Error) -> anyhow::Error {
    let Some(StoreError::SameKey { device, .. }) = error.downcast_ref() else {
        return error;
    };
    let next = format!(
        "give the key that the board itself prints, or `edgeward device forget {device}` first if it was renamed"
    );
    Failure::new(Exit::Error, error.to_string())
        .next(next)
        .into()
}

/// Enrolls a board that is enrolled: that changes nothing but the outbox that is taken next.
fn enroll_again(
    args: &EnrollArgs,
    device: &Device,
    mut changes: Changes,
    context: &Context,
) -> anyhow::Result<Exit> {
    let name = &device.name;
    context.out.say(format!("{name} is enrolled already"));
    if args.new_outbox {
        let what = format!("take the next outbox of {name}, whatever its clock says");
        changes.make(what, || {
            let store = open(context)?;
            store.expect_epoch(name)?;
            let detail = format!("{name} {} new outbox", hex(&device.key.0));
            Ok(store.audit("device enroll", &detail, now_ms())?)
        })?;
    }
    show(device, &changes, context)
}

/// Refuses to leave a board where it is without a word, when it was asked to be elsewhere.
fn same_place(there: &Device, asked: &Device) -> anyhow::Result<()> {
    if (&there.fleet, there.class) == (&asked.fleet, asked.class) {
        return Ok(());
    }
    let (name, fleet, class) = (&there.name, &there.fleet, class_name(there.class));
    let what = format!("{name} is enrolled in fleet {fleet} as a {class} board");
    let next = format!("`edgeward device forget {name}` first, to enroll it otherwise");
    Err(Failure::new(Exit::Error, what).next(next).into())
}

/// Says so when what reports under this name signs with another key: a mistake, or another board.
fn warn_of_another_key(unknown: &[Unknown], device: &Device, context: &Context) {
    let id = hex(&device.key.id().0);
    let mut others = unknown.iter().filter(|board| board.name == device.name);
    if let Some(other) = others.find(|board| board.key_id != id) {
        context.out.say(format!(
            "note: a board that calls itself {} signs with the key of id {}; this key has id {id}",
            device.name, other.key_id
        ));
    }
}

/// Time since a moment, as `5 s` or `3 h`.
fn ago(since_ms: u64) -> String {
    let seconds = now_ms().saturating_sub(since_ms) / 1000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn runs(running: &Running) -> String {
    match &running.model {
        Some(model) => format!("{model} {}", running.version),
        None => format!("{} ({})", running.version, running.release),
    }
}

fn find(store: &dyn Store, name: &str) -> anyhow::Result<Device> {
    store.device(name)?.ok_or_else(|| {
        Failure::new(
            Exit::Error,
            StoreError::NoDevice(name.to_owned()).to_string(),
        )
        .next("`edgeward device list` shows the enrolled ones")
        .into()
    })
}

fn show(device: &Device, changes: &Changes, context: &Context) -> anyhow::Result<Exit> {
    changes.emit(context, &DeviceRow::from(device), print_device)?;
    Ok(Exit::Ok)
}

fn print_device(row: &DeviceRow, w: &mut dyn Write) -> io::Result<()> {
    writeln!(w, "device    {}", row.device)?;
    writeln!(w, "fleet     {}", row.fleet)?;
    writeln!(w, "class     {}", row.class)?;
    writeln!(w, "key       {} (id {})", row.key, row.key_id)?;
    let online = if row.online { "yes" } else { "no" };
    writeln!(w, "online    {online}")?;
    match row.seen_ms {
        Some(seen_ms) => writeln!(
            w,
            "seen      {} ago, frames through {}",
            ago(seen_ms),
            row.through
        ),
        None => writeln!(w, "seen      never"),
    }
}

/// A device with all that is known of it. The field names are stable.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    device: DeviceRow,
    #[serde(flatten)]
    status: &'a BoardStatus,
    epochs: Vec<Epoch>,
}

fn show_status(
    device: &Device,
    status: &BoardStatus,
    epochs: Vec<Epoch>,
    context: &Context,
) -> anyhow::Result<Exit> {
    let shown = Shown {
        device: DeviceRow::from(device),
        status,
        epochs,
    };
    context.out.emit(&shown, |shown, w| {
        print_device(&shown.device, w)?;
        print_epochs(&shown.epochs, w)?;
        print_standing(shown.status, w)?;
        print_health(shown.status, w)
    })?;
    Ok(Exit::Ok)
}

/// What the board runs.
fn print_standing(status: &BoardStatus, w: &mut dyn Write) -> io::Result<()> {
    let Some(agent) = &status.agent else {
        return writeln!(w, "runs      unknown: it has not reported yet");
    };
    let boot = status
        .boot
        .map_or(String::new(), |boot| format!(", boot {boot}"));
    writeln!(w, "agent     {agent}{boot}")?;
    if !status.tags.is_empty() {
        writeln!(w, "tags      {}", status.tags.join(", "))?;
    }
    match &status.running {
        Some(running) => {
            writeln!(
                w,
                "runs      {}, counter {}, {} in slot {}",
                runs(running),
                running.counter,
                running.state,
                running.slot
            )?;
            let digest = running.digest.as_ref().unwrap_or(&running.release);
            writeln!(w, "digest    {digest}")?;
            if running.state == slot_state_name(SlotState::Revoked) {
                writeln!(
                    w,
                    "revoked   its keys count no more: roll out a release that others signed"
                )?;
            }
        }
        None => writeln!(w, "runs      nothing")?,
    }
    slots::print(status, w)?;
    let (floor, root) = (status.floor, status.root_version);
    let number = |number: Option<u32>| number.unwrap_or_default();
    writeln!(
        w,
        "accepts   counter {} and above, root version {}",
        number(floor),
        number(root)
    )?;
    if let Some(rollout) = &status.rollout {
        let cohort = if rollout.in_cohort { "in" } else { "not in" };
        writeln!(
            w,
            "rollout   {}, {}; {cohort} the cohort, {}",
            rollout.id, rollout.state, rollout.board
        )?;
    }
    match &status.last_failure {
        Some(failure) => writeln!(
            w,
            "failed    {} ({}): {}",
            failure.version.as_deref().unwrap_or("release"),
            failure.release,
            failure.reason
        ),
        None => writeln!(w, "failed    no trial yet"),
    }
}

/// How the board fares.
fn print_health(status: &BoardStatus, w: &mut dyn Write) -> io::Result<()> {
    match status.missing_frames {
        0 => writeln!(w, "gaps      none")?,
        missing => writeln!(
            w,
            "gaps      {missing} frames on their way or lost: {:?}",
            status.gaps
        )?,
    }
    let drifted: Vec<String> = status
        .drift
        .iter()
        .filter(|drift| drift.drifted)
        .map(|drift| {
            format!(
                "{} ({} {:.3}, limit {:.3})",
                drift.feature, drift.statistic, drift.value, drift.limit
            )
        })
        .collect();
    match (drifted.as_slice(), status.drift.first()) {
        ([], None) => writeln!(w, "drift     unknown")?,
        ([], Some(nearest)) => writeln!(
            w,
            "drift     none; nearest is {} ({} {:.3}, limit {:.3})",
            nearest.feature, nearest.statistic, nearest.value, nearest.limit
        )?,
        (drifted, _) => writeln!(w, "drift     {}", drifted.join(", "))?,
    }
    let minutes = now_ms().saturating_sub(status.alarms_since_ms) / 60_000;
    match status.alarms.as_slice() {
        [] => writeln!(w, "alarms    none in the last {minutes} min")?,
        alarms => {
            writeln!(w, "alarms    in the last {minutes} min:")?;
            for (_, text) in status::words(alarms) {
                writeln!(w, "          {text}")?;
            }
        }
    }
    windows::print(&status.windows, w)
}

/// A board's outboxes; nothing while it has its first, whole.
fn print_epochs(epochs: &[Epoch], w: &mut dyn Write) -> io::Result<()> {
    if let [only] = epochs
        && only.lost == 0
        && only.elsewhere == 0
    {
        return Ok(());
    }
    for (epoch, number) in epochs.iter().zip(1..) {
        let (begun, last) = (ago(epoch.begun_ms), epoch.last);
        let what = match (epoch.closed, epoch.lost) {
            (true, 0) => format!("lost by the board after frame {last}"),
            (true, lost) => format!("lost by the board after frame {last}, and {lost} before it"),
            (false, 0) => "in use".to_owned(),
            (false, lost) => format!("in use, {lost} acknowledged frames are not in this store"),
        };
        let elsewhere = match epoch.elsewhere {
            0 => String::new(),
            through => format!("; through {through} acknowledged before this store knew of it"),
        };
        let id = epoch.epoch;
        writeln!(
            w,
            "outbox {number}  {id:08x}, begun {begun} ago, {what}{elsewhere}"
        )?;
    }
    Ok(())
}
