//! The engine of a microcontroller: an int8 program, run in place from its slot.

use crate::store::Held;
use core::cell::RefCell;
use core::marker::PhantomData;
use edgeward::bundle::{Bundle, SectionKind};
use edgeward::engine::{Elements, Engine, EngineError, Tape};
use edgeward::program::{Kernels, Program};

/// Working memory that all models share, since one runs at a time; aligned to 16 bytes.
pub type Arena = RefCell<&'static mut [i8]>;

/// Room for a verified program in its slot: the engine of a runtime that is there before a release is, and
/// after it.
#[derive(Debug)]
pub(crate) struct Seat<K>(pub Option<PlaceEngine<K>>);

impl<K: Kernels + Default> Engine for Seat<K> {
    fn input_len(&self) -> usize {
        self.0.as_ref().map_or(0, Engine::input_len)
    }

    fn output_len(&self) -> usize {
        self.0.as_ref().map_or(0, Engine::output_len)
    }

    fn run(&mut self, input: &[f32], output: &mut [f32]) -> Result<(), EngineError> {
        let engine = self.0.as_mut().ok_or(EngineError::Run)?;
        engine.run(input, output)
    }

    fn run_on_tape(
        &mut self,
        input: &[f32],
        output: &mut [f32],
        tape: &mut dyn Tape,
    ) -> Result<(), EngineError> {
        let engine = self.0.as_mut().ok_or(EngineError::Run)?;
        engine.run_on_tape(input, output, tape)
    }
}

/// A verified program in its slot.
#[derive(Debug)]
pub(crate) struct PlaceEngine<K> {
    program: Program<'static>,
    arena: &'static Arena,
    /// Keeps the program's bytes as they are; dropped with it.
    _held: Held,
    kernels: PhantomData<K>,
}

impl<K: Kernels + Default> PlaceEngine<K> {
    /// The engine of the release that `held` holds; none when its program is none, is laid out for
    /// other kernels than the manifest says, or takes more than the arena.
    pub fn new(held: Held, arena: &'static Arena) -> Option<Self> {
        let bundle = Bundle::open(held.bytes()).ok()?;
        let section = bundle.section(SectionKind::Program)?;
        let program = Program::verify(section).ok()?;
        let stated = bundle.manifest().kernels == program.layout().kernels();
        let room = arena.borrow().len() >= program.header().arena_bytes as usize;
        (stated && room).then_some(Self {
            program,
            arena,
            _held: held,
            kernels: PhantomData,
        })
    }
}

impl<K: Kernels + Default> PlaceEngine<K> {
    fn run_f32(
        &mut self,
        input: &[f32],
        output: &mut [f32],
        mut tape: Option<&mut dyn Tape>,
    ) -> Result<(), EngineError> {
        let header = self.program.header();
        if input.len() != header.input_len as usize {
            return Err(EngineError::InputLength {
                expected: header.input_len,
                given: short(input.len()),
            });
        }
        if output.len() != header.output_len as usize {
            return Err(EngineError::OutputLength {
                expected: header.output_len,
                given: short(output.len()),
            });
        }
        let mut arena = self.arena.borrow_mut();
        let arena = arena.get_mut(..header.arena_bytes as usize);
        let arena = arena.ok_or(EngineError::Run)?;
        let given = arena.get_mut(header.input as usize..);
        let given = given.and_then(|rest| rest.get_mut(..input.len()));
        let given = given.ok_or(EngineError::Run)?;
        self.program.quantize(input, given);
        if let Some(tape) = &mut tape {
            tape.input(Elements::I8(given));
        }
        let run = self.program.run(&mut K::default(), arena);
        run.map_err(|_| EngineError::Run)?;
        let made = arena.get(header.output as usize..);
        let made = made.and_then(|rest| rest.get(..output.len()));
        let made = made.ok_or(EngineError::Run)?;
        if let Some(tape) = &mut tape {
            tape.output(Elements::I8(made));
        }
        self.program.dequantize(made, output);
        Ok(())
    }
}

/// A length for an error.
fn short(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

impl<K: Kernels + Default> Engine for PlaceEngine<K> {
    fn input_len(&self) -> usize {
        self.program.header().input_len as usize
    }

    fn output_len(&self) -> usize {
        self.program.header().output_len as usize
    }

    fn run(&mut self, input: &[f32], output: &mut [f32]) -> Result<(), EngineError> {
        self.run_f32(input, output, None)
    }

    fn run_on_tape(
        &mut self,
        input: &[f32],
        output: &mut [f32],
        tape: &mut dyn Tape,
    ) -> Result<(), EngineError> {
        self.run_f32(input, output, Some(tape))
    }
}
