mod errors;

use super::*;
use crate::bundle::header::{HEADER_BYTES, MAX_MANIFEST_BYTES, SIGNATURE_BLOCK_BYTES};
use crate::bundle::write::{BundleWriter, Description, WriteError, sign};
use crate::bundle::{BoardClass, Capabilities, FitError};
use crate::telemetry::Reason;
use crate::trust::root::RoleKeys;
use crate::trust::testing::{Fake, FakeVerifier};
use crate::trust::{Digest32, Signer};
use proptest::prelude::*;

fn description() -> Description {
    Description {
        name: "motion".into(),
        version: "1.2.3".into(),
        counter: 300,
        class: BoardClass::Linux,
        kernels: "tract".into(),
        arena_bytes: 0,
        min_runtime: 1,
    }
}

fn bundle(sections: &[(SectionKind, Vec<u8>)]) -> Vec<u8> {
    let mut writer = BundleWriter::new(description()).unwrap();
    for (kind, bytes) in sections {
        writer.section(*kind, bytes.clone()).unwrap();
    }
    writer.finish().unwrap()
}

fn small() -> Vec<u8> {
    bundle(&[
        (SectionKind::TractModel, vec![7; 5000]),
        (SectionKind::Policy, vec![1, 2, 3]),
    ])
}

/// What opening says once `edit` has been done to a sound bundle.
fn says(edit: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut bytes = small();
    edit(&mut bytes);
    match Bundle::open(&bytes) {
        Ok(bundle) => bundle.verify_data().unwrap_err().to_string(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_is_written_is_read() {
    let bytes = small();
    assert_eq!(bytes, small(), "packing is deterministic");
    let bundle = Bundle::open(&bytes).unwrap();
    bundle.verify_data().unwrap();
    let manifest = bundle.manifest();
    let Description {
        name,
        version,
        counter,
        class,
        kernels,
        arena_bytes,
        min_runtime,
    } = description();
    assert_eq!((manifest.name, manifest.version), (&*name, &*version));
    assert_eq!((manifest.counter, manifest.class), (counter, class));
    assert_eq!(manifest.kernels, kernels);
    assert_eq!(manifest.arena_bytes, arena_bytes);
    assert_eq!(manifest.min_runtime, min_runtime);
    assert_eq!(
        bundle.section(SectionKind::TractModel),
        Some(&[7; 5000][..])
    );
    assert_eq!(bundle.require(SectionKind::Policy), Ok(&[1, 2, 3][..]));
    assert_eq!(bundle.section(SectionKind::Golden), None);
    assert_eq!(
        bundle.require(SectionKind::Golden).unwrap_err().to_string(),
        "manifest.sections[5].kind: missing"
    );
    let head = bundle.head();
    assert_eq!((head.head_bytes(), head.total_bytes()), (4096, 4096 + 5024));
    assert_eq!(head.chunks(), 2);
    assert_eq!(head.check_chunk(0, &bytes[4096..8192]), Ok(()));
    assert_eq!(head.check_chunk(1, &bytes[8192..]), Ok(()));
    let says = |index, chunk: &[u8]| head.check_chunk(index, chunk).unwrap_err().to_string();
    assert_eq!(
        says(1, &bytes[8192..9000]),
        "data.chunks[1]: 808, where 928 follows from the rest"
    );
    assert_eq!(
        says(0, &bytes[4095..8191]),
        "data.chunks[0]: the SHA-256 does not match"
    );
    assert_eq!(says(2, &[]), "data.chunks[2]: missing");
    assert_eq!(says(u32::MAX, &[]), "data.chunks[4294967295]: missing");
}

#[test]
fn the_manifest_is_postcards() {
    let bytes = small();
    let head = Head::parse(&bytes).unwrap();
    let range = head.header().manifest_range();
    let decoded: Manifest<'_> = postcard::from_bytes(&bytes[range]).unwrap();
    assert_eq!(decoded, head.manifest().unwrap());
    for (code, kind) in SectionKind::ALL.into_iter().enumerate() {
        assert_eq!(SectionKind::from_code(kind.code()), Some(kind));
        let encoded = postcard::to_extend(&kind, Vec::new()).unwrap();
        assert_eq!(encoded, [code as u8]);
    }
}

#[test]
fn signatures_are_added_up_to_eight() {
    let mut bytes = small();
    let unsigned = bytes.clone();
    for number in 1..=8 {
        assert_eq!(
            sign(&mut bytes, &Fake(number)),
            Ok(Fake(number).public_key().id())
        );
        let before = bytes.clone();
        sign(&mut bytes, &Fake(number)).unwrap();
        assert_eq!(bytes, before, "signing twice changes nothing");
    }
    assert_eq!(sign(&mut bytes, &Fake(9)), Err(WriteError::SignaturesFull));
    let (head, before) = (
        Head::parse(&bytes).unwrap(),
        Head::parse(&unsigned).unwrap(),
    );
    assert_eq!(
        head.digest(),
        before.digest(),
        "signatures leave the digest alone"
    );
    assert_eq!(head.signatures().count(), 8);
    let keys: Vec<_> = (1..=8).map(|number| Fake(number).public_key()).collect();
    let role = RoleKeys::new(8, &keys).unwrap();
    let root = Root {
        version: 1,
        roles: [role.clone(), role.clone(), role.clone(), role],
    };
    assert_eq!(head.verify(&root, &FakeVerifier), Ok(()));
    bytes[5000] ^= 1;
    assert!(matches!(
        sign(&mut bytes, &Fake(1)),
        Err(WriteError::Bundle(_))
    ));
}

#[test]
fn a_bundle_fits_the_board_it_is_for_only() {
    let bytes = small();
    let head = Head::parse(&bytes).unwrap();
    let mut manifest = head.manifest().unwrap();
    manifest.arena_bytes = 100;
    manifest.min_runtime = 3;
    let board = Capabilities {
        class: BoardClass::Linux,
        kernels: &["generic", "tract"],
        runtime: 3,
        slot_bytes: head.total_bytes(),
        arena_bytes: 100,
    };
    let fit = |board| manifest.check_fit(&board, head.total_bytes());
    assert_eq!(fit(board), Ok(()));
    for (board, error, reason) in [
        (
            Capabilities {
                class: BoardClass::Mcu,
                ..board
            },
            FitError::Class {
                needs: BoardClass::Linux,
                has: BoardClass::Mcu,
            },
            Reason::WrongClass,
        ),
        (
            Capabilities {
                kernels: &["generic"],
                ..board
            },
            FitError::Kernels,
            Reason::WrongClass,
        ),
        (
            Capabilities {
                runtime: 2,
                ..board
            },
            FitError::Runtime { needs: 3, has: 2 },
            Reason::Unsupported,
        ),
        (
            Capabilities {
                slot_bytes: 9119,
                ..board
            },
            FitError::Slot {
                needs: 9120,
                has: 9119,
            },
            Reason::Unsupported,
        ),
        (
            Capabilities {
                arena_bytes: 99,
                ..board
            },
            FitError::Arena {
                needs: 100,
                has: 99,
            },
            Reason::Unsupported,
        ),
    ] {
        assert_eq!(fit(board), Err(error));
        assert_eq!(error.reason(), reason);
    }
}

#[test]
fn the_largest_manifest_fits_its_bound() {
    let text = "x".repeat(32);
    let section = crate::bundle::Section {
        kind: SectionKind::Golden,
        offset: u32::MAX,
        len: u32::MAX,
        sha256: Digest32::default(),
    };
    let manifest = Manifest {
        name: &text,
        version: &text,
        counter: u32::MAX,
        class: BoardClass::Mcu,
        kernels: &text,
        arena_bytes: u32::MAX,
        min_runtime: u16::MAX,
        sections: core::iter::repeat_n(section, 8).collect(),
    };
    let encoded = postcard::to_extend(&manifest, Vec::new()).unwrap();
    assert_eq!(encoded.len(), MAX_MANIFEST_BYTES);
    const { assert!(HEADER_BYTES + MAX_MANIFEST_BYTES + SIGNATURE_BLOCK_BYTES < CHUNK_BYTES) };
}

#[test]
fn what_cannot_be_read_cannot_be_written() {
    for text in ["", "a\u{7}", &"x".repeat(33)] {
        let mut description = description();
        description.version = text.into();
        let error = BundleWriter::new(description).unwrap_err();
        assert_eq!(error, WriteError::Text { field: "version" });
    }
    let mut writer = BundleWriter::new(description()).unwrap();
    assert_eq!(writer.finish(), Err(WriteError::NoSections));
    let kind = SectionKind::Golden;
    assert_eq!(
        writer.section(kind, []).unwrap_err(),
        WriteError::EmptySection(kind)
    );
    writer.section(kind, [1]).unwrap();
    assert_eq!(
        writer.section(kind, [1]).unwrap_err(),
        WriteError::DuplicateSection(kind)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_sections_come_back(
        contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..6000), 1..=6),
        counter: u32,
        arena_bytes: u32,
        min_runtime: u16,
    ) {
        let mut description = description();
        description.counter = counter;
        description.arena_bytes = arena_bytes;
        description.min_runtime = min_runtime;
        let mut writer = BundleWriter::new(description).unwrap();
        for (kind, bytes) in SectionKind::ALL.into_iter().zip(&contents) {
            writer.section(kind, bytes.clone()).unwrap();
        }
        let bytes = writer.finish().unwrap();
        let bundle = Bundle::open(&bytes).unwrap();
        for (kind, bytes) in SectionKind::ALL.into_iter().zip(&contents) {
            prop_assert_eq!(bundle.section(kind), Some(&bytes[..]));
        }
        let manifest = bundle.manifest();
        prop_assert_eq!(manifest.counter, counter);
        prop_assert_eq!(manifest.arena_bytes, arena_bytes);
        prop_assert_eq!(manifest.min_runtime, min_runtime);
        prop_assert_eq!(manifest.sections.len(), contents.len());
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        let _ = Bundle::open(&bytes);
    }

    /// Reaches what lies behind the magic: a sound bundle with some bytes replaced in its head,
    /// never opened with anything but a typed error or a bundle whose data can be checked.
    #[test]
    fn damaged_heads_never_panic(
        edits in prop::collection::vec((0..1200_usize, any::<u8>()), 1..6),
    ) {
        let mut bytes = small();
        sign(&mut bytes, &Fake(1)).unwrap();
        prop_assert!(Bundle::open(&bytes).is_ok(), "whole before it is damaged");
        for (at, value) in edits {
            bytes[at] = value;
        }
        if let Ok(bundle) = Bundle::open(&bytes) {
            let _ = bundle.verify_data();
            for kind in SectionKind::ALL {
                let _ = bundle.section(kind);
            }
        }
    }
}
