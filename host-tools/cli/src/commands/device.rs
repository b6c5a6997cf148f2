//! `edgeward device`.

use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::output::Table;
use edgeward_host::devices::{Device, DeviceError, FileRegistry, Registry};
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
        after_help = "Example:\n  edgeward device enroll board-1 --key 19bf4409...66e1\n\nThe board prints its public key when it first starts."
    )]
    Enroll(EnrollArgs),
    /// List the enrolled boards.
    #[command(after_help = "Example:\n  edgeward device list -o json")]
    List,
    /// Show one board.
    #[command(after_help = "Example:\n  edgeward device show board-1")]
    Show(NameArgs),
    /// Believe a board no longer.
    #[command(after_help = "Example:\n  edgeward device forget board-1")]
    Forget(ForgetArgs),
}

#[derive(Debug, clap::Args)]
struct EnrollArgs {
    /// The board's name.
    device: String,
    /// Its public key, 64 hexadecimal digits.
    #[arg(long)]
    key: String,
    /// Its fleet [default: that of the configuration, else `default`].
    #[arg(long, env = "EDGEWARD_FLEET")]
    fleet: Option<String>,
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

/// Runs the command.
pub fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let mut registry = FileRegistry::at(&context.home);
    match args.command {
        Command::Enroll(args) => enroll(&args, &mut registry, context),
        Command::List => {
            let devices = registry.list()?;
            context.out.emit(&devices, |devices, w| {
                let mut table = Table::new(["device", "fleet", "key"]);
                for device in devices {
                    table.row([
                        device.device.clone(),
                        device.fleet.clone(),
                        device.key.clone(),
                    ]);
                }
                table.write(w)
            })?;
            Ok(Exit::Ok)
        }
        Command::Show(args) => show(&find(&registry, &args.device)?, context),
        Command::Forget(args) => {
            let device = find(&registry, &args.device)?;
            if args.dry_run {
                context.out.say(format!("would forget {}", device.device));
            } else {
                registry.forget(&args.device)?;
                context.out.say(format!("forgot {}", device.device));
            }
            show(&device, context)
        }
    }
}

fn enroll(
    args: &EnrollArgs,
    registry: &mut FileRegistry,
    context: &Context,
) -> anyhow::Result<Exit> {
    let fleet = args.fleet.as_deref().or(context.config.fleet.as_deref());
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let device = Device::new(
        &args.device,
        fleet.unwrap_or("default"),
        &args.key,
        now.as_secs(),
    );
    let device = device.map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    if args.dry_run {
        context.out.say(format!("would enroll {}", device.device));
        return show(&device, context);
    }
    registry.enroll(device.clone())?;
    context.out.say(format!("enrolled {}", device.device));
    show(&device, context)
}

fn find(registry: &FileRegistry, name: &str) -> anyhow::Result<Device> {
    let device = registry
        .list()?
        .into_iter()
        .find(|device| device.device == name);
    device.ok_or_else(|| {
        Failure::new(
            Exit::Error,
            DeviceError::Unknown(name.to_owned()).to_string(),
        )
        .next("`edgeward device list` shows the enrolled ones")
        .into()
    })
}

fn show(device: &Device, context: &Context) -> anyhow::Result<Exit> {
    context.out.emit(device, |device, w| {
        writeln!(w, "device    {}", device.device)?;
        writeln!(w, "fleet     {}", device.fleet)?;
        writeln!(w, "key       {}", device.key)?;
        writeln!(w, "enrolled  {} s since 1970", device.enrolled_s)
    })?;
    Ok(Exit::Ok)
}
