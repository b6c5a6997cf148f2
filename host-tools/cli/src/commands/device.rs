//! `edgeward device`.

use super::fleet::store_path;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::output::Table;
use edgeward::bundle::BoardClass;
use edgeward::topic::is_name;
use edgeward::trust::PublicKey;
use edgeward::trust::strict::point_is_strict;
use edgeward_host::keys::{hex, unhex};
use edgeward_host::names::class_name;
use edgeward_host::store::sqlite::Sqlite;
use edgeward_host::store::{Device, Store, StoreError};
use serde::Serialize;
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
    /// List the enrolled boards.
    #[command(after_help = "Example:\n  edgeward device list -o json")]
    List,
    /// Show one board.
    #[command(after_help = "Example:\n  edgeward device show board-1")]
    Show(NameArgs),
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
    /// Only check.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, clap::Args)]
struct NameArgs {
    /// The board's name.
    device: String,
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
    enrolled_ms: u64,
    seen_ms: Option<u64>,
    online: bool,
    through: u64,
}

impl From<&Device> for DeviceRow {
    fn from(device: &Device) -> Self {
        Self {
            device: device.name.clone(),
            fleet: device.fleet.clone(),
            class: class_name(device.class),
            key: hex(&device.key.0),
            enrolled_ms: device.enrolled_ms,
            seen_ms: device.seen_ms,
            online: device.online,
            through: device.through,
        }
    }
}

/// Runs the command.
pub fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    match args.command {
        Command::Enroll(args) => enroll(&args, context),
        Command::List => list(context),
        Command::Show(args) => {
            let device = find(&open(context)?, &args.device)?;
            show(&device, context)
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
        through: 0,
    };
    if args.dry_run {
        context.out.say(format!("would enroll {}", device.name));
        return show(&device, context);
    }
    let store = open(context)?;
    store.enroll(&device)?;
    let detail = format!("{} {}", device.name, hex(&device.key.0));
    store.audit("device enroll", &detail, now_ms())?;
    context.out.say(format!("enrolled {}", device.name));
    show(&find(&store, &args.device)?, context)
}

fn list(context: &Context) -> anyhow::Result<Exit> {
    let devices = open(context)?.devices()?;
    let rows: Vec<_> = devices.iter().map(DeviceRow::from).collect();
    context.out.emit(&rows, |rows, w| {
        let mut table = Table::new(["device", "fleet", "class", "online", "key"]);
        for row in rows {
            let online = if row.online { "yes" } else { "no" };
            table.row([
                row.device.clone(),
                row.fleet.clone(),
                row.class.into(),
                online.into(),
                row.key.clone(),
            ]);
        }
        table.write(w)
    })?;
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
    context.out.emit(&DeviceRow::from(device), |row, w| {
        writeln!(w, "device    {}", row.device)?;
        writeln!(w, "fleet     {}", row.fleet)?;
        writeln!(w, "class     {}", row.class)?;
        writeln!(w, "key       {}", row.key)?;
        let online = if row.online { "yes" } else { "no" };
        writeln!(w, "online    {online}")?;
        match row.seen_ms {
            Some(seen_ms) => {
                let ago_s = now_ms().saturating_sub(seen_ms) / 1000;
                writeln!(w, "seen      {ago_s} s ago, frames through {}", row.through)
            }
            None => writeln!(w, "seen      never"),
        }
    })?;
    Ok(Exit::Ok)
}
