//! What a command changes: done, or with `--dry-run` only said.

use crate::context::Context;
use anyhow::Result;
use serde::Serialize;
use std::io::{self, Write};

/// The option of every command that changes files, keys, the store or what the broker holds.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct DryRun {
    /// Check all that can be checked, say what would be changed, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

impl DryRun {
    /// The changes of a command, none so far.
    pub fn changes(self) -> Changes {
        Changes {
            dry_run: self.dry_run,
            named: Vec::new(),
        }
    }
}

/// The changes that a command makes, in their order. Each goes through [`make`](Self::make), with words
/// for it, so that a dry run leaves none out.
#[derive(Debug)]
pub struct Changes {
    dry_run: bool,
    named: Vec<String>,
}

impl Changes {
    /// Those of a command that only looks.
    pub fn none() -> Self {
        Self {
            dry_run: false,
            named: Vec::new(),
        }
    }

    /// Whether they are only said.
    pub fn are_only_said(&self) -> bool {
        self.dry_run
    }

    /// Makes a change, and returns what it gives; in a dry run only `what` is noted, which names it in
    /// the infinitive.
    ///
    /// # Errors
    /// What `make` returns.
    pub fn make<T>(
        &mut self,
        what: impl Into<String>,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<Option<T>> {
        let made = if self.dry_run { None } else { Some(make()?) };
        self.named.push(what.into());
        Ok(made)
    }

    /// Prints the result of a command, and what it changed or would change.
    ///
    /// # Errors
    /// When stdout can't be written.
    pub fn emit<T: Serialize>(
        &self,
        context: &Context,
        value: &T,
        human: impl FnOnce(&T, &mut dyn Write) -> io::Result<()>,
    ) -> Result<()> {
        let human = |told: &Told<'_, T>, w: &mut dyn Write| self.told(told.value, human, w);
        context.out.emit(&self.with(value), human)
    }

    /// As [`emit`](Self::emit), for one value of a stream.
    ///
    /// # Errors
    /// When stdout can't be written.
    pub fn emit_line<T: Serialize>(
        &self,
        context: &Context,
        value: &T,
        human: impl FnOnce(&T, &mut dyn Write) -> io::Result<()>,
    ) -> Result<()> {
        let human = |told: &Told<'_, T>, w: &mut dyn Write| self.told(told.value, human, w);
        context.out.emit_line(&self.with(value), human)
    }

    fn with<'a, T>(&'a self, value: &'a T) -> Told<'a, T> {
        Told {
            value,
            dry_run: self.dry_run,
            changes: &self.named,
        }
    }

    fn told<T>(
        &self,
        value: &T,
        human: impl FnOnce(&T, &mut dyn Write) -> io::Result<()>,
        w: &mut dyn Write,
    ) -> io::Result<()> {
        human(value, w)?;
        if !self.dry_run {
            return Ok(());
        }
        for change in &self.named {
            writeln!(w, "would {change}")?;
        }
        writeln!(w, "dry run: nothing was changed")
    }
}

/// A result, and what was changed for it. The field names are stable.
#[derive(Serialize)]
struct Told<'a, T> {
    #[serde(flatten)]
    value: &'a T,
    dry_run: bool,
    /// What was changed, or would be: for people.
    changes: &'a [String],
}
