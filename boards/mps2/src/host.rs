//! What the host gives through semihosting: files in QEMU's folder, and randomness.

use core::sync::atomic::{AtomicUsize, Ordering};
use cortex_m_semihosting::{nr, syscall};
use edgeward_mcu::board;

/// Files that are open at once, at most: flash, recording, randomness.
const FILES: usize = 4;
/// No handle.
const NONE: usize = usize::MAX;

/// The handles of all open files, for [`close_all`].
static OPEN: [AtomicUsize; FILES] = [const { AtomicUsize::new(NONE) }; FILES];

/// Puts `to` in the first place where `from` is.
fn replace(from: usize, to: usize) {
    let order = Ordering::Relaxed;
    for place in &OPEN {
        if place.compare_exchange(from, to, order, order).is_ok() {
            return;
        }
    }
}

/// Closes every file, before a reset: the host has only so many handles, and would keep these.
pub fn close_all() {
    for place in &OPEN {
        let handle = place.swap(NONE, Ordering::Relaxed);
        if handle != NONE {
            // SAFETY: the handle is open; whoever has it does not run any more.
            unsafe { syscall!(CLOSE, handle) };
        }
    }
}

/// An open file of the host.
pub struct File(usize);

/// How to open a file: as the C library's `rb` and `r+b`.
const READ: usize = nr::open::R_BINARY;
const UPDATE: usize = nr::open::RW_BINARY;

impl File {
    /// Opens a file to read. The name ends with a zero byte.
    pub fn read_only(name: &str) -> Option<Self> {
        Self::open(name, READ)
    }

    /// Opens a file to read and write.
    pub fn update(name: &str) -> Option<Self> {
        Self::open(name, UPDATE)
    }

    fn open(name: &str, mode: usize) -> Option<Self> {
        let length = name.len().checked_sub(1)?;
        // SAFETY: the name ends with a zero, which every caller's literal does.
        let handle = unsafe { syscall!(OPEN, name.as_ptr().expose_provenance(), mode, length) };
        if handle == NONE {
            return None;
        }
        replace(NONE, handle);
        Some(Self(handle))
    }

    /// Bytes of the file.
    pub fn len(&self) -> usize {
        // SAFETY: the handle is open.
        unsafe { syscall!(FLEN, self.0) }
    }

    /// Goes to an offset; whether the host did.
    pub fn seek(&mut self, offset: usize) -> bool {
        // SAFETY: as above.
        unsafe { syscall!(SEEK, self.0, offset) == 0 }
    }

    /// Reads and gives the number of bytes, 0 at the end.
    pub fn read(&mut self, bytes: &mut [u8]) -> usize {
        let start = bytes.as_mut_ptr().expose_provenance();
        // SAFETY: the host writes into `bytes` only.
        let left = unsafe { syscall!(READ, self.0, start, bytes.len()) };
        bytes.len().saturating_sub(left)
    }

    /// Writes; whether the host took all.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        let start = bytes.as_ptr().expose_provenance();
        // SAFETY: the host reads from `bytes` only.
        unsafe { syscall!(WRITE, self.0, start, bytes.len()) == 0 }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        replace(self.0, NONE);
        // SAFETY: the handle is open, and nobody has it any more.
        unsafe { syscall!(CLOSE, self.0) };
    }
}

/// The host's own randomness: QEMU's board has none.
#[derive(Debug)]
pub struct Entropy;

impl board::Entropy for Entropy {
    fn fill(&mut self, bytes: &mut [u8]) {
        let read = File::read_only("/dev/urandom\0").map_or(0, |mut file| file.read(bytes));
        // Better no board than one whose key somebody can guess.
        assert!(read == bytes.len(), "the host gives no randomness");
    }
}
