//! What the tests said: how many ran, and which said that they were skipped.
//!
//! libtest has no word for a test that finds out as it runs that it can't, and swallows what a passing
//! test prints. So tests run with `--show-output`, everything goes to a log, the outputs of passing
//! tests stay off the terminal, and lines that begin with `skipped: ` are collected.

use crate::{announce, finish};
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// How the line of a test that skips begins; the reason follows.
const SKIPPED: &str = "skipped: ";
/// Why a stage of lints is skipped.
pub const NO_CLIPPY: &str = "no clippy is set up for Debian's toolchain";
/// The reasons that set-up does not remove: the reference data is not in the repository, a processor is what it
/// is, with Debian's toolchain the lints are left to machines with rustup's, and rustup has the sources of the
/// standard library or is offline.
const UNAVOIDABLE: [&str; 4] = [
    "no corpus at ",
    "this processor has no ",
    "a lean image wants ",
    NO_CLIPPY,
];

/// What one or several runs of libtest said.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    passed: usize,
    failed: usize,
    ignored: usize,
    /// Test and reason.
    skipped: Vec<(String, String)>,
    /// Whether the lines are what passing tests printed.
    inside: bool,
    /// The test whose output the lines are.
    test: String,
}

impl Tally {
    /// Takes in a line; says whether the terminal shall have it.
    fn read(&mut self, line: &str) -> bool {
        if let Some(counts) = line.strip_prefix("test result: ") {
            let mut words = counts.split([' ', ';']).filter(|word| !word.is_empty());
            let mut last = 0;
            for word in words.by_ref() {
                match word {
                    "passed" => self.passed += last,
                    "failed" => self.failed += last,
                    "ignored" => self.ignored += last,
                    number => last = number.parse().unwrap_or(0),
                }
            }
            self.inside = false;
            return true;
        }
        match line {
            "successes:" => self.inside = true,
            "failures:" => self.inside = false,
            _ => {}
        }
        if let Some(name) = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.strip_suffix(" stdout ----"))
        {
            name.clone_into(&mut self.test);
        }
        if let Some(reason) = line.trim_start().strip_prefix(SKIPPED)
            && !self.skipped.iter().any(|(test, _)| *test == self.test)
        {
            self.skipped.push((self.test.clone(), reason.to_owned()));
        }
        !self.inside
    }

    /// Adds another stage's.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        for skip in other.skipped {
            if !self.skipped.contains(&skip) {
                self.skipped.push(skip);
            }
        }
    }

    /// Notes a stage that could not run.
    pub fn skip(&mut self, stage: &str, reason: &str) {
        eprintln!("!!! {stage}: skipped, {reason}");
        self.skipped.push((stage.to_owned(), reason.to_owned()));
    }

    /// Says what ran and what did not.
    pub fn print(&self) {
        let run = self.passed + self.failed;
        let skipped = self.skipped.len();
        eprintln!(
            "    tests: {run} run, {} passed, {} failed, {} ignored; {skipped} said that they were \
             skipped",
            self.passed, self.failed, self.ignored
        );
        for (test, reason) in &self.skipped {
            eprintln!("      skipped {test}: {reason}");
        }
    }

    /// Fails when a test skipped for want of something that set-up installs. `installs` says whether
    /// it could.
    pub fn judge(&self, installs: bool) -> Result<()> {
        let mut avoidable = self
            .skipped
            .iter()
            .filter(|(_, reason)| !UNAVOIDABLE.iter().any(|it| reason.starts_with(it)));
        match avoidable.next() {
            Some((test, reason)) if installs => bail!(
                "{test} was skipped ({reason}), and so were {} others, though what they need is \
                 installed here",
                avoidable.count()
            ),
            _ => Ok(()),
        }
    }
}

/// Runs a `cargo test` and counts; `log` gets everything that was printed.
pub fn run(title: &str, mut command: Command, log: &Path) -> Result<Tally> {
    command.args(["--", "--show-output"]).stdout(Stdio::piped());
    let start = announce(title, &command);
    if let Some(folder) = log.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = File::create(log).with_context(|| log.display().to_string())?;
    let mut child = command
        .spawn()
        .with_context(|| format!("{title}: cannot start {:?}", command.get_program()))?;
    let output = child.stdout.take().context("a piped output")?;
    let mut tally = Tally::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        writeln!(file, "{line}")?;
        // Empty binaries and dots say nothing that the counts don't.
        if tally.read(&line) && !line.is_empty() {
            println!("{line}");
        }
    }
    let status = child.wait()?;
    if !status.success() {
        tally.print();
    }
    finish(title, start, status)?;
    if tally.passed == 0 {
        bail!("{title}: no test ran");
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: &str = "
running 3 tests
...
successes:

---- golden::moments stdout ----
skipped: no corpus at ../shared/corpus
skipped: no corpus at ../shared/corpus

---- on_mosquitto stdout ----
some figures
skipped: no /usr/sbin/mosquitto

---- talks stdout ----
what it says is skipped: no test's reason

successes:
    golden::moments

test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s
test result: FAILED. 5 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
";

    fn read() -> (Tally, Vec<&'static str>) {
        let mut tally = Tally::default();
        let shown = QUIET.lines().filter(|line| tally.read(line)).collect();
        (tally, shown)
    }

    #[test]
    fn skips_are_counted_once_a_test_and_with_their_reason() {
        let (tally, shown) = read();
        assert_eq!((tally.passed, tally.failed, tally.ignored), (8, 2, 1));
        assert_eq!(
            tally.skipped,
            [
                ("golden::moments", "no corpus at ../shared/corpus"),
                ("on_mosquitto", "no /usr/sbin/mosquitto"),
            ]
            .map(|(test, reason)| (test.to_owned(), reason.to_owned()))
        );
        assert!(!shown.contains(&"some figures"));
        assert_eq!(
            shown
                .iter()
                .filter(|l| l.starts_with("test result"))
                .count(),
            2
        );
    }

    #[test]
    fn only_corpus_and_processor_may_be_missing_where_set_up_installs() {
        let (mut tally, _) = read();
        let error = tally.judge(true).expect_err("Mosquitto is installed");
        assert!(error.to_string().contains("on_mosquitto"), "{error}");
        tally.judge(false).expect("elsewhere it is only said");
        tally.skipped.pop();
        tally
            .judge(true)
            .expect("the corpus is not ours to install");
        let absent = ("every_engine", "this processor has no avx512-vnni");
        let absent = (absent.0.to_owned(), absent.1.to_owned());
        tally.skipped.push(absent);
        tally.judge(true).expect("nor is a processor");
        assert_eq!(tally.skipped.len(), 2);
    }

    #[test]
    fn a_stage_that_is_skipped_counts_as_avoidable_where_set_up_installs() {
        let mut tally = Tally::default();
        tally.skip("programs on AArch64", "no /usr/bin/qemu-aarch64");
        tally.judge(false).expect("elsewhere it is only said");
        let error = tally.judge(true).expect_err("it is installed");
        assert!(error.to_string().contains("AArch64"), "{error}");
    }

    #[test]
    fn the_same_skip_in_two_stages_is_one() {
        let (mut tally, _) = read();
        tally.add(read().0);
        assert_eq!((tally.passed, tally.skipped.len()), (16, 2));
    }
}
