//! Runs a packed program.
#![allow(unsafe_code)]

use super::isa::{Element, Isa, Shape};
use super::jobs::{self, Rows};
use super::{Packed, Step, build};
use crate::program::exec::{Cursor, Portable, Run};
#[cfg(target_arch = "aarch64")]
use crate::program::kernels::aarch64::{dot, plain};
use crate::program::kernels::portable;
#[cfg(target_arch = "x86_64")]
use crate::program::kernels::x86::{avx2, avx512};
use crate::program::{ArenaError, Program};

/// Memory of a running program: activations and packed constants, as pointers for kernels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Base {
    pub data: *mut u8,
    pub constants: *const u8,
}

impl Packed {
    /// Packs a program; `None` where this processor lacks the instruction set.
    ///
    /// Allocates memory for tensors, for packed weights and for a table of pixels an operator: at most
    /// 1 GiB together. Operators beyond that run by the portable kernels.
    pub fn new(program: &Program<'_>, isa: Isa) -> Option<Self> {
        Isa::available()
            .any(|it| it == isa)
            .then(|| build::build(program, isa))
    }

    /// The instruction set.
    pub const fn isa(&self) -> Isa {
        self.isa
    }

    /// Indices of the program's operators that run by the portable kernels.
    pub fn portable(&self) -> impl Iterator<Item = u32> {
        self.steps.iter().filter_map(|step| match step {
            Step::Portable(index) => Some(*index),
            _ => None,
        })
    }

    /// Runs one inference of the program that was packed. Allocates nothing.
    ///
    /// # Errors
    /// When some operator needs the arena and it is shorter than the program states, or not aligned;
    /// nothing has run then.
    ///
    /// # Panics
    /// When the input or output has another length than the program's, or the program is not the one
    /// that was packed.
    pub fn run(
        &mut self,
        program: &Program<'_>,
        arena: &mut [i8],
        input: &[i8],
        output: &mut [i8],
    ) -> Result<(), ArenaError> {
        let header = program.header();
        assert_eq!(input.len(), header.input_len as usize);
        assert_eq!(output.len(), header.output_len as usize);
        if self.arena {
            // The same test that the portable kernels make.
            Run::new(*program, arena)?;
        }
        if self.input_in_arena {
            arena[header.input as usize..][..input.len()].copy_from_slice(input);
        }
        let mut at = Cursor::new(program);
        for step in 0..self.steps.len() {
            self.step(step, (program, &mut at), arena, input, output)?;
        }
        if self.output_in_arena {
            output.copy_from_slice(&arena[header.output as usize..][..output.len()]);
        }
        Ok(())
    }

    fn step<'p>(
        &mut self,
        step: usize,
        (program, at): (&Program<'p>, &mut Cursor<'p>),
        arena: &mut [i8],
        input: &[i8],
        output: &mut [i8],
    ) -> Result<(), ArenaError> {
        let shape = self.isa.shape();
        let base = Base {
            data: self.memory.bytes_mut().as_mut_ptr(),
            constants: self.constants.bytes().as_ptr(),
        };
        match &self.steps[step] {
            Step::Input(rows) => load(shape, rows, self.memory.bytes_mut(), input),
            Step::Load(rows) => load(shape, rows, self.memory.bytes_mut(), arena),
            Step::Store(rows) => store(shape, rows, self.memory.bytes(), arena),
            Step::Output(rows) => store(shape, rows, self.memory.bytes(), output),
            Step::Move(rows) => relay(shape, rows, self.memory.bytes_mut()),
            Step::Portable(index) => return one(*index, program, at, arena),
            Step::Softmax(job) => softmax(shape, job, self.memory.bytes_mut()),
            // SAFETY: `Packed::new` found the instruction set, and `build` took every offset of the
            // jobs from the memory that `base` points to, with room behind it for whole vectors.
            Step::Conv(job) => unsafe { conv(self.isa, job, base) },
            // SAFETY: as above.
            Step::Depthwise(job) => unsafe { depthwise(self.isa, job, base) },
            // SAFETY: as above.
            Step::Sum(job) => unsafe { sum(self.isa, job, base) },
            // SAFETY: as above.
            Step::Pool(job) => unsafe { pool(self.isa, job, base) },
        }
        Ok(())
    }
}

/// Runs one operator of a program by the portable kernels. Each comes behind the one before, so that all
/// operators are read once an inference.
fn one<'p>(
    index: u32,
    program: &Program<'p>,
    at: &mut Cursor<'p>,
    arena: &mut [i8],
) -> Result<(), ArenaError> {
    while at.index() < index && at.advance() {}
    debug_assert_eq!(at.index(), index, "operators run in their order");
    // The program's bytes outlive the arena's borrow.
    let shorter: Program<'_> = *program;
    let mut run = Run::new(shorter, arena)?;
    run.go_to(at);
    run.step(&mut Portable);
    Ok(())
}

/// Calls the kernel of an instruction set.
macro_rules! kernel {
    ($name:ident, $job:ty) => {
        /// # Safety
        /// The processor has the instruction set; the job was built for it and for `base`.
        unsafe fn $name(isa: Isa, job: &$job, base: Base) {
            // SAFETY: the caller's promise is the kernel's condition.
            unsafe {
                match isa {
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512 => avx512::$name(job, base),
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx2 => avx2::$name(job, base),
                    #[cfg(target_arch = "aarch64")]
                    Isa::NeonDot => dot::$name(job, base),
                    #[cfg(target_arch = "aarch64")]
                    Isa::Neon => plain::$name(job, base),
                    _ => unreachable!("packed for an instruction set that is not here"),
                }
            }
        }
    };
}
kernel!(conv, jobs::Conv);
kernel!(depthwise, jobs::Depthwise);
kernel!(sum, jobs::Sum);
kernel!(pool, jobs::Pool);

/// One row of memory in elements.
fn span(shape: &Shape, first: usize, len: usize) -> core::ops::Range<usize> {
    first * shape.bytes()..(first + len) * shape.bytes()
}

/// Values of the caller or of the arena into memory.
fn load(shape: &Shape, rows: &Rows<2>, memory: &mut [u8], from: &[i8]) {
    for row in 0..rows.rows {
        let [to, at] = [0, 1].map(|it| rows.first[it] + row * rows.pitch[it]);
        let to = &mut memory[span(shape, to, rows.len)];
        let from = &from[at..at + rows.len];
        match shape.element {
            Element::Biased => {
                for (to, from) in to.iter_mut().zip(from) {
                    *to = *from as u8 ^ 0x80;
                }
            }
            Element::Plain => {
                for (to, from) in to.iter_mut().zip(from) {
                    *to = *from as u8;
                }
            }
            Element::Wide => {
                for (to, from) in to.as_chunks_mut::<2>().0.iter_mut().zip(from) {
                    *to = i16::from(*from).to_le_bytes();
                }
            }
        }
    }
}

/// Values from memory to the caller or the arena.
fn store(shape: &Shape, rows: &Rows<2>, memory: &[u8], to: &mut [i8]) {
    for row in 0..rows.rows {
        let [from, at] = [0, 1].map(|it| rows.first[it] + row * rows.pitch[it]);
        let from = &memory[span(shape, from, rows.len)];
        let to = &mut to[at..at + rows.len];
        match shape.element {
            Element::Biased => {
                for (to, from) in to.iter_mut().zip(from) {
                    *to = (*from ^ 0x80) as i8;
                }
            }
            Element::Plain => {
                for (to, from) in to.iter_mut().zip(from) {
                    *to = *from as i8;
                }
            }
            Element::Wide => {
                for (to, from) in to.iter_mut().zip(from.as_chunks::<2>().0) {
                    *to = i16::from_le_bytes(*from) as i8;
                }
            }
        }
    }
}

/// Values from memory to memory.
fn relay(shape: &Shape, rows: &Rows<2>, memory: &mut [u8]) {
    for row in 0..rows.rows {
        let [from, to] = [0, 1].map(|it| rows.first[it] + row * rows.pitch[it]);
        memory.copy_within(span(shape, from, rows.len), to * shape.bytes());
    }
}

/// Softmax by a table of exponentials.
fn softmax(shape: &Shape, job: &jobs::Softmax, memory: &mut [u8]) {
    let bytes = shape.bytes();
    // Differences of elements are those of values; the low byte tells them apart.
    let bias = if shape.element == Element::Biased {
        0x80
    } else {
        0
    };
    for row in 0..job.rows {
        let input = (job.input + row * job.columns) * bytes;
        let output = (job.output + row * job.columns) * bytes;
        let value = |memory: &[u8], column: usize| (memory[input + column * bytes] ^ bias) as i8;
        let values = (0..job.columns).map(|column| value(memory, column));
        let Some(max) = values.clone().max() else {
            continue;
        };
        let exponential = |value: i8| job.exponentials[usize::from(max.abs_diff(value))];
        let total = portable::total(values.map(exponential));
        for column in 0..job.columns {
            let share = portable::share(total, exponential(value(memory, column)));
            let at = output + column * bytes;
            match shape.element {
                Element::Wide => {
                    memory[at..at + 2].copy_from_slice(&i16::from(share).to_le_bytes());
                }
                _ => memory[at] = share as u8 ^ bias,
            }
        }
    }
}
