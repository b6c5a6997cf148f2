//! The conformance suite on this processor: cases that the host made, each by the fast kernels and by
//! the portable ones, which must give what the case says and change nothing else.
//!
//! A file holds records, each at a multiple of sixteen: a name of sixteen bytes, then words in little
//! endian ([`Case`]), then the program, the arena before the run, and the expected output, each filled up
//! to a multiple of sixteen.

use crate::{Memory, host, print};
use core::ops::Range;
use edgeward::program::kernels::cortex_m::CortexM;
use edgeward::program::{Kernels, Portable, Program};

/// Bytes of a name.
const NAME: usize = 16;
/// Bytes of a record before its program.
const HEAD: usize = NAME + 32;
/// Bytes of memory on both sides of an arena that no kernel may write.
const GUARD: usize = 256;
/// What lies there.
const MARK: i8 = 0x5A;
/// Names of which cases are counted.
const NAMES: usize = 32;

/// A record.
struct Case<'a> {
    name: &'a [u8],
    index: u32,
    program: &'a [u8],
    arena: &'a [u8],
    expected: &'a [u8],
    output: usize,
    /// What else may change.
    scratch: Range<usize>,
}

impl<'a> Case<'a> {
    /// The record at the start of `bytes`, and what follows it.
    fn read(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (head, mut rest) = bytes.split_at_checked(HEAD)?;
        let (name, words) = head.split_at_checked(NAME)?;
        let word = |at: usize| {
            let bytes = words.get(4 * at..)?.first_chunk::<4>()?;
            Some(u32::from_le_bytes(*bytes))
        };
        let mut part = |len: u32| {
            let len = len as usize;
            let (part, behind) = rest.split_at_checked(len.next_multiple_of(16))?;
            rest = behind;
            part.get(..len)
        };
        let (index, output, scratch) = (word(0)?, word(3)? as usize, word(5)? as usize);
        let (program, arena, expected) = (part(word(1)?)?, part(word(2)?)?, part(word(4)?)?);
        let case = Self {
            name,
            index,
            program,
            arena,
            expected,
            output,
            scratch: scratch..scratch + word(6)? as usize,
        };
        Some((case, rest))
    }

    /// The name as text.
    fn name(&self) -> &'a str {
        let end = self.name.iter().position(|&byte| byte == 0);
        let name = self.name.get(..end.unwrap_or(NAME)).unwrap_or_default();
        core::str::from_utf8(name).unwrap_or_default()
    }

    /// Runs it in a part of `memory`; `false`, and says so, when anything differs.
    fn run<K: Kernels>(&self, memory: &mut [i8], kernels: &mut K, by: &str) -> bool {
        let (name, index) = (self.name(), self.index);
        let program = match Program::verify(self.program) {
            Ok(program) => program,
            Err(error) => {
                print!("error case {index} {name}: {error:?}");
                return false;
            }
        };
        let Some(memory) = memory.get_mut(..self.arena.len() + 2 * GUARD) else {
            print!(
                "error case {index} {name}: an arena of {}",
                self.arena.len()
            );
            return false;
        };
        memory.fill(MARK);
        let arena = &mut memory[GUARD..][..self.arena.len()];
        for (to, &from) in arena.iter_mut().zip(self.arena) {
            *to = from as i8;
        }
        if program.run(kernels, arena).is_err() {
            print!("error case {index} {name}: the arena");
            return false;
        }
        let output = self.output..self.output + self.expected.len();
        let differs = |at: usize, now: i8| match at.checked_sub(GUARD) {
            Some(at) if output.contains(&at) => self.expected[at - output.start] as i8 != now,
            Some(at) if self.scratch.contains(&at) => false,
            Some(at) if at < self.arena.len() => self.arena[at] as i8 != now,
            _ => now != MARK,
        };
        let mut bytes = memory.iter().enumerate();
        let Some((at, now)) = bytes.find(|&(at, &now)| differs(at, now)) else {
            return true;
        };
        let at = at as isize - GUARD as isize;
        print!("differs case {index} {name} by {by}: {now} at {at}, output {output:?}");
        for op in program.ops() {
            print!("differs of {op:?}");
        }
        false
    }
}

/// Runs every case of a file; `false` when any output differs. Prints how many of each name ran.
pub fn check(memory: Memory, file: &str) -> bool {
    let Memory { program, arena, .. } = memory;
    let Some(mut rest) = host::read(file, program) else {
        print!("error cannot read {file}");
        return false;
    };
    let mut counts = [("", 0_u32); NAMES];
    while !rest.is_empty() {
        let Some((case, behind)) = Case::read(rest) else {
            print!("error a record is cut off");
            return false;
        };
        rest = behind;
        let fast = case.run(arena, &mut CortexM, "fast kernels");
        if !fast || !case.run(arena, &mut Portable, "portable kernels") {
            return false;
        }
        let name = case.name();
        let place = counts
            .iter_mut()
            .find(|(known, count)| *known == name || *count == 0);
        let Some((known, count)) = place else {
            print!("error more than {NAMES} names");
            return false;
        };
        (*known, *count) = (name, *count + 1);
    }
    for (name, count) in counts.iter().filter(|(_, count)| *count > 0) {
        print!("checked {name} {count}");
    }
    true
}
