mod image;

use crate::frame::{Malformed, unstuff};
use crate::{Image, ImageError, Item, Level, Line, Reader, words};
use image::{elf, frame, sample, stuff, symbol};

fn image() -> Image {
    Image::parse(&sample()).expect("an image")
}

fn line(level: Option<Level>, text: &str) -> Item {
    Item::Line(Line {
        time_s: Some(0.027_123),
        level,
        text: text.to_owned(),
    })
}

#[test]
fn frames_are_read_by_the_table_of_their_image() {
    let image = image();
    for (index, rest, level, text) in [
        (
            6,
            &[1, 2, 0, 1][..],
            Some(Level::Info),
            "trial of slot 1: Confirm",
        ),
        (
            6,
            &[0, 2, 0, 2, 3, 0, 1, 7, 1],
            Some(Level::Info),
            "trial of slot 0: Breach(Latency { ms: 263 })",
        ),
        (
            6,
            &[0, 4, 0, 5, 0, 2, 0, 0, 0, 0],
            Some(Level::Info),
            "trial of slot 0: slots: Undecided",
        ),
        (
            7,
            &[
                1, 0, 0xEF, 0xBE, 0, 0, 2, 0, 0, 0, 1, 0, 5, 0, 0, 0, 6, 0, 0, 0,
            ],
            Some(Level::Warn),
            "at 0xbeef, [5, 6]",
        ),
        (
            8,
            &[3, 0, 0, 0, b'o', b'n', b'e', 1, 0xFE],
            Some(Level::Error),
            "one and true -2",
        ),
        (9, &[], None, "always"),
    ] {
        let items = Reader::new(&image).feed(&frame(index, 27_123, rest));
        assert_eq!(items, [line(level, text)], "{index}");
    }
}

#[test]
fn what_is_no_frame_is_told() {
    let image = image();
    let mut reader = Reader::new(&image);
    // The end of a frame of before, a frame, one whose index is unknown, one with too much behind it.
    assert_eq!(reader.feed(&[7, 7, 7, 0]), []);
    let mut stream = frame(9, 27_123, &[]);
    stream.extend(frame(99, 27_123, &[]));
    stream.extend(frame(9, 27_123, &[1]));
    stream.extend(frame(6, 27_123, &[1, 99, 0, 1]));
    let items = reader.feed(&stream);
    assert_eq!(items.len(), 4, "{items:?}");
    assert_eq!(items[0], line(None, "always"));
    assert!(items[1..].iter().all(|item| matches!(item, Item::Stray(_))));
}

#[test]
fn texts_stand_between_frames() {
    let image = image();
    let mut reader = Reader::new(&image);
    let mut stream = b"half a line".to_vec();
    stream.extend(b"\0panic at app.rs:7\n\0");
    stream.extend(frame(9, 27_123, &[]));
    // Byte by byte, as a serial line may give them.
    let items: Vec<_> = stream
        .iter()
        .flat_map(|byte| reader.feed(&[*byte]))
        .collect();
    let panic = Line {
        time_s: None,
        level: None,
        text: "panic at app.rs:7".to_owned(),
    };
    assert_eq!(items, [Item::Line(panic), line(None, "always")]);
}

#[test]
fn a_whole_log_is_lines_of_words() {
    let mut log = frame(9, 27_123, &[]);
    log.extend(b"panic at app.rs:7\n\0");
    log.extend(frame(99, 27_123, &[]));
    let said = words(&image(), &log);
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines[..2], ["always", "panic at app.rs:7"]);
    assert!(lines.len() == 3 && lines[2].ends_with(" bytes)"), "{said}");
    assert_eq!(words(&image(), b""), "");
}

#[test]
fn what_another_image_says_is_left_out() {
    let image = image();
    assert_eq!(image.id(), Some("abababababababab"));
    let mut reader = Reader::new(&image);
    let start = |id: &str| format!("\0edgeward board 1.0 image {id}\n\0").into_bytes();
    let mut stream = start("0123456789abcdef");
    stream.extend(frame(9, 27_123, &[]));
    stream.extend(frame(99, 27_123, &[]));
    stream.extend(start("abababababababab"));
    stream.extend(frame(9, 27_123, &[]));
    let items = reader.feed(&stream);
    let foreign: Vec<_> = items
        .iter()
        .filter_map(|item| match item {
            Item::Start { foreign, .. } => Some(*foreign),
            _ => None,
        })
        .collect();
    assert_eq!(foreign, [true, false]);
    assert_eq!(items.len(), 3, "{items:?}");
    assert_eq!(items[2], line(None, "always"));
}

#[test]
fn images_without_a_table_say_why() {
    let of = |symbols: &[(u32, &str)]| Image::parse(&elf(symbols, None)).map(|_| ());
    assert_eq!(of(&[]), Ok(()));
    let version = of(&[(0, "\"_defmt_version_ = 99\"")]);
    assert_eq!(version, Err(ImageError::Version("99".to_owned())));
    let encoding = of(&[(0, "_defmt_encoding_ = raw")]);
    assert_eq!(encoding, Err(ImageError::Encoding("raw".to_owned())));
    assert_eq!(of(&[(7, "{\"tag\":1}")]), Err(ImageError::Damaged(7)));
    let parse = |bytes: &[u8]| Image::parse(bytes).map(|_| ()).expect_err("none");
    assert_eq!(parse(b"MZ"), ImageError::NoImage);
    let mut elf = elf(&[], None);
    let at = elf
        .windows(7)
        .position(|it| it == b".defmt\0")
        .expect("there");
    elf[at + 1] = b'x';
    assert_eq!(parse(&elf), ImageError::NoTable);
}

#[test]
fn any_bytes_are_read_without_a_panic() {
    let image = image();
    let mut state = 1_u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    for _ in 0..20_000 {
        let len = usize::from(random()) % 40;
        let bytes: Vec<u8> = (0..len).map(|_| random() % 16).collect();
        let sent = stuff(&bytes);
        let read = unstuff(&sent).expect("stuffed");
        assert!(read.starts_with(&bytes) && read.len() < bytes.len() + 7);
        let _ = Reader::new(&image).feed(&[&sent[..], &[0]].concat());
        let raw: Vec<u8> = (0..len).map(|_| random()).collect();
        let _ = Reader::new(&image).feed(&raw);
        let _ = unstuff(&raw);
    }
    assert_eq!(unstuff(&[1, 0, 1]), Err(Malformed));
    assert_eq!(unstuff(&[0xFF]), Err(Malformed));
}

/// Formats of an image decide how much there is of what takes no bytes: 1,024 elements a list, and any number
/// of lists.
#[test]
fn a_frame_has_no_more_values_than_a_frame_may_have() {
    let image = image();
    let list = |len: u32| [&[13, 0], &len.to_le_bytes()[..], &[11, 0]].concat();
    let read = |lists: usize| {
        let rest = [&[4, 0][..], &list(1024).repeat(lists), &[0, 0]].concat();
        Reader::new(&image).feed(&frame(12, 27_123, &rest))
    };
    for (lists, is_line) in [(1, true), (60, true), (70, false), (5000, false)] {
        let items = read(lists);
        let line = matches!(items[..], [Item::Line(_)]);
        assert_eq!(line, is_line, "{lists}: {} items", items.len());
    }
}

#[test]
fn no_number_is_wider_than_numbers_are() {
    let image = image();
    let items = Reader::new(&image).feed(&frame(10, 27_123, &[1, 2, 3]));
    let [Item::Line(line)] = &items[..] else {
        panic!("{items:?}");
    };
    let numbers: Vec<_> = line.text.split(", ").collect();
    assert!(
        numbers.iter().all(|number| number.len() == 130),
        "{numbers:?}"
    );
    let ends = ["01", "02", "011"];
    assert!(
        numbers
            .iter()
            .zip(ends)
            .all(|(number, end)| number.ends_with(end))
    );
}

#[test]
fn a_cut_image_is_no_image_and_no_panic() {
    let symbol = symbol("info", "x");
    let whole = elf(&[(1, &symbol)], Some([1; 20]));
    assert!(Image::parse(&whole).is_ok());
    for len in 0..whole.len() {
        let _ = Image::parse(&whole[..len]);
    }
}

#[test]
fn what_would_steer_a_terminal_is_written_out() {
    let sent = "\x1b[2Ja\r\u{9b}31m\u{202e}b\n    0.001 info  boot 1 \u{e9}\u{1f600}\\";
    let mut said = (sent.len() as u32).to_le_bytes().to_vec();
    said.extend(sent.as_bytes());
    said.extend([1, 0xFE]);
    let image = image();
    let items = Reader::new(&image).feed(&frame(8, 27_123, &said));
    let [Item::Line(line)] = &items[..] else {
        panic!("{items:?}");
    };
    assert!(line.text.starts_with(sent), "{line:?}");
    assert_eq!(
        line.visible(),
        "\\u{1b}[2Ja\\r\\u{9b}31m\\u{202e}b\\n    0.001 info  boot 1 \u{e9}\u{1f600}\\ and true -2"
    );
}
