//! What a board logs, and the image by whose table it is read: a file and a stream that anybody may have made.
//!
//! An input is the length of its first part in two bytes and a byte for the mode, that part, and the stream. The
//! first part is a whole image, a text that becomes one more entry of the table of a sound image, or nothing.
#![no_main]

#[path = "../../host-tools/logs/src/tests/image.rs"]
mod image;

use edgeward_fuzz::{Mode, planted};
use edgeward_logs::{Image, Item, Reader, words};
use image::{elf, frame, sample, stuff, symbol};
use libfuzzer_sys::fuzz_target;

/// The index of the entry that an input brings.
const OWN: u16 = 700;

fuzz_target!(init: edgeward_fuzz::seeds(seeds), |input: &[u8]| {
    let Some((mode, rest)) = Mode::split(input) else {
        return;
    };
    let Some((len, rest)) = rest.split_first_chunk() else {
        return;
    };
    let len = usize::from(u16::from_le_bytes(*len)).min(rest.len());
    let (first, stream) = rest.split_at(len);
    let file = match mode {
        Mode::Raw => first.to_vec(),
        Mode::Repaired => sample(),
        Mode::Content => with_entry(&String::from_utf8_lossy(first)),
    };
    let Ok(image) = Image::parse(&file) else {
        return;
    };
    read(&image, stream);
    // The same bytes as a frame of the entry that the input brought.
    let mut sent = stuff(&[&OWN.to_le_bytes()[..], stream].concat());
    sent.push(0);
    read(&image, &sent);
});

/// A stream is read alike in one piece and byte by byte, and what is said of it is bounded by it.
fn read(image: &Image, stream: &[u8]) {
    let whole = Reader::new(image).feed(stream);
    let mut reader = Reader::new(image);
    let pieces = stream.chunks(1).flat_map(|byte| reader.feed(byte));
    assert_eq!(whole, pieces.collect::<Vec<_>>());
    let strays: usize = whole.iter().map(stray).sum();
    assert!(strays <= stream.len());
    planted(whole.iter().any(
        |item| matches!(item, Item::Line(line) if line.text.starts_with("trial of slot 9: ")),
    ));
    assert!(words(image, stream).lines().count() >= usize::from(!whole.is_empty()));
}

fn stray(item: &Item) -> usize {
    match item {
        Item::Stray(bytes) => *bytes,
        _ => 0,
    }
}

/// An image whose table has this format, too.
fn with_entry(format: &str) -> Vec<u8> {
    let text = symbol("info", &format.escape_default().to_string());
    // A name ends with a zero.
    let text = text.replace('\0', " ");
    let entries = [
        (u32::from(OWN), text.as_str()),
        (0x1234, &symbol("timestamp", "{=u64:us}")),
        (0, "_defmt_version_ = 4"),
        (0, "\"_defmt_encoding_ = rzcobs\""),
    ];
    elf(&entries, None)
}

fn seeds() -> Vec<Vec<u8>> {
    let input = |mode: u8, first: &[u8], stream: &[u8]| {
        [
            &[mode],
            &(first.len() as u16).to_le_bytes()[..],
            first,
            stream,
        ]
        .concat()
    };
    let frames = [
        frame(6, 27_123, &[1, 2, 0, 1]),
        frame(7, 1, &[0x34, 0x12, 0, 0, 2, 0, 0, 0, 5, 6]),
        frame(8, 2, &[3, 0, 0, 0, b'a', b'b', b'c', 1, 0xFE]),
        frame(9, 3, &[]),
        frame(10, 4, &[9, 9, 9]),
        b"panic at app.rs:7\n\0".to_vec(),
        b"edgeward board 1 image abababababababab\n\0".to_vec(),
    ]
    .concat();
    let mut all = vec![input(0, &sample(), &frames), input(1, &[], &frames)];
    for format in [
        "{=u8}",
        "{=str} {=[u8]:02x}",
        "{=bool}{=i64}{=f32}{=char}",
        "{0=u8..5} {0=u8:5..8}",
    ] {
        all.push(input(
            2,
            format.as_bytes(),
            &[0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, b'h', b'i'],
        ));
    }
    all
}
