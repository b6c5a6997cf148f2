//! NumPy's archives.

use std::collections::BTreeMap;

/// An array of an archive.
pub struct Array {
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Array {
    /// Rows of int8 along the first axis.
    pub fn rows(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.chunks_exact(self.bytes.len() / self.shape[0])
    }
}

/// Reads an `.npz`: a zip of `.npy` files, by its central directory.
pub fn read_npz(path: &std::path::Path) -> BTreeMap<String, Array> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let u16_at = |at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let end = bytes
        .windows(4)
        .rposition(|it| it == b"PK\x05\x06")
        .expect("an end of the directory");
    let (count, mut at) = (u16_at(end + 10), u32_at(end + 16));
    let mut arrays = BTreeMap::new();
    for _ in 0..count {
        let (method, packed) = (u16_at(at + 10), u32_at(at + 20));
        let (name_len, extra_len, comment_len) =
            (u16_at(at + 28), u16_at(at + 30), u16_at(at + 32));
        let name = String::from_utf8_lossy(&bytes[at + 46..at + 46 + name_len]).into_owned();
        let local = u32_at(at + 42);
        let start = local + 30 + u16_at(local + 26) + u16_at(local + 28);
        let stored = &bytes[start..start + packed];
        let data = match method {
            0 => stored.to_vec(),
            8 => miniz_oxide::inflate::decompress_to_vec(stored).expect("deflate"),
            other => panic!("{name}: method {other}"),
        };
        arrays.insert(name.trim_end_matches(".npy").to_owned(), read_npy(&data));
        at += 46 + name_len + extra_len + comment_len;
    }
    arrays
}

pub fn read_npy(data: &[u8]) -> Array {
    assert_eq!(&data[..6], b"\x93NUMPY");
    let head = 10 + usize::from(u16::from_le_bytes([data[8], data[9]]));
    let text = String::from_utf8_lossy(&data[10..head]).into_owned();
    assert!(text.contains("'fortran_order': False"), "{text}");
    let shape = text
        .split("'shape': (")
        .nth(1)
        .and_then(|rest| rest.split(')').next())
        .unwrap();
    let shape = shape
        .split(',')
        .filter_map(|extent| extent.trim().parse().ok())
        .collect();
    Array {
        shape,
        bytes: data[head..].to_vec(),
    }
}
