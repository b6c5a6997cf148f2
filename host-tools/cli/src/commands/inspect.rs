//! `edgeward inspect`.

use super::release::{self, short};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::output::Table;
use edgeward::bundle::BoardClass;
use edgeward::trust::ring::RingVerifier;
use edgeward::trust::root::Root;
use edgeward_host::inspect::{Board, Inspection, PolicySection, ProfileSection, Refusal, inspect};
use edgeward_host::keys::{KeyError, KeyStore};
use std::io::{self, Write};
use std::path::PathBuf;

/// Arguments of `inspect`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  edgeward inspect digits.bundle --class linux --floor 3\n\nAlways exits with 0 when the bundle can be read; `edgeward verify` is for scripts. Changes nothing."
)]
pub struct Args {
    #[command(flatten)]
    board: BoardArgs,
}

/// A bundle, and the board that it is held against.
#[derive(Debug, clap::Args)]
pub struct BoardArgs {
    /// The bundle.
    bundle: PathBuf,
    /// The board's class.
    #[arg(long, value_enum, default_value_t = ClassArg::Linux)]
    class: ClassArg,
    /// The board's release floor: lower release counters are refused.
    #[arg(long, default_value_t = 0)]
    floor: u32,
    /// Bytes of a slot on the board.
    #[arg(long, default_value_t = u32::MAX, hide_default_value = true)]
    slot_bytes: u32,
    /// The signed root that the board trusts [default: that of the home folder].
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
}

/// A class of boards.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum ClassArg {
    /// Linux boards.
    Linux,
    /// Bare-metal microcontrollers.
    Mcu,
}

impl From<ClassArg> for BoardClass {
    fn from(class: ClassArg) -> Self {
        match class {
            ClassArg::Linux => Self::Linux,
            ClassArg::Mcu => Self::Mcu,
        }
    }
}

impl BoardArgs {
    /// Reads the bundle and holds it against the board.
    pub fn inspect(&self, context: &Context) -> anyhow::Result<Inspection> {
        let bytes = release::read(&self.bundle)?;
        let board = Board {
            class: self.class.into(),
            floor: self.floor,
            slot_bytes: self.slot_bytes,
            root: self.root(context)?,
        };
        inspect(&bytes, &board).map_err(|error| {
            let what = format!("{} is no sound bundle: {error}", self.bundle.display());
            Failure::new(Exit::Refused, what)
                .next(release::DAMAGED)
                .into()
        })
    }

    fn root(&self, context: &Context) -> anyhow::Result<Option<Root>> {
        if let Some(path) = &self.root {
            let bytes = release::read(path)?;
            let root = Root::accept_first(&bytes, &RingVerifier).map_err(|error| {
                anyhow::anyhow!("{} is no signed root: {error}", path.display())
            })?;
            return Ok(Some(root));
        }
        match KeyStore::at(&context.home).root() {
            Ok(root) => Ok(Some(root)),
            Err(KeyError::NoRoot(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let inspection = args.board.inspect(context)?;
    context.out.emit(&inspection, print)?;
    Ok(Exit::Ok)
}

fn print(inspection: &Inspection, w: &mut dyn Write) -> io::Result<()> {
    writeln!(
        w,
        "release     {} {}, counter {}",
        inspection.name, inspection.version, inspection.counter
    )?;
    writeln!(
        w,
        "for         {} boards with {} kernels, runtime {} or later",
        inspection.class, inspection.kernels, inspection.min_runtime
    )?;
    writeln!(w, "digest      {}", inspection.digest)?;
    writeln!(
        w,
        "size        {} bytes: head {}, {} chunks",
        inspection.total_bytes, inspection.head_bytes, inspection.chunks
    )?;
    if let Some(golden) = &inspection.golden {
        writeln!(
            w,
            "golden      {} vectors of {} values in, {} out, tolerance {}",
            golden.vectors, golden.input_len, golden.output_len, golden.tolerance
        )?;
    }
    writeln!(w)?;
    let mut table = Table::new(["section", "offset", "bytes", "sha-256"]);
    for section in &inspection.sections {
        table.row([
            section.kind.into(),
            section.offset.to_string(),
            section.len.to_string(),
            section.sha256.clone(),
        ]);
    }
    table.write(w)?;
    writeln!(w)?;
    if let Some(program) = &inspection.program {
        writeln!(w, "program")?;
        for line in program {
            writeln!(w, "  {line}")?;
        }
        writeln!(w)?;
    }
    print_signatures(inspection, w)?;
    if let Some(profile) = &inspection.profile {
        writeln!(w)?;
        print_profile(profile, w)?;
    }
    if let Some(policy) = &inspection.policy {
        writeln!(w)?;
        print_policy(policy, w)?;
    }
    writeln!(w)?;
    if inspection.refusals.is_empty() {
        let unsure = match inspection.judged_by_root {
            Some(_) => "",
            None => ", as far as can be said without a root",
        };
        writeln!(w, "this board would take it{unsure}")?;
    }
    print_refusals(&inspection.refusals, w)
}

fn print_signatures(inspection: &Inspection, w: &mut dyn Write) -> io::Result<()> {
    if inspection.signatures.is_empty() {
        return writeln!(w, "no signatures; `edgeward sign` adds them");
    }
    let mut table = Table::new(["signature by", "role", "holds"]);
    for signature in &inspection.signatures {
        let holds = match signature.valid {
            Some(true) => "yes",
            Some(false) => "no",
            None => "unknown key",
        };
        table.row([
            signature.key.clone(),
            signature.role.unwrap_or("-").into(),
            holds.into(),
        ]);
    }
    table.write(w)
}

/// Prints a profile.
pub fn print_profile(profile: &ProfileSection, w: &mut dyn Write) -> io::Result<()> {
    writeln!(
        w,
        "input: {} samples, hop {}, {}, schema {}, period {} ms; drift window {} samples",
        profile.window,
        profile.hop,
        profile.layout,
        profile.schema_version,
        profile.period_ms,
        profile.drift_window
    )?;
    let mut table = Table::new([
        "feature",
        "min",
        "max",
        "mean",
        "sd",
        "max rate",
        "stuck run",
        "psi",
        "ks",
        "js",
        "w1",
        "missing",
    ]);
    for feature in &profile.features {
        let number = |value: f32| short(f64::from(value));
        table.row([
            feature.name.clone(),
            number(feature.min),
            number(feature.max),
            number(feature.mean),
            number(feature.sd),
            feature.max_rate.map_or("-".into(), number),
            feature.stuck_run.map_or("-".into(), |run| run.to_string()),
            number(feature.psi_limit),
            number(feature.ks_limit),
            number(feature.js_limit),
            number(feature.wasserstein_limit),
            feature.missing.into(),
        ]);
    }
    table.write(w)?;
    let output = &profile.output;
    writeln!(w)?;
    writeln!(
        w,
        "output: {}, temperature {}, score {} sd {}, limits: class PSI {}, score shift {}",
        output.kind,
        short(f64::from(output.temperature)),
        short(f64::from(output.score_mean)),
        short(f64::from(output.score_sd)),
        short(f64::from(output.class_psi_limit)),
        short(f64::from(output.score_shift_limit))
    )?;
    let mut table = Table::new(["class", "in training"]);
    for (name, count) in output.names.iter().zip(&output.class_counts) {
        table.row([name.clone(), count.to_string()]);
    }
    table.write(w)
}

fn print_policy(policy: &PolicySection, w: &mut dyn Write) -> io::Result<()> {
    writeln!(
        w,
        "trial: {} inferences and {} windows, at most {} boots, errors {} per mille, p99 {} us",
        policy.trial_min_inferences,
        policy.trial_min_windows,
        policy.trial_max_boots,
        policy.trial_max_error_per_mille,
        policy.trial_max_p99_us
    )?;
    writeln!(
        w,
        "guard: |z| {}, errors {} per mille, p99 {} us, accuracy {} per mille, {} fallbacks",
        policy.guard_z_limit,
        policy.guard_max_error_per_mille,
        policy.guard_max_p99_us,
        policy.guard_min_accuracy_per_mille,
        policy.guard_max_fallbacks
    )?;
    let mut table = Table::new(["violation", "severity", "action"]);
    for rule in &policy.rules {
        table.row([rule.kind.into(), rule.severity.into(), rule.action.into()]);
    }
    table.write(w)
}

/// Prints why a board would refuse a bundle.
pub fn print_refusals(refusals: &[Refusal], w: &mut dyn Write) -> io::Result<()> {
    for refusal in refusals {
        writeln!(w, "refused ({}): {}", refusal.check, refusal.why)?;
    }
    Ok(())
}
