//! What several commands do with models and bundles.

use crate::context::Context;
use crate::exit::{Exit, Failure};
use anyhow::Context as _;
use edgeward_host::data::{Columns, DataError, Samples};
use edgeward_host::eval::Release;
use edgeward_host::pack::{self, Options, PackError};
use edgeward_host::spec::Spec;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Reads a file as a whole.
pub fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes a file so that it is there as a whole or not at all.
pub fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Reads a model's TOML; what is wrong with it is a usage error.
pub fn spec(path: &Path) -> anyhow::Result<Spec> {
    if path
        .extension()
        .is_some_and(|extension| extension == "onnx")
    {
        let what = format!("{} is a model without its description", path.display());
        let next = "name the TOML file that describes it; `edgeward pack --help` shows one";
        return Err(Failure::new(Exit::Usage, what).next(next).into());
    }
    Spec::load(path).map_err(|error| {
        let mut text = error.to_string();
        if let Some(source) = std::error::Error::source(&error)
            && matches!(error, edgeward_host::spec::SpecError::Io { .. })
        {
            text.push_str(&format!(": {source}"));
        }
        Failure::new(Exit::Usage, text)
            .next("`edgeward pack --help` shows what the file holds")
            .into()
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
    let text = format!("{:#}", anyhow::Error::new(error));
    let failure = Failure::new(exit, text);
    match next {
        Some(next) => failure.next(next).into(),
        None => failure.into(),
    }
}

/// Loads a bundle, or packs a TOML file in memory, without golden vectors if it has none.
pub fn load(path: &Path, context: &Context) -> anyhow::Result<Release> {
    let bytes = if path.extension().is_some_and(|e| e == "toml" || e == "onnx") {
        context
            .out
            .say(format!("packing {} in memory", path.display()));
        let options = Options {
            golden_from_engine: true,
            allow_skew: true,
        };
        pack::pack(&spec(path)?, options)
            .map_err(pack_failure)?
            .bytes
    } else {
        read(path)?
    };
    Release::load(&bytes).with_context(|| format!("cannot use {}", path.display()))
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
