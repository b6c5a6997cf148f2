//! No allocator: an image in which something allocates does not link, for what that would call is nowhere; and
//! one to which a crate brings an allocator does not compile, for there are two then.
//!
//! The names in an image would not tell: what the compiler inlines has none.

use core::alloc::{GlobalAlloc, Layout};

unsafe extern "C" {
    /// Nowhere: its name is what the linker says.
    fn edgeward_images_have_no_allocator() -> *mut u8;
}

struct Nothing;

// SAFETY: it never returns memory, since no program that calls it is linked.
unsafe impl GlobalAlloc for Nothing {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { edgeward_images_have_no_allocator() }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {
        // SAFETY: as above.
        unsafe { edgeward_images_have_no_allocator() };
    }
}

#[global_allocator]
static NOTHING: Nothing = Nothing;
