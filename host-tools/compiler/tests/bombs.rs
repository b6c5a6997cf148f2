//! Small files that name large tensors: a compiler holds no more of them than it takes to say so.

#![allow(
    unsafe_code,
    reason = "counts what the allocator holds, which is an unsafe trait"
)]

#[path = "common/samples.rs"]
mod samples;
#[allow(dead_code, reason = "other tests break files, too")]
#[path = "common/tflite.rs"]
mod tflite;

use edgeward_compiler::{Options, compile};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, with what it holds and the most that it held.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, memory: Layout) -> *mut u8 {
        let held = HELD.fetch_add(memory.size(), Ordering::Relaxed) + memory.size();
        MOST.fetch_max(held, Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(memory) }
    }

    unsafe fn dealloc(&self, at: *mut u8, memory: Layout) {
        HELD.fetch_sub(memory.size(), Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(at, memory) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Elements of the tensors, far more than the file has bytes.
const ELEMENTS: i32 = 1 << 26;
/// Bytes that a compilation may hold: less than one for each element.
const MOST_BYTES: usize = 32 << 20;

#[test]
fn a_vector_of_many_channels_is_held_by_nobody() {
    let all = samples::all();
    let relu = all.iter().find(|(name, _)| *name == "RELU");
    let mut model = relu.expect("it is among them").1.clone();
    for tensor in &mut model.tensors {
        tensor.shape = vec![1, ELEMENTS];
    }
    let bytes = model.bytes();
    MOST.store(HELD.load(Ordering::Relaxed), Ordering::Relaxed);
    let compiled = compile(&bytes, &Options::linux());
    let most = MOST.load(Ordering::Relaxed);
    assert!(compiled.is_ok(), "{:?}", compiled.err());
    assert!(most < MOST_BYTES, "it held {most} bytes");
}
