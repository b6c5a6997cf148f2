//! As much of an ELF file as the table needs: names and addresses of symbols, and sections, of a 32-bit
//! little-endian image.

/// An image.
pub(crate) struct Elf<'a>(&'a [u8]);

/// Where a section lies in the file, and the section that it refers to.
#[derive(Clone, Copy)]
struct Section {
    name: usize,
    kind: u32,
    offset: usize,
    len: usize,
    link: usize,
}

/// A symbol: its name, its address, and the number of its section.
pub(crate) struct Symbol<'a> {
    pub name: &'a str,
    pub address: u32,
    pub section: usize,
}

const SYMTAB: u32 = 2;
const SYMBOL_BYTES: usize = 16;

impl<'a> Elf<'a> {
    /// None when these bytes are no such image.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        // 32 bits, little-endian.
        bytes.starts_with(b"\x7fELF\x01\x01").then_some(Self(bytes))
    }

    fn half(&self, at: usize) -> Option<usize> {
        let bytes = self.0.get(at..)?.first_chunk()?;
        Some(usize::from(u16::from_le_bytes(*bytes)))
    }

    fn word(&self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(*self.0.get(at..)?.first_chunk()?))
    }

    fn section(&self, index: usize) -> Option<Section> {
        let start = self.word(32)? as usize + index * self.half(46)?;
        Some(Section {
            name: self.word(start)? as usize,
            kind: self.word(start + 4)?,
            offset: self.word(start + 16)? as usize,
            len: self.word(start + 20)? as usize,
            link: self.word(start + 24)? as usize,
        })
    }

    fn sections(&self) -> impl Iterator<Item = Section> + '_ {
        (0..self.half(48).unwrap_or(0)).filter_map(|index| self.section(index))
    }

    fn text(&self, strings: Section, at: usize) -> Option<&'a str> {
        let rest = self.0.get(strings.offset.checked_add(at)?..)?;
        let len = rest.iter().position(|&byte| byte == 0)?;
        std::str::from_utf8(&rest[..len]).ok()
    }

    /// The number of the section of that name, and its bytes.
    pub fn named(&self, name: &str) -> Option<(usize, &'a [u8])> {
        let strings = self.section(self.half(50)?)?;
        let mut sections = self.sections().enumerate();
        let found = sections.find(|(_, section)| self.text(strings, section.name) == Some(name));
        let (index, section) = found?;
        let end = section.offset.checked_add(section.len)?;
        Some((index, self.0.get(section.offset..end)?))
    }

    /// The symbols.
    pub fn symbols(&self) -> impl Iterator<Item = Symbol<'a>> + '_ {
        let table = self.sections().find(|section| section.kind == SYMTAB);
        let strings = table.and_then(|table| self.section(table.link));
        let count = table.map_or(0, |table| table.len / SYMBOL_BYTES);
        (0..count).filter_map(move |number| {
            let at = table?.offset.checked_add(number * SYMBOL_BYTES)?;
            Some(Symbol {
                name: self.text(strings?, self.word(at)? as usize)?,
                address: self.word(at + 4)?,
                section: self.half(at + 14)?,
            })
        })
    }
}
