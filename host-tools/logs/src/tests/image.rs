//! Images and frames as boards have them, for tests.

/// rzCOBS, as boards encode: seven bytes without their zeros and a byte that says where those were, or a
/// longer run without a zero and its length. What is missing at the end counts as zero.
pub fn stuff(mut bytes: &[u8]) -> Vec<u8> {
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
pub fn elf(symbols: &[(u32, &str)], hash: Option<[u8; 20]>) -> Vec<u8> {
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

pub fn symbol(tag: &str, data: &str) -> String {
    let data = data.replace('"', "\\\"");
    format!(
        r#"{{"package":"p","tag":"defmt_{tag}","data":"{data}","disambiguator":"1","crate_name":"c"}}"#
    )
}

/// An image with a log of each kind of argument.
pub fn sample() -> Vec<u8> {
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
    elf(&all, Some([0xAB; 20]))
}

/// A frame as it is sent, with its end: what is behind the time.
pub fn frame(index: u16, time_us: u64, rest: &[u8]) -> Vec<u8> {
    let head = [&index.to_le_bytes()[..], &time_us.to_le_bytes()].concat();
    let mut sent = stuff(&[&head, rest].concat());
    sent.push(0);
    sent
}
