//! The engine of int8 programs on hosts and Linux boards.
//!
//! Loading verifies a program and packs it for the vector instructions of the processor at hand
//! ([`Packed`]); that allocates. An inference does not: the number of calls of the allocator is 0.
//! Without such instructions, or where the caller asks for it, the portable kernels run the program
//! as it is. Outputs are the same bit for bit, and equal those of TensorFlow Lite Micro.

use super::{Elements, Engine, EngineError, Tape};
use crate::program::kernels::packed::{Isa, Packed};
use crate::program::{Aligned, Header, Layout, OwnedProgram, Portable, ProgramError};

/// A program, ready to run.
#[derive(Debug)]
pub struct ProgramEngine {
    program: OwnedProgram,
    packed: Option<Packed>,
    arena: Aligned<i8>,
    input: Vec<i8>,
    output: Vec<i8>,
}

impl ProgramEngine {
    /// Verifies and packs a program, for the fastest instruction set of this processor.
    ///
    /// # Errors
    /// Why the program was refused.
    pub fn new(program: &[u8]) -> Result<Self, ProgramError> {
        Self::with(program, Isa::available().next())
    }

    /// Verifies a program and packs it for an instruction set; with `None`, or one that this
    /// processor lacks, the portable kernels run it.
    ///
    /// # Errors
    /// Why the program was refused.
    pub fn with(program: &[u8], isa: Option<Isa>) -> Result<Self, ProgramError> {
        let program = OwnedProgram::new(program)?;
        let header = *program.program().header();
        let packed = isa.and_then(|isa| Packed::new(&program.program(), isa));
        Ok(Self {
            packed,
            arena: Aligned::zeros(header.arena_bytes as usize),
            input: vec![0; header.input_len as usize],
            output: vec![0; header.output_len as usize],
            program,
        })
    }

    /// How the program's weights lie.
    pub fn layout(&self) -> Layout {
        self.program.program().layout()
    }

    /// The instruction set that the program is packed for, if any.
    pub fn isa(&self) -> Option<Isa> {
        self.packed.as_ref().map(Packed::isa)
    }

    /// How many of the program's operators the portable kernels run.
    pub fn portable_ops(&self) -> usize {
        self.packed.as_ref().map_or_else(
            || self.program.program().ops().count(),
            |packed| packed.portable().count(),
        )
    }

    /// Runs one inference on the program's own int8 elements. Allocates nothing.
    ///
    /// # Errors
    /// When a length is not the program's; `output` is unspecified after any error.
    pub fn run_i8(&mut self, input: &[i8], output: &mut [i8]) -> Result<(), EngineError> {
        let program = self.program.program();
        let header = program.header();
        check(header, input.len(), output.len())?;
        if let Some(packed) = &mut self.packed {
            let arena = self.arena.as_mut();
            let run = packed.run(&program, arena, input, output);
            return run.map_err(|_| EngineError::Run);
        }
        let arena = self.arena.as_mut();
        arena[header.input as usize..][..input.len()].copy_from_slice(input);
        let run = program.run(&mut Portable, arena);
        run.map_err(|_| EngineError::Run)?;
        output.copy_from_slice(&arena[header.output as usize..][..output.len()]);
        Ok(())
    }

    /// Quantizes, runs, and takes down the quantized elements.
    fn run_f32(
        &mut self,
        input: &[f32],
        output: &mut [f32],
        mut tape: Option<&mut dyn Tape>,
    ) -> Result<(), EngineError> {
        check(self.program.program().header(), input.len(), output.len())?;
        let mut elements = core::mem::take(&mut self.input);
        let mut results = core::mem::take(&mut self.output);
        self.program.program().quantize(input, &mut elements);
        if let Some(tape) = &mut tape {
            tape.input(Elements::I8(&elements));
        }
        let run = self.run_i8(&elements, &mut results);
        if let (Ok(()), Some(tape)) = (run, tape) {
            tape.output(Elements::I8(&results));
        }
        self.program.program().dequantize(&results, output);
        self.input = elements;
        self.output = results;
        run
    }
}

/// How the program is run.
impl core::fmt::Display for ProgramEngine {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let program = self.program.program();
        let (ops, arena) = (program.ops().count(), program.header().arena_bytes);
        let kernels = self.isa().map_or("portable", Isa::name);
        write!(
            f,
            "int8, {ops} operators, {kernels} kernels, arena {arena} bytes"
        )?;
        match self.portable_ops() {
            portable if portable > 0 && portable < ops => {
                write!(f, ", {portable} operators portable")
            }
            _ => Ok(()),
        }
    }
}

/// Whether the lengths of input and output are the program's.
fn check(header: &Header, given: usize, room: usize) -> Result<(), EngineError> {
    let (inputs, outputs) = (header.input_len, header.output_len);
    if given != inputs as usize {
        return Err(EngineError::InputLength {
            expected: inputs,
            given: u32::try_from(given).unwrap_or(u32::MAX),
        });
    }
    if room != outputs as usize {
        return Err(EngineError::OutputLength {
            expected: outputs,
            given: u32::try_from(room).unwrap_or(u32::MAX),
        });
    }
    Ok(())
}

impl Engine for ProgramEngine {
    fn input_len(&self) -> usize {
        self.input.len()
    }

    fn output_len(&self) -> usize {
        self.output.len()
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
