//! Reads what a microcontroller logs: defmt frames by the table in its image, and lines of text between
//! them.
//!
//! A board sends numbers; what they mean stands in the ELF file of its firmware, which is never loaded into
//! flash. [`Image`] reads that table, [`Reader`] turns bytes into [`Item`]s as they come, from wherever:
//! it does no I/O. The crate that defmt itself offers for this switches a feature of `serde_json` on that
//! changes numbers everywhere in a program; so frames are read here, by defmt's own parser of format strings.
//!
//! What it does not read: bit fields, which this project's firmware does not log, and locations in source.

mod elf;
mod frame;
mod reader;
mod table;

pub use frame::Level;
pub use reader::{Item, Line, Reader, words};
pub use table::{Image, ImageError};

#[cfg(test)]
mod tests;
