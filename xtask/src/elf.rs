//! Reads images of microcontrollers as far as their figures and their symbols go.

/// An ELF image for a 32-bit processor.
pub struct Elf<'a>(pub &'a [u8]);

/// A section: kind, flags, where it is in the file, its bytes, and the section that it refers to.
pub struct Section {
    pub kind: u32,
    pub flags: u32,
    offset: usize,
    pub len: usize,
    link: usize,
}

/// Kinds of sections.
pub const PROGBITS: u32 = 1;
const SYMTAB: u32 = 2;
pub const NOBITS: u32 = 8;
/// The section is in memory when the program runs.
pub const ALLOCATED: u32 = 2;
/// Bytes of a symbol.
const SYMBOL_BYTES: usize = 16;

impl<'a> Elf<'a> {
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
            kind: self.word(start + 4)?,
            flags: self.word(start + 8)?,
            offset: self.word(start + 16)? as usize,
            len: self.word(start + 20)? as usize,
            link: self.word(start + 24)? as usize,
        })
    }

    pub fn sections(&self) -> Option<Vec<Section>> {
        (0..self.half(48)?)
            .map(|index| self.section(index))
            .collect()
    }

    fn name(&self, strings: &Section, at: usize) -> Option<&'a str> {
        let rest = self.0.get(strings.offset + at..)?;
        let len = rest.iter().position(|&byte| byte == 0)?;
        std::str::from_utf8(&rest[..len]).ok()
    }

    /// All symbols.
    pub fn symbols(&self) -> Option<Vec<Symbol<'a>>> {
        let sections = self.sections()?;
        let symbols = sections.iter().find(|section| section.kind == SYMTAB)?;
        let strings = sections.get(symbols.link)?;
        let places = (0..symbols.len).step_by(SYMBOL_BYTES);
        places
            .map(|at| {
                let at = symbols.offset + at;
                Some(Symbol {
                    name: self.name(strings, self.word(at)? as usize)?,
                    address: self.word(at + 4)?,
                    len: u64::from(self.word(at + 8)?),
                    section: self.half(at + 14)?,
                })
            })
            .collect()
    }
}

/// A name for something in an image.
pub struct Symbol<'a> {
    pub name: &'a str,
    pub address: u32,
    pub len: u64,
    /// The number of the section that it lies in.
    pub section: usize,
}
