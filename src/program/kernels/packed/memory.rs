//! Memory that begins at a multiple of a vector's size.
#![allow(unsafe_code)]

use super::isa::{Element, Shape};

/// A line of the cache.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Bytes from a multiple of 64 on.
#[derive(Debug)]
pub(super) struct Memory(Vec<Line>);

impl Memory {
    /// At least `bytes` zeros.
    pub fn new(bytes: usize) -> Self {
        Self(vec![Line([0; 64]); bytes.div_ceil(64)])
    }

    pub fn of(bytes: &[u8]) -> Self {
        let mut memory = Self::new(bytes.len());
        let lines = memory.0.iter_mut().zip(bytes.chunks(64));
        for (line, bytes) in lines {
            line.0[..bytes.len()].copy_from_slice(bytes);
        }
        memory
    }

    /// Sets elements to one value.
    pub fn fill(&mut self, shape: &Shape, first: usize, count: usize, value: i32) {
        for element in first..first + count {
            match shape.element {
                Element::Wide => {
                    let [low, high, ..] = value.to_le_bytes();
                    self.set(2 * element, low);
                    self.set(2 * element + 1, high);
                }
                Element::Biased | Element::Plain => self.set(element, value as u8),
            }
        }
    }

    fn set(&mut self, at: usize, byte: u8) {
        self.0[at / 64].0[at % 64] = byte;
    }

    /// All bytes.
    pub const fn bytes(&self) -> &[u8] {
        // SAFETY: lines are 64 bytes each, any of which is initialized, and lie one after the other.
        unsafe { core::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * 64) }
    }

    /// All bytes.
    pub const fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`; any byte may be written, and the borrow is exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * 64) }
    }
}
