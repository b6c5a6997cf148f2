//! What a board's firmware takes of flash and RAM, by part.

use crate::bare_metal::{self, Toolchain};
use crate::boards::{self, Build};
use crate::elf::{ALLOCATED, Elf, NOBITS, PROGBITS};
use crate::stacks::{self, Depths};
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

/// What to do with the figures.
#[derive(Args)]
pub struct Options {
    /// The board.
    #[arg(long, default_value = boards::TESTED)]
    board: String,
    /// Compares with benches/firmware.txt and fails when flash or RAM grew by more than a hundredth.
    #[arg(long)]
    check: bool,
    /// Writes benches/firmware.txt.
    #[arg(long, conflicts_with = "check")]
    save: bool,
}

/// What is known of the board that is tested.
pub const FIGURES: &str = "benches/firmware.txt";
/// Growth that needs no word, per mille, by the compiler that wrote the figures and by another one.
const SLACK_PER_MILLE: u64 = 10;
const OTHER_SLACK_PER_MILLE: u64 = 100;

/// Rows of totals: as images are built by default, lean, and with the figures of keyword spotting.
const TOTAL: &str = "total";
const LEAN: &str = "lean";
const KWS: &str = "kws";

/// Statics of at least this many bytes have a row of their own.
const LARGE_BYTES: u64 = 1024;

/// Parts by what a symbol's mangled name has in it; the first that fits counts.
const PARTS: [(&str, &[&str]); 11] = [
    ("log", &["5defmt", "defmt..", "_defmt_"]),
    (
        "tls",
        &[
            "edgeward_tls",
            "webpki",
            "rustls_pki_types",
            "untrusted",
            "aes_gcm",
            "3aes",
            "5ghash",
            "7polyval",
            "4p256",
            "5ecdsa",
            "elliptic_curve",
            "primeorder",
            "primefield",
            "crypto_bigint",
        ],
    ),
    ("network", &["smoltcp", "embassy_net", "lan9118"]),
    ("mqtt", &["minimq"]),
    ("crypto", &["curve25519", "ed25519", "4sha2", "6digest"]),
    ("programs", &["8edgeward7program", "edgeward..program"]),
    (
        "application",
        &[
            "edgeward_firmware",
            "edgeward_mcu",
            "embassy_executor..raw",
            "embassy_executor3raw",
        ],
    ),
    ("core", &["8edgeward", "edgeward.."]),
    ("board", &["edgeward_"]),
    ("constants", &[".Lanon", "anon."]),
    (
        "fmt, floats",
        &["3fmt", "3num", "7flt2dec", "7dec2flt", "core..fmt"],
    ),
];
const REST: &str = "rest";

/// Flash and RAM.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Bytes {
    flash: u64,
    ram: u64,
}

/// Builds the firmware without TLS and with it, where it can have that, prints what it takes, and holds it
/// to its budgets.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    let board = &options.board;
    ensure!(
        board == boards::TESTED || !(options.save || options.check),
        "{FIGURES} is of {}: leave --save and --check out for {board}",
        boards::TESTED
    );
    let mut builds = vec![(Build::PLAIN, ["flash_bytes", "ram_bytes"])];
    if boards::has_tls(root, board)? {
        // Last, so that this is the image that is left.
        builds.push((Build::WHOLE, ["tls_flash_bytes", "tls_ram_bytes"]));
    }
    let mut measured = Vec::new();
    for (build, names) in builds {
        let image = boards::image(root, board, build)?;
        let bytes = std::fs::read(&image).with_context(|| image.display().to_string())?;
        let figures = measure(&bytes).context("no 32-bit ELF image")?;
        for (what, taken) in names.into_iter().zip([figures.0.flash, figures.0.ram]) {
            hold(root, board, "board.toml", what, taken)?;
        }
        measured.push(figures);
    }
    let processor = boards::processor(root, board)?;
    let no_lean = bare_metal::no_lean(&processor)?;
    let plain_and_tls = &[Build::PLAIN, Build::WHOLE][..measured.len()];
    let is_tested = board == boards::TESTED;
    let lean = match is_tested && no_lean.is_none() {
        true => totals(root, board, plain_and_tls, Build::lean)?,
        false => Vec::new(),
    };
    let kws = match is_tested {
        true => totals(root, board, plain_and_tls, Build::kws)?,
        false => Vec::new(),
    };
    for (total, what) in kws.iter().zip(["ram_bytes", "tls_ram_bytes"]) {
        hold(root, board, boards::KWS, what, total.ram)?;
    }
    let compiler = Toolchain::find(&processor)?.version()?;
    let statics = measured.last().map(|(_, _, statics)| large(statics));
    let path = root.join(FIGURES);
    let stack = match is_tested {
        true => stack(root, &path)?.map(Depths::row),
        false => None,
    };
    let table = table(board, &compiler, &measured, &[(LEAN, &lean), (KWS, &kws)])
        + &stack.unwrap_or_default();
    let table = table + &statics.unwrap_or_default();
    println!("{table}");
    if options.save {
        std::fs::write(&path, &table)?;
    }
    if options.check {
        let known = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let totals: Vec<Bytes> = measured.iter().map(|(total, _, _)| *total).collect();
        compare(&known, &compiler, TOTAL, &totals)?;
        compare(&known, &compiler, KWS, &kws)?;
        match no_lean {
            None if lean.is_empty() => {}
            None => compare(&known, &compiler, LEAN, &lean)?,
            Some(reason) => eprintln!("!!! lean images are not compared: {reason}"),
        }
    }
    Ok(())
}

/// Fails beyond a figure in `[budget]` of a board's file.
fn hold(root: &Path, board: &str, file: &str, what: &str, taken: u64) -> Result<()> {
    let budget = budget(root, board, file, what)?;
    ensure!(
        taken <= budget,
        "{taken} bytes, the budget in boards/{board}/{file} has {what} = {budget}"
    );
    Ok(())
}

/// What the same images take that are built in another way.
fn totals(
    root: &Path,
    board: &str,
    builds: &[Build],
    how: impl Fn(Build) -> Build,
) -> Result<Vec<Bytes>> {
    let totals = builds.iter().map(|&build| {
        let image = boards::image(root, board, how(build))?;
        let bytes = std::fs::read(&image).with_context(|| image.display().to_string())?;
        Ok(measure(&bytes).context("no 32-bit ELF image")?.0)
    });
    totals.collect()
}

/// How deep the stack was in the last run of the tests; or when the figures were written, where there was none
/// since.
fn stack(root: &Path, figures: &Path) -> Result<Option<Depths>> {
    let known = || Depths::known(&std::fs::read_to_string(figures).ok()?);
    Ok(stacks::measured(root)?.or_else(known))
}

/// Builds the firmware of every board, and holds each to its budget.
pub fn every_board(root: &Path) -> Result<()> {
    let mut boards = boards::all(root)?.into_iter();
    boards.try_for_each(|board| run(root, &Options::budget(&board)))
}

/// A figure of a board's budget.
fn budget(root: &Path, board: &str, file: &str, what: &str) -> Result<u64> {
    let path = root.join("boards").join(board).join(file);
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let section = text.split_once("[budget]").map(|(_, rest)| rest);
    let lines = section.unwrap_or_default().lines();
    let own = lines.skip(1).take_while(|line| !line.starts_with('['));
    let figures: BTreeMap<_, _> = own.filter_map(|line| line.split_once(" = ")).collect();
    let figure = figures.get(what).and_then(|text| text.parse().ok());
    figure.with_context(|| format!("{}: no {what} in [budget]", path.display()))
}

impl Options {
    /// Only within its budget.
    pub fn budget(board: &str) -> Self {
        Self {
            board: board.to_owned(),
            check: false,
            save: false,
        }
    }

    /// As the tests run it.
    pub fn check() -> Self {
        Self {
            board: boards::TESTED.to_owned(),
            check: true,
            save: false,
        }
    }
}

/// The figures of a firmware, built in one way or two.
fn table(
    board: &str,
    compiler: &str,
    measured: &[Measured],
    others: &[(&str, &[Bytes])],
) -> String {
    let mut text = format!(
        "# Bytes of the firmware of {board}: flash with constants, static RAM, and what of the\n\
         # stack, painted, a board's life over a plain connection and over TLS took, both times with the image\n\
         # that has TLS, as the last `cargo xtask test` noted it.\n\
         # Written by `cargo xtask size --save` with {compiler}.\n\
         # By the crates of symbols: what the compiler inlined counts where it went, mostly the\n\
         # application's tasks. Lean images have a standard library built for size (`cargo xtask board-image --lean`);\n\
         # images for keyword spotting the figures of kws.toml instead of board.toml's, and no flight recorder.\n"
    );
    text += match measured.len() {
        1 => "part            flash      ram\n",
        _ => {
            "                 without TLS          with TLS\npart            flash      ram    flash      ram\n"
        }
    };
    let names: BTreeSet<&str> = measured
        .iter()
        .flat_map(|(_, parts, _)| parts.keys().copied())
        .collect();
    let mut row = |name: &str, figures: &mut dyn Iterator<Item = Bytes>| {
        // Writing to a string can't fail.
        let _ = write!(text, "{name:<12}");
        for Bytes { flash, ram } in figures {
            let _ = write!(text, " {flash:>8} {ram:>8}");
        }
        text.push('\n');
    };
    for name in names {
        let part = |parts: &BTreeMap<_, _>| parts.get(name).copied().unwrap_or_default();
        row(name, &mut measured.iter().map(|(_, parts, _)| part(parts)));
    }
    row(TOTAL, &mut measured.iter().map(|(total, _, _)| *total));
    for (name, totals) in others.iter().filter(|(_, totals)| !totals.is_empty()) {
        row(name, &mut totals.iter().copied());
    }
    text
}

/// The statics that have a row of their own.
fn large(statics: &[(String, u64)]) -> String {
    let mut text = "\nstatic                     ram\n".to_owned();
    for (name, bytes) in statics {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{name:<21} {bytes:>8}");
    }
    text
}

/// The last two names of a mangled path, without its hash.
fn short(mangled: &str) -> String {
    let mut rest = mangled.strip_prefix("_ZN").unwrap_or(mangled);
    let mut names = Vec::new();
    while let Some(digits) = rest
        .find(|c: char| !c.is_ascii_digit())
        .filter(|&at| at > 0)
    {
        let Ok(len) = rest[..digits].parse::<usize>() else {
            break;
        };
        let Some(name) = rest.get(digits..digits + len) else {
            break;
        };
        names.push(name);
        rest = &rest[digits + len..];
    }
    names.pop();
    let from = names.len().saturating_sub(2).max(1);
    names
        .get(from..)
        .map_or(mangled.to_owned(), |names| names.join("::"))
}

/// Fails when a total is more than the known one and the slack.
fn compare(known: &str, compiler: &str, row: &str, totals: &[Bytes]) -> Result<()> {
    let line = known
        .lines()
        .find_map(|line| line.strip_prefix(row)?.strip_prefix(' '));
    let figures = line.unwrap_or_default().split_whitespace();
    let figures: Vec<u64> = figures.map_while(|figure| figure.parse().ok()).collect();
    ensure!(
        figures.len() == 2 * totals.len() && !totals.is_empty(),
        "{FIGURES} has no {row} of each image"
    );
    let slack = match known.contains(compiler) {
        true => SLACK_PER_MILLE,
        false => OTHER_SLACK_PER_MILLE,
    };
    let now = totals
        .iter()
        .flat_map(|total| [("flash", total.flash), ("RAM", total.ram)]);
    for ((what, now), then) in now.zip(figures) {
        let most = then + then * slack / 1000;
        ensure!(
            now <= most,
            "{what} grew from {then} to {now} bytes: `cargo xtask size --save` when that is meant"
        );
    }
    Ok(())
}

/// What an image takes in all, by part, and its large statics; what no symbol stands for is in the rest.
type Measured = (Bytes, BTreeMap<&'static str, Bytes>, Vec<(String, u64)>);

/// Reads that from an image.
fn measure(image: &[u8]) -> Option<Measured> {
    let elf = Elf(image);
    let sections = elf.sections()?;
    let mut total = Bytes::default();
    for section in sections
        .iter()
        .filter(|section| section.flags & ALLOCATED != 0)
    {
        match section.kind {
            PROGBITS => total.flash += section.len as u64,
            NOBITS => total.ram += section.len as u64,
            _ => {}
        }
    }
    let mut parts: BTreeMap<&str, Bytes> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut statics = Vec::new();
    for symbol in elf.symbols()? {
        let section = sections.get(symbol.section);
        let Some(section) = section.filter(|section| section.flags & ALLOCATED != 0) else {
            continue;
        };
        let (name, len) = (symbol.name, symbol.len);
        // Two names of one thing count once.
        if len == 0 || !seen.insert((symbol.address, len)) {
            continue;
        }
        let part = parts.entry(part_of(name)).or_default();
        match section.kind {
            PROGBITS => part.flash += len,
            _ => {
                part.ram += len;
                if len >= LARGE_BYTES {
                    statics.push((short(name), len));
                }
            }
        }
    }
    let named = parts.values().fold(Bytes::default(), |sum, part| Bytes {
        flash: sum.flash + part.flash,
        ram: sum.ram + part.ram,
    });
    let rest = parts.entry(REST).or_default();
    rest.flash += total.flash.saturating_sub(named.flash);
    rest.ram += total.ram.saturating_sub(named.ram);
    statics.sort_by_key(|(_, len)| core::cmp::Reverse(*len));
    Some((total, parts, statics))
}

fn part_of(name: &str) -> &'static str {
    let fits = |words: &[&str]| words.iter().any(|word| name.contains(word));
    let found = PARTS.iter().find(|(_, words)| fits(words));
    found.map_or(REST, |(part, _)| part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_are_told_apart() {
        for (name, part) in [
            ("_ZN7smoltcp6socket3tcp6Socket7process17h0E", "network"),
            ("_ZN8edgeward7program4exec3Run4step17h0E", "programs"),
            ("_ZN8edgeward5slots7journal4scan17h0E", "core"),
            ("_ZN12edgeward_mcu3app7App17h0E", "application"),
            ("_ZN24edgeward_qemu_mps2_an3865ARENA17h0E", "board"),
            ("memcpy", REST),
        ] {
            assert_eq!(part_of(name), part, "{name}");
        }
    }

    #[test]
    fn statics_are_named_by_their_module() {
        let mangled = "_ZN24edgeward_qemu_mps2_an3867lan91185STATE17h0123456789abcdefE";
        assert_eq!(short(mangled), "lan9118::STATE");
        let mangled = "_ZN24edgeward_qemu_mps2_an3865ARENA17h0123456789abcdefE";
        assert_eq!(short(mangled), "ARENA");
        assert_eq!(short("memory"), "memory");
    }

    #[test]
    fn growth_is_found() {
        let measured = |flash, ram| (Bytes { flash, ram }, BTreeMap::new(), Vec::new());
        let now = |flash, ram| [Bytes { flash, ram }];
        let (lean, kws) = (now(700, 1900), now(900, 1500));
        let others = [(LEAN, &lean[..]), (KWS, &kws)];
        let known = table("b", "rustc 1", &[measured(1000, 2000)], &others);
        assert!(compare(&known, "rustc 1", KWS, &now(909, 1515)).is_ok());
        assert!(compare(&known, "rustc 1", KWS, &now(900, 1516)).is_err());
        assert!(compare(&known, "rustc 1", LEAN, &now(707, 1919)).is_ok());
        assert!(compare(&known, "rustc 1", LEAN, &now(708, 1900)).is_err());
        assert!(compare(&known, "rustc 1", TOTAL, &now(1010, 2020)).is_ok());
        assert!(compare(&known, "rustc 1", TOTAL, &now(1011, 2000)).is_err());
        assert!(compare(&known, "rustc 1", TOTAL, &now(1000, 2021)).is_err());
        assert!(compare(&known, "rustc 2", TOTAL, &now(1100, 2200)).is_ok());
        assert!(compare(&known, "rustc 2", TOTAL, &now(1101, 2200)).is_err());
        assert!(compare("", "rustc 1", TOTAL, &now(0, 0)).is_err());
        let both = table(
            "b",
            "rustc 1",
            &[measured(1000, 2000), measured(3000, 4000)],
            &[],
        );
        let now = |flash, ram| {
            [
                Bytes {
                    flash: 1000,
                    ram: 2000,
                },
                Bytes { flash, ram },
            ]
        };
        assert!(compare(&both, "rustc 1", TOTAL, &now(3030, 4040)).is_ok());
        assert!(compare(&both, "rustc 1", TOTAL, &now(3031, 4000)).is_err());
        assert!(compare(&both, "rustc 1", TOTAL, &now(3000, 4041)).is_err());
        assert!(compare(&known, "rustc 1", TOTAL, &now(3000, 4000)).is_err());
    }
}
