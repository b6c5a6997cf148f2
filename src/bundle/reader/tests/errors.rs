//! Each error names its field and offset.

use super::*;

/// Replaces the manifest by another one of any length; the chunk table follows it.
fn with_manifest(manifest: &[u8]) -> String {
    says(|bytes| {
        let old = FileHeader::parse(bytes).unwrap();
        let table = bytes[old.table_range()].to_vec();
        let new = FileHeader::new(manifest.len() as u32, old.total_bytes - old.head_bytes);
        let new = new.unwrap();
        assert_eq!(new.head_bytes, old.head_bytes);
        bytes[..HEADER_BYTES].copy_from_slice(&new.to_bytes());
        bytes[HEADER_BYTES..new.head_bytes as usize].fill(0);
        bytes[new.manifest_range()].copy_from_slice(manifest);
        bytes[new.table_range()].copy_from_slice(&table);
    })
}

/// The small bundle's manifest with `edit` done to it, in postcard's own encoding.
fn edited(edit: impl FnOnce(&mut Manifest<'_>)) -> String {
    let bytes = small();
    let mut manifest = Head::parse(&bytes).unwrap().manifest().unwrap();
    edit(&mut manifest);
    with_manifest(&postcard::to_extend(&manifest, Vec::new()).unwrap())
}

#[test]
fn errors_of_the_header_name_field_and_offset() {
    for (at, value, expected) in [
        (0, 0, "header.magic at byte 0: not a bundle"),
        (
            8,
            2,
            "header.format_version at byte 8: format version 2 is unknown (this reads 1)",
        ),
        (
            10,
            65,
            "header.header_bytes at byte 10: 65, where 64 follows from the rest",
        ),
        (
            13,
            0,
            "header.chunk_bytes at byte 12: 0, where 4096 follows from the rest",
        ),
        (17, 9, "header.manifest_bytes at byte 16: out of range"),
        (20, 0, "header.chunk_count at byte 20: empty"),
        (
            20,
            3,
            "header.chunk_count at byte 20: 3, where 2 follows from the rest",
        ),
        (
            25,
            32,
            "header.head_bytes at byte 24: 8192, where 4096 follows from the rest",
        ),
        (29, 1, "header.total_bytes at byte 28: out of range"),
        (28, 1, "header.total_bytes at byte 28: not a multiple of 16"),
        (
            63,
            1,
            "header.reserved at byte 63: a padding byte is not zero",
        ),
    ] {
        assert_eq!(says(|bytes| bytes[at] = value), expected);
    }
    assert_eq!(
        FileHeader::parse(b"a text").unwrap_err().to_string(),
        "header.magic at byte 0: not a bundle"
    );
    assert_eq!(
        FileHeader::parse(b"EDGEWARD").unwrap_err().to_string(),
        "file at byte 8: the bytes end here"
    );
    assert_eq!(
        says(|bytes| bytes[20..24].fill(0xff)),
        "header.chunk_count at byte 20: out of range"
    );
}

#[test]
fn errors_of_the_manifest_name_field_and_offset() {
    for (edit, expected) in [
        (
            (|m| m.name = "") as fn(&mut Manifest<'_>),
            "manifest.name at byte 64: text that is empty, too long, not UTF-8 or has control characters",
        ),
        (
            |m| m.kernels = "a\nb",
            "manifest.kernels at byte 80: text that is empty, too long, not UTF-8 or has control characters",
        ),
        (
            |m| m.sections.clear(),
            "manifest.sections at byte 88: empty",
        ),
        (
            |m| m.sections[1].kind = SectionKind::TractModel,
            "manifest.sections[1].kind at byte 126: there is one like it already",
        ),
        (
            |m| m.sections[1].offset += 8,
            "manifest.sections[1].offset at byte 127: not a multiple of 16",
        ),
        (
            |m| m.sections[1].offset -= 16,
            "manifest.sections[1].offset at byte 127: overlaps or precedes the one before it",
        ),
        (
            |m| m.sections[0].offset += 16,
            "manifest.sections[0].offset at byte 90: out of range",
        ),
        (
            |m| m.sections[1].offset += 16,
            "manifest.sections[1].offset at byte 127: out of range",
        ),
        (
            |m| m.sections[1].len = 0,
            "manifest.sections[1].len at byte 129: empty",
        ),
        (
            |m| m.sections[1].len = 17,
            "manifest.sections[1].len at byte 129: out of range",
        ),
        (
            |m| m.sections[1].len = u32::MAX,
            "manifest.sections[1].len at byte 129: out of range",
        ),
        (
            |m| m.sections.truncate(1),
            "header.total_bytes at byte 28: 9120, where 9104 follows from the rest",
        ),
        (
            |m| m.sections[1].sha256[0] ^= 1,
            "data.sections[1] at byte 9104: the SHA-256 does not match",
        ),
    ] {
        assert_eq!(edited(edit), expected);
    }
}

#[test]
fn unknown_variants_and_long_numbers_are_named() {
    let bytes = small();
    let range = FileHeader::parse(&bytes).unwrap().manifest_range();
    let raw = |edit: fn(&mut Vec<u8>)| {
        let mut manifest = bytes[range.clone()].to_vec();
        edit(&mut manifest);
        with_manifest(&manifest)
    };
    // Offsets in the manifest: counter 13, class 15, kernels 16, sections 24, first kind 25.
    assert_eq!(
        raw(|m| m[15] = 2),
        "manifest.class at byte 79: 2 is unknown"
    );
    assert_eq!(
        raw(|m| m[25] = 6),
        "manifest.sections[0].kind at byte 89: 6 is unknown"
    );
    assert_eq!(
        raw(|m| drop(m.splice(15..16, [0x80, 0]))),
        "manifest.class at byte 79: a number too large or not in its shortest form"
    );
    assert_eq!(
        raw(|m| drop(m.splice(13..15, [0xff, 0xff, 0xff, 0xff, 0x10]))),
        "manifest.counter at byte 77: a number too large or not in its shortest form"
    );
    assert_eq!(
        raw(|m| m.push(0)),
        "manifest at byte 162: bytes follow that belong to nothing"
    );
    assert_eq!(
        raw(|m| m.truncate(m.len() - 1)),
        "manifest.sections[1].sha256 at byte 161: the bytes end here"
    );
    assert_eq!(
        raw(|m| m[1] = 0xff),
        "manifest.name at byte 64: text that is empty, too long, not UTF-8 or has control characters"
    );
}

#[test]
fn padding_must_be_zero() {
    let head = |at| move |bytes: &mut Vec<u8>| bytes[at] = 1;
    assert_eq!(
        says(head(4095)),
        "head_padding at byte 4095: a padding byte is not zero"
    );
    // In the data, the chunk's hash finds it first; the padding is checked for whoever made
    // a table that agrees with it.
    let mut bytes = small();
    let at = 4096 + 5000 + 3;
    bytes[at] = 1;
    let hash = sha256(&bytes[8192..]);
    let table = FileHeader::parse(&bytes).unwrap().table_range();
    bytes[table.start + 32..table.end].copy_from_slice(&hash);
    let error = Bundle::open(&bytes).unwrap().verify_data().unwrap_err();
    assert_eq!(
        error.to_string(),
        "data.padding at byte 9099: a padding byte is not zero"
    );
}

#[test]
fn errors_of_the_signatures_name_field_and_offset() {
    let signed = || {
        let mut bytes = small();
        sign(&mut bytes, &Fake(1)).unwrap();
        sign(&mut bytes, &Fake(2)).unwrap();
        bytes
    };
    let start = FileHeader::parse(&signed()).unwrap().signed_bytes();
    let says = |at: usize, value: &[u8]| {
        let mut bytes = signed();
        bytes[start + at..start + at + value.len()].copy_from_slice(value);
        Head::parse(&bytes).unwrap_err().to_string()
    };
    let at = |offset: usize| start + offset;
    assert_eq!(
        says(0, &[9]),
        format!("signatures.count at byte {}: too many", at(0))
    );
    assert_eq!(
        says(0, &[3]),
        format!(
            "signatures[2].len at byte {}: 0, where 115 follows from the rest",
            at(235)
        )
    );
    assert_eq!(
        says(0, &[1]),
        format!(
            "head_padding at byte {}: a padding byte is not zero",
            at(118)
        )
    );
    let shape = "not a signature of the one shape";
    assert_eq!(
        says(3, &[0]),
        format!(
            "signatures[0] at byte {}: {shape}: not the bytes of COSE_Sign1 as Edgeward writes it",
            at(3)
        )
    );
    let second = signed()[at(120)..at(235)].to_vec();
    assert_eq!(
        says(3, &second),
        format!(
            "signatures[1] at byte {}: there is one like it already",
            at(120)
        )
    );
}
