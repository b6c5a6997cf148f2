//! A verified program that owns its bytes.

use super::memory::Aligned;
use super::{Header, Layout, Program, ProgramError};

/// A verified program with its bytes: what an engine keeps for as long as it runs.
#[derive(Debug)]
pub struct OwnedProgram {
    bytes: Aligned<u8>,
    header: Header,
    layout: Layout,
    work: u64,
}

impl OwnedProgram {
    /// Copies a program, which may lie anywhere, and verifies it.
    ///
    /// # Errors
    /// What [`Program::verify`] finds.
    pub fn new(bytes: &[u8]) -> Result<Self, ProgramError> {
        let bytes = Aligned::copy_of(bytes);
        let program = Program::verify(bytes.as_ref())?;
        let (header, layout, work) = (program.header, program.layout, program.work);
        Ok(Self {
            bytes,
            header,
            layout,
            work,
        })
    }

    /// The program.
    pub fn program(&self) -> Program<'_> {
        Program {
            bytes: self.bytes.as_ref(),
            header: self.header,
            layout: self.layout,
            work: self.work,
        }
    }
}
