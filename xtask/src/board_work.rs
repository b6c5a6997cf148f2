//! Instructions of what a board does besides its model: counted, tabled, held to goals and to the figures
//! known.

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Most instructions of contract, drift and guard a sample.
const SAMPLE: u64 = 1_500;
/// Most instructions of a summary queued and signed, and of a head verified.
const SIGNATURE: u64 = 2_500_000;

/// How the part of the table begins; one line each follows, up to the end.
const TITLE: &str = "# Instructions of what a board does besides its model";

/// A piece of work: the mean of its instructions and the most.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    mean: u64,
    most: u64,
}

/// What was counted.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Work {
    pieces: BTreeMap<String, Counts>,
    /// Bytes of the signed frame.
    frame: u64,
}

/// What is held to a goal: pieces, each with how many of the whole there are to one of it, and the most that all
/// of them may take.
const GOALS: [Goal; 3] = [
    // An answer comes with every tenth sample, as in the example model.
    (
        "contract, drift, guard",
        &[("contract", 1), ("drift", 1), ("guard", 10)],
        SAMPLE,
    ),
    (
        "summary, queue and sign",
        &[("queue", 1), ("sign", 1)],
        SIGNATURE,
    ),
    ("head of a release", &[("manifest", 1)], SIGNATURE),
];
type Goal = (&'static str, &'static [(&'static str, u64)], u64);

/// Each piece, and what it is.
const PIECES: [(&str, &str); 8] = [
    ("contract", "a sample of 6 features checked"),
    ("drift", "a sample in 6 windows"),
    ("guard", "an answer of 4 classes judged"),
    (
        "runtime",
        "a sample through all of it, an answer every tenth, a window every 1000th",
    ),
    ("window", "a window's summary made"),
    ("queue", "a summary into the outbox"),
    ("sign", "a summary from the outbox into a signed frame"),
    (
        "manifest",
        "a release's head read and its signature checked",
    ),
];

impl Work {
    /// Reads what the firmware printed.
    pub fn parse(text: &str) -> Result<Self> {
        let mut work = Self::default();
        for line in text.lines() {
            match line.split(' ').collect::<Vec<_>>().as_slice() {
                ["work", name, mean, most] => {
                    let counts = Counts {
                        mean: mean.parse()?,
                        most: most.parse()?,
                    };
                    work.pieces.insert((*name).to_owned(), counts);
                }
                ["frame", bytes] => work.frame = bytes.parse()?,
                _ => bail!("work: {line}"),
            }
        }
        for (name, _) in PIECES {
            let counted = work.pieces.get(name).is_some_and(|it| it.mean > 0);
            ensure!(counted, "work: {name} was not counted");
        }
        ensure!(work.frame > 0, "work: no frame");
        Ok(work)
    }

    /// The sum of pieces' means, each by how many of the whole there are to it.
    fn sum(&self, pieces: &[(&str, u64)]) -> u64 {
        let counts = pieces
            .iter()
            .filter_map(|(name, each)| Some(self.pieces.get(*name)?.mean.div_ceil(*each)));
        counts.sum()
    }

    /// The part of the table.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{TITLE}, mean and most;\n\
             # the summary's frame has {} bytes, the outbox is in memory.\n\
             {:<24} {:>8} {:>8}\n",
            self.frame, "work", "mean", "most"
        );
        for (name, what) in PIECES {
            let Counts { mean, most } = self.pieces.get(name).copied().unwrap_or_default();
            // Writing to a string can't fail.
            let _ = writeln!(text, "{name:<24} {mean:>8} {most:>8}  {what}");
        }
        for (name, pieces, goal) in GOALS {
            let sum = self.sum(pieces);
            let _ = writeln!(text, "{name:<24} {sum:>8}           goal {goal}");
        }
        text
    }

    /// Fails when a goal is missed.
    pub fn hold(&self) -> Result<()> {
        for (name, pieces, goal) in GOALS {
            let sum = self.sum(pieces);
            ensure!(sum <= goal, "{name}: {sum} instructions, at most {goal}");
        }
        Ok(())
    }

    /// Fails when a piece takes over 1 % more than in the figures `known`.
    pub fn compare(&self, known: &str) -> Result<()> {
        let part = known.split_once(TITLE).context("no work in the figures")?.1;
        for (name, Counts { mean, .. }) in &self.pieces {
            let line = part.lines().find_map(|line| {
                let mut words = line.split_whitespace();
                (words.next() == Some(name)).then(|| words.next()?.parse::<u64>().ok())?
            });
            let then = line.with_context(|| format!("{name} is not in the figures"))?;
            ensure!(
                mean * 100 <= then * 101,
                "{name}: {mean} instructions, {then} in the figures"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(change: impl Fn(&str) -> u64) -> String {
        let lines = PIECES.iter().map(|(name, _)| {
            let mean = change(name);
            format!("work {name} {mean} {}\n", mean * 2)
        });
        lines.collect::<String>() + "frame 900\n"
    }

    #[test]
    fn each_piece_is_compared_with_what_is_known_of_it() {
        let work = Work::parse(&counted(|_| 400)).expect("whole");
        let known = format!("# other figures\n\n{}", work.table());
        work.compare(&known).expect("the same");
        for (piece, _) in PIECES {
            let with = |mean| {
                let text = counted(|name| if name == piece { mean } else { 400 });
                Work::parse(&text).expect("whole")
            };
            with(404).compare(&known).expect("within a hundredth");
            let error = with(405).compare(&known).expect_err("more").to_string();
            let wanted = format!("{piece}: 405 instructions, 400 in the figures");
            assert_eq!(error, wanted);
            let less = known.replace(&format!("\n{piece} "), "\nother ");
            work.compare(&less).expect_err("unknown");
        }
        work.compare("").expect_err("no figures");
    }

    #[test]
    fn goals_are_of_sums() {
        let hold = |text: &str| Work::parse(text).expect("whole").hold();
        let with = |drift| {
            counted(|name| match name {
                "contract" => 700,
                "drift" => drift,
                _ => 991,
            })
        };
        hold(&with(700)).expect("1500 of 1500");
        let error = hold(&with(701)).expect_err("more").to_string();
        assert_eq!(
            error,
            "contract, drift, guard: 1501 instructions, at most 1500"
        );
        for piece in ["sign", "manifest"] {
            let text = counted(|name| if name == piece { 2_500_001 } else { 1 });
            hold(&text).expect_err("more");
        }
    }

    #[test]
    fn what_was_not_counted_is_missed() {
        for (piece, _) in PIECES {
            let text = counted(|name| u64::from(name != piece));
            Work::parse(&text).expect_err("nothing");
            let lines = counted(|_| 1);
            let without = lines.lines().filter(|line| !line.contains(piece));
            Work::parse(&without.collect::<Vec<_>>().join("\n")).expect_err("missing");
        }
        Work::parse(&(counted(|_| 1) + "error the head")).expect_err("an error");
    }
}
