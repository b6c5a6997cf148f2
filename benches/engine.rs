//! What the runtime adds to an inference of tract: bare engine and whole runtime take turns in one
//! process, and the overhead is printed as their ratio.
//!
//! One inference of the runtime is ten samples of six features through contract and drift, the model
//! on the tensor, the guard on its output, and a hundredth part of a window's report.
//! The bound is 5 % of bare tract or 2 microseconds an inference, whichever is larger: for contract, drift,
//! guard and bookkeeping. What the flight recorder adds to that is printed beside it.

#[path = "../tests/engine/contenders.rs"]
mod contenders;
#[path = "../tests/engine/support.rs"]
mod support;

use contenders::{Bare, INFERENCES, Whole, compare, contenders, quantile};
use criterion::{Criterion, Throughput, criterion_group};
use edgeward::engine::pool::{self, PoolAllocator};
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: PoolAllocator = PoolAllocator::system();

/// Pairs of contenders, each in memory of its own: what of it shares sets of the caches makes a quarter of a
/// microsecond, either way.
const PLACES: usize = 8;
/// Rounds in each place.
const ROUNDS: usize = 500;

fn overhead(places: &mut [(Bare, Whole)], recorded: bool) {
    let (mut alone, mut within) = (Vec::new(), Vec::new());
    let mut calls = 0;
    for (bare, whole) in places {
        whole.recorded = recorded;
        compare(bare, whole, 100);
        let before = pool::calls();
        let (bare, whole) = compare(bare, whole, ROUNDS);
        // The two vectors of results are the bench's own.
        calls += pool::calls().allocations - before.allocations - 2;
        alone.extend(bare);
        within.extend(whole);
    }
    let mut added: Vec<f64> = alone.iter().zip(&within).map(|(a, b)| b - a).collect();
    let added = quantile(&mut added, 0.5);
    let quiet = quantile(&mut within, 0.1) - quantile(&mut alone, 0.1);
    let (alone, within) = (quantile(&mut alone, 0.5), quantile(&mut within, 0.5));
    let bound = f64::max(0.05 * alone, 2000.0);
    let (share, kept) = (added / alone * 100.0, added <= bound);
    let what = match recorded {
        true => "runtime and flight recorder",
        false => "runtime",
    };
    println!(
        "overhead of the {what}, medians of {PLACES} x {ROUNDS} pairs of {INFERENCES} inferences:"
    );
    println!("  tract alone {alone:8.0} ns");
    println!("  runtime     {within:8.0} ns");
    println!(
        "  added       {added:8.0} ns, {share:.2} % of tract; {quiet:.0} ns in the fastest tenth"
    );
    println!("  bound       {bound:8.0} ns, the larger of 5 % and 2 us; kept: {kept}");
    println!("  meanwhile   {calls:8} allocations by the system");
}

/// The two by themselves, ten inferences each, so that changes of either are seen.
fn inferences(c: &mut Criterion) {
    let (mut bare, mut whole) = contenders();
    let mut group = c.benchmark_group("inferences");
    group.throughput(Throughput::Elements(INFERENCES.into()));
    group.bench_function("tract", |b| {
        b.iter_custom(|rounds| timed(rounds, &mut bare, Bare::prepare, Bare::round));
    });
    group.bench_function("runtime", |b| {
        b.iter_custom(|rounds| timed(rounds, &mut whole, Whole::prepare, Whole::round));
    });
}

/// How long rounds take without what prepares them.
fn timed<T>(rounds: u64, it: &mut T, prepare: fn(&mut T), round: fn(&mut T)) -> Duration {
    let one = |_| {
        prepare(it);
        let start = Instant::now();
        round(it);
        start.elapsed()
    };
    (0..rounds).map(one).sum()
}

criterion_group!(benches, inferences);

fn main() {
    let mut places: Vec<_> = (0..PLACES).map(|_| contenders()).collect();
    for recorded in [false, true] {
        overhead(&mut places, recorded);
    }
    benches();
}
