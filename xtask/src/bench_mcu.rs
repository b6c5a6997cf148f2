//! Instructions of programs on a microcontroller, counted by QEMU.

use crate::bare_metal::{self, Std};
use crate::board_work::Work;
use crate::elf::{ALLOCATED, Elf, PROGBITS, Section};
use crate::engines::{self, Engine, Tolerance};
use crate::{cargo, step};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What to do with the figures.
#[derive(Args)]
pub struct Options {
    /// Compares with benches/mcu.txt and fails when a model takes over 1 % more than there.
    #[arg(long)]
    check: bool,
    /// Writes benches/mcu.txt.
    #[arg(long, conflicts_with = "check")]
    save: bool,
    /// Fits predicted instructions to counts anew, of random operators too.
    #[arg(long, conflicts_with = "check")]
    fit: bool,
    /// Random operators and chains of the conformance suite; spoilt ones and networks come on top.
    #[arg(long, default_value_t = CASES)]
    cases: u32,
}

impl Options {
    /// As the tests run it.
    pub fn check() -> Self {
        Self {
            check: true,
            save: false,
            fit: false,
            cases: CASES,
        }
    }
}

/// Cases of the conformance suite, of which eight of thirteen have fast kernels.
const CASES: u32 = 3250;

/// The peers: instructions of TensorFlow Lite Micro with CMSIS-NN on the same machine, and its arena.
const PEERS: [(&str, u64, u64); 4] = [
    ("kws", 7_697_232, 22_820),
    ("vww", 24_101_454, 100_708),
    ("ic", 29_862_112, 54_996),
    ("ad", 582_864, 2_580),
];

/// Recordings of keywords in the corpus.
const RECORDINGS: u64 = 500;
/// Inputs of which a program's outputs are checked, at least: a second one shows what the first leaves behind.
const ROWS_LEAST: u64 = 2;

/// Most bytes of code and read-only data of executor and kernels.
const CODE_BYTES: u64 = 24 * 1024;

const FIGURES: &str = "benches/mcu.txt";
/// What each term of a prediction costs.
const COSTS: &str = "host-tools/compiler/src/cost/table.rs";

/// What a run of a program told.
#[derive(Default)]
struct Figures {
    instructions: u64,
    /// Of the verifier, once.
    verify: u64,
    arena: u64,
    products: u64,
    program: u64,
    rows: u64,
    ops: Vec<Operator>,
}

/// What a run told of an operator, and what it is.
#[derive(Default)]
struct Operator {
    kind: String,
    instructions: u64,
    products: u64,
    /// Its input's and output's extents.
    shape: String,
    /// Its window, or what else tells it from others of its kind.
    detail: String,
    /// The model's operator that it came from.
    from: String,
}

/// Builds the firmware, runs every program, prints the table.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    let folder = root.join("target/bench-mcu");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    let mut programs = example(root, "bench_programs", &folder);
    if options.fit {
        programs.arg("fit");
    }
    step("programs", &mut programs)?;
    let images = build(root)?;
    let mut all = BTreeMap::new();
    for name in names(&folder)? {
        let figures = measure(&images, &folder, &name)?;
        eprintln!("    {name}: {} instructions", figures.instructions);
        let counts = figures.ops.iter();
        let counts = counts.map(|op| format!("{}\n", op.instructions));
        std::fs::write(
            folder.join(format!("{name}.counts")),
            counts.collect::<String>(),
        )?;
        if !name.starts_with("fit-") && !name.starts_with("way-") {
            all.insert(name, figures);
        }
    }
    let mut costs = example(root, "cost_model", &folder);
    if options.fit {
        costs.arg(root.join(COSTS));
    }
    step("predicted instructions", &mut costs)?;
    let code = Code::of(&images)?;
    let work = work(root, &images, &folder)?;
    let recordings = recordings(&images, &folder)?;
    let cases = conformance(root, &images, &folder, options.cases)?;
    let table = table(&all, &code) + "\n" + &top(&all) + "\n" + &work.table();
    println!("{table}\n{}", profile(&all));
    eprintln!("--- {recordings}\n--- {cases}");
    let executor = code.executor;
    ensure!(
        executor <= CODE_BYTES,
        "executor and kernels take {executor} bytes, at most {CODE_BYTES}"
    );
    work.hold()?;
    let path = root.join(FIGURES);
    if options.save {
        std::fs::write(&path, &table)?;
    }
    if options.check {
        let known = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        compare(&known, &all, &code)?;
        work.compare(&known).context(FIGURES)?;
    }
    Ok(())
}

/// One of the compiler's examples, to be run on a file or folder.
fn example(root: &Path, name: &str, path: &Path) -> Command {
    let mut command = cargo(root);
    command
        .args(["run", "--release", "--quiet", "--locked"])
        .args(["-p", "edgeward-compiler", "--example", name, "--"])
        .arg(path);
    command
}

/// Builds the images and gives their folder.
fn build(root: &Path) -> Result<PathBuf> {
    let target = root.join("target/boards");
    let mut command =
        bare_metal::board_cargo(&root.join("boards"), bare_metal::TARGET, Std::AsItComes)?;
    command
        .args(["--locked", "-p", "edgeward-bench", "--target-dir"])
        .arg(&target);
    step("bench firmware", &mut command)?;
    Ok(target.join(bare_metal::TARGET).join("release"))
}

/// Names of the programs in a folder.
fn names(folder: &Path) -> Result<Vec<String>> {
    let names = files(folder, ".program")?;
    let name = |file: &String| file.trim_end_matches(".program").to_owned();
    Ok(names.iter().map(name).collect())
}

/// Files of a folder with an ending, at least one.
fn files(folder: &Path, ending: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(Some(name).filter(|name| name.ends_with(ending)));
    }
    names.sort();
    ensure!(!names.is_empty(), "no {ending} in {}", folder.display());
    Ok(names)
}

/// Runs the firmware with a command line and gives what it printed.
fn qemu(images: &Path, folder: &Path, words: &[&str]) -> Result<String> {
    let arguments: String = words.iter().fold(String::new(), |mut all, word| {
        let _ = write!(all, ",arg={word}");
        all
    });
    let mut command = Command::new("qemu-system-arm");
    command
        .current_dir(folder)
        .args(["-machine", "mps2-an386", "-nographic", "-monitor", "none"])
        .args(["-serial", "null", "-nic", "none", "-icount", "shift=10"])
        .arg("-semihosting-config")
        .arg(format!("enable=on,target=native,arg=bench{arguments}"))
        .arg("-kernel")
        .arg(images.join("edgeward-bench"));
    let output = command
        .output()
        .context("cannot start qemu-system-arm (Debian's package of that name)")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}\n{text}{errors}", words.join(" "), output.status);
    }
    Ok(text)
}

/// Counts one program, and checks its outputs.
fn measure(images: &Path, folder: &Path, name: &str) -> Result<Figures> {
    let (program, rows) = (format!("{name}.program"), format!("{name}.rows"));
    let text = qemu(images, folder, &["run", &program, &rows])?;
    let mut figures = Figures {
        program: std::fs::metadata(folder.join(&program))?.len(),
        ..Figures::default()
    };
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["total", count] => figures.instructions = count.parse()?,
            ["verify", count] => figures.verify = count.parse()?,
            ["arena", bytes] => figures.arena = bytes.parse()?,
            ["rows", count, "wrong", "0"] => figures.rows = count.parse()?,
            ["op", _, kind, count, products] => {
                let products = products.parse()?;
                figures.products += products;
                figures.ops.push(Operator {
                    kind: (*kind).to_owned(),
                    instructions: count.parse()?,
                    products,
                    ..Operator::default()
                });
            }
            _ => bail!("{name}: {line}"),
        }
    }
    let rows = figures.rows;
    ensure!(rows >= ROWS_LEAST, "{name}: {rows} rows were checked");
    let described = std::fs::read_to_string(folder.join(format!("{name}.ops")))?;
    describe(&mut figures.ops, &described).with_context(|| format!("{name}.ops"))?;
    Ok(figures)
}

/// Counts what a board does besides its model.
fn work(root: &Path, images: &Path, folder: &Path) -> Result<Work> {
    const FILE: &str = "release.head";
    let mut head = example(root, "release_head", &folder.join(FILE));
    step("the head of a release", &mut head)?;
    Work::parse(&qemu(images, folder, &["work", FILE])?)
}

/// Runs the recordings of the corpus, where it is; says how many.
fn recordings(images: &Path, folder: &Path) -> Result<String> {
    const FILE: &str = "kws.recordings";
    if !folder.join(FILE).exists() {
        return Ok("no corpus: no recordings of keywords ran".to_owned());
    }
    let text = qemu(images, folder, &["run", "kws.program", FILE])?;
    let last = text.lines().last().unwrap_or_default();
    match last.split(' ').collect::<Vec<_>>().as_slice() {
        ["rows", count, "wrong", "0"] if count.parse() == Ok(RECORDINGS) => Ok(format!(
            "{count} recordings of keywords equal TensorFlow Lite Micro's outputs"
        )),
        _ => bail!("{FILE}: {last}"),
    }
}

/// Takes in what operators are, a line each.
fn describe(ops: &mut [Operator], text: &str) -> Result<()> {
    ensure!(text.lines().count() == ops.len(), "not an operator a line");
    for (op, line) in ops.iter_mut().zip(text.lines()) {
        match line.splitn(4, '\t').collect::<Vec<_>>().as_slice() {
            [kind, shape, detail, from] if *kind == op.kind => {
                [op.shape, op.detail, op.from] = [shape, detail, from].map(|it| (*it).to_owned());
            }
            _ => bail!("{line}"),
        }
    }
    Ok(())
}

/// Runs the conformance suite by fast and by portable kernels; says what ran.
fn conformance(root: &Path, images: &Path, folder: &Path, cases: u32) -> Result<String> {
    let mut command = example(root, "conformance_cases", folder);
    let output = command.arg(cases.to_string()).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers: Vec<u64> = said
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let [wanted, spoilt] = numbers[..] else {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("the conformance suite was not made: {said}{errors}");
    };
    ensure!(
        spoilt * 20 >= u64::from(cases),
        "only {spoilt} cases with spoilt constants"
    );
    let mut counts = BTreeMap::new();
    for file in files(folder, ".cases")? {
        count_cases(&qemu(images, folder, &["check", &file])?, &mut counts)?;
    }
    let ran: u64 = counts.values().sum();
    ensure!(ran == wanted, "{ran} of {wanted} cases ran");
    let counts: Vec<String> = counts
        .iter()
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    Ok(format!(
        "{}: {ran} cases equal by fast and portable kernels: {}",
        cortex_m().name,
        counts.join(", ")
    ))
}

/// The engine, which the suite's list has and holds to the portable kernels bit for bit.
fn cortex_m() -> &'static Engine {
    let engine = engines::engine("cortex-m-dsp");
    assert_eq!(engine.tolerance, Tolerance::Exact);
    engine
}

/// Adds up how many cases of each name a run checked.
fn count_cases(text: &str, counts: &mut BTreeMap<String, u64>) -> Result<()> {
    for line in text.lines() {
        match line.split(' ').collect::<Vec<_>>().as_slice() {
            ["checked", name, count] => {
                *counts.entry((*name).to_owned()).or_default() += count.parse::<u64>()?;
            }
            _ => bail!("{}: {line}", cortex_m().name),
        }
    }
    Ok(())
}

/// Instructions a product in thousandths, without floats in a file that is compared.
fn thousandths(instructions: u64, products: u64) -> String {
    let value = (instructions * 1000).checked_div(products).unwrap_or(0);
    format!("{}.{:03}", value / 1000, value % 1000)
}

/// `peer / ours` in thousandths, and the peer's figure; dashes where there is none.
fn beside(peer: Option<u64>, ours: u64) -> [String; 2] {
    match peer {
        Some(peer) => [thousandths(peer, ours), peer.to_string()],
        None => ["-", "-"].map(str::to_owned),
    }
}

fn table(all: &BTreeMap<String, Figures>, code: &Code) -> String {
    let mut text = String::from(
        "# Instructions an inference on a Cortex-M4 (mps2-an386 in QEMU, -icount), exact.\n\
         # Written by `cargo xtask bench-mcu --save`. peer: TensorFlow Lite Micro with CMSIS-NN.\n\
         # fewer, smaller: how many times as many instructions, and as large an arena, the peer takes.\n\
         # `-shape` models have the shapes of MLPerf Tiny and seeded weights; the others are the real ones.\n",
    );
    let _ = writeln!(
        text,
        "{:<10} {:>6} {:>7} {:>12} {:>10} {:>7} {:>10} {:>7} {:>7} {:>8}",
        "model",
        "fewer",
        "smaller",
        "instructions",
        "peer",
        "per MAC",
        "MACs",
        "arena",
        "peer",
        "program"
    );
    for (name, figures) in all {
        let peer = peer(name);
        let [fewer, count] = beside(peer.map(|it| it.0), figures.instructions);
        let [smaller, arena] = beside(peer.map(|it| it.1), figures.arena);
        let _ = writeln!(
            text,
            "{name:<10} {fewer:>6} {smaller:>7} {:>12} {count:>10} {:>7} {:>10} {:>7} {arena:>7} {:>8}",
            figures.instructions,
            thousandths(figures.instructions, figures.products),
            figures.products,
            figures.arena,
            figures.program,
        );
    }
    let Code {
        executor,
        verifier,
        both,
    } = code;
    let _ = writeln!(
        text,
        "{CODE_LINE}{executor} bytes, the verifier {verifier}, both in one image {both}"
    );
    text
}

/// Operators of a model that are shown.
const TOP: usize = 5;

/// The operators of each model that take most instructions, the first of equals first.
fn top(all: &BTreeMap<String, Figures>) -> String {
    let mut text = format!(
        "# The {TOP} operators of each model that take most, and their shares of its instructions; `op` is the\n\
         # operator's number in the program, as `edgeward inspect` lists it, `of` the model's operator.\n\
         {:<10} {:>6} {:>12} {:>7} {:>3} {:<9} {:<25} {:<22} of\n",
        "model", "share", "instructions", "per MAC", "op", "kind", "shape", "window"
    );
    for (name, figures) in all {
        let mut ops: Vec<_> = figures.ops.iter().enumerate().collect();
        ops.sort_by_key(|(_, op)| std::cmp::Reverse(op.instructions));
        for (index, op) in ops.into_iter().take(TOP) {
            let count = op.instructions;
            let tenths = (count * 1000)
                .checked_div(figures.instructions)
                .unwrap_or(0);
            let each = match op.products {
                0 => "-".to_owned(),
                products => thousandths(count, products),
            };
            let share = format!("{}.{} %", tenths / 10, tenths % 10);
            let _ = writeln!(
                text,
                "{name:<10} {share:>6} {count:>12} {each:>7} {index:>3} {:<9} {:<25} {:<22} {}",
                op.kind, op.shape, op.detail, op.from
            );
        }
    }
    text
}

/// The peer's figures for a model or its shape.
fn peer(name: &str) -> Option<(u64, u64)> {
    let model = name.strip_suffix("-shape").unwrap_or(name);
    let found = PEERS.iter().find(|(peer, ..)| *peer == model)?;
    Some((found.1, found.2))
}

/// Where the instructions go, by kind of operator, the largest first.
fn profile(all: &BTreeMap<String, Figures>) -> String {
    let mut text = String::new();
    for (name, figures) in all {
        let mut kinds: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for op in &figures.ops {
            let sum = kinds.entry(&op.kind).or_default();
            sum.0 += op.instructions;
            sum.1 += op.products;
        }
        let mut kinds: Vec<_> = kinds.into_iter().collect();
        kinds.sort_by_key(|(_, (instructions, _))| std::cmp::Reverse(*instructions));
        let _ = write!(text, "{name}:  verify once {}", figures.verify);
        for (kind, (instructions, products)) in kinds.into_iter().take(4) {
            let _ = write!(text, "  {kind} {instructions}");
            if products > 0 {
                let _ = write!(text, " ({} a MAC)", thousandths(instructions, products));
            }
        }
        text.push('\n');
    }
    text
}

/// Fails when a model or the code takes over 1 % more than the figures known or a model a byte more of an arena, is slower
/// than its peer, or is not among them; and when one of the seeded ones did not run.
fn compare(known: &str, all: &BTreeMap<String, Figures>, code: &Code) -> Result<()> {
    let mut complaints = Vec::new();
    let line = known.lines().find_map(|line| line.strip_prefix(CODE_LINE));
    let then = line.and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
    let then = then.with_context(|| format!("{FIGURES} has no size of executor and kernels"))?;
    let executor = code.executor;
    if executor * 100 > then * 101 {
        complaints.push(format!(
            "executor and kernels: {executor} bytes, {then} in {FIGURES}"
        ));
    }
    // Behind an empty line come the operators.
    let known: BTreeMap<&str, [u64; 2]> = known
        .lines()
        .take_while(|line| !line.is_empty())
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let figure = |at: usize| words.get(at)?.parse().ok();
            Some((*words.first()?, [figure(3)?, figure(7)?]))
        })
        .collect();
    // The others come with the corpus, which need not be here.
    let seeded = known.keys().filter(|name| name.ends_with("-shape"));
    for name in seeded.filter(|name| !all.contains_key(**name)) {
        complaints.push(format!("{name} of {FIGURES} did not run"));
    }
    for (name, figures) in all {
        let now = figures.instructions;
        let Some(&[then, arena]) = known.get(name.as_str()) else {
            complaints.push(format!("{name} is not in {FIGURES}"));
            continue;
        };
        if now * 100 > then * 101 {
            complaints.push(format!("{name}: {now} instructions, {then} in {FIGURES}"));
        }
        // The planner is exact: another arena is another plan.
        if figures.arena > arena {
            let now = figures.arena;
            complaints.push(format!(
                "{name}: an arena of {now} bytes, {arena} in {FIGURES}"
            ));
        }
        if let Some((count, arena)) = peer(name)
            && (now > count || figures.arena > arena)
        {
            complaints.push(format!(
                "{name}: {now} instructions, {} bytes; peer {count}, {arena}",
                figures.arena
            ));
        }
    }
    ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    Ok(())
}

/// How the line of code sizes begins; the executor's follows.
const CODE_LINE: &str = "# code and read-only data of an image: executor and kernels ";

/// Bytes of code and read-only data that images have more than one which is the same but for what they call:
/// memory functions, reset and panics are in all of them.
#[derive(Default)]
struct Code {
    /// Of one that runs a verified program: executor and kernels with all that they call.
    executor: u64,
    /// Of one that verifies.
    verifier: u64,
    /// Of one that does both, with what both call once.
    both: u64,
}

impl Code {
    fn of(images: &Path) -> Result<Self> {
        let more = |name: &str| -> Result<u64> {
            let [it, without] = [name, "size-without"].map(|name| code_bytes(&images.join(name)));
            Ok(it? - without?)
        };
        Ok(Self {
            executor: more("size-run")?,
            verifier: more("size-verify")?,
            both: more("size-with")?,
        })
    }
}

/// Bytes of an ELF image that lie in flash: sections that are loaded and not only zeros.
fn code_bytes(image: &Path) -> Result<u64> {
    let bytes = std::fs::read(image).with_context(|| image.display().to_string())?;
    let sections = Elf(&bytes).sections();
    let sections = sections.with_context(|| format!("{} is no ELF image", image.display()))?;
    let loaded = |section: &&Section| section.kind == PROGBITS && section.flags & ALLOCATED != 0;
    Ok(sections.iter().filter(loaded).map(|it| it.len as u64).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_instructions_a_larger_arena_and_a_vanished_model_are_named() {
        let all = |instructions, arena| {
            let figures = Figures {
                instructions,
                arena,
                ..Figures::default()
            };
            BTreeMap::from([("kws-shape".to_owned(), figures)])
        };
        let code = |executor| Code {
            executor,
            ..Code::default()
        };
        let known = table(&all(3_000_000, 12_288), &code(20_000));
        assert!(known.contains("\nkws-shape   2.565   1.857      3000000    7697232"));
        compare(&known, &all(3_030_000, 12_288), &code(20_200)).expect("within the limit");
        compare(&known, &all(1, 1), &code(1)).expect("less");
        for (worse, named) in [
            (all(3_030_001, 1), "3030001 instructions"),
            (all(1, 12_289), "an arena of 12289 bytes"),
        ] {
            let error = compare(&known, &worse, &code(1))
                .expect_err("more")
                .to_string();
            assert!(error.contains(named), "{error}");
        }
        let error = compare(&known, &BTreeMap::new(), &code(1)).expect_err("nothing ran");
        assert!(error.to_string().contains("did not run"), "{error}");
        let error = compare(&known, &all(1, 1), &code(20_201)).expect_err("larger");
        assert!(error.to_string().contains("20201 bytes"), "{error}");
        compare("", &all(1, 1), &code(1)).expect_err("no sizes");
        let empty = table(&BTreeMap::new(), &code(1));
        let error = compare(&empty, &all(1, 1), &code(1)).expect_err("unknown");
        assert!(error.to_string().contains("is not in"), "{error}");
    }
    #[test]
    fn the_operators_that_take_most_come_first_and_say_what_they_are() {
        let op = |kind: &str, instructions, products| Operator {
            kind: kind.to_owned(),
            instructions,
            products,
            ..Operator::default()
        };
        let mut ops = vec![op("Copy", 100, 0), op("Conv", 700, 650), op("Pool", 100, 0)];
        let text = "Copy\t8 -> 8\t\tthe pad\nConv\t4x4x2 -> 4x4x3\t3x3 pad 1,1\tthe conv\n\
                    Pool\t4x4x3 -> 1x1x3\taverage 4x4\tthe pool";
        describe(&mut ops, text).expect("a line an operator");
        describe(&mut ops, "Copy\t\t\t").expect_err("two are missing");
        let other = text.replace("Pool", "Add");
        describe(&mut ops, &other).expect_err("another kind");
        ops.extend((0..4).map(|_| op("Add", 25, 0)));
        let figures = Figures {
            instructions: 1000,
            ops,
            ..Figures::default()
        };
        let text = top(&BTreeMap::from([("it".to_owned(), figures)]));
        let rows: Vec<Vec<&str>> = text
            .lines()
            .skip(3)
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(rows.len(), TOP, "{text}");
        assert_eq!(
            rows[0].join(" "),
            "it 70.0 % 700 1.076 1 Conv 4x4x2 -> 4x4x3 3x3 pad 1,1 the conv"
        );
        assert_eq!(rows[1].join(" "), "it 10.0 % 100 - 0 Copy 8 -> 8 the pad");
        assert_eq!(rows[2][5..7], ["2", "Pool"], "{text}");
    }
}
