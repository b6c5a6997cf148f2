//! `edgeward profile`, `pack`, `sign` and `verify`.

use super::change::DryRun;
use super::inspect;
use super::release::{self, pack_failure, short};
use crate::context::Context;
use crate::exit::{Exit, Failure, words};
use crate::output::Table;
use edgeward::bundle::write::sign as sign_bundle;
use edgeward::trust::Role;
use edgeward_host::keys::{KeyStore, hex};
use edgeward_host::model::Target;
use edgeward_host::pack::{self, Lab, Options, Report};
use edgeward_host::profile::Bound;
use serde::Serialize;
use std::io::{self, Write};
use std::path::PathBuf;

const SPEC_HELP: &str = "\
Example:
  edgeward pack digits.toml --out digits.bundle --sign

A model's TOML file:
  name = \"motion\"
  version = \"1.0.0\"
  counter = 1                  # rises with every release
  model = \"motion.onnx\"        # or .tflite; paths are relative to this file
  engine = \"auto\"              # an int8 program where it can be one, else tract; or \"program\",
                               # \"tract\", \"both\"
  target = \"linux\"             # or \"cortex-m\", \"mcu\" (portable kernels): programs alone
  [input]
  features = [\"ax\", \"ay\"]      # columns of the data, in tensor order
  window = 50                  # samples an inference sees; leave out for tabular models
  hop = 10                     # new samples between two inferences
  layout = \"features-first\"    # tensor [1, features, window]; or \"samples-first\"
  period_ms = 100              # leave out when samples have no clock
  drift_window = 600           # optional: samples judged together; limits take 30 windows of data,
                               # none overlapping, or 30 recordings (docs/OPERATING.md, Calibration)
  [output]
  kind = \"logits\"              # or \"probabilities\", \"values\"
  classes = [\"rest\", \"walk\"]
  [data]
  training = \"train.csv\"       # columns by name; also `label` and `recording`, if there are such
  outputs = \"outputs.npy\"      # optional: the lab's outputs, against training-serving skew
  validation = \"val.csv\"       # optional: held-out data, on which predictions are measured
  [golden]                     # computed by another runtime than ours
  input = \"golden-input.npy\"
  output = \"golden-output.npy\"
  tolerance = 0.001
Also [input.overrides.NAME] min, max, max_rate, stuck_run, missing, and the same under
[input.overrides.\"*\"] for all features; [policy] z_limit, latency_p99_us; [policy.rules.KIND] severity, action; [policy.trial]; [policy.guard].
docs/SPEC.md has every key with its default.

Exit code 3: the golden vectors are not reproduced, the model disagrees with the lab's outputs,
or it recognises the classes of labelled data no better than a guess.";

/// Arguments of `profile`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  edgeward profile digits.toml\n\nMeasures what `pack` would put into the bundle, and packs nothing. Changes nothing."
)]
pub struct ProfileArgs {
    /// The model's TOML file.
    spec: PathBuf,
}

/// Arguments of `pack`.
#[derive(Debug, clap::Args)]
#[command(after_help = SPEC_HELP)]
pub struct PackArgs {
    /// The model's TOML file.
    spec: PathBuf,
    /// The bundle to write [default: the TOML file's name with .bundle].
    #[arg(short = 'f', long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The boards that it is for [default: `target` of the TOML file].
    #[arg(long, value_enum)]
    target: Option<TargetArg>,
    /// Sign it with the release keys at hand.
    #[arg(long)]
    sign: bool,
    /// Without golden vectors, let the engine make its own: shows reproducibility, not correctness.
    #[arg(long)]
    golden_from_engine: bool,
    /// Pack although the model disagrees with the lab's outputs, or is no better than a guess.
    #[arg(long)]
    allow_skew: bool,
    #[command(flatten)]
    dry_run: DryRun,
}

/// Boards, and how a program is laid out for them.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum TargetArg {
    /// Linux boards.
    Linux,
    /// Microcontrollers with a Cortex-M4 or M7: its own kernels.
    CortexM,
    /// Other microcontrollers: portable kernels.
    Mcu,
}

impl From<TargetArg> for Target {
    fn from(target: TargetArg) -> Self {
        match target {
            TargetArg::Linux => Self::Linux,
            TargetArg::CortexM => Self::CortexM,
            TargetArg::Mcu => Self::Mcu,
        }
    }
}

/// Arguments of `sign`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  edgeward sign digits.bundle\n\nAdds a signature of each release key at hand; signing twice changes nothing."
)]
pub struct SignArgs {
    /// The bundle.
    bundle: PathBuf,
    #[command(flatten)]
    dry_run: DryRun,
}

/// Arguments of `verify`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  edgeward verify digits.bundle --floor 3\n\nExit code 3: a board would refuse it; the reasons are printed. Changes nothing."
)]
pub struct VerifyArgs {
    #[command(flatten)]
    board: inspect::BoardArgs,
}

#[derive(Debug, Serialize)]
struct Packed<'a> {
    bundle: String,
    written: bool,
    #[serde(skip)]
    dry_run: bool,
    signed_by: Vec<String>,
    #[serde(flatten)]
    report: &'a Report,
}

/// Runs `pack`.
pub fn run(args: PackArgs, context: &Context) -> anyhow::Result<Exit> {
    let mut spec = release::spec(&args.spec)?;
    if let Some(target) = args.target {
        spec.target = target.into();
    }
    let out = args.out.clone();
    let out = out.unwrap_or_else(|| args.spec.with_extension("bundle"));
    // Before the work: what is missing should not be found out at its end.
    release::check_target(&out)?;
    let store = KeyStore::at(&context.home);
    let signers = if args.sign {
        store.signers_at_hand(Role::Release)?
    } else {
        Vec::new()
    };
    let options = Options {
        golden_from_engine: args.golden_from_engine,
        allow_skew: args.allow_skew,
    };
    context
        .out
        .say(format!("packing {} {}", spec.name, spec.version));
    let mut packed = pack::pack(&spec, options).map_err(pack_failure)?;
    let mut signed_by = Vec::new();
    for signer in &signers {
        signed_by.push(hex(&sign_bundle(&mut packed.bytes, signer)?.0));
    }
    let mut changes = args.dry_run.changes();
    if args.sign {
        let missing = release::missing_signatures(&packed.bytes, &store.root()?);
        release::tell_missing(missing, context);
    }
    let result = Packed {
        bundle: out.display().to_string(),
        written: release::write(&mut changes, &out, &packed.bytes)?,
        dry_run: changes.are_only_said(),
        signed_by,
        report: &packed.report,
    };
    changes.emit(context, &result, print)?;
    Ok(Exit::Ok)
}

fn print(packed: &Packed<'_>, w: &mut dyn Write) -> io::Result<()> {
    let report = packed.report;
    let written = match (packed.written, packed.dry_run) {
        (true, _) => "",
        (false, true) => " (not written)",
        (false, false) => " (as it was)",
    };
    writeln!(w, "bundle    {}{written}", packed.bundle)?;
    writeln!(
        w,
        "release   {} {}, counter {}, for {} boards with {} kernels",
        report.name, report.version, report.counter, report.class, report.kernels
    )?;
    writeln!(w, "digest    {}", report.digest)?;
    writeln!(w, "size      {} bytes", report.bytes)?;
    writeln!(w, "engine    {}: {}", report.engine, report.engine_mode)?;
    if report.engine == "tract" {
        writeln!(w, "          no int8 program: {}", report.engine_why)?;
    }
    if let Some(program) = &report.program {
        print_program(program, w)?;
    }
    print_golden(&report.golden, w)?;
    if let Some(skew) = &report.skew {
        let allowed = if skew.allowed {
            "; MORE THAN ALLOWED, let pass by --allow-skew"
        } else {
            ""
        };
        writeln!(
            w,
            "skew      {} of {} training windows disagree with the lab's outputs{allowed}",
            skew.disagreements, skew.windows
        )?;
    }
    match report.trial_p99_us {
        0 => writeln!(
            w,
            "latency   no budget: boards will not notice a release that is too slow; `latency_p99_us` \
             of [policy] sets one"
        )?,
        trial => writeln!(
            w,
            "latency   p99 at most {trial} us on trial, {} afterwards",
            match report.guard_p99_us {
                0 => "any".to_owned(),
                guard => format!("{guard} us"),
            }
        )?,
    }
    print_profile(&report.profile, w)?;
    match packed.signed_by.as_slice() {
        [] => writeln!(w, "signed    no; `edgeward sign {}` does it", packed.bundle),
        keys => writeln!(w, "signed    by {}", keys.join(", ")),
    }
}

/// How far the engines are from the golden vectors.
fn print_golden(golden: &pack::GoldenReport, w: &mut dyn Write) -> io::Result<()> {
    let made_by = match golden.made_by {
        "engine" => "; MADE BY THE ENGINE ITSELF: they prove reproducibility, not correctness",
        _ => "",
    };
    writeln!(
        w,
        "golden    {} vectors, largest error {}, tolerance {}{made_by}",
        golden.vectors, golden.largest_error, golden.tolerance
    )?;
    if let Some(error) = golden.tract_error {
        writeln!(
            w,
            "          tract, with the ONNX file beside: largest error {error}"
        )?;
    }
    Ok(())
}

/// A program in a few lines: its size, its arena, and the tensors that set it.
pub(super) fn print_program(program: &pack::ProgramReport, w: &mut dyn Write) -> io::Result<()> {
    writeln!(
        w,
        "program   {} bytes, {} multiplications an inference",
        program.bytes, program.macs
    )?;
    writeln!(
        w,
        "arena     {} bytes, {:.1} % above the {} that no plan can do without; without overlaps {} are \
         alive at once, and a greedy plan takes {}",
        program.arena_bytes,
        program.above_percent(),
        program.bound_bytes,
        program.live_bytes,
        program.greedy_bytes
    )?;
    let peak = program.peak.iter().map(|tensor| {
        let name: String = tensor.name.chars().take(40).collect();
        format!("{name} {} ({} bytes)", tensor.shape, tensor.bytes)
    });
    let peak: Vec<_> = peak.collect();
    let at = program.peak_operator;
    writeln!(w, "peak      at operator {at}: {}", peak.join(", "))
}

fn print_profile(profile: &pack::ProfileReport, w: &mut dyn Write) -> io::Result<()> {
    writeln!(
        w,
        "profile   {} features of {} samples, {} windows; drift window {} samples",
        profile.features, profile.training_samples, profile.training_windows, profile.drift_window
    )?;
    let fitted = if profile.temperature_fitted {
        ", fitted to the labels"
    } else {
        ""
    };
    let accuracy = profile.accuracy;
    let accuracy = accuracy.map_or(String::new(), |a| {
        format!("; {:.1} % right on the data it is measured on", a * 100.0)
    });
    writeln!(
        w,
        "outputs   temperature {}{fitted}{accuracy}",
        short(f64::from(profile.temperature))
    )?;
    let why = match profile.temperature_bound {
        None => return Ok(()),
        Some(Bound::Lowest) => {
            "(nearly) every answer is right on the data it is measured on, so no confidence is too high"
        }
        Some(Bound::Highest) => {
            "the model's confidence does not tell right answers from wrong ones"
        }
    };
    writeln!(
        w,
        "warning   the temperature ran into its bound: {why}. The accuracy that boards estimate is not \
         meaningful for this release; label data that the model was not trained on, and name it in \
         `validation` of [data]"
    )
}

/// Runs `profile`.
pub fn run_profile(args: &ProfileArgs, context: &Context) -> anyhow::Result<Exit> {
    let spec = release::spec(&args.spec)?;
    let mut lab = Lab::load(&spec).map_err(pack_failure)?;
    let own = lab.outputs().map_err(pack_failure)?;
    let (profile, fit) = lab.profile(&own).map_err(pack_failure)?;
    #[derive(Serialize)]
    struct Profiled {
        summary: pack::ProfileReport,
        profile: edgeward_host::inspect::ProfileSection,
    }
    let report = Profiled {
        summary: lab.report(&profile, fit),
        profile: edgeward_host::inspect::profile_section(&profile),
    };
    context.out.emit(&report, |report, w| {
        print_profile(&report.summary, w)?;
        writeln!(w)?;
        inspect::print_profile(&report.profile, w)
    })?;
    Ok(Exit::Ok)
}

/// Runs `sign`.
pub fn run_sign(args: &SignArgs, context: &Context) -> anyhow::Result<Exit> {
    let mut bytes = release::read(&args.bundle)?;
    let store = KeyStore::at(&context.home);
    let signers = store.signers_at_hand(Role::Release)?;
    let mut signed_by = Vec::new();
    for signer in &signers {
        let key = sign_bundle(&mut bytes, signer).map_err(|error| {
            let what = format!("cannot sign {}: {}", args.bundle.display(), words(&error));
            Failure::new(Exit::Error, what).next(release::DAMAGED)
        })?;
        signed_by.push(hex(&key.0));
    }
    let mut changes = args.dry_run.changes();
    let written = release::write(&mut changes, &args.bundle, &bytes)?;
    #[derive(Serialize)]
    struct Signed {
        bundle: String,
        signed_by: Vec<String>,
        written: bool,
        /// Valid signatures and how many it takes, while they are too few.
        missing: Option<(u8, u8)>,
    }
    let report = Signed {
        bundle: args.bundle.display().to_string(),
        signed_by,
        written,
        missing: release::missing_signatures(&bytes, &store.root()?),
    };
    release::tell_missing(report.missing, context);
    changes.emit(context, &report, |report, w| {
        let mut table = Table::new(["bundle", "signed by"]);
        for key in &report.signed_by {
            table.row([report.bundle.clone(), key.clone()]);
        }
        table.write(w)
    })?;
    Ok(Exit::Ok)
}

/// Runs `verify`.
pub fn run_verify(args: &VerifyArgs, context: &Context) -> anyhow::Result<Exit> {
    let inspection = args.board.inspect(context)?;
    #[derive(Serialize)]
    struct Verified<'a> {
        ok: bool,
        digest: &'a str,
        root_version: Option<u32>,
        refusals: &'a [edgeward_host::inspect::Refusal],
    }
    let report = Verified {
        ok: inspection.refusals.is_empty(),
        digest: &inspection.digest,
        root_version: inspection.judged_by_root,
        refusals: &inspection.refusals,
    };
    if inspection.judged_by_root.is_none() {
        let next = "give --root FILE, or make keys with `edgeward keys init`";
        return Err(
            Failure::new(Exit::Error, "there is no root to verify it by")
                .next(next)
                .into(),
        );
    }
    context.out.emit(&report, |report, w| {
        let version = report.root_version.unwrap_or_default();
        if report.ok {
            writeln!(
                w,
                "ok: {} holds, signed as root version {version} wants",
                report.digest
            )?;
        }
        inspect::print_refusals(report.refusals, w)
    })?;
    Ok(if report.ok { Exit::Ok } else { Exit::Refused })
}
