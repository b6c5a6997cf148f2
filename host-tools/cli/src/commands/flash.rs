//! `edgeward flash`: a microcontroller board with its firmware, its name and whom it trusts.

use super::change::{Changes, DryRun};
use super::fleet::Fleet;
use super::release;
use crate::boards::{self, Board};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::output::Format;
use anyhow::{Context as _, Result};
use edgeward::telemetry::{Id, Text};
use edgeward_firmware::provisioning::{AUTHORITIES, PROVISIONING_BYTES, Provisioning, Secure};
use edgeward_host::collector::now_ms;
use edgeward_tls::{TlsError, Trust};
use heapless::Vec as Bounded;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const HELP: &str = "\
Examples:
  edgeward flash --board qemu-mps2-an386 press-03 --samples samples.txt
  edgeward flash --board qemu-mps2-an386 press-03 --no-start
  edgeward flash --board qemu-mps2-an386 press-03 --broker mqtts://broker.site --broker-ca ca.pem

The board's folder holds its flash (flash.bin), what its sensor replays (samples.txt, in the line protocol
of docs/AGENT.md) and what it says (uart.log). What the flash holds stays: the device's key, which the
board makes at its first start and says, its releases, and what it has to report. Without --image the
firmware is built, in a checkout of the repository. docs/BOARDS.md has the way from here to telemetry.";

/// Build a microcontroller board's firmware, provision the board, and start it.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The board's name in the fleet.
    name: String,
    /// What board it is.
    #[arg(long, value_name = "BOARD")]
    board: String,
    #[command(flatten)]
    fleet: Fleet,
    /// A tag, for rollouts that select by tag; may be given again.
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// The board's folder [default: its name].
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// What the sensor replays: copied into the folder.
    #[arg(long, value_name = "FILE")]
    samples: Option<PathBuf>,
    /// The firmware, where it is built already.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Begin with blank flash: another key, no release, and what waits to be reported is lost.
    #[arg(long)]
    erase: bool,
    /// Only make the folder.
    #[arg(long)]
    no_start: bool,
    #[command(flatten)]
    dry_run: DryRun,
}

/// Runs it; where the board is started, QEMU takes this process's place.
pub fn run(args: &Args, context: &Context) -> Result<Exit> {
    let board = boards::find(&args.board)?;
    let folder = args.folder.clone();
    let folder = folder.unwrap_or_else(|| PathBuf::from(&args.name));
    let mut changes = args.dry_run.changes();
    let broker = Broker::of(&args.fleet, &board)?;
    let provisioning = provision(args, &broker, context)?;
    if !folder.is_dir() {
        let make = || Ok(std::fs::create_dir_all(&folder)?);
        changes.make(format!("make {}", folder.display()), make)?;
    }
    write_flash(
        &folder.join("flash.bin"),
        &board,
        &provisioning,
        args.erase,
        &mut changes,
    )?;
    if let Some(samples) = &args.samples {
        let bytes = std::fs::read(samples).with_context(|| samples.display().to_string())?;
        release::write(&mut changes, &folder.join("samples.txt"), &bytes)?;
    }
    let image = match &args.image {
        Some(image) => image
            .canonicalize()
            .with_context(|| image.display().to_string())?,
        None if changes.are_only_said() => PathBuf::from("(built)"),
        None => build(&board, context)?,
    };
    let value = serde_json::json!({
        "board": board.name, "device": args.name, "fleet": args.fleet.fleet,
        "folder": folder.display().to_string(), "broker": broker.address,
        "tls": broker.authorities.is_some(),
        "image": image.display().to_string(), "starts": !args.no_start,
    });
    if !args.no_start {
        let what = format!("start {} in {}", board.title, folder.display());
        changes.make(what, || Ok(()))?;
    }
    changes.emit(context, &value, |_, w| {
        writeln!(w, "{}: {} on {}", folder.display(), args.name, board.title)?;
        writeln!(
            w,
            "enroll it with the key that it says: edgeward device enroll {} --fleet {} --class mcu --key KEY",
            args.name, args.fleet.fleet
        )
    })?;
    if args.no_start || changes.are_only_said() {
        return Ok(Exit::Ok);
    }
    start(&board, &folder, &image, context)
}

/// A broker as a board reaches and knows it.
struct Broker {
    address: SocketAddr,
    /// Its name, as its certificate has it.
    name: String,
    /// Who may have signed that, in DER; none for a broker that is spoken to in plain.
    authorities: Option<Vec<Vec<u8>>>,
}

impl Broker {
    fn of(fleet: &Fleet, board: &Board) -> Result<Self> {
        let authorities = fleet.authorities()?;
        let options = fleet.mqtt("flash")?;
        if let Some(authorities) = &authorities {
            check_trust(&options.host, authorities)?;
        }
        let found = (options.host.as_str(), options.port).to_socket_addrs();
        let found = found.with_context(|| format!("--broker: {}", options.host))?;
        let four = found.filter_map(|address| match address.ip() {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(ip) if ip.is_loopback() => Some(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => None,
        });
        let ip = four.into_iter().next().ok_or_else(|| {
            let what = format!("--broker: {} has no IPv4 address", options.host);
            Failure::new(Exit::Usage, what)
        })?;
        let ip = if ip.is_loopback() {
            board.qemu.host
        } else {
            ip
        };
        Ok(Self {
            address: SocketAddr::from((ip, options.port)),
            name: options.host,
            authorities,
        })
    }

    /// As a board is told.
    fn secure(&self) -> Option<Secure<'_>> {
        let authorities = self.authorities.as_ref()?;
        Some(Secure {
            name: &self.name,
            authorities: authorities.iter().map(Vec::as_slice).collect(),
            since_s: now_ms() / 1000,
        })
    }
}

/// Whether a board could know a broker of this name by these authorities.
fn check_trust(name: &str, authorities: &[Vec<u8>]) -> Result<()> {
    let refused = |what: String, next: &str| Err(Failure::new(Exit::Usage, what).next(next).into());
    if authorities.len() > AUTHORITIES {
        let what = format!("--broker-ca holds {} certificates", authorities.len());
        return refused(
            what,
            "a microcontroller has room for 4: keep those that sign the broker's",
        );
    }
    match Trust::new(name, authorities.iter().map(Vec::as_slice)) {
        Ok(_) => Ok(()),
        Err(TlsError::Name) => refused(
            format!("--broker: {name:?} is no name that a certificate could have"),
            "connect by a name or address that is in the broker's certificate",
        ),
        Err(TlsError::Kind) => refused(
            "--broker-ca: an authority's key is neither ECDSA P-256 nor Ed25519".to_owned(),
            "microcontrollers know no other: have the broker's certificate signed by such a key",
        ),
        Err(error) => refused(
            format!("--broker-ca: {error}"),
            "give the certificate of whoever signed the broker's",
        ),
    }
}

/// What is written into the board's flash.
fn provision(args: &Args, broker: &Broker, context: &Context) -> Result<Vec<u8>> {
    let usage = |what: String| anyhow::Error::from(Failure::new(Exit::Usage, what));
    let id = |text: &str| {
        let fits = Id::try_from(text).ok();
        fits.ok_or_else(|| usage(format!("{text:?} is longer than 32 bytes")))
    };
    let text = |text: &str| {
        let fits = Text::try_from(text).ok();
        fits.ok_or_else(|| usage(format!("{text:?} is longer than 32 bytes")))
    };
    let mut tags = Bounded::new();
    for tag in &args.tags {
        let full = || usage("a board has at most 8 tags".to_owned());
        tags.push(text(tag)?).map_err(|_| full())?;
    }
    let credentials = args.fleet.mqtt("flash")?.credentials;
    let (username, password) = match &credentials {
        Some(it) => (text(&it.username)?, text(it.password())?),
        None => (Text::new(), Text::new()),
    };
    let root = args.fleet.keys(context).root_bytes()?;
    let IpAddr::V4(ip) = broker.address.ip() else {
        return Err(usage("the broker has no IPv4 address".to_owned()));
    };
    let provisioning = Provisioning {
        fleet: id(&args.fleet.fleet)?,
        device: id(&args.name)?,
        tags,
        broker: ip.octets(),
        port: broker.address.port(),
        username,
        password,
        secure: broker.secure(),
        root: &root,
    };
    let mut bytes = vec![0xFF; PROVISIONING_BYTES];
    let encoded = provisioning.encode(&mut bytes);
    encoded.map_err(|error| usage(error.to_string()))?;
    Ok(bytes)
}

/// Makes the board's flash, or writes its provisioning anew and leaves the rest.
fn write_flash(
    path: &Path,
    board: &Board,
    provisioning: &[u8],
    erase: bool,
    changes: &mut Changes,
) -> Result<()> {
    let blank = || vec![0xFF; board.storage.bytes];
    let mut flash = match std::fs::read(path) {
        Ok(flash) if !erase => flash,
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| path.display().to_string());
        }
        _ => blank(),
    };
    if flash.len() != board.storage.bytes {
        let what = format!(
            "{} has {} bytes, the flash of {} has {}",
            path.display(),
            flash.len(),
            board.name,
            board.storage.bytes
        );
        return Err(Failure::new(Exit::Error, what)
            .next("give another --folder, or --erase")
            .into());
    }
    flash[..provisioning.len()].copy_from_slice(provisioning);
    // It holds the broker's password and the device's private key.
    release::write_private(changes, path, &flash)?;
    Ok(())
}

/// Has the repository's automation build the firmware.
fn build(board: &Board, context: &Context) -> Result<PathBuf> {
    let here = std::env::current_dir()?;
    let is_root = |folder: &&Path| folder.join("boards").join(&board.name).is_dir();
    let root = here.ancestors().find(is_root).ok_or_else(|| {
        let what = format!(
            "there is no boards/{} here to build the firmware from",
            board.name
        );
        Failure::new(Exit::Error, what)
            .next("run this in a checkout of the repository, or give --image")
    })?;
    context
        .out
        .say(format!("building the firmware of {}", board.name));
    let output = Command::new("cargo")
        .current_dir(root)
        .args(["xtask", "board-image", &board.name])
        .stderr(Stdio::inherit())
        .output()
        .context("cargo")?;
    let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() || path.is_empty() {
        let what = format!("`cargo xtask board-image {}` failed", board.name);
        return Err(Failure::new(Exit::Error, what).into());
    }
    Ok(PathBuf::from(path))
}

/// Replaces this process by QEMU, so that whoever ends the one ends the other.
fn start(board: &Board, folder: &Path, image: &Path, context: &Context) -> Result<Exit> {
    // People see what the board says as it says it; programs read the file.
    let uart = if context.out.format() == Format::Table {
        "stdio,id=uart,signal=on,logfile=uart.log,logappend=on"
    } else {
        "file,id=uart,path=uart.log,append=on"
    };
    let error = Command::new("qemu-system-arm")
        .current_dir(folder)
        .args(["-machine", &board.qemu.machine])
        .args(["-display", "none", "-monitor", "none", "-nic", "user"])
        .args(["-chardev", uart, "-serial", "chardev:uart"])
        .args(["-semihosting-config", "enable=on,target=native"])
        .arg("-kernel")
        .arg(image)
        .stdin(Stdio::null())
        .exec();
    let what = format!("qemu-system-arm does not start: {error}");
    Err(Failure::new(Exit::Error, what)
        .next("on Debian `apt-get install qemu-system-arm`")
        .into())
}
