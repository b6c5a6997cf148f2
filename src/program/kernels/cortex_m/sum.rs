//! Sums of two tensors.

use crate::program::exec::Step;
use crate::program::kernels::portable;
use crate::program::op::{Add, AddScale};

/// Whether [`stretch`] takes a sum.
pub fn takes(_scale: &AddScale) -> bool {
    true
}

/// Sum of two tensors.
pub fn add(step: Step<'_, Add>) -> Option<()> {
    portable::add(step)
}

/// Sums of `len` elements.
///
/// # Safety
/// All three must be readable or writable for `len`; `target` may be one of the others.
pub unsafe fn stretch(scale: &AddScale, a: *const u8, b: *const u8, target: *mut u8, len: usize) {
    for index in 0..len {
        // SAFETY: the caller's promise.
        unsafe {
            let (a, b) = (a.add(index).read() as i8, b.add(index).read() as i8);
            target.add(index).write(portable::sum(scale, a, b) as u8);
        }
    }
}
