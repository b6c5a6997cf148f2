//! Runs a program: reads its operators in order and calls a kernel for each.

use super::codec::Reader;
use super::kernels::portable;
use super::op::{
    Add, Conv, ConvAdd, Copy, Dense, Depthwise, Fill, Lookup, Mean, Mul, Op, Pool, Softmax,
};
use super::{ALIGNMENT, Header, Layout, Program};

/// One operator with the memory that it works on.
///
/// Only [`Run`] makes one, from a verified program and an arena of the size that the program states:
/// every offset of `op` lies in `program` or in `arena` together with all that follows from its
/// shapes, as `docs/PROGRAM.md` says. Kernels that use pointers lean on this.
#[derive(Debug)]
pub struct Step<'a, O> {
    op: &'a O,
    index: u32,
    header: &'a Header,
    layout: Layout,
    program: &'a [u8],
    arena: &'a mut [i8],
}

impl<'a, O> Step<'a, O> {
    /// The operator.
    pub const fn op(&self) -> &'a O {
        self.op
    }

    /// Its place in the program, the first operator being 0.
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// How the program's weights lie.
    pub const fn layout(&self) -> Layout {
        self.layout
    }

    /// Whether no operator's output overlaps its inputs.
    pub const fn disjoint(&self) -> bool {
        self.header.flags & Header::DISJOINT != 0
    }

    /// The whole program; constants lie in it, aligned as it is.
    pub const fn program(&self) -> &'a [u8] {
        self.program
    }

    /// The arena, exactly as long as the program states.
    pub const fn arena(&mut self) -> &mut [i8] {
        self.arena
    }
}

/// What computes operators, one method each. By default the portable kernels do.
///
/// A kernel goes through its outputs in the order that the overlap rule of its layout states, since
/// the planner may have put output and input over each other (see [`super::overlap`]). A kernel can
/// not fail: the verifier has refused what it could fail on.
pub trait Kernels {
    /// Convolution.
    fn conv(&mut self, step: Step<'_, Conv>) {
        complete(portable::conv(step));
    }

    /// Depthwise convolution.
    fn depthwise(&mut self, step: Step<'_, Depthwise>) {
        complete(portable::depthwise(step));
    }

    /// Fully connected layer.
    fn dense(&mut self, step: Step<'_, Dense>) {
        complete(portable::dense(step));
    }

    /// Convolution and sum.
    fn conv_add(&mut self, step: Step<'_, ConvAdd>) {
        complete(portable::conv_add(step));
    }

    /// Sum or difference.
    fn add(&mut self, step: Step<'_, Add>) {
        complete(portable::add(step));
    }

    /// Product.
    fn mul(&mut self, step: Step<'_, Mul>) {
        complete(portable::mul(step));
    }

    /// Average or maximum over a window.
    fn pool(&mut self, step: Step<'_, Pool>) {
        complete(portable::pool(step));
    }

    /// Mean over rows and columns.
    fn mean(&mut self, step: Step<'_, Mean>) {
        complete(portable::mean(step));
    }

    /// Softmax.
    fn softmax(&mut self, step: Step<'_, Softmax>) {
        complete(portable::softmax(step));
    }

    /// A function of one element.
    fn lookup(&mut self, step: Step<'_, Lookup>) {
        complete(portable::lookup(step));
    }

    /// Strided copy.
    fn copy(&mut self, step: Step<'_, Copy>) {
        complete(portable::copy(step));
    }

    /// Fill.
    fn fill(&mut self, step: Step<'_, Fill>) {
        complete(portable::fill(step));
    }
}

/// A portable kernel that stops early would have left its memory: the verifier has a hole.
fn complete(done: Option<()>) {
    debug_assert!(done.is_some(), "a verified operator left its memory");
}

/// The portable kernels.
#[derive(Debug, Clone, Copy, Default)]
pub struct Portable;

impl Kernels for Portable {}

/// An arena that a program can not run in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ArenaError {
    /// It is shorter than the program states.
    Short {
        /// Bytes that the program needs.
        needed: u32,
    },
    /// It does not begin at a multiple of [`ALIGNMENT`].
    Misaligned,
}

/// An operator of a program, before which everything was read.
#[derive(Debug, Clone)]
pub(in crate::program) struct Cursor<'a> {
    ops: Reader<'a>,
    index: u32,
}

impl<'a> Cursor<'a> {
    /// The first operator of a program.
    pub fn new(program: &Program<'a>) -> Self {
        Self {
            ops: Reader::new(program.op_bytes()),
            index: 0,
        }
    }

    /// The operator's index.
    #[cfg(feature = "std")]
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// Goes to the next operator; `false` when there is none left.
    pub fn advance(&mut self) -> bool {
        let there = Op::read(&mut self.ops).is_some();
        self.index += u32::from(there);
        there
    }
}

/// A program on its way through an arena, an operator at a time.
#[derive(Debug)]
pub struct Run<'a> {
    program: Program<'a>,
    arena: &'a mut [i8],
    at: Cursor<'a>,
}

impl<'a> Run<'a> {
    /// A run at the first operator. The input must lie in the arena at `header().input` already.
    ///
    /// # Errors
    /// When the arena is too short or not aligned.
    pub fn new(program: Program<'a>, arena: &'a mut [i8]) -> Result<Self, ArenaError> {
        let needed = program.header().arena_bytes;
        if !arena.as_ptr().addr().is_multiple_of(ALIGNMENT) {
            return Err(ArenaError::Misaligned);
        }
        let arena = arena
            .get_mut(..needed as usize)
            .ok_or(ArenaError::Short { needed })?;
        Ok(Self {
            at: Cursor::new(&program),
            program,
            arena,
        })
    }

    /// Runs the next operator; `false` when there was none left.
    ///
    /// One call does a bounded amount of work: that of the operator.
    #[inline]
    pub fn step<K: Kernels>(&mut self, kernels: &mut K) -> bool {
        // What follows was read once by the verifier, so that `None` means the end.
        let Some(op) = Op::read(&mut self.at.ops) else {
            return false;
        };
        macro_rules! dispatch {
            ($($kind:ident $method:ident),* $(,)?) => {
                match &op { $( Op::$kind(op) => kernels.$method(Step {
                    op,
                    index: self.at.index,
                    header: self.program.header(),
                    layout: self.program.layout(),
                    program: self.program.bytes(),
                    arena: self.arena,
                }), )* }
            };
        }
        dispatch! {
            Conv conv, Depthwise depthwise, Dense dense, ConvAdd conv_add, Add add, Mul mul,
            Pool pool, Mean mean, Softmax softmax, Lookup lookup, Copy copy, Fill fill,
        }
        self.at.index += 1;
        true
    }

    /// Goes on at another operator of the program.
    #[cfg(feature = "std")]
    pub(in crate::program) fn go_to(&mut self, at: &Cursor<'a>) {
        self.at.clone_from(at);
    }
}

impl Run<'_> {
    /// Passes over the next operator; `false` when there was none left.
    pub fn skip(&mut self) -> bool {
        self.at.advance()
    }
}

impl Program<'_> {
    /// Runs the whole program: input at `header().input` of the arena, output at `header().output`.
    ///
    /// # Errors
    /// When the arena is too short or not aligned; nothing has run then.
    pub fn run<K: Kernels>(&self, kernels: &mut K, arena: &mut [i8]) -> Result<(), ArenaError> {
        let mut run = Run::new(*self, arena)?;
        while run.step(kernels) {}
        Ok(())
    }
}
