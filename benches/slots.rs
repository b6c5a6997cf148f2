//! What the slots cost: a switch of slots, a boot, an append to the journal.
//!
//! On flash in memory, so these are the costs of hashing and bookkeeping; a real flash adds its
//! erases and writes, whose number is printed.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use edgeward::bundle::{BoardClass, CHUNK_BYTES};
use edgeward::slots::ram::RamFlash;
use edgeward::slots::{Layout, Slot, Slots};
use edgeward::sync::Target;
use edgeward::telemetry::Text;
use edgeward::trust::root::{RoleKeys, Root};
use edgeward::trust::{PublicKey, sha256};
use std::hint::black_box;

const CAPACITY: usize = 1 << 20;
type Flash = RamFlash<4, 4096>;

fn release(counter: u32, data_bytes: usize) -> (Vec<u8>, u32, Target) {
    let data: Vec<u8> = (0..data_bytes)
        .map(|at| (at as u32 * 7 + counter) as u8)
        .collect();
    let mut bytes = format!("release {counter:08}").into_bytes();
    bytes.extend(data.chunks(CHUNK_BYTES).flat_map(sha256));
    let signed_bytes = bytes.len() as u32;
    let digest = sha256(&bytes);
    bytes.resize(CHUNK_BYTES, 0);
    bytes.extend(&data);
    let target = Target {
        class: BoardClass::Mcu,
        digest,
        counter,
        version: Text::new(),
        head_bytes: CHUNK_BYTES as u32,
        total_bytes: bytes.len() as u32,
    };
    (bytes, signed_bytes, target)
}

/// A board that runs one release and has the next one complete in its idle slot.
fn received() -> (Slots<Flash>, Slot, u32) {
    let layout = Layout::split(CAPACITY as u32, 4096).expect("large enough");
    let role = RoleKeys::new(1, &[PublicKey([1; 32])]).expect("one key");
    let roles = core::array::from_fn(|_| role.clone());
    let root = Root { version: 1, roles };
    let mut slots = Slots::provision(Flash::new(CAPACITY), layout, root).expect("provisions");
    slots.begin_boot().expect("boots");
    for counter in 1..3 {
        let (bytes, signed_bytes, target) = release(counter, 200_000);
        let slot = slots.begin_receive(&target, [0; 8]).expect("receives");
        for (n, chunk) in bytes.chunks(CHUNK_BYTES).enumerate() {
            slots.write_chunk(slot, n as u32, chunk).expect("writes");
        }
        if counter == 2 {
            return (slots, slot, signed_bytes);
        }
        slots.stage(slot, signed_bytes).expect("stages");
        slots.begin_trial(slot, 2).expect("tries");
        slots.confirm(slot).expect("confirms");
    }
    unreachable!("the second release returns")
}

fn switch(slots: &mut Slots<Flash>, slot: Slot, signed_bytes: u32) {
    slots.stage(slot, signed_bytes).expect("stages");
    slots.begin_trial(slot, 2).expect("tries");
    slots.confirm(slot).expect("confirms");
}

fn benches(criterion: &mut Criterion) {
    let (mut slots, slot, signed_bytes) = received();
    let layout = *slots.layout();
    let flash = slots.into_flash();
    let before = flash.ops().len();
    slots = Slots::open(flash.clone(), layout).expect("opens");
    switch(&mut slots, slot, signed_bytes);
    let after = slots.into_flash();
    let ops = &after.ops()[before..];
    let erases = ops.iter().filter(|op| op.erase).count();
    println!(
        "a switch takes {} writes and {erases} erases",
        ops.len() - erases
    );

    let mut group = criterion.benchmark_group("slots");
    group.bench_function("switch_200k", |bencher| {
        bencher.iter_batched(
            received,
            |(mut slots, slot, signed_bytes)| switch(&mut slots, slot, signed_bytes),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("open_and_boot_200k", |bencher| {
        bencher.iter_batched(
            || after.clone(),
            |flash| {
                let mut slots = Slots::open(flash, layout).expect("opens");
                black_box(slots.begin_boot().expect("boots"))
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("open", |bencher| {
        bencher.iter_batched(
            || after.clone(),
            |flash| Slots::open(flash, layout).expect("opens"),
            BatchSize::PerIteration,
        );
    });
    let mut sequence = 0;
    let mut slots = Slots::open(after.clone(), layout).expect("opens");
    group.bench_function("journal_append", |bencher| {
        bencher.iter(|| {
            sequence += 1;
            slots.set_desired(sequence, [0; 32]).expect("appends");
        });
    });
    group.finish();
}

criterion_group!(slots, benches);
criterion_main!(slots);
