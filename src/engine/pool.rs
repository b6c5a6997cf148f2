//! Memory set aside at load and recycled, so that a running model asks the system for nothing.
//!
//! tract allocates a tensor for each node that it evaluates and offers no arena, so the heap is made
//! quiet underneath it: [`PoolAllocator`] is a global allocator that serves what is allocated inside
//! [`scope`] from one region reserved at load ([`reserve`]). Blocks come in size classes, four to a
//! power of two, with a free list a class and alignment; a freed block returns to its list and never
//! to the system. After a few inferences every list holds what the next one asks for, and the calls
//! that reach the system, which are counted a thread ([`calls`]), stop. Outside a scope, when the
//! region is exhausted, and for what the pool does not serve, the allocator passes on to the one
//! underneath. `docs/ALLOCATION.md` says what this proves and what it costs.
//!
//! A program opts in:
//!
//! ```
//! use edgeward::engine::pool::{self, PoolAllocator};
//!
//! #[global_allocator]
//! static ALLOCATOR: PoolAllocator = PoolAllocator::system();
//!
//! pool::reserve(1 << 20);
//! let before = pool::calls();
//! let inside = pool::scope(|| vec![1.0f32; 100]);
//! assert_eq!(pool::calls(), before, "the vector lies in the pool");
//! drop(inside); // Back to the pool, from outside the scope and from any thread.
//! assert_eq!(pool::calls(), before);
//! ```
//!
//! What it does not do: split or join blocks, return memory, or serve alignments over
//! [`MAX_ALIGN`]. Without the global allocator everything still runs, unpooled and uncounted;
//! [`installed`] tells.
// Beside vectors (kernels, `four`) the one module of the core with unsafe code: an allocator can't be
// written without it.
#![allow(unsafe_code)]

use core::alloc::{GlobalAlloc, Layout};
use core::cell::{Cell, UnsafeCell};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::alloc::System;

/// Region that [`crate::engine::tract::TractEngine`] reserves when nobody did before, in bytes.
///
/// It is address space: the system commits a page when the pool first touches it.
pub const DEFAULT_REGION_BYTES: usize = 64 << 20;
/// Greatest alignment that the pool serves, in bytes.
pub const MAX_ALIGN: usize = 4096;
/// Smallest block, in bytes.
const MIN_BLOCK: usize = 64;
/// Size classes: four a power of two, from 64 bytes to 2 GiB.
const CLASSES: usize = 101;
/// Alignments with lists of their own; a request takes the least that suffices.
const ALIGNS: [usize; 4] = [16, 64, 512, MAX_ALIGN];
/// Ends a free list.
const NONE: usize = usize::MAX;
/// Tries for the lock before a thread gives its time slice away.
const SPINS: u32 = 64;

/// Calls that reached the allocator underneath the pool, on one thread since it began.
///
/// A `realloc` counts as one of each, as it may move the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Calls {
    /// Blocks asked for.
    pub allocations: u64,
    /// Blocks given back.
    pub frees: u64,
}

/// What the pool holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Bytes of the region; 0 before [`reserve`].
    pub reserved_bytes: usize,
    /// Bytes of it ever handed out, and so committed: the region's high-water mark.
    pub carved_bytes: usize,
    /// Bytes in use, rounded up to their size classes.
    pub live_bytes: usize,
    /// Blocks in use.
    pub live_blocks: usize,
    /// Allocations that the pool served.
    pub served: u64,
    /// Allocations inside a scope that the pool could not serve and passed on.
    pub passed_on: u64,
}

/// What a thread remembers. Without a destructor, so that it can be read while a thread ends.
struct Local {
    depth: Cell<u32>,
    allocations: Cell<u64>,
    frees: Cell<u64>,
}

std::thread_local! {
    static LOCAL: Local = const {
        Local { depth: Cell::new(0), allocations: Cell::new(0), frees: Cell::new(0) }
    };
}

static POOL: Pool = Pool::new();

/// Runs `f`; what this thread allocates meanwhile comes from the pool. Scopes may nest.
///
/// Cost: two writes to a thread-local.
pub fn scope<R>(f: impl FnOnce() -> R) -> R {
    /// Ends the scope also when `f` panics.
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            LOCAL.with(|local| local.depth.set(local.depth.get() - 1));
        }
    }
    LOCAL.with(|local| local.depth.set(local.depth.get() + 1));
    let _leave = Leave;
    f()
}

/// Sets the region aside, at least `bytes` long, and returns its length.
///
/// The first call decides: later ones return the length that is there. Returns 0, and the pool stays
/// empty, when the system has no such region or [`PoolAllocator`] is not installed.
pub fn reserve(bytes: usize) -> usize {
    if installed() { POOL.reserve(bytes) } else { 0 }
}

/// Whether [`PoolAllocator`] is this program's global allocator.
pub fn installed() -> bool {
    let before = calls();
    drop(core::hint::black_box(Box::new(0u8)));
    // Inside a scope the block may come from the pool, which then has a region.
    calls() != before || POOL.stats().reserved_bytes > 0
}

/// Calls of this thread that reached the system, while [`PoolAllocator`] is installed.
pub fn calls() -> Calls {
    LOCAL.with(|local| Calls {
        allocations: local.allocations.get(),
        frees: local.frees.get(),
    })
}

/// What the pool holds now.
pub fn stats() -> Stats {
    POOL.stats()
}

/// A global allocator that serves scopes from the pool and everything else from `A`.
#[derive(Debug, Clone, Copy, Default)]
pub struct PoolAllocator<A = System> {
    under: A,
}

impl PoolAllocator<System> {
    /// Over the system's allocator.
    pub const fn system() -> Self {
        Self::over(System)
    }
}

impl<A> PoolAllocator<A> {
    /// Over another allocator.
    pub const fn over(under: A) -> Self {
        Self { under }
    }
}

fn count(allocations: u64, frees: u64) {
    LOCAL.with(|local| {
        local.allocations.set(local.allocations.get() + allocations);
        local.frees.set(local.frees.get() + frees);
    });
}

fn in_scope() -> bool {
    LOCAL.with(|local| local.depth.get() > 0)
}

// SAFETY: a block comes either from `POOL`, which hands out disjoint blocks that satisfy the layout,
// or from `A` with the caller's own layout; the address says which on the way back. Neither path
// allocates or unwinds: the thread-local is a constant without destructor.
unsafe impl<A: GlobalAlloc> GlobalAlloc for PoolAllocator<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if in_scope()
            && let Some(block) = POOL.allocate(layout)
        {
            return block;
        }
        count(1, 0);
        // SAFETY: the caller's contract, passed on.
        unsafe { self.under.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if in_scope()
            && let Some(block) = POOL.allocate(layout)
        {
            // SAFETY: the block is ours and at least `layout.size()` long.
            unsafe { block.write_bytes(0, layout.size()) };
            return block;
        }
        count(1, 0);
        // SAFETY: the caller's contract, passed on.
        unsafe { self.under.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract: allocated here with this layout, and not used again.
        if unsafe { POOL.free(block, layout) } {
            return;
        }
        count(0, 1);
        // SAFETY: not the pool's, so `alloc` got it from `under` with this layout.
        unsafe { self.under.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if !POOL.contains(block) {
            count(1, 1);
            // SAFETY: not the pool's, so it came from `under`; the rest is the caller's contract.
            return unsafe { self.under.realloc(block, layout, new_size) };
        }
        // SAFETY: the caller promises that `new_size`, rounded up to the alignment, fits an `isize`.
        let wanted = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        if class_of(new_size) == class_of(layout.size()) {
            return block;
        }
        // SAFETY: `wanted` has a size above zero, as the caller promises; `block` is valid for the
        // old size and the new block for the new one, and they are disjoint.
        unsafe {
            let moved = self.alloc(wanted);
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(block, layout.size().min(new_size));
                self.dealloc(block, layout);
            }
            moved
        }
    }
}

/// The class of a request: the least whose blocks are long enough.
fn class_of(size: usize) -> Option<usize> {
    let last = size.max(MIN_BLOCK) - 1;
    if last < MIN_BLOCK {
        return Some(0);
    }
    let power = last.ilog2();
    let quarter = (last - (1 << power)) >> (power - 2);
    let class = (power as usize - 6) * 4 + quarter + 1;
    (class < CLASSES).then_some(class)
}

/// Bytes of a class's blocks.
fn class_bytes(class: usize) -> usize {
    if class == 0 {
        return MIN_BLOCK;
    }
    let (power, quarter) = ((class - 1) / 4 + 6, (class - 1) % 4);
    (1 << power) + ((quarter + 1) << (power - 2))
}

/// The list that serves a layout: its alignment's and its size's index.
fn list_of(layout: Layout) -> Option<(usize, usize)> {
    let align = ALIGNS.iter().position(|&align| layout.align() <= align)?;
    Some((align, class_of(layout.size())?))
}

/// Where blocks are, as offsets into the region. Guarded by [`Pool::lock`].
struct Lists {
    /// Bytes from the start that were ever handed out.
    carved: usize,
    /// First free block, an alignment and class; each free block begins with the next one's offset.
    heads: [[usize; CLASSES]; ALIGNS.len()],
    live_bytes: usize,
    live_blocks: usize,
    served: u64,
}

/// One region and its free lists.
///
/// `base` is null until the region is there, and then neither it nor `len` changes again: whoever
/// reads a `base` that is not null may read `len`.
struct Pool {
    base: AtomicPtr<u8>,
    len: AtomicUsize,
    locked: AtomicBool,
    lists: UnsafeCell<Lists>,
    passed_on: AtomicU64,
}

// SAFETY: `lists` is reached only through `lock`, which admits one thread at a time; the rest is
// atomic. Free blocks are written only under the lock.
unsafe impl Sync for Pool {}

impl Pool {
    const fn new() -> Self {
        Self {
            base: AtomicPtr::new(core::ptr::null_mut()),
            len: AtomicUsize::new(0),
            locked: AtomicBool::new(false),
            lists: UnsafeCell::new(Lists {
                carved: 0,
                heads: [[NONE; CLASSES]; ALIGNS.len()],
                live_bytes: 0,
                live_blocks: 0,
                served: 0,
            }),
            passed_on: AtomicU64::new(0),
        }
    }

    /// Runs `f` alone. `f` must neither allocate nor panic; it is a few loads and stores.
    fn lock<R>(&self, f: impl FnOnce(&mut Lists) -> R) -> R {
        let mut tries = 0u32;
        while self
            .locked
            .compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            tries += 1;
            if tries.is_multiple_of(SPINS) {
                // The holder may have lost its core to us; a yield does not allocate.
                std::thread::yield_now();
            } else {
                core::hint::spin_loop();
            }
        }
        // SAFETY: `locked` was false and is now ours, so no other reference to the lists exists.
        let result = f(unsafe { &mut *self.lists.get() });
        self.locked.store(false, Ordering::Release);
        result
    }

    fn reserve(&self, bytes: usize) -> usize {
        let len = self.len();
        if len > 0 {
            return len;
        }
        let Ok(layout) = Layout::from_size_align(bytes.next_multiple_of(MAX_ALIGN), MAX_ALIGN)
        else {
            return 0;
        };
        if layout.size() == 0 {
            return 0;
        }
        // SAFETY: the size is not zero.
        let region = unsafe { std::alloc::alloc(layout) };
        if region.is_null() {
            return 0;
        }
        let ours = self.lock(|_| {
            let ours = self.base.load(Ordering::Relaxed).is_null();
            if ours {
                self.len.store(layout.size(), Ordering::Relaxed);
                self.base.store(region, Ordering::Release);
            }
            ours
        });
        if !ours {
            // SAFETY: allocated above with this layout and published to nobody.
            unsafe { std::alloc::dealloc(region, layout) };
        }
        self.len()
    }

    /// Bytes of the region; 0 while there is none.
    fn len(&self) -> usize {
        if self.base.load(Ordering::Acquire).is_null() {
            0
        } else {
            self.len.load(Ordering::Relaxed)
        }
    }

    fn contains(&self, block: *mut u8) -> bool {
        let base = self.base.load(Ordering::Acquire);
        // Without a region the length is 0, and nothing lies in it.
        block.addr().wrapping_sub(base.addr()) < self.len()
    }

    /// A block for `layout`, or `None` when the pool has none.
    fn allocate(&self, layout: Layout) -> Option<*mut u8> {
        let block = self.take(layout);
        if block.is_none() {
            self.passed_on.fetch_add(1, Ordering::Relaxed);
        }
        block
    }

    fn take(&self, layout: Layout) -> Option<*mut u8> {
        let (align, class) = list_of(layout)?;
        let bytes = class_bytes(class);
        let base = self.base.load(Ordering::Acquire);
        let len = self.len();
        if len == 0 {
            return None;
        }
        let offset = self.lock(|lists| {
            let head = lists.heads[align][class];
            let offset = if head != NONE {
                // SAFETY: a listed offset is a free block inside the region, aligned to 16 and at
                // least 64 bytes long, whose first word `free` wrote.
                lists.heads[align][class] = unsafe { base.add(head).cast::<usize>().read() };
                head
            } else {
                let start = lists.carved.next_multiple_of(ALIGNS[align]);
                let end = start.checked_add(bytes).filter(|&end| end <= len)?;
                lists.carved = end;
                start
            };
            lists.live_bytes += bytes;
            lists.live_blocks += 1;
            lists.served += 1;
            Some(offset)
        })?;
        // SAFETY: the offset and the whole block behind it lie inside the region.
        Some(unsafe { base.add(offset) })
    }

    /// Takes a block back; false, untouched, when it is not the pool's.
    ///
    /// # Safety
    /// A block inside the region must come from [`Pool::allocate`] with this layout (or one of the
    /// same list), and nobody may use it afterwards.
    unsafe fn free(&self, block: *mut u8, layout: Layout) -> bool {
        if !self.contains(block) {
            return false;
        }
        let Some((align, class)) = list_of(layout) else {
            // The pool serves no such layout, so by contract the block is not its own.
            return false;
        };
        let base = self.base.load(Ordering::Acquire);
        let offset = block.addr() - base.addr();
        self.lock(|lists| {
            // Through `base` and not `block`: the caller's pointer may only cover its own layout.
            // SAFETY: the block lies in the region, is aligned to 16 and at least 64 bytes long, and
            // is no longer anyone's.
            unsafe {
                base.add(offset)
                    .cast::<usize>()
                    .write(lists.heads[align][class])
            };
            lists.heads[align][class] = offset;
            lists.live_bytes -= class_bytes(class);
            lists.live_blocks -= 1;
        });
        true
    }

    fn stats(&self) -> Stats {
        let passed_on = self.passed_on.load(Ordering::Relaxed);
        let reserved_bytes = self.len();
        self.lock(|lists| Stats {
            reserved_bytes,
            carved_bytes: lists.carved,
            live_bytes: lists.live_bytes,
            live_blocks: lists.live_blocks,
            served: lists.served,
            passed_on,
        })
    }
}

#[cfg(test)]
mod tests;
