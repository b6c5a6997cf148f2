//! A bundle from the outside: parse, verify, read every part of it. What opens must hold together.
#![no_main]

use edgeward::bundle::decode::{decode_policy, decode_profile, encode_policy, encode_profile};
use edgeward::bundle::golden::Golden;
use edgeward::bundle::{Bundle, Head, SectionKind};
use edgeward::profile::Profile;
use edgeward_fuzz::release::{self, bundle, repair, sections_of, seeds};
use edgeward_fuzz::{Gullible, Mode, planted, root};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: edgeward_fuzz::seeds(seeds), |input: &[u8]| {
    let Some((mode, bytes)) = Mode::split(input) else {
        return;
    };
    match mode {
        Mode::Raw => {
            open(bytes);
            // The sections' parsers stand behind a hash, and must not lean on it.
            profile(bytes);
            policy(bytes);
            golden(bytes);
        }
        Mode::Repaired => {
            let mut bytes = bytes.to_vec();
            repair(&mut bytes);
            open(&bytes);
        }
        Mode::Content => {
            if let Some(bytes) = bundle(&sections_of(bytes)) {
                assert!(Bundle::open(&bytes).is_ok(), "what is written can be read");
                open(&bytes);
            }
        }
    }
});

fn open(bytes: &[u8]) {
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
    let Ok(bundle) = Bundle::open(bytes) else {
        return;
    };
    let _ = bundle.verify(&root(), &Gullible);
    let whole = bundle.verify_data().is_ok();
    for kind in (0..6).filter_map(SectionKind::from_code) {
        let Some(section) = bundle.section(kind) else {
            continue;
        };
        assert!(!section.is_empty(), "an empty section");
        match kind {
            SectionKind::Profile => {
                let changed = profile(section).is_some_and(|read| read != release::profile());
                planted(whole && changed);
            }
            SectionKind::Policy => policy(section),
            SectionKind::Golden => golden(section),
            _ => {}
        }
    }
}

/// Reads a profile and writes it again.
fn profile(bytes: &[u8]) -> Option<Profile<128, 32>> {
    let _ = decode_profile::<8, 4>(bytes);
    let profile = decode_profile::<128, 32>(bytes).ok()?;
    let again = encode_profile(&profile).expect("what was read can be written");
    let read = decode_profile::<128, 32>(&again).expect("what was written can be read");
    assert_eq!(read, profile);
    Some(profile)
}

fn policy(bytes: &[u8]) {
    if let Ok(policy) = decode_policy(bytes) {
        let again = encode_policy(&policy).expect("what was read can be written");
        assert_eq!(decode_policy(&again).as_ref(), Ok(&policy));
    }
}

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
