//! A bundle from the outside: parse, verify, read every part of it. What opens must hold together.
#![no_main]

use edgeward::bundle::decode::{decode_policy, decode_profile};
use edgeward::bundle::golden::Golden;
use edgeward::bundle::{Bundle, Head, SectionKind};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(head) = Head::parse(bytes) {
        let _ = head.digest();
        let _ = head.manifest();
        assert!(head.head_bytes() <= head.total_bytes());
        for signature in head.signatures() {
            let _ = edgeward::trust::cose::parse(signature);
        }
        for index in 0..head.chunks() {
            assert!(head.chunk_hash(index).is_some());
        }
    }
    if let Ok(bundle) = Bundle::open(bytes) {
        let _ = bundle.verify_data();
        for kind in [
            SectionKind::Profile,
            SectionKind::Policy,
            SectionKind::Golden,
        ] {
            let Some(section) = bundle.section(kind) else {
                continue;
            };
            let _ = decode_profile::<128, 32>(section);
            let _ = decode_policy(section);
            golden(section);
        }
    }
    // The sections' parsers stand behind a hash, and must not lean on it.
    let _ = decode_profile::<8, 4>(bytes);
    let _ = decode_policy(bytes);
    golden(bytes);
});

fn golden(bytes: &[u8]) {
    if let Ok(golden) = Golden::parse(bytes) {
        let vectors = golden.iter().take(4).count();
        assert_eq!(vectors, (golden.count() as usize).min(4));
        for vector in golden.iter().take(4) {
            assert_eq!(vector.input.iter().count(), golden.input_len());
            let _ = vector.distance(&[0.0; 4]);
        }
    }
}
