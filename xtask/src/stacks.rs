//! How deep the stack of a board was: it is painted, the board logs it, and the tests that live its life in
//! QEMU note it.

use crate::tally::Tally;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};

/// Where tests note it, a file each.
const FOLDER: &str = "target/stacks";
/// What the row of the figures is called.
const ROW: &str = "stack";
/// Growth that needs no word, per cent: which interrupts meet at the deepest place is luck.
const SLACK: u64 = 10;

/// The most bytes over a plain connection and over TLS.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Depths {
    plain: u64,
    tls: u64,
}

/// An empty folder for tests to note it in.
pub fn folder(root: &Path) -> Result<PathBuf> {
    let folder = root.join(FOLDER);
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// What the last run of the tests noted; nothing where none did.
pub fn measured(root: &Path) -> Result<Option<Depths>> {
    let mut deepest = Depths::default();
    let Ok(entries) = std::fs::read_dir(root.join(FOLDER)) else {
        return Ok(None);
    };
    for entry in entries {
        let path = entry?.path();
        let text = std::fs::read_to_string(&path)?;
        let depth: u64 = text.trim().parse().context(path.display().to_string())?;
        let tls = path.file_name().is_some_and(|name| name == "tls");
        let most = if tls {
            &mut deepest.tls
        } else {
            &mut deepest.plain
        };
        *most = depth.max(*most);
    }
    Ok((deepest.plain > 0 && deepest.tls > 0).then_some(deepest))
}

impl Depths {
    /// What the figures have.
    pub fn known(figures: &str) -> Option<Self> {
        let line = figures.lines().find_map(|line| line.strip_prefix(ROW))?;
        let mut words = line.split_whitespace().map(str::parse);
        let (plain, tls) = (words.next()?.ok()?, words.next()?.ok()?);
        Some(Self { plain, tls })
    }

    /// The row of the figures, below those of RAM.
    pub fn row(self) -> String {
        let Self { plain, tls } = self;
        format!("{ROW:<12} {:>8} {plain:>8} {:>8} {tls:>8}\n", "", "")
    }

    /// Fails when either is more than it was, by more than the slack.
    fn compare(self, known: Self) -> Result<()> {
        let pairs = [
            ("a plain connection", self.plain, known.plain),
            ("TLS", self.tls, known.tls),
        ];
        for (over, now, then) in pairs {
            ensure!(
                now * 100 <= then * (100 + SLACK),
                "over {over} the stack took {now} bytes, {then} in the figures"
            );
        }
        Ok(())
    }
}

/// Holds what the tests noted to the figures.
pub fn check(root: &Path, figures: &Path, tally: &mut Tally) -> Result<()> {
    let Some(measured) = measured(root)? else {
        tally.skip("depth of the stack", "no board told it");
        return Ok(());
    };
    let text = std::fs::read_to_string(figures).with_context(|| figures.display().to_string())?;
    let known = Depths::known(&text);
    let known = known.with_context(|| format!("{}: no stack", figures.display()))?;
    eprintln!(
        "--- stack, painted: {} bytes over a plain connection, {} over TLS",
        measured.plain, measured.tls
    );
    measured.compare(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_is_read_as_it_is_written_and_growth_is_told() {
        let known = Depths {
            plain: 7000,
            tls: 9000,
        };
        let figures = format!("total  1 2 3 4\n{}static  ram\n", known.row());
        assert_eq!(Depths::known(&figures), Some(known));
        assert_eq!(Depths::known("total  1 2 3 4\n"), None);
        let depths = |plain, tls| Depths { plain, tls };
        depths(7700, 9900).compare(known).expect("the slack");
        depths(1, 1).compare(known).expect("less");
        for (more, over) in [(depths(7701, 1), "a plain"), (depths(1, 9901), "over TLS")] {
            let error = more.compare(known).expect_err("more").to_string();
            assert!(error.contains(over), "{error}");
        }
    }

    /// Otherwise a board would be over its budget before it is seen that it takes more than it did.
    #[test]
    fn the_budget_leaves_room_for_the_slack() {
        let figures = include_str!("../../benches/firmware.txt");
        let board = include_str!("../../boards/qemu-mps2-an386/board.toml");
        let known = Depths::known(figures).expect("a row");
        let (_, section) = board.split_once("[stack]\nbytes = ").expect("a budget");
        let budget = section.lines().next().map(str::parse::<u64>);
        let budget = budget.expect("a line").expect("a number");
        let most = known.plain.max(known.tls) * (100 + SLACK) / 100;
        assert!(most < budget, "{most} of {budget}");
    }

    #[test]
    fn the_deepest_of_each_kind_counts() {
        let root = std::env::temp_dir().join(format!("edgeward-stacks-{}", std::process::id()));
        let folder = folder(&root).expect("a folder");
        assert_eq!(measured(&root).expect("read"), None);
        for (name, text) in [("embedded", "50\n"), ("mosquitto", "70\n")] {
            std::fs::write(folder.join(name), text).expect("written");
        }
        assert_eq!(measured(&root).expect("read"), None, "none over TLS");
        std::fs::write(folder.join("tls"), "90").expect("written");
        let deepest = Depths { plain: 70, tls: 90 };
        assert_eq!(measured(&root).expect("read"), Some(deepest));
        std::fs::write(folder.join("mosquitto"), "deep").expect("written");
        measured(&root).expect_err("no number");
        super::folder(&root).expect("emptied");
        assert_eq!(measured(&root).expect("read"), None);
        std::fs::remove_dir_all(&root).expect("removed");
    }
}
