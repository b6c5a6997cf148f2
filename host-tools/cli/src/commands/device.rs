//! `edgeward device`.

mod slots;
mod windows;

use super::fleet::store_path;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::output::Table;
use edgeward::bundle::BoardClass;
use edgeward::telemetry::SlotState;
use edgeward::topic::is_name;
use edgeward::trust::PublicKey;
use edgeward::trust::strict::point_is_strict;
use edgeward_host::catalog::Catalog;
use edgeward_host::keys::{hex, unhex};
use edgeward_host::names::{class_name, slot_state_name};
use edgeward_host::status::{self, BoardStatus, Running, TrialFailure};
use edgeward_host::store::sqlite::Sqlite;
use edgeward_host::store::{Device, Epoch, Store, StoreError};
use serde::Serialize;
use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

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
        after_help = "Examples:\n  edgeward device list -o json\n  edgeward device list --unknown\n\nA key id is the first 16 hexadecimal digits of the SHA-256 of the public key. An unknown board shows\nthe id that it claims; `device enroll` wants the whole key, which only the board can print."
    )]
    List(ListArgs),
    /// Show one board: what it runs, how it fares, and what it complained of.
    #[command(
        after_help = "Examples:\n  edgeward device show board-1\n  edgeward device show board-1 --since 86400 -o json"
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
    /// Only check.
    #[arg(long)]
    dry_run: bool,
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
    #[arg(long, default_value_t = 3600)]
    since: u64,
}

#[derive(Debug, clap::Args)]
struct ForgetArgs {
    /// The board's name.
    device: String,
    /// Only check.
    #[arg(long)]
    dry_run: bool,
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
        Command::List(args) if args.unknown => unknown(&args, context),
        Command::List(args) => list(&args, context),
        Command::Show(args) => {
            let store = open(context)?;
            let device = find(&store, &args.device)?;
            let since_ms = now_ms().saturating_sub(args.since.saturating_mul(1000));
            let catalog = Catalog::at(&context.home);
            let status = status::board(&store, &catalog, &device, since_ms)?;
            show_status(&device, &status, store.epochs(&device.name)?, context)
        }
        Command::Forget(args) => {
            let store = open(context)?;
            let device = find(&store, &args.device)?;
            if args.dry_run {
                context.out.say(format!("would forget {}", device.name));
            } else {
                store.forget(&args.device)?;
                store.audit("device forget", &args.device, now_ms())?;
                context.out.say(format!("forgot {}", device.name));
            }
            show(&device, context)
        }
    }
}

fn open(context: &Context) -> anyhow::Result<Sqlite> {
    std::fs::create_dir_all(&context.home)?;
    Ok(Sqlite::open(&store_path(&context.home))?)
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_millis() as u64
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
    if store_path(&context.home).exists() {
        warn_of_another_key(&open(context)?, &device, context)?;
    }
    if args.dry_run {
        context.out.say(format!("would enroll {}", device.name));
        return show(&device, context);
    }
    let store = open(context)?;
    store.enroll(&device)?;
    let mut detail = format!("{} {}", device.name, hex(&device.key.0));
    if args.new_outbox {
        store.expect_epoch(&device.name)?;
        detail.push_str(" new outbox");
    }
    store.audit("device enroll", &detail, now_ms())?;
    context.out.say(format!("enrolled {}", device.name));
    show(&find(&store, &args.device)?, context)
}

/// Says so when what reports under this name signs with another key: a mistake, or another board.
fn warn_of_another_key(store: &Sqlite, device: &Device, context: &Context) -> anyhow::Result<()> {
    let id = hex(&device.key.id().0);
    let unknown = store.unknown(&device.fleet)?;
    let mut others = unknown.iter().filter(|board| board.name == device.name);
    if let Some(other) = others.find(|board| board.key_id != id) {
        context.out.say(format!(
            "note: a board that calls itself {} signs with the key of id {}; this key has id {id}",
            device.name, other.key_id
        ));
    }
    Ok(())
}

/// A line of the list. The field names are stable.
#[derive(Debug, Serialize)]
struct ListRow {
    #[serde(flatten)]
    device: DeviceRow,
    agent: Option<String>,
    running: Option<Running>,
    last_failure: Option<TrialFailure>,
    estimated_accuracy: Option<f64>,
    /// Alarms and drifted features of the newest window.
    alarms: Option<u32>,
    drifted: usize,
    missing_frames: u64,
}

fn list(args: &ListArgs, context: &Context) -> anyhow::Result<Exit> {
    let store = open(context)?;
    let catalog = Catalog::at(&context.home);
    let mut rows = Vec::new();
    for device in store.devices()? {
        if args
            .fleet
            .as_ref()
            .is_some_and(|fleet| *fleet != device.fleet)
        {
            continue;
        }
        let status = status::standing(&store, &catalog, &device)?;
        let window = status.windows.first();
        rows.push(ListRow {
            device: DeviceRow::from(&device),
            agent: status.agent,
            running: status.running,
            last_failure: status.last_failure,
            estimated_accuracy: window.and_then(|window| window.estimated_accuracy),
            alarms: window.map(|window| window.alarms),
            drifted: status.drift.iter().filter(|drift| drift.drifted).count(),
            missing_frames: status.missing_frames,
        });
    }
    let dash = || "-".to_owned();
    context.out.emit(&rows, |rows, w| {
        let mut table = Table::new([
            "device", "fleet", "class", "online", "seen", "runs", "state", "accuracy", "alarms",
            "drifted", "key id",
        ]);
        for row in rows {
            let device = &row.device;
            let percent = |share: f64| format!("{:.1}%", share * 100.0);
            table.row([
                device.device.clone(),
                device.fleet.clone(),
                device.class.into(),
                if device.online { "yes" } else { "no" }.into(),
                device.seen_ms.map_or_else(dash, ago),
                row.running.as_ref().map_or_else(dash, runs),
                row.running
                    .as_ref()
                    .map_or_else(dash, |running| running.state.to_owned()),
                row.estimated_accuracy.map_or_else(dash, percent),
                row.alarms.map_or_else(dash, |alarms| alarms.to_string()),
                row.drifted.to_string(),
                device.key_id.clone(),
            ]);
        }
        table.write(w)
    })?;
    Ok(Exit::Ok)
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

fn unknown(args: &ListArgs, context: &Context) -> anyhow::Result<Exit> {
    let fleet = args.fleet.as_deref().unwrap_or("default");
    let boards = open(context)?.unknown(fleet)?;
    context.out.emit(&boards, |boards, w| {
        let mut table = Table::new(["device", "fleet", "key id", "first", "seen", "messages"]);
        for board in boards {
            table.row([
                board.name.clone(),
                board.fleet.clone(),
                board.key_id.clone(),
                ago(board.first_ms),
                ago(board.seen_ms),
                board.messages.to_string(),
            ]);
        }
        table.write(w)
    })?;
    if !boards.is_empty() {
        context.out.say(
            "enroll one with `edgeward device enroll NAME --key KEY`, KEY as `edgeward-agent \
             --print-key` shows it on the board",
        );
    }
    Ok(Exit::Ok)
}

fn find(store: &Sqlite, name: &str) -> anyhow::Result<Device> {
    store.device(name)?.ok_or_else(|| {
        Failure::new(
            Exit::Error,
            StoreError::NoDevice(name.to_owned()).to_string(),
        )
        .next("`edgeward device list` shows the enrolled ones")
        .into()
    })
}

fn show(device: &Device, context: &Context) -> anyhow::Result<Exit> {
    context
        .out
        .emit(&DeviceRow::from(device), |row, w| print_device(row, w))?;
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
