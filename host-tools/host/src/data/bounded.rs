//! A bound on what a reader of rows takes in, whatever comes.

use super::MAX_FILE_BYTES;
use std::io::{self, Read};

/// Longest row of a CSV file in bytes, with its line end, and with the lines inside of its quotes.
pub const MAX_ROW_BYTES: u64 = 1 << 20;

/// How much is taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Bytes of a row.
    pub row: u64,
    /// Bytes in all.
    pub total: u64,
}

impl Limits {
    pub(super) const STANDARD: Self = Self {
        row: MAX_ROW_BYTES,
        total: MAX_FILE_BYTES,
    };
}

/// Reads until a row is too long, or all of them are.
pub(super) struct Bounded<R> {
    inner: R,
    limits: Limits,
    /// Bytes read.
    read: u64,
    /// Where the present row begins.
    row_start: u64,
    /// What was too long.
    exceeded: Option<String>,
}

impl<R> Bounded<R> {
    pub(super) fn new(inner: R, limits: Limits) -> Self {
        Self {
            inner,
            limits,
            read: 0,
            row_start: 0,
            exceeded: None,
        }
    }

    /// The next row begins at this byte.
    pub(super) fn row_at(&mut self, byte: u64) {
        self.row_start = byte;
    }

    /// What was too long, if something was.
    pub(super) fn exceeded(&self) -> Option<&str> {
        self.exceeded.as_deref()
    }

    fn exceed(&mut self, what: String) -> io::Error {
        let error = io::Error::other(what.clone());
        self.exceeded = Some(what);
        error
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Limits { row, total } = self.limits;
        // All of these bytes are of a row whose end is not among them.
        let left = row.saturating_sub(self.read - self.row_start);
        let left = left.min(total.saturating_sub(self.read));
        let most = usize::try_from(left).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        if most == 0 && !buffer.is_empty() {
            // The end may be here just as well.
            if self.inner.read(&mut buffer[..1])? == 0 {
                return Ok(0);
            }
            return Err(if self.read >= total {
                self.exceed(format!("there are more than {total} bytes in all"))
            } else {
                self.exceed(format!(
                    "the row is longer than {row} bytes; is a line end or a closing quote missing?"
                ))
            });
        }
        let read = self.inner.read(&mut buffer[..most])?;
        self.read += read as u64;
        Ok(read)
    }
}
