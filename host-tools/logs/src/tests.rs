use crate::frame::{Malformed, unstuff};
use crate::{Image, ImageError, Item, Level, Line, Reader, words};

/// rzCOBS, as boards encode: seven bytes without their zeros and a byte that says where those were, or a
/// longer run without a zero and its length. What is missing at the end counts as zero.
fn stuff(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let run = bytes
            .iter()
            .take(134)
            .take_while(|&&byte| byte != 0)
            .count();
        let (taken, code) = match run {
            134 => (134, 0xFF),
            7..134 => (run + 1, 0x80 | (run - 7) as u8),
            _ => {
                let zero = |at: &usize| bytes.get(*at).is_none_or(|&byte| byte == 0);
                (7, (0..7).filter(zero).map(|at| 1 << at).sum())
            }
        };
        let group = &bytes[..taken.min(bytes.len())];
        out.extend(group.iter().filter(|&&byte| byte != 0));
        out.push(code);
        bytes = &bytes[group.len()..];
    }
    out
}

/// An ELF image with these symbols in `.defmt` (or outside of it, where the name is no JSON) and a hash.
fn elf(symbols: &[(u32, &str)], hash: Option<[u8; 20]>) -> Vec<u8> {
    let mut names = vec![0];
    let mut table = vec![0; 16];
    for (address, name) in symbols {
        let section: u16 = if name.starts_with('{') { 1 } else { 0xFFF1 };
        table.extend((names.len() as u32).to_le_bytes());
        table.extend(address.to_le_bytes());
        table.extend([0; 6]);
        table.extend(section.to_le_bytes());
        names.extend(name.bytes().chain([0]));
    }
    let mut note = vec![4, 0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0];
    note.extend(b"GNU\0");
    note.extend(hash.unwrap_or_default());
    let sections: Vec<(&str, u32, Vec<u8>, u32)> = vec![
        ("", 0, Vec::new(), 0),
        (".defmt", 1, Vec::new(), 0),
        (".symtab", 2, table, 3),
        (".strtab", 3, names, 0),
        (
            if hash.is_some() {
                ".note.gnu.build-id"
            } else {
                ".note"
            },
            7,
            note,
            0,
        ),
    ];
    let mut strings = vec![0];
    let mut headers = Vec::new();
    let mut file = b"\x7fELF\x01\x01".to_vec();
    file.resize(52, 0);
    let strings_header = |strings: &[u8], offset: usize| (1, 3, offset, strings.len(), 0);
    let put = |headers: &mut Vec<u8>,
               (name, kind, offset, len, link): (u32, u32, usize, usize, u32)| {
        for word in [name, kind, 0, 0, offset as u32, len as u32, link, 0, 0, 0] {
            headers.extend(word.to_le_bytes());
        }
    };
    for (name, kind, bytes, link) in &sections {
        let at = strings.len() as u32;
        strings.extend(name.bytes().chain([0]));
        put(&mut headers, (at, *kind, file.len(), bytes.len(), *link));
        file.extend(bytes);
    }
    put(&mut headers, strings_header(&strings, file.len()));
    file.extend(&strings);
    let begin = (file.len() as u32).to_le_bytes();
    file[32..36].copy_from_slice(&begin);
    file[46..48].copy_from_slice(&40_u16.to_le_bytes());
    file[48..50].copy_from_slice(&(sections.len() as u16 + 1).to_le_bytes());
    file[50..52].copy_from_slice(&(sections.len() as u16).to_le_bytes());
    file.extend(headers);
    file
}

fn symbol(tag: &str, data: &str) -> String {
    let data = data.replace('"', "\\\"");
    format!(
        r#"{{"package":"p","tag":"defmt_{tag}","data":"{data}","disambiguator":"1","crate_name":"c"}}"#
    )
}

fn image() -> Image {
    let symbols = [
        (1, symbol("prim", "{=u32}")),
        (2, symbol("derived", "Undecided|Confirm|Breach({=?})")),
        (3, symbol("derived", "Crash|Latency {{ ms: {=u16:?} }}")),
        (4, symbol("prim", "{=__internal_FormatSequence}")),
        (5, symbol("write", "slots: {}")),
        (6, symbol("info", "trial of slot {=u8}: {}")),
        (7, symbol("warn", "at {:#x}, {=[?]}")),
        (8, symbol("error", "{=str} and {=bool} {=i8}")),
        (9, symbol("println", "always")),
        (
            10,
            symbol("info", "{=u8:0100000}, {=u8:0100000x}, {=u8:#0100000b}"),
        ),
        (11, symbol("derived", "none")),
        (12, symbol("info", "{=?}")),
        (13, symbol("prim", "{=[?]}")),
        (0x1234, symbol("timestamp", "{=u64:us}")),
    ];
    let version = (0, "_defmt_version_ = 4".to_owned());
    let encoding = (0, "\"_defmt_encoding_ = rzcobs\"".to_owned());
    let all = symbols.into_iter().chain([version, encoding]);
    let all: Vec<(u32, String)> = all.collect();
    let all: Vec<_> = all.iter().map(|(at, name)| (*at, name.as_str())).collect();
    Image::parse(&elf(&all, Some([0xAB; 20]))).expect("an image")
}

/// A frame as it is sent, with its end: what is behind the time.
fn frame(index: u16, time_us: u64, rest: &[u8]) -> Vec<u8> {
    let head = [&index.to_le_bytes()[..], &time_us.to_le_bytes()].concat();
    let mut sent = stuff(&[&head, rest].concat());
    sent.push(0);
    sent
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
