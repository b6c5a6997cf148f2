//! The suite: one list of cases, which every engine runs.

use super::build::{Case, Place, Random, set_border};
use super::chains::{by_definition, chain};
use super::drafts::{self, KINDS};
use edgeward::program::codec::{Field as _, Reader};
use edgeward::program::op::Op;
use edgeward::program::{ALIGNMENT, HEADER_BYTES, Header, Layout, Program};

/// What a case is of that is no single operator.
pub const CHAIN: &str = "chain";
/// Kinds of cases, one after the other.
const TURN: u64 = KINDS.len() as u64 + 1;
/// Extents of operators at most.
const SIZES: [u16; 10] = [1, 2, 3, 4, 5, 6, 7, 11, 14, 20];
const PLACES: [Place; 4] = [
    Place::Disjoint,
    Place::Tight(0),
    Place::Behind,
    Place::Second,
];

/// A case and what it is of.
pub struct Sample {
    pub kind: &'static str,
    pub case: Case,
}

/// Case `index` of the suite. Kinds, sizes and places come in turns; an operator's tensors lie apart, as
/// close as the layout allows, behind its scratch, or with the second operand on the output.
pub fn sample(layout: Layout, index: u64) -> Sample {
    let (kind, round) = ((index % TURN) as usize, index / TURN);
    let mut random = Random(index);
    let (kind, mut case) = match KINDS.get(kind) {
        Some(&kind) => {
            let place = PLACES[(round % PLACES.len() as u64) as usize];
            let size = round / PLACES.len() as u64 % SIZES.len() as u64;
            let draft = drafts::draft(kind, layout, SIZES[size as usize], &mut random);
            (kind, draft.place(layout, place))
        }
        None => (CHAIN, chain(layout, &mut random)),
    };
    let input = match case.inputs.first() {
        Some((offset, values)) => [*offset, values.len() as u32],
        None => [0, 1],
    };
    let output = [case.output, case.expected.len() as u32];
    set_border(&mut case.program, input, output);
    Sample { kind, case }
}

/// Case `index` with some bits of its constants turned, flags and weights among them; `None` where the
/// verifier refuses that, or there are no constants. What it must give is what portable kernels make of
/// it.
pub fn spoilt(layout: Layout, index: u64) -> Option<Sample> {
    let mut sample = sample(layout, index);
    let mut random = Random(!index);
    let program = sample.case.program.as_mut();
    let header = Header::read(&mut Reader::new(program)).expect("a head");
    let start = (HEADER_BYTES + header.op_bytes as usize).next_multiple_of(ALIGNMENT);
    if program.len() <= start {
        return None;
    }
    for _ in 0..=random.below(3) {
        let at = start + random.below((program.len() - start) as u64) as usize;
        program[at] ^= 1 << random.below(8);
    }
    Program::verify(sample.case.program.as_ref()).ok()?;
    sample.case.expected = by_definition(&sample.case);
    Some(sample)
}

/// The operators of a case, for what is said of it.
pub fn ops(case: &Case) -> Vec<Op> {
    let program = Program::verify(case.program.as_ref());
    program.map_or_else(|_| Vec::new(), |program| program.ops().collect())
}
