//! `edgeward record` and `edgeward replay`.

use super::change::DryRun;
use super::fleet::{Fleet, Wait, look, look_if_any, store_path};
use super::release::{self, short};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::output::Table;
use anyhow::Result;
use edgeward::recorder::{Outcome, Record, Standing, What};
use edgeward::telemetry::{Event, ReleaseId};
use edgeward::trust::PublicKey;
use edgeward_host::catalog::Catalog;
use edgeward_host::files;
use edgeward_host::flight::{FlightError, FlightRecord, Puller, file_name, records_folder};
use edgeward_host::keys::{hex, unhex};
use edgeward_host::mqtt::Mqtt;
use edgeward_host::names::alarm_name;
use edgeward_host::replay::{self, ReplayError, Report};
use edgeward_host::store::{self, Device, FrameQuery, Store, StoreError};
use serde::Serialize;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Arguments of `record`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Ask a board for its last inputs, outputs and events, and keep them.
    #[command(
        after_help = "Examples:\n  edgeward record pull press-03\n  edgeward record pull press-03 --out press-03.record --broker mqtts://site-broker\n\nThe command is signed with the collector key and names the boot that the board reported last, so\n`edgeward serve` must have heard of it. The board answers in parts, each signed with its own key; the\nfile keeps them as they came. Then: edgeward replay FILE"
    )]
    Pull(PullArgs),
    /// List the flight records that were pulled.
    #[command(
        after_help = "Example:\n  edgeward record list -o json\n\nExit code 6 when files were left out since their signatures don't hold or can't be checked.\nChanges nothing."
    )]
    List,
    /// Show what a flight record holds, the newest last.
    #[command(
        after_help = "Examples:\n  edgeward record show press-03.record\n  edgeward record show press-03.record --last 5 -o json\n\nChanges nothing."
    )]
    Show(ShowArgs),
}

#[derive(Debug, clap::Args)]
struct PullArgs {
    /// The board's name.
    device: String,
    /// Where to keep it [default: records/DEVICE-TIME.record of the home folder].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    fleet: Fleet,
    #[command(flatten)]
    dry_run: DryRun,
    #[command(flatten)]
    wait: Wait,
}

/// A file, and who must have signed it.
#[derive(Debug, clap::Args)]
struct File {
    /// The file that `edgeward record pull` kept.
    file: PathBuf,
    /// The device's public key, 64 hexadecimal digits [default: the one that is enrolled].
    #[arg(long)]
    key: Option<String>,
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    #[command(flatten)]
    file: File,
    /// Only the last so many records; 0 for all.
    #[arg(long, default_value_t = 20)]
    last: usize,
}

/// Arguments of `replay`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  edgeward replay press-03.record\n  edgeward replay press-03.record --bundle motion.bundle -o json\n\nRuns every recorded input through the release that the board ran: an int8 program by the portable\nkernels, where each output must be the recorded one bit for bit; tract's float models within the\ntolerance of the release's golden vectors, since float kernels differ between processors. Exit code 0\nwhen all are equal, 1 with the first difference otherwise. Changes nothing."
)]
pub struct ReplayArgs {
    #[command(flatten)]
    file: File,
    /// Replay this release's inferences only [default: all, from the bundles that were published here].
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
}

/// Runs `record`.
pub fn run(args: &Args, context: &Context) -> Result<Exit> {
    match &args.command {
        Command::Pull(args) => pull(args, context),
        Command::List => list(context),
        Command::Show(args) => show(args, context),
    }
}

/// A flight record in a line. The field names are stable.
#[derive(Debug, Serialize)]
struct RecordRow {
    file: String,
    device: String,
    boot: u32,
    time_ms: u64,
    parts: u16,
    bytes: usize,
    capacity: u32,
    records: usize,
    first: Option<u64>,
    last: Option<u64>,
}

impl RecordRow {
    fn of(file: &Path, record: &FlightRecord) -> Self {
        let numbers = || record.records().filter_map(Result::ok).map(|it| it.number);
        Self {
            file: file.display().to_string(),
            device: record.device().to_owned(),
            boot: record.boot(),
            time_ms: record.time_ms(),
            parts: record.parts(),
            bytes: record.bytes().len(),
            capacity: record.capacity(),
            records: numbers().count(),
            first: numbers().next(),
            last: numbers().last(),
        }
    }
}

fn enrolled(store: &dyn Store, name: &str) -> Result<Device> {
    store.device(name)?.ok_or_else(|| {
        let what = StoreError::NoDevice(name.to_owned()).to_string();
        Failure::new(Exit::Error, what)
            .next("`edgeward device list` shows the enrolled ones")
            .into()
    })
}

/// The boot of the newest frame of a device.
fn boot(store: &dyn Store, device: &str) -> Result<Option<u32>, StoreError> {
    let query = FrameQuery {
        device: Some(device.to_owned()),
        newest_first: true,
        limit: 1,
        ..FrameQuery::default()
    };
    Ok(store.frames(&query)?.first().map(|frame| frame.boot))
}

fn pull(args: &PullArgs, context: &Context) -> Result<Exit> {
    let device = look(context, |store| enrolled(store, &args.device))?;
    if device.fleet != args.fleet.fleet {
        let what = format!("{} is enrolled in fleet {}", device.name, device.fleet);
        let next = format!("say --fleet {}", device.fleet);
        return Err(Failure::new(Exit::Usage, what).next(next).into());
    }
    if let Some(out) = &args.out {
        release::check_target(out)?;
    }
    let keys = args.fleet.keys(context);
    let mqtt = Mqtt::connect(&args.fleet.mqtt("record")?);
    mqtt.connected(args.wait.timeout())?;
    let puller = Puller {
        mqtt: &mqtt,
        keys: &keys,
        device: &device,
    };
    let mut changes = args.dry_run.changes();
    let what = format!("ask {} for its flight record and keep it", device.name);
    let pulled = changes.make(what, || {
        let bar = context.out.bar(0, "parts");
        let pulled = puller.pull(
            args.wait.timeout(),
            &mut || {
                let path = store_path(&context.home);
                Ok(store::look(&path, |store| boot(store, &device.name))?.flatten())
            },
            &mut |got, parts| {
                bar.set_length(parts as u64);
                bar.set_position(got as u64);
            },
        );
        bar.finish_and_clear();
        let record = pulled.map_err(advised)?;
        let path = args.out.clone().unwrap_or_else(|| {
            let folder = records_folder(&context.home);
            folder.join(file_name(&record))
        });
        keep(&path, record.signed())?;
        Ok(RecordRow::of(&path, &record))
    })?;
    match &pulled {
        Some(row) => changes.emit(context, row, pulled_text)?,
        None => changes.emit(context, &serde_json::json!({}), |_, _| Ok(()))?,
    }
    Ok(Exit::Ok)
}

/// Writes a file as a whole or not at all, and its folder.
fn keep(path: &Path, bytes: &[u8]) -> Result<()> {
    use anyhow::Context as _;
    let write = || -> io::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        files::write_whole(path, bytes, files::BY_MASK)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// What to do about it.
fn advised(error: FlightError) -> anyhow::Error {
    let (exit, next) = match &error {
        FlightError::Timeout { got: 0, .. } => (
            Exit::TimedOut,
            "is it online (`edgeward device list`), and has `edgeward serve` heard of it since its last \
             start? a board that refuses the command says so in `edgeward watch`: where another host whose \
             clock is ahead has pulled from it in this boot, it does until the clock here is past that, or \
             the board starts again",
        ),
        FlightError::Timeout { .. } => (
            Exit::TimedOut,
            "give it longer with --timeout: a board gives up a pull of which no part was taken for a minute, \
             and is then asked anew",
        ),
        FlightError::NeverReported(_) => (
            Exit::Error,
            "run `edgeward serve` with this home folder until the board has reported",
        ),
        FlightError::Part { .. } | FlightError::File(_) | FlightError::Records(_) => (
            Exit::Refused,
            "pull it again; a record whose parts the board did not sign proves nothing",
        ),
        _ => return error.into(),
    };
    Failure::new(exit, error.to_string()).next(next).into()
}

fn pulled_text(row: &RecordRow, w: &mut dyn Write) -> io::Result<()> {
    if row.capacity == 0 {
        writeln!(w, "{}: its flight recorder is off", row.device)?;
    } else {
        writeln!(
            w,
            "{}: {} records of boot {}, {} of {} bytes in {} signed parts",
            row.device, row.records, row.boot, row.bytes, row.capacity, row.parts
        )?;
    }
    writeln!(w, "kept as {}", row.file)
}

/// Reads a file and checks every signature in it.
fn open(path: &Path, key: Option<&str>, context: &Context) -> Result<FlightRecord> {
    let bytes = release::read(path)?;
    let refused = |error: FlightError| {
        let what = format!("{}: {error}", path.display());
        Failure::new(Exit::Refused, what)
            .next("pull it again; a record whose parts the board did not sign proves nothing")
    };
    let name = FlightRecord::claimed_device(&bytes).map_err(refused)?;
    let key = match key {
        Some(text) => unhex::<32>(text).map(PublicKey).ok_or_else(|| {
            let what = format!("`{text}` is no Ed25519 public key");
            Failure::new(Exit::Usage, what).next("give its 64 hexadecimal digits")
        })?,
        None => {
            let known = look_if_any(context, |store| Ok(store.device(&name)?))?.flatten();
            let known = known.ok_or_else(|| {
                let what =
                    format!("{name} is not enrolled here, so its signatures can't be checked");
                Failure::new(Exit::Refused, what)
                    .next("give its public key with --key, or the folder that knows it with --home")
            })?;
            known.key
        }
    };
    Ok(FlightRecord::open(&bytes, &key).map_err(refused)?)
}

fn list(context: &Context) -> Result<Exit> {
    let folder = records_folder(&context.home);
    let mut paths: Vec<PathBuf> = match std::fs::read_dir(&folder) {
        Ok(files) => files.filter_map(Result::ok).map(|it| it.path()).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    paths.retain(|path| path.extension().is_some_and(|it| it == "record"));
    paths.sort();
    let mut rows = Vec::new();
    let mut exit = Exit::Ok;
    for path in &paths {
        match open(path, None, context) {
            Ok(record) => rows.push(RecordRow::of(path, &record)),
            Err(error) => {
                context.out.say(format!("left out: {error:#}"));
                exit = Exit::Partly;
            }
        }
    }
    context.out.emit(&rows, |rows, w| {
        let header = ["device", "boot", "time_ms", "records", "bytes", "file"];
        let mut table = Table::new(header);
        for row in rows {
            table.row([
                row.device.clone(),
                row.boot.to_string(),
                row.time_ms.to_string(),
                row.records.to_string(),
                row.bytes.to_string(),
                row.file.clone(),
            ]);
        }
        table.write(w)
    })?;
    Ok(exit)
}

/// One record. The field names are stable.
#[derive(Debug, Serialize)]
struct Shown {
    record: u64,
    time_ms: u64,
    release: String,
    role: &'static str,
    sample: Option<u32>,
    /// The class, why there is none, or what happened.
    what: String,
    confidence: Option<f32>,
    latency_us: Option<u32>,
    flags: Option<u8>,
    inputs: Option<usize>,
    outputs: Option<usize>,
}

impl Shown {
    fn of(record: &Record<'_>, catalog: &Catalog) -> Self {
        let mut shown = Self {
            record: record.number,
            time_ms: record.time_ms,
            release: hex(&record.release),
            role: match record.standing {
                Standing::Confirmed => "confirmed",
                Standing::Trial => "trial",
            },
            sample: None,
            what: String::new(),
            confidence: None,
            latency_us: None,
            flags: None,
            inputs: None,
            outputs: None,
        };
        match record.what {
            What::Event(Event::Alarm { alarm, .. }) => {
                shown.what = format!("alarm {}", alarm_name(&alarm));
            }
            What::Event(event) => shown.what = format!("{event:?}"),
            What::Inference(inference) => {
                let published = catalog.get(record.release);
                let class = usize::from(inference.class);
                let named = published.as_ref().and_then(|it| it.class(class));
                shown.what = match inference.outcome {
                    Outcome::Answered => named.map_or(format!("class {class}"), str::to_owned),
                    Outcome::Failed => "failed".to_owned(),
                    Outcome::Refused => "refused by the guard".to_owned(),
                };
                if inference.outcome == Outcome::Answered {
                    shown.confidence = Some(inference.confidence);
                    shown.latency_us = Some(inference.latency_us);
                    shown.flags = Some(inference.flags);
                }
                shown.sample = Some(inference.sample);
                shown.inputs = Some(inference.input.len());
                shown.outputs = Some(inference.output.len());
            }
        }
        shown
    }
}

fn show(args: &ShowArgs, context: &Context) -> Result<Exit> {
    let record = open(&args.file.file, args.file.key.as_deref(), context)?;
    let catalog = Catalog::at(&context.home);
    let all: Result<Vec<_>, _> = record.records().collect();
    let all = all?;
    let skip = match args.last {
        0 => 0,
        last => all.len().saturating_sub(last),
    };
    let shown = all[skip..].iter().map(|it| Shown::of(it, &catalog));
    let shown: Vec<_> = shown.collect();
    let row = RecordRow::of(&args.file.file, &record);
    let value = serde_json::json!({ "record": row, "records": shown });
    context.out.emit(&value, |_, w| {
        pulled_text(&row, w)?;
        let header = [
            "record",
            "sample",
            "release",
            "role",
            "what",
            "confidence",
            "us",
        ];
        let mut table = Table::new(header);
        for it in &shown {
            let number = |value: Option<u32>| value.map_or("-".into(), |it| it.to_string());
            table.row([
                it.record.to_string(),
                number(it.sample),
                it.release.clone(),
                it.role.to_owned(),
                it.what.clone(),
                it.confidence.map_or("-".into(), |it| short(f64::from(it))),
                number(it.latency_us),
            ]);
        }
        table.write(w)
    })?;
    Ok(Exit::Ok)
}

/// Runs `replay`.
pub fn run_replay(args: &ReplayArgs, context: &Context) -> Result<Exit> {
    let record = open(&args.file.file, args.file.key.as_deref(), context)?;
    let given = args.bundle.as_deref().map(release::read).transpose()?;
    let given_id = match (&given, &args.bundle) {
        (Some(bytes), Some(path)) => Some(replay::identify(bytes).ok_or_else(|| {
            let what = format!("{}: not a sound bundle", path.display());
            Failure::new(Exit::Error, what).next(release::DAMAGED)
        })?),
        _ => None,
    };
    let mut find = |id: ReleaseId| match &given {
        Some(bytes) => (given_id == Some(id)).then(|| bytes.clone()),
        None => replay::published(&context.home, id),
    };
    let report = replay::replay(&record, &mut find).map_err(|error| match &error {
        ReplayError::Bundle { .. } => Failure::new(Exit::Error, error.to_string())
            .next("name the bundle that the board ran with --bundle"),
        _ => Failure::new(Exit::Error, error.to_string()),
    })?;
    // What was compared is told, also where something could not be.
    context.out.emit(&report, print)?;
    if report.first_difference.is_some() {
        return Ok(Exit::Error);
    }
    proves(&report, given.is_some(), &args.file.file)?;
    Ok(Exit::Ok)
}

/// Whether a replay that found no difference compared what it was asked to.
fn proves(report: &Report, given: bool, file: &Path) -> Result<()> {
    let unknown = report.unknown();
    if !unknown.is_empty() && !given {
        let what = format!("no bundle of release {} is at hand", unknown.join(", "));
        return Err(Failure::new(Exit::Error, what)
            .next("name the bundle with --bundle, or the folder that published it with --home")
            .into());
    }
    if report.replayed() == 0 {
        let what = format!("{} holds no inference of it to replay", file.display());
        return Err(Failure::new(Exit::Error, what)
            .next("`edgeward record show` shows what it holds")
            .into());
    }
    Ok(())
}

fn print(report: &Report, w: &mut dyn Write) -> io::Result<()> {
    writeln!(
        w,
        "{} boot {}: {} records, {} events",
        report.device, report.boot, report.records, report.events
    )?;
    for row in &report.releases {
        let name = match (&row.model, &row.version) {
            (Some(model), Some(version)) => format!("{model} {version} ({})", row.release),
            _ => row.release.clone(),
        };
        let Some(engine) = row.engine else {
            writeln!(w, "{name}: {} inferences left out", row.inferences)?;
            continue;
        };
        write!(
            w,
            "{name}, {engine}: {} of {} replayed outputs equal bit for bit",
            row.equal, row.replayed
        )?;
        if let Some(tolerance) = row.tolerance {
            write!(w, ", {} within {tolerance}", row.within)?;
        }
        if row.failed > 0 {
            write!(w, "; {} failed on the board", row.failed)?;
        }
        writeln!(w)?;
    }
    if let Some(it) = &report.first_difference {
        writeln!(
            w,
            "first difference: record {} (sample {}), output {}: expected {}, seen {}",
            it.record, it.sample, it.index, it.expected, it.seen
        )?;
    }
    Ok(())
}
