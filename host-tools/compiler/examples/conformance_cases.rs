//! Writes the conformance suite for a Cortex-M, for `cargo xtask bench-mcu`:
//! `conformance_cases FOLDER COUNT`.
//!
//! COUNT cases of operators and chains, what half of them become with spoilt constants, and networks
//! that the compiler made, in files `suite-N.cases` as `boards/bench/src/check.rs` reads them, each of as
//! many bytes as that has room for. Prints how many cases there are, and of how many the constants are
//! spoilt.

#[path = "../tests/growing/mod.rs"]
#[allow(dead_code, reason = "tests look at rewrites, too")]
mod growing;
#[path = "../../../tests/program/mod.rs"]
mod program;

use edgeward::program::{Layout, Program};
use edgeward_compiler::Options;
use program::build::Case;
use program::suite::{self, Sample};
use std::error::Error;
use std::path::{Path, PathBuf};

type Done<T = ()> = Result<T, Box<dyn Error>>;

/// Most bytes of a file.
const ROOM: usize = 8 << 20;

struct Files {
    folder: PathBuf,
    written: usize,
    bytes: Vec<u8>,
    cases: usize,
}

fn main() -> Done {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, count] = arguments.as_slice() else {
        return Err("usage: conformance_cases FOLDER COUNT".into());
    };
    let count: u64 = count.parse()?;
    let mut files = Files {
        folder: Path::new(folder).into(),
        written: 0,
        bytes: Vec::new(),
        cases: 0,
    };
    for index in 0..count {
        let Sample { kind, case } = suite::sample(Layout::CortexM, index);
        files.case(kind, index, &case)?;
    }
    let mut spoilt = 0;
    for index in 0..count.div_ceil(2) {
        if let Some(Sample { case, .. }) = suite::spoilt(Layout::CortexM, index) {
            files.case("spoilt", index, &case)?;
            spoilt += 1;
        }
    }
    for seed in 0..count.div_ceil(20) {
        files.case("network", seed, &network(seed)?)?;
    }
    files.write()?;
    println!("{} {spoilt}", files.cases);
    Ok(())
}

/// A network as the compiler lays it out, and what it must give: as it does without rewrites, in the
/// natural layout, in a disjoint arena.
fn network(seed: u64) -> Done<Case> {
    let graph = growing::network(seed);
    let input = growing::inputs(&graph, seed).swap_remove(2);
    let expected = growing::definition(&graph, &[&input]).swap_remove(0);
    let bytes = growing::compiled(&graph, &Options::mcu(Layout::CortexM));
    let program = Program::verify(bytes.as_ref()).map_err(|error| format!("{error:?}"))?;
    let header = *program.header();
    let mut memory = vec![0x33; header.arena_bytes as usize];
    memory[header.input as usize..][..input.len()].copy_from_slice(&input);
    Ok(Case {
        arena_bytes: memory.len(),
        memory,
        inputs: vec![(header.input, input)],
        output: header.output,
        expected,
        scratch: (0, header.arena_bytes),
        program: bytes,
    })
}

impl Files {
    fn case(&mut self, name: &str, index: u64, case: &Case) -> Done {
        let mut record = name.as_bytes().to_vec();
        record.resize(16, 0);
        let program = case.program.as_ref();
        for word in [
            index as u32,
            program.len() as u32,
            case.arena_bytes as u32,
            case.output,
            case.expected.len() as u32,
            case.scratch.0,
            case.scratch.1,
            0,
        ] {
            record.extend(word.to_le_bytes());
        }
        let signed =
            |values: &[i8]| -> Vec<u8> { values.iter().map(|it| it.cast_unsigned()).collect() };
        let parts: [Vec<u8>; 3] = [
            program.to_vec(),
            signed(&case.memory),
            signed(&case.expected),
        ];
        for part in parts {
            record.extend(part);
            record.resize(record.len().next_multiple_of(16), 0);
        }
        if self.bytes.len() + record.len() > ROOM {
            self.write()?;
        }
        self.bytes.extend(record);
        self.cases += 1;
        Ok(())
    }

    fn write(&mut self) -> Done {
        let name = format!("suite-{}.cases", self.written);
        std::fs::write(self.folder.join(name), &self.bytes)?;
        self.written += 1;
        self.bytes.clear();
        Ok(())
    }
}
