//! What a board does besides its model, in instructions: contract, drift and guard a sample, a window's
//! summary signed and queued, a release's head verified.

use crate::{count, host, print};
use core::hint::black_box;
use core::num::NonZeroU32;
use edgeward::bundle::Head;
use edgeward::contract::{Contract, Sample};
use edgeward::drift::Windows;
use edgeward::engine::{Engine, EngineError};
use edgeward::guard::Guard;
use edgeward::policy::Policy;
use edgeward::profile::{Layout, Profile};
use edgeward::runtime::Runtime;
use edgeward::telemetry::outbox::{Outbox, Region, max_buffer_bytes};
use edgeward::telemetry::{Body, Id, Summary};
use edgeward::trust::dalek::{DalekSigner, DalekVerifier};
use edgeward::trust::root::{RoleKeys, Root};
use edgeward::trust::{PublicKey, Role};
use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashErrorKind, ReadNorFlash, check_erase, check_read, check_write,
};

#[path = "../../../benches/monitor/profile.rs"]
mod shared;

/// As many as a microcontroller has room for.
const F: usize = 16;
const C: usize = 16;
const RECORDS: usize = 64;
const BUFFER: usize = max_buffer_bytes(F, C);

/// Those of the model.
const FEATURES: usize = 6;
const CLASSES: usize = 4;
/// Samples of a window of the model, and between two of its answers.
const WINDOW: u16 = 100;
const HOP: u16 = 10;
const INPUTS: usize = FEATURES * WINDOW as usize;
const SAMPLES: usize = shared::DRIFT_WINDOW as usize;
/// Of the head of a small release.
const HEAD_BYTES: usize = 4096;
/// Between two samples.
const PERIOD_MS: u64 = 10;

/// Runs all of it on the head of a release in a file, which begins with the public key that signed it;
/// `false` when anything fails.
pub fn run(release: &str, room: &'static mut [u8]) -> bool {
    let Some(release) = host::read(release, room) else {
        print!("error cannot read {release}");
        return false;
    };
    let mut values = [0.0; SAMPLES * FEATURES];
    values
        .iter_mut()
        .zip(shared::normal())
        .for_each(|(to, from)| *to = from);
    match all(&values, release) {
        Ok(()) => true,
        Err(what) => {
            print!("error {what}");
            false
        }
    }
}

fn all(values: &[f32; SAMPLES * FEATURES], release: &[u8]) -> Result<(), &'static str> {
    let mut sorted = *values;
    sorted.sort_unstable_by(f32::total_cmp);
    let profile = shared::profile(&sorted, FEATURES, WINDOW, HOP, Layout::FeaturesFirst);
    contract(&profile, values);
    drift(&profile, values);
    guard(&profile, values)?;
    let summary = runtime(profile, values).ok_or("no window ended")?;
    summary_of(summary)?;
    manifest(release)
}

/// Instructions of one piece of work, again and again.
#[derive(Default)]
struct Work {
    times: u64,
    total: u64,
    most: u32,
}

impl Work {
    fn add<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = count::now();
        let done = black_box(work());
        let taken = count::between(start, count::now());
        self.times += 1;
        self.total += u64::from(taken);
        self.most = self.most.max(taken);
        done
    }

    /// The mean, rounded up, and the most.
    fn print(&self, name: &str) {
        let mean = self.total.div_ceil(self.times.max(1));
        print!("work {name} {mean} {}", self.most);
    }
}

fn samples(values: &[f32]) -> impl Iterator<Item = Sample<'_>> {
    let rows = values.chunks_exact(FEATURES).zip(0_u32..);
    rows.map(|(values, sequence)| Sample {
        sequence,
        time_ms: u64::from(sequence) * PERIOD_MS,
        values,
    })
}

fn contract(profile: &Profile<F, C>, values: &[f32]) {
    let policy = Policy::standard();
    let mut contract = Contract::<F>::new(profile, &policy);
    let (mut work, mut out) = (Work::default(), [0.0; F]);
    for sample in samples(values) {
        work.add(|| {
            let sample = black_box(&sample);
            contract.check(
                profile,
                &policy,
                sample,
                sample.time_ms,
                &mut out,
                &mut |v| {
                    black_box(v);
                },
            )
        });
    }
    work.print("contract");
}

fn drift(profile: &Profile<F, C>, values: &[f32]) {
    let mut windows = Windows::<F>::new(&profile.features);
    let (mut work, mut row) = (Work::default(), [f32::NAN; F]);
    for sample in samples(values) {
        row[..FEATURES].copy_from_slice(sample.values);
        work.add(|| windows.push(&profile.features, black_box(&row)));
    }
    work.print("drift");
}

fn guard(profile: &Profile<F, C>, values: &[f32]) -> Result<(), &'static str> {
    let policy = Policy::standard().guard;
    let (mut work, mut guard) = (Work::default(), Guard::<C>::default());
    for logits in values.chunks_exact(CLASSES) {
        work.add(|| {
            let judged = guard.judge(&profile.output, &policy, black_box(logits), false);
            judged.map(|mut prediction| {
                guard.finish(&policy, &mut prediction, 50);
                prediction
            })
        })
        .map_err(|_| "to judge")?;
    }
    work.print("guard");
    Ok(())
}

/// An engine that answers with the first values.
struct Null;

impl Engine for Null {
    fn input_len(&self) -> usize {
        INPUTS
    }

    fn output_len(&self) -> usize {
        CLASSES
    }

    fn run(&mut self, input: &[f32], output: &mut [f32]) -> Result<(), EngineError> {
        output.copy_from_slice(&input[..CLASSES]);
        Ok(())
    }
}

/// All that happens to a sample but for the model, an answer every [`HOP`] of them and the end of a window
/// of drift among it; the window's summary, and what that takes.
fn runtime(profile: Profile<F, C>, values: &[f32]) -> Option<Summary<F, C>> {
    let policy = Policy::standard();
    let mut runtime = Runtime::new(Null, [0; 8], profile, policy, [0.0; INPUTS]).ok()?;
    let [mut work, mut end] = [(); 2].map(|()| Work::default());
    let mut summary = None;
    for sample in samples(values) {
        let now = sample.time_ms;
        let step = work.add(|| runtime.push(black_box(&sample), now, &mut || 0));
        if step.window_closed {
            summary = Some(end.add(|| runtime.take_summary(now)));
        }
    }
    work.print("runtime");
    end.print("window");
    summary
}

/// A summary to the outbox, and from there into a signed frame.
fn summary_of(summary: Summary<F, C>) -> Result<(), &'static str> {
    const SECTOR: u32 = 4096;
    const SECTORS: u16 = 4;
    let region = Region {
        offset: 0,
        sector_bytes: SECTOR,
        sectors: SECTORS,
    };
    let mut flash = [0xFF; SECTOR as usize * SECTORS as usize];
    let outbox = Outbox::open(Ram(&mut flash), region, 1, NonZeroU32::MIN);
    let mut outbox: Outbox<_, F, C, RECORDS, BUFFER> = outbox.map_err(|_| "outbox")?;
    let signer = DalekSigner::from_seed(&[7; 32]);
    let device: Id = "board-1".try_into().map_err(|_| "a name")?;
    let body = Body::Summary(summary);
    let [mut queued, mut signed] = [(); 2].map(|()| Work::default());
    queued
        .add(|| outbox.push(1000, black_box(&body)))
        .map_err(|_| "to queue")?;
    let frame = signed.add(|| outbox.sign_after(0, &device, &signer));
    let frame = frame.ok().flatten().ok_or("to sign")?;
    let bytes = frame.bytes;
    queued.print("queue");
    signed.print("sign");
    print!("frame {bytes}");
    Ok(())
}

/// The head of a release, from its bytes to the word of its signature.
fn manifest(release: &[u8]) -> Result<(), &'static str> {
    let (key, head) = release.split_first_chunk().ok_or("no key")?;
    let role = RoleKeys::new(1, &[PublicKey(*key)]).map_err(|_| "the key")?;
    let root = Root {
        version: 1,
        roles: [(); Role::COUNT].map(|()| role.clone()),
    };
    let mut work = Work::default();
    let verified = work.add(|| {
        let head = Head::parse(black_box(head)).ok()?;
        let manifest = head.manifest().ok()?;
        head.verify(&root, &DalekVerifier).ok()?;
        Some(manifest.counter)
    });
    verified.ok_or("the head")?;
    work.print("manifest");
    // What was counted says no to another head.
    let mut other = [0; HEAD_BYTES];
    let other = other.get_mut(..head.len()).ok_or("a long head")?;
    other.copy_from_slice(head);
    // In the last hash of the table.
    let signed = Head::parse(head).map_err(|_| "the head")?;
    other[signed.header().signed_bytes() - 1] ^= 1;
    let other = Head::parse(other).map_err(|_| "another head")?;
    match other.verify(&root, &DalekVerifier) {
        Ok(()) => Err("a changed head verifies"),
        Err(_) => Ok(()),
    }
}

/// Flash in memory: what is counted is the board's own work.
struct Ram<'a>(&'a mut [u8]);

impl ErrorType for Ram<'_> {
    type Error = NorFlashErrorKind;
}

impl ReadNorFlash for Ram<'_> {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), NorFlashErrorKind> {
        check_read(self, offset, bytes.len())?;
        bytes.copy_from_slice(&self.0[offset as usize..][..bytes.len()]);
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.0.len()
    }
}

impl NorFlash for Ram<'_> {
    const WRITE_SIZE: usize = 8;
    const ERASE_SIZE: usize = 4096;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), NorFlashErrorKind> {
        check_erase(self, from, to)?;
        self.0[from as usize..to as usize].fill(0xFF);
        Ok(())
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), NorFlashErrorKind> {
        check_write(self, offset, bytes.len())?;
        let place = &mut self.0[offset as usize..][..bytes.len()];
        place
            .iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to &= from);
        Ok(())
    }
}
