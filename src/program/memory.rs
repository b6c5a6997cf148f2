//! Memory for programs and arenas on hosts.

use super::ALIGNMENT;

/// Bytes that begin at a multiple of [`ALIGNMENT`]: what a program (`u8`) or an arena (`i8`) needs
/// where no linker script places it.
#[derive(Debug)]
pub struct Aligned<T> {
    storage: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    const BYTES: () = assert!(size_of::<T>() == 1, "elements are bytes");

    /// `len` zeros. Allocates once.
    pub fn zeros(len: usize) -> Self {
        const { Self::BYTES };
        let storage = vec![T::default(); len + ALIGNMENT - 1];
        // A vector stays where it is for as long as it does not grow, and this one never does.
        let start = storage.as_ptr().addr().wrapping_neg() % ALIGNMENT;
        Self {
            storage,
            start,
            len,
        }
    }

    /// A copy of bytes that may lie anywhere.
    pub fn copy_of(bytes: &[T]) -> Self {
        let mut all = Self::zeros(bytes.len());
        all.as_mut().copy_from_slice(bytes);
        all
    }
}

impl<T: Copy + Default> Clone for Aligned<T> {
    fn clone(&self) -> Self {
        Self::copy_of(self.as_ref())
    }
}

impl<T> AsRef<[T]> for Aligned<T> {
    fn as_ref(&self) -> &[T] {
        &self.storage[self.start..self.start + self.len]
    }
}

impl<T> AsMut<[T]> for Aligned<T> {
    fn as_mut(&mut self) -> &mut [T] {
        &mut self.storage[self.start..self.start + self.len]
    }
}
