//! Nothing allocated on the hot path: with the pool installed, ten thousand inferences ask the
//! system for nothing. `docs/ALLOCATION.md` says what that means.

#[path = "engine/support.rs"]
mod support;

use edgeward::contract::Sample;
use edgeward::engine::Engine;
use edgeward::engine::pool::{self, Calls, PoolAllocator};
use edgeward::engine::tract::{ModelSpec, TractEngine};
use edgeward::policy::Policy;
use edgeward::recorder::{Recorder, Records, Snapshot};
use edgeward::runtime::Runtime;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use support::{WINDOW, motion_profile, npy_rows, read, samples, workspace};

#[global_allocator]
static ALLOCATOR: PoolAllocator = PoolAllocator::system();

const INFERENCES: u32 = 10_000;
/// Inferences before counting starts: each free list then holds what an inference asks for.
const WARM_UP: u32 = 100;

fn engine() -> TractEngine {
    let model = read(&workspace("models/motion/motion-v1.onnx"));
    TractEngine::load(&model, &ModelSpec::with_shape(&[1, 6, WINDOW])).unwrap()
}

fn since(before: Calls) -> Calls {
    let now = pool::calls();
    Calls {
        allocations: now.allocations - before.allocations,
        frees: now.frees - before.frees,
    }
}

/// Has the pool to itself: no other test moves its figures meanwhile.
fn alone() -> MutexGuard<'static, ()> {
    static POOL: Mutex<()> = Mutex::new(());
    // A test that failed left nothing behind in there.
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn ten_thousand_inferences_ask_the_system_for_nothing() {
    let _alone = alone();
    engine_alone();
    whole_runtime();
    on_a_second_thread();
    what_the_pool_can_not_serve_is_seen();
    #[cfg(target_os = "linux")]
    what_is_set_aside_is_not_used();
}

/// The region is address space; memory becomes real where the pool touches it.
#[cfg(target_os = "linux")]
fn what_is_set_aside_is_not_used() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let resident = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let kib: usize = resident.split_whitespace().nth(1).unwrap().parse().unwrap();
    println!("process: {kib} KiB of real memory at most");
    assert!(kib * 1024 < pool::stats().reserved_bytes);
}

fn engine_alone() {
    let mut engine = engine();
    let inputs = npy_rows(&workspace("models/motion/golden-v1-input.npy"));
    let mut output = [0.0; 4];
    for input in inputs.iter().cycle().take(WARM_UP as usize) {
        engine.run(input, &mut output).unwrap();
    }
    let (before, pool_before) = (pool::calls(), pool::stats());
    for input in inputs.iter().cycle().take(INFERENCES as usize) {
        engine.run(input, &mut output).unwrap();
    }
    let (calls, pool_after) = (since(before), pool::stats());
    println!(
        "engine: {calls:?} in {INFERENCES} inferences; {} blocks an inference from the pool, \
         {} bytes set aside, {} of them used",
        (pool_after.served - pool_before.served) / u64::from(INFERENCES),
        pool_after.reserved_bytes,
        pool_after.carved_bytes,
    );
    assert_eq!(calls, Calls::default());
    assert_eq!(
        pool_after.carved_bytes, pool_before.carved_bytes,
        "the pool must not grow"
    );
    assert_eq!(
        pool_after.live_blocks, pool_before.live_blocks,
        "nor may an inference keep a block"
    );
    assert_eq!(pool_after.passed_on, 0);
    assert!(
        pool_after.served > pool_before.served,
        "tract must have used the pool at all"
    );
}

/// From the arrival of a sample to the finished prediction, with contract, drift, guard and flight
/// recorder, and with the window's report taken.
fn whole_runtime() {
    let stream = samples(&workspace("models/motion/test.csv"));
    let profile = motion_profile(&samples(&workspace("models/motion/train.csv")));
    let tensor = vec![0.0f32; 6 * WINDOW];
    let mut runtime = Runtime::new(engine(), [0; 8], profile, Policy::standard(), tensor).unwrap();
    let mut recorder = Recorder::new(vec![0; 256 << 10]);
    let start = Instant::now();
    let mut clock_us = || start.elapsed().as_micros() as u64;
    let (mut predictions, mut windows, mut before) = (0, 0, None);
    for (sequence, values) in (0u32..).zip(stream.iter().cycle()) {
        let time_ms = u64::from(sequence) * 100;
        let sample = Sample {
            sequence,
            time_ms,
            values,
        };
        let step = runtime.push_recorded(&sample, time_ms, &mut clock_us, Some(&mut recorder));
        assert!(step.error.is_none());
        predictions += u32::from(step.prediction.is_some());
        if step.window_closed {
            assert_eq!(runtime.take_summary(time_ms).samples, 1000);
            windows += 1;
        }
        while runtime.pop_alarm().is_some() {}
        if predictions == WARM_UP {
            before.get_or_insert_with(pool::calls);
        }
        if predictions == WARM_UP + INFERENCES {
            break;
        }
    }
    let calls = since(before.unwrap());
    println!("runtime: {calls:?} in {INFERENCES} inferences and {windows} windows");
    assert_eq!(calls, Calls::default());
    assert!(windows > 90);
    let mut bytes = vec![0; recorder.len()];
    recorder.read(0, &mut bytes);
    let last = Records::new(&bytes).last().unwrap().unwrap();
    assert_eq!(last.number, u64::from(predictions), "all were recorded");
}

/// An engine may run on another thread than the one that loaded it: tract keeps scratch memory a
/// thread, so the first run there may ask the system, and later ones not.
fn on_a_second_thread() {
    let mut engine = engine();
    std::thread::spawn(move || {
        let input = vec![0.5f32; engine.input_len()];
        let mut output = [0.0; 4];
        for _ in 0..WARM_UP {
            engine.run(&input, &mut output).unwrap();
        }
        let before = pool::calls();
        for _ in 0..1000 {
            engine.run(&input, &mut output).unwrap();
        }
        assert_eq!(since(before), Calls::default());
    })
    .join()
    .unwrap();
}

fn what_the_pool_can_not_serve_is_seen() {
    let (before, pool_before) = (pool::calls(), pool::stats());
    // Longer than the whole region.
    let long = pool::scope(|| Vec::<u8>::with_capacity(2 * pool::DEFAULT_REGION_BYTES));
    assert_eq!(since(before).allocations, 1);
    assert_eq!(pool::stats().passed_on, pool_before.passed_on + 1);
    drop(std::hint::black_box(long));
    assert_eq!(since(before).frees, 1);
}

#[test]
fn the_counter_counts() {
    let _alone = alone();
    assert!(pool::installed());
    let before = pool::calls();
    let mut vector = std::hint::black_box(Vec::<u64>::with_capacity(10));
    assert_eq!(
        since(before),
        Calls {
            allocations: 1,
            frees: 0
        }
    );
    vector.reserve_exact(1000);
    assert_eq!(
        since(before),
        Calls {
            allocations: 2,
            frees: 1
        },
        "growth counts as both"
    );
    drop(std::hint::black_box(vector));
    assert_eq!(
        since(before),
        Calls {
            allocations: 2,
            frees: 2
        }
    );
}

#[test]
fn blocks_outlive_their_scope_and_thread() {
    let _alone = alone();
    pool::reserve(pool::DEFAULT_REGION_BYTES);
    let made = pool::scope(|| (0..1000u32).collect::<Vec<_>>());
    let made = std::thread::spawn(move || {
        let before = pool::calls();
        let mut made = made;
        // Outside a scope it moves to the system, and its block goes back to the pool.
        made.push(1000);
        assert_eq!(
            since(before),
            Calls {
                allocations: 1,
                frees: 0
            }
        );
        made.reserve(10_000);
        assert_eq!(
            since(before),
            Calls {
                allocations: 2,
                frees: 1
            }
        );
        made
    })
    .join()
    .unwrap();
    assert!(made.iter().copied().eq(0..=1000));
}

#[test]
fn zeroed_blocks_are_zero_also_when_recycled() {
    let _alone = alone();
    pool::reserve(pool::DEFAULT_REGION_BYTES);
    pool::scope(|| {
        for _ in 0..10 {
            let mut vector = vec![0u8; 3000];
            assert!(vector.iter().all(|&byte| byte == 0));
            vector.fill(0xff);
            std::hint::black_box(&vector);
        }
    });
}

#[test]
fn a_scope_ends_when_its_closure_panics() {
    let _alone = alone();
    pool::reserve(pool::DEFAULT_REGION_BYTES);
    let panicked = std::panic::catch_unwind(|| {
        pool::scope(|| std::panic::resume_unwind(Box::new("meant to")))
    });
    assert!(panicked.is_err());
    let before = pool::calls();
    drop(std::hint::black_box(Box::new(1u64)));
    assert_eq!(
        since(before),
        Calls {
            allocations: 1,
            frees: 1
        }
    );
}
