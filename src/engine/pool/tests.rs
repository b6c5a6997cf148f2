use super::*;
use proptest::prelude::*;
use std::vec::Vec;

/// A pool that gives its region back, so that tests leak nothing.
struct Owned(Pool);
impl Owned {
    fn new(bytes: usize) -> Self {
        let pool = Pool::new();
        assert!(pool.reserve(bytes) >= bytes);
        Self(pool)
    }
}
impl Drop for Owned {
    fn drop(&mut self) {
        let layout = Layout::from_size_align(self.0.len(), MAX_ALIGN).unwrap();
        // SAFETY: the region was allocated with this layout and dies with the pool.
        unsafe { std::alloc::dealloc(self.0.base.load(Ordering::Acquire), layout) };
    }
}

/// A block on its way to another thread.
struct Sent(*mut u8);
// SAFETY: the sender gives the block away, so only the receiver uses it.
unsafe impl Send for Sent {}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

#[test]
fn classes_hold_their_sizes_with_a_quarter_of_waste_at_most() {
    for size in (1..10_000).chain([65_535, 65_536, 65_537, (1 << 31) - 1]) {
        let class = class_of(size).unwrap();
        let bytes = class_bytes(class);
        assert!(bytes >= size, "{size} in {bytes}");
        assert!(bytes.is_multiple_of(16));
        assert!(
            size <= MIN_BLOCK || bytes - size <= size / 4,
            "{size} in {bytes}"
        );
        assert!(
            class == 0 || class_bytes(class - 1) < size,
            "{size} fits a smaller class"
        );
    }
    assert_eq!(class_bytes(CLASSES - 1), 1 << 31);
    assert_eq!(class_of((1 << 31) + 1), None);
}

#[test]
fn a_freed_block_is_the_next_one_of_its_class() {
    let pool = Owned::new(1 << 16);
    let first = pool.0.allocate(layout(1000, 64)).unwrap();
    // SAFETY: allocated above with the same layout.
    assert!(unsafe { pool.0.free(first, layout(1000, 64)) });
    let carved = pool.0.stats().carved_bytes;
    assert_eq!(pool.0.allocate(layout(900, 64)).unwrap(), first);
    assert_eq!(pool.0.stats().carved_bytes, carved);
    assert_eq!(pool.0.stats().live_blocks, 1);
}

#[test]
fn what_the_pool_can_not_serve_is_passed_on_and_counted() {
    let pool = Owned::new(MAX_ALIGN);
    assert!(
        pool.0.allocate(layout(64, 2 * MAX_ALIGN)).is_none(),
        "alignment"
    );
    assert!(pool.0.allocate(layout(2 * MAX_ALIGN, 16)).is_none(), "size");
    assert_eq!(pool.0.stats().passed_on, 2);
    let full = pool.0.allocate(layout(MAX_ALIGN, MAX_ALIGN)).unwrap();
    assert!(pool.0.allocate(layout(1, 1)).is_none(), "exhausted");
    // SAFETY: allocated above with the same layout.
    assert!(unsafe { pool.0.free(full, layout(MAX_ALIGN, MAX_ALIGN)) });
    assert!(
        pool.0.allocate(layout(MAX_ALIGN, MAX_ALIGN)).is_some(),
        "freed, so there again"
    );
    assert_eq!(pool.0.stats().passed_on, 3);
}

#[test]
fn a_pool_without_region_serves_and_holds_nothing() {
    let pool = Pool::new();
    assert!(pool.allocate(layout(64, 16)).is_none());
    let outside = &mut 0u8;
    assert!(!pool.contains(outside));
    // SAFETY: not the pool's, so it must not be touched.
    assert!(!unsafe { pool.free(outside, layout(1, 1)) });
    assert_eq!(
        pool.stats(),
        Stats {
            passed_on: 1,
            ..Stats::default()
        }
    );
}

#[test]
fn blocks_freed_on_another_thread_are_not_lost() {
    let pool = Owned::new(1 << 20);
    let (rounds, sizes) = if cfg!(miri) { (4, 8) } else { (200, 64) };
    std::thread::scope(|threads| {
        let (sender, receiver) = std::sync::mpsc::channel::<(Sent, usize)>();
        let pool = &pool.0;
        threads.spawn(move || {
            for _ in 0..rounds {
                for size in (1..=sizes).map(|n| n * 16) {
                    // Exhaustion only means that the other thread is behind.
                    let Some(block) = pool.allocate(layout(size, 16)) else {
                        continue;
                    };
                    // SAFETY: the block is ours and `size` long.
                    unsafe { block.write_bytes(size as u8, size) };
                    sender.send((Sent(block), size)).unwrap();
                }
            }
        });
        threads.spawn(move || {
            for (Sent(block), size) in receiver {
                // SAFETY: the other thread wrote `size` bytes there and gave the block away.
                unsafe {
                    for index in 0..size {
                        assert_eq!(block.add(index).read(), size as u8);
                    }
                    assert!(pool.free(block, layout(size, 16)));
                }
            }
        });
    });
    let stats = pool.0.stats();
    assert_eq!((stats.live_blocks, stats.live_bytes), (0, 0));
}

#[derive(Debug, Clone)]
enum Step {
    Allocate { size: usize, align: usize },
    Free(usize),
    Reallocate { index: usize, size: usize },
}

/// Miri interprets every byte written, so it gets smaller blocks.
const LARGE: usize = if cfg!(miri) { 2000 } else { 40_000 };

fn step() -> impl Strategy<Value = Step> {
    // Mostly small, sometimes as large as the region, as a model's tensors are.
    let size = prop_oneof![4 => 1usize..300, 1 => 1usize..LARGE];
    prop_oneof![
        4 => (size.clone(), 0u32..=12).prop_map(|(size, align)| Step::Allocate { size, align: 1 << align }),
        3 => any::<prop::sample::Index>().prop_map(|index| Step::Free(index.index(1 << 16))),
        1 => (any::<prop::sample::Index>(), size)
            .prop_map(|(index, size)| Step::Reallocate { index: index.index(1 << 16), size }),
    ]
}

/// A block that the model believes in, filled with its own mark.
struct Held {
    block: *mut u8,
    layout: Layout,
    mark: u8,
}

fn fill(held: &Held) {
    // SAFETY: the block is held, and as long as its layout.
    unsafe { held.block.write_bytes(held.mark, held.layout.size()) };
}

fn check(held: &Held, len: usize) {
    for index in 0..len {
        // SAFETY: the block is held, and `len` is at most its layout's size.
        let byte = unsafe { held.block.add(index).read() };
        assert_eq!(byte, held.mark, "overwritten at {index}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 256 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    /// Random sequences against a list of marked blocks: aligned, inside, disjoint, never lost.
    #[test]
    fn random_sequences_keep_every_block_whole(steps in prop::collection::vec(step(), 0..200)) {
        let pool = Owned::new(1 << 18);
        let pool = &pool.0;
        let mut held: Vec<Held> = Vec::new();
        for (mark, step) in (1u8..=255).cycle().zip(steps) {
            match step {
                Step::Allocate { size, align } => {
                    let layout = layout(size, align);
                    let Some(block) = pool.allocate(layout) else { continue };
                    prop_assert!(block.addr().is_multiple_of(align));
                    prop_assert!(pool.contains(block));
                    prop_assert!(pool.contains(block.wrapping_add(size - 1)));
                    held.push(Held { block, layout, mark });
                    fill(held.last().unwrap());
                }
                Step::Free(index) if !held.is_empty() => {
                    let gone = held.swap_remove(index % held.len());
                    check(&gone, gone.layout.size());
                    // SAFETY: held, and forgotten here.
                    let freed = unsafe { pool.free(gone.block, gone.layout) };
                    prop_assert!(freed);
                }
                Step::Reallocate { index, size } if !held.is_empty() => {
                    let index = index % held.len();
                    let new = layout(size, held[index].layout.align());
                    let Some(block) = pool.allocate(new) else { continue };
                    let old = core::mem::replace(&mut held[index], Held { block, layout: new, mark });
                    check(&old, old.layout.size());
                    // SAFETY: held until here, and replaced.
                    let freed = unsafe { pool.free(old.block, old.layout) };
                    prop_assert!(freed);
                    fill(&held[index]);
                }
                _ => {}
            }
            prop_assert_eq!(pool.stats().live_blocks, held.len());
        }
        for held in &held {
            check(held, held.layout.size());
        }
    }
}
