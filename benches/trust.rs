//! What trust costs: a bundle's head and data, and frames signed and verified.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use edgeward::bundle::write::sign;
use edgeward::bundle::{BoardClass, Bundle, BundleWriter, Description, Head, SectionKind};
use edgeward::trust::cose::{self, ContentType};
use edgeward::trust::ring::{RingSigner, RingVerifier};
use edgeward::trust::root::{RoleKeys, Root};
use edgeward::trust::{Role, Signer};
use std::hint::black_box;

/// Bytes of the model in the bundle: about that of the motion example.
const MODEL_BYTES: usize = 64 * 1024;
/// Bytes of a frame's payload: about a summary of six features.
const FRAME_BYTES: usize = 1024;

fn bundle(key: &RingSigner) -> Vec<u8> {
    let mut writer = BundleWriter::new(Description {
        name: "bench".into(),
        version: "1.0.0".into(),
        counter: 1,
        class: BoardClass::Linux,
        kernels: "tract".into(),
        arena_bytes: 0,
        min_runtime: 1,
    })
    .expect("the description is plain");
    writer
        .section(SectionKind::TractModel, vec![5; MODEL_BYTES])
        .expect("first of its kind");
    let mut bytes = writer.finish().expect("it fits");
    sign(&mut bytes, key).expect("there is room");
    bytes
}

fn bundles(c: &mut Criterion) {
    let key = RingSigner::from_seed(&[1; 32]).expect("any seed is a key");
    let bytes = bundle(&key);
    let role = RoleKeys::new(1, &[key.public_key()]).expect("one fits");
    let root = Root {
        version: 1,
        roles: [(); Role::COUNT].map(|()| role.clone()),
    };
    let mut group = c.benchmark_group("bundle");
    group.bench_function("parse and verify the head", |b| {
        b.iter(|| {
            let head = Head::parse(black_box(&bytes)).expect("it is sound");
            head.verify(&root, &RingVerifier).expect("it is signed");
        });
    });
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("open, verify, and hash all data", |b| {
        b.iter(|| {
            let bundle = Bundle::open(black_box(&bytes)).expect("it is sound");
            bundle.verify(&root, &RingVerifier).expect("it is signed");
            bundle.verify_data().expect("the hashes hold");
        });
    });
    group.finish();
}

fn frames(c: &mut Criterion) {
    let key = RingSigner::from_seed(&[2; 32]).expect("any seed is a key");
    let public = key.public_key();
    let payload = vec![7; FRAME_BYTES];
    let mut out = vec![0; ContentType::Frame.embedded_bytes(FRAME_BYTES)];
    let mut group = c.benchmark_group("frame");
    group.bench_function("sign", |b| {
        b.iter(|| {
            cose::sign_embedded(&key, ContentType::Frame, black_box(&payload), &mut out)
                .expect("it fits")
        });
    });
    group.bench_function("verify", |b| {
        b.iter(|| {
            cose::verify_one(black_box(&out), ContentType::Frame, &public, &RingVerifier)
                .expect("it is signed")
                .len()
        });
    });
    group.finish();
}

criterion_group!(benches, bundles, frames);
criterion_main!(benches);
