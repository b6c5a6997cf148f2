//! Bytes that are read from the front.

use crate::TlsError::{self, Malformed};

/// What is left to read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    /// The next so many.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], TlsError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    /// A big-endian number of so many bytes, 4 at most.
    fn number(&mut self, len: usize) -> Result<usize, TlsError> {
        let bytes = self.take(len)?;
        Ok(bytes.iter().fold(0, |n, &byte| n << 8 | usize::from(byte)))
    }

    pub fn u8(&mut self) -> Result<u8, TlsError> {
        let (byte, rest) = self.0.split_first().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*byte)
    }

    pub fn u16(&mut self) -> Result<u16, TlsError> {
        let bytes = self.take(2)?.first_chunk().ok_or(Malformed)?;
        Ok(u16::from_be_bytes(*bytes))
    }

    /// What a length of so many bytes stands before.
    pub fn counted(&mut self, len: usize) -> Result<Self, TlsError> {
        let count = self.number(len)?;
        self.take(count).map(Self)
    }

    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Nothing is left.
    pub fn end(self) -> Result<(), TlsError> {
        self.is_empty().then_some(()).ok_or(Malformed)
    }
}
