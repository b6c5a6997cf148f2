//! Programs packed for the vector instructions of the processor that loads them.
//!
//! Packing allocates; running does not. Each tensor that packed operators hand on has memory of its
//! own, with the padding that its readers want around it, so that kernels go without a test for
//! borders and in any order; weights lie in blocks of channels and groups of inputs. What is not
//! packed runs in the program's arena by the portable kernels. Results equal those of the portable
//! kernels bit for bit: an operator for which that is not certain (an accumulator that might
//! overflow, a shift out of range) is left to them.

mod build;
mod flow;
mod isa;
pub(crate) mod jobs;
mod linear;
mod memory;
mod pack;
mod room;
pub(crate) mod run;

use jobs::Rows;
use memory::Memory;

pub use isa::Isa;

/// A program packed for an instruction set.
#[derive(Debug)]
pub struct Packed {
    isa: Isa,
    memory: Memory,
    constants: Memory,
    steps: Vec<Step>,
    /// Whether the output is left in the arena by the last step.
    output_in_arena: bool,
    /// Whether the arena must hold the input when the first step runs.
    input_in_arena: bool,
    /// Whether some step reads or writes the arena.
    arena: bool,
}

/// One step of a packed program.
#[derive(Debug)]
enum Step {
    /// The caller's input into a value.
    Input(Rows<2>),
    /// The arena into a value.
    Load(Rows<2>),
    /// A value into the arena.
    Store(Rows<2>),
    /// A value into the caller's output.
    Output(Rows<2>),
    /// A value into another.
    Move(Rows<2>),
    /// An operator of the program, by the portable kernels.
    Portable(u32),
    Conv(jobs::Conv),
    Depthwise(jobs::Depthwise),
    Sum(jobs::Sum),
    Pool(jobs::Pool),
    Softmax(jobs::Softmax),
}
