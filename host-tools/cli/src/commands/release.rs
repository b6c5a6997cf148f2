//! What several commands do with models and bundles.

use super::change::Changes;
use crate::context::Context;
use crate::exit::{Exit, Failure, words};
use anyhow::Context as _;
use edgeward::trust::root::{Root, TrustError};
use edgeward_host::data::{Columns, DataError, Samples};
use edgeward_host::eval::{EvalError, Release};
use edgeward_host::files;
use edgeward_host::pack::{self, Options, PackError};
use edgeward_host::release::ReleaseError;
use edgeward_host::spec::{Spec, SpecError};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What to do about a bundle that is damaged.
pub const DAMAGED: &str = "copy or pack it again; a board refuses it as it is";

/// Reads a file as a whole.
pub fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Checks that a file could be written: found out before the work, and in a dry run.
pub fn check_target(path: &Path) -> anyhow::Result<()> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let why = if path.is_dir() {
        "it is a folder".to_owned()
    } else if files::is_special(path) {
        "it is not a regular file, and would be one afterwards".to_owned()
    } else if !folder.is_dir() {
        format!("there is no folder {}", folder.display())
    } else {
        return Ok(());
    };
    let what = format!("cannot write {}: {why}", path.display());
    Err(Failure::new(Exit::Error, what).into())
}

/// Writes a file so that it is there as a whole or not at all, unless it is a dry run or the file holds
/// just that; whether it did.
pub fn write(changes: &mut Changes, path: &Path, bytes: &[u8]) -> anyhow::Result<bool> {
    check_target(path)?;
    if std::fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(false);
    }
    write_as(changes, path, bytes, files::BY_MASK)
}

/// As [`write()`], a file that its owner alone may read, whatever the one before was.
pub fn write_private(changes: &mut Changes, path: &Path, bytes: &[u8]) -> anyhow::Result<bool> {
    check_target(path)?;
    let closed = |path| {
        let there = std::fs::metadata(path)?.permissions();
        std::io::Result::Ok(there.mode() & 0o077 == 0)
    };
    let same = std::fs::read(path).is_ok_and(|there| there == bytes);
    if same && closed(path).unwrap_or(false) {
        return Ok(false);
    }
    write_as(changes, path, bytes, files::PRIVATE)
}

fn write_as(changes: &mut Changes, path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<bool> {
    let verb = if path.exists() { "overwrite" } else { "write" };
    let what = format!("{verb} {} ({} bytes)", path.display(), bytes.len());
    let written = changes.make(what, || {
        files::write_whole(path, bytes, mode)
            .with_context(|| format!("cannot write {}", path.display()))
    })?;
    Ok(written.is_some())
}

/// Valid release signatures of a bundle and how many it takes, where they are too few.
pub fn missing_signatures(bytes: &[u8], root: &Root) -> Option<(u8, u8)> {
    match edgeward_host::release::Release::open(bytes, root) {
        Err(ReleaseError::Unsigned(TrustError::Threshold { valid, needed, .. })) => {
            Some((valid, needed))
        }
        _ => None,
    }
}

/// Says that a bundle still lacks signatures, if it does.
pub fn tell_missing(missing: Option<(u8, u8)>, context: &Context) {
    if let Some((valid, needed)) = missing {
        context.out.say(format!(
            "{valid} of {needed} signatures: pass it on to who has another release key, for `edgeward sign`"
        ));
    }
}

/// Checks a bundle as boards would; why they would refuse it, and what to do about it.
pub fn open<'a>(
    path: &Path,
    bytes: &'a [u8],
    root: &Root,
) -> anyhow::Result<edgeward_host::release::Release<'a>> {
    edgeward_host::release::Release::open(bytes, root).map_err(|error| {
        let next = match error {
            ReleaseError::Bundle(_) => DAMAGED,
            _ => "`edgeward inspect` shows who signed it",
        };
        let what = format!("{}: {error}", path.display());
        Failure::new(Exit::Refused, what).next(next).into()
    })
}

/// Reads a model's TOML; what is wrong with it is a usage error.
pub fn spec(path: &Path) -> anyhow::Result<Spec> {
    let model = path
        .extension()
        .is_some_and(|extension| extension == "onnx");
    if model && path.exists() {
        let what = format!("{} is a model without its description", path.display());
        let next = "name the TOML file that describes it; `edgeward pack --help` shows one";
        return Err(Failure::new(Exit::Usage, what).next(next).into());
    }
    Spec::load(path).map_err(|error| {
        let next = match error {
            SpecError::Io { .. } => "is the path right? it counts from the present folder",
            _ => "`edgeward pack --help` and docs/SPEC.md show what the file holds",
        };
        let failure = Failure::new(Exit::Usage, words(&error));
        failure.next(next).into()
    })
}

/// Turns what packing said into an exit code and advice.
pub fn pack_failure(error: PackError) -> anyhow::Error {
    let exit = if error.is_refusal() {
        Exit::Refused
    } else {
        Exit::Error
    };
    let next = error.next();
    let text = words(&error);
    let failure = Failure::new(exit, text);
    match next {
        Some(next) => failure.next(next).into(),
        None => failure.into(),
    }
}

/// Loads a bundle, or packs a TOML file in memory, without golden vectors if it has none.
pub fn load(path: &Path, context: &Context) -> anyhow::Result<Release> {
    let bytes = if path.extension().is_some_and(|e| e == "toml" || e == "onnx") {
        let spec = spec(path)?;
        context
            .out
            .say(format!("packing {} in memory", path.display()));
        let options = Options {
            golden_from_engine: true,
            allow_skew: true,
        };
        pack::pack(&spec, options).map_err(pack_failure)?.bytes
    } else {
        read(path)?
    };
    Release::load(&bytes).map_err(|error| {
        let what = format!("cannot use {}: {}", path.display(), words(&error));
        let failure = Failure::new(Exit::Error, what);
        match error {
            EvalError::Bundle(_) => failure.next(DAMAGED).into(),
            _ => failure.into(),
        }
    })
}

/// Reads samples from a file, or as CSV from stdin for `-`.
pub fn samples(path: &Path, columns: Columns<'_>) -> anyhow::Result<Samples> {
    let loaded = if path == Path::new("-") {
        Samples::from_csv(std::io::stdin().lock(), Path::new("stdin"), columns)
    } else {
        Samples::load(path, columns)
    };
    loaded.map_err(|error| {
        let next = match &error {
            DataError::NoColumn { .. } => "the header must name every feature of the model",
            DataError::Kind { .. } => "give a CSV file with a header, or an NPY array",
            _ => return error.into(),
        };
        Failure::new(Exit::Error, error.to_string())
            .next(next)
            .into()
    })
}

/// A number for a table: four significant digits.
pub fn short(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let digits = (3 - value.abs().log10().floor() as i64).clamp(0, 6) as usize;
    format!("{value:.digits$}")
}
