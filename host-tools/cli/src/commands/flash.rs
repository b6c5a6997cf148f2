//! `edgeward flash`: a microcontroller board with its firmware, its name and whom it trusts.

mod build;
mod probe;
mod qemu;

use super::change::{Changes, DryRun};
use super::fleet::Fleet;
use crate::boards::{self, Board};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use anyhow::{Context as _, Result};
pub use build::build;
use build::check;
use edgeward::telemetry::{Id, Text};
use edgeward_firmware::provisioning::{AUTHORITIES, PROVISIONING_BYTES, Provisioning, Secure};
use edgeward_host::collector::now_ms;
use edgeward_tls::{TlsError, Trust};
use heapless::Vec as Bounded;
pub use qemu::check as check_qemu;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

const HELP: &str = "\
Examples:
  edgeward flash --board qemu-mps2-an386 press-03 --samples samples.txt
  edgeward flash --board qemu-mps2-an386 press-03 --no-start
  edgeward flash --board qemu-mps2-an386 press-03 --broker mqtts://broker.site --broker-ca ca.pem
  edgeward flash --board nucleo-h743zi press-04 --broker 192.168.1.10:1884
  edgeward flash --board ./my-board press-05 --broker 192.168.1.10:1884

A board in QEMU has a folder, which holds its flash (flash.bin), what its sensor replays (samples.txt, in the
line protocol of docs/AGENT.md), its firmware (firmware.elf) and what it logs (uart.log, for `edgeward logs`).
A board of silicon is written by probe-rs and a debug probe. What the flash holds stays: the device's key,
which the board makes at its first start and says, its releases, and what it has to report. Without --image
the firmware is built, in a checkout of the repository or in the folder of your own board's crate.
docs/BOARDS.md has the way from here to telemetry.";

/// Build a microcontroller board's firmware, provision the board, and start it.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The board's name in the fleet.
    name: String,
    /// What board it is (`edgeward board list`), or the folder of your own board's crate.
    #[arg(long, value_name = "BOARD|DIR")]
    board: String,
    #[command(flatten)]
    fleet: Fleet,
    /// A tag, for rollouts that select by tag; may be given again.
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// The folder of a board in QEMU [default: its name].
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// What the sensor of a board in QEMU replays: copied into the folder.
    #[arg(long, value_name = "FILE")]
    samples: Option<PathBuf>,
    /// The firmware, where it is built already.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Build it smaller, with a standard library built for size, in which a panic leaves its address and no
    /// words; wants rustup's component rust-src.
    #[arg(long, conflicts_with = "image")]
    lean: bool,
    /// Begin with blank flash: another key, no release, and what waits to be reported is lost.
    #[arg(long)]
    erase: bool,
    /// Only make the folder, or only write the flash.
    #[arg(long)]
    no_start: bool,
    #[command(flatten)]
    dry_run: DryRun,
}

/// What is to be written, and where.
struct Plan<'a> {
    board: &'a Board,
    broker: Broker,
    provisioning: Vec<u8>,
}

/// Runs it; where the board is started, QEMU or probe-rs takes this process's place.
pub fn run(args: &Args, context: &Context) -> Result<Exit> {
    let board = boards::find(&args.board)?;
    let changes = args.dry_run.changes();
    let broker = Broker::of(&args.fleet, &board)?;
    let provisioning = provision(args, &broker, context)?;
    let plan = Plan {
        board: &board,
        broker,
        provisioning,
    };
    match (&board.qemu, &board.probe) {
        (Some(machine), _) => qemu::run(args, plan, machine, changes, context),
        (None, Some(probe)) => probe::run(args, plan, probe, changes, context),
        (None, None) => {
            let what = format!(
                "board.toml of {} has neither [qemu] nor [probe]",
                board.name
            );
            Err(Failure::new(Exit::Error, what)
                .next("say how it is started: docs/BOARDS.md")
                .into())
        }
    }
}

/// What to do with the board once it runs.
fn write_next(args: &Args, w: &mut dyn Write) -> io::Result<()> {
    writeln!(
        w,
        "enroll it with the key that it says: edgeward device enroll {} --fleet {} --class mcu --key KEY",
        args.name, args.fleet.fleet
    )
}

/// The firmware: as given, or built.
fn image(args: &Args, board: &Board, changes: &Changes, context: &Context) -> Result<PathBuf> {
    match &args.image {
        Some(image) => Ok(image.clone()),
        None if changes.are_only_said() => {
            check(board, args.lean)?;
            Ok(PathBuf::from("(built)"))
        }
        None => build(board, args.lean, context),
    }
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
        let ip = match (&board.qemu, ip.is_loopback()) {
            (Some(machine), true) => machine.host,
            (None, true) => {
                let what =
                    format!("--broker: a board can't reach {ip}, which is this machine for itself");
                return Err(Failure::new(Exit::Usage, what)
                    .next("give this machine's address in the board's network")
                    .into());
            }
            (_, false) => ip,
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
