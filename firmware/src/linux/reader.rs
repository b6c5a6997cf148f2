//! Lines from a source, in one buffer set aside once.

use crate::lines::LINE_BYTES_MAX;
use std::io::{self, ErrorKind, Read};
use std::ops::Range;

/// Bytes of the buffer: the longest line, and room to read ahead.
const BUFFER_BYTES: usize = 8 * LINE_BYTES_MAX;

/// What reading on brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// A line, as a range of [`LineReader::bytes`], without its end.
    Line(Range<usize>),
    /// A line longer than any may be; it was skipped.
    TooLong,
    /// Nothing came within the source's read timeout.
    Idle,
    /// The source ended.
    End,
}

/// Reads lines without allocating.
#[derive(Debug)]
pub struct LineReader<R> {
    source: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// In the middle of a line that is too long.
    skipping: bool,
    ended: bool,
}

impl<R: Read> LineReader<R> {
    /// A reader at the beginning of a line.
    pub fn new(source: R) -> Self {
        Self {
            source,
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            skipping: false,
            ended: false,
        }
    }

    /// The bytes of a line that [`LineReader::next_line`] gave; valid until it is called again.
    #[must_use]
    pub fn bytes(&self, line: Range<usize>) -> &[u8] {
        self.buffer.get(line).unwrap_or_default()
    }

    /// The source, to answer it.
    pub fn source(&self) -> &R {
        &self.source
    }

    /// Whether another line is at hand without reading on.
    #[must_use]
    pub fn has_line(&self) -> bool {
        self.buffer[self.start..self.end].contains(&b'\n')
    }

    /// The next line; blocks as long as the source's read does.
    ///
    /// # Errors
    /// When the source can't be read.
    pub fn next_line(&mut self) -> io::Result<Next> {
        loop {
            let fresh = &self.buffer[self.start..self.end];
            if let Some(len) = fresh.iter().position(|&byte| byte == b'\n') {
                let line = self.start..self.start + len;
                self.start = line.end + 1;
                if std::mem::take(&mut self.skipping) || len > LINE_BYTES_MAX {
                    return Ok(Next::TooLong);
                }
                return Ok(Next::Line(line));
            }
            if self.skipping || fresh.len() > LINE_BYTES_MAX {
                self.skipping = true;
                self.start = self.end;
            }
            if self.ended {
                return Ok(self.last());
            }
            if self.end == self.buffer.len() {
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            }
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.ended = true,
                Ok(read) => self.end += read,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return Ok(Next::Idle),
                    ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
    }

    /// What is left when the source ended: perhaps a line without an end.
    fn last(&mut self) -> Next {
        let line = self.start..self.end;
        self.start = self.end;
        if std::mem::take(&mut self.skipping) {
            Next::TooLong
        } else if line.is_empty() {
            Next::End
        } else {
            Next::Line(line)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gives at most `step` bytes a read.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let len = self.1.min(self.0.len()).min(out.len());
            out[..len].copy_from_slice(&self.0[..len]);
            self.0 = &self.0[len..];
            Ok(len)
        }
    }

    fn lines(text: &[u8], step: usize) -> Vec<Option<Vec<u8>>> {
        let mut reader = LineReader::new(Slow(text, step));
        let mut lines = Vec::new();
        loop {
            match reader.next_line().unwrap() {
                Next::Line(line) => lines.push(Some(reader.bytes(line).to_vec())),
                Next::TooLong => lines.push(None),
                Next::End => return lines,
                Next::Idle => unreachable!("the source never waits"),
            }
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_and_no_other() {
        let mut text = b"first\n".to_vec();
        text.extend(vec![b'x'; 3 * BUFFER_BYTES]);
        text.extend(b"\nlast");
        for step in [1000, 65536] {
            let expected = [Some(b"first".to_vec()), None, Some(b"last".to_vec())];
            assert_eq!(lines(&text, step), expected);
        }
    }

    proptest! {
        #[test]
        fn lines_are_those_of_the_text(text in "[a-c\n]{0,300}", step in 1usize..50) {
            let mut expected: Vec<_> = text
                .split('\n')
                .map(|line| Some(line.as_bytes().to_vec()))
                .collect();
            // What follows the last end is a line only if there is something.
            if expected.last() == Some(&Some(vec![])) {
                expected.pop();
            }
            prop_assert_eq!(lines(text.as_bytes(), step), expected);
        }
    }
}
