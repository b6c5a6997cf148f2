//! NOR flash in memory that keeps the rules of the real thing and loses power on command.
//!
//! Rules: erasing sets whole sectors to ones, writing takes whole words and each word once an
//! erase, everything is aligned and in bounds. What breaks a rule is an error and writes nothing.
//!
//! A [`Cut`] ends the power before, inside or after one operation. Inside a write, the words
//! before the cut are there and the next one is one of [`Edge`]; inside an erase, a part of it is
//! done. [`RamFlash::with_page_cache`] models a file instead: what was written since the last
//! journal operation may be lost, page by page, in any combination.

use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::vec::Vec;

/// Why an operation on a [`RamFlash`] failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RamError {
    /// Offset or length is no multiple of the word or sector.
    NotAligned,
    /// Beyond the end.
    OutOfBounds,
    /// A word was written twice without an erase between; the offset of it.
    WrittenTwice(u32),
    /// The power is off.
    PowerOff,
    /// It takes nothing now, or gives nothing; see [`RamFlash::with_refusal`] and
    /// [`RamFlash::with_unreadable`].
    Refused,
}

impl NorFlashError for RamError {
    fn kind(&self) -> NorFlashErrorKind {
        match self {
            Self::NotAligned => NorFlashErrorKind::NotAligned,
            Self::OutOfBounds => NorFlashErrorKind::OutOfBounds,
            Self::WrittenTwice(_) | Self::PowerOff | Self::Refused => NorFlashErrorKind::Other,
        }
    }
}

/// What is left of the word, or the erased part, at which the power went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Edge {
    /// As it was before.
    Old,
    /// Some of the bits changed.
    Mixed,
    /// Reads as before or as after, anew at every read, until it is erased.
    Unstable,
    /// Reads as erased, but what is written there comes out wrong, until it is erased.
    Weak,
}

impl Edge {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Old, Self::Mixed, Self::Unstable, Self::Weak];
}

/// Where inside an operation the power goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tear {
    /// Before anything happened.
    Before,
    /// After this many words of it (a write's last word is never complete), with this edge.
    Inside(u32, Edge),
    /// When all of it is done, before the caller knows.
    After,
}

/// One cut of power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cut {
    /// The operation (write or erase), counted from 0 since the flash was made or
    /// [`RamFlash::power_on`].
    pub op: u32,
    /// Where inside it.
    pub tear: Tear,
}

/// An operation as it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Op {
    /// Whether it erases.
    pub erase: bool,
    /// Where.
    pub offset: u32,
    /// Its length in words.
    pub words: u32,
}

/// What a page cache holds beyond the disk.
#[derive(Debug, Clone, Hash)]
struct PageCache {
    /// Writes here are durable, and all that came before them, when they return.
    barrier: Range<u32>,
    /// Versions of each page that may be on the disk, the durable one first.
    dirty: BTreeMap<u32, Vec<Vec<u8>>>,
}

/// NOR flash in memory, of `WRITE` bytes a word and `ERASE` bytes a sector.
#[derive(Debug, Clone)]
pub struct RamFlash<const WRITE: usize, const ERASE: usize> {
    bytes: Vec<u8>,
    /// Words written since their erase.
    written: Vec<bool>,
    /// Words that read as what is here or as what `bytes` says.
    unstable: BTreeMap<usize, Vec<u8>>,
    /// Words that read as erased and are not.
    weak: BTreeSet<usize>,
    cache: Option<PageCache>,
    ops: Vec<Op>,
    cut: Option<Cut>,
    off: bool,
    refuses: Option<Arc<AtomicBool>>,
    unreadable: Option<(Range<u32>, Arc<AtomicBool>)>,
    random: u64,
}

const PAGE: usize = 4096;

impl<const WRITE: usize, const ERASE: usize> RamFlash<WRITE, ERASE> {
    /// Erased flash of `bytes` bytes, a multiple of the sector.
    ///
    /// # Panics
    /// When `bytes` is no multiple of the sector, or the sector none of the word.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        assert!(bytes.is_multiple_of(ERASE) && ERASE.is_multiple_of(WRITE));
        Self {
            bytes: vec![0xFF; bytes],
            written: vec![false; bytes / WRITE],
            unstable: BTreeMap::new(),
            weak: BTreeSet::new(),
            cache: None,
            ops: Vec::new(),
            cut: None,
            off: false,
            refuses: None,
            unreadable: None,
            random: 0,
        }
    }

    /// The same as a file behind a page cache: only an operation that begins in `barrier` makes
    /// what came before it durable, and itself.
    #[must_use]
    pub fn with_page_cache(mut self, barrier: Range<u32>) -> Self {
        self.cache = Some(PageCache {
            barrier,
            dirty: BTreeMap::new(),
        });
        self
    }

    /// The same, but it takes no write and no erase while `refuses` is set; reads go on. Copies share
    /// the switch.
    #[must_use]
    pub fn with_refusal(mut self, refuses: Arc<AtomicBool>) -> Self {
        self.refuses = Some(refuses);
        self
    }

    /// The same, but these bytes can't be read while `unreadable` is set. Copies share the switch.
    #[must_use]
    pub fn with_unreadable(mut self, bytes: Range<u32>, unreadable: Arc<AtomicBool>) -> Self {
        self.unreadable = Some((bytes, unreadable));
        self
    }

    /// Sets the seed of everything indeterminate.
    pub fn seed(&mut self, seed: u64) {
        self.random = seed;
    }

    /// Sets or clears the next cut of power.
    pub fn cut_at(&mut self, cut: Option<Cut>) {
        self.cut = cut;
    }

    /// Whether the power is off.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.off
    }

    /// Operations since the power came.
    #[must_use]
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// Turns the power on: the cut is over, and operations are counted from 0 again.
    pub fn power_on(&mut self) {
        self.off = false;
        self.cut = None;
        self.ops.clear();
    }

    /// What the cells hold, without a read.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Changes cells behind the rules, as an attacker or a failing cell would.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Everything that decides how the flash behaves from now on, except its random numbers.
    pub fn fingerprint(&self, hasher: &mut impl std::hash::Hasher) {
        use std::hash::Hash;
        self.bytes.hash(hasher);
        self.written.hash(hasher);
        self.unstable.hash(hasher);
        self.weak.hash(hasher);
        self.cache.hash(hasher);
    }

    fn next_random(&mut self) -> u64 {
        // SplitMix64 (Steele, Lea and Flood 2014).
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn word(&self, word: usize) -> Range<usize> {
        debug_assert!(word < self.written.len());
        word * WRITE..(word + 1) * WRITE
    }

    /// One word becomes `new`, a whole erase or write of it.
    fn set_word(&mut self, word: usize, new: &[u8], erase: bool) {
        let range = self.word(word);
        let weak = !erase && self.weak.contains(&word);
        self.bytes[range.clone()].copy_from_slice(new);
        if weak {
            let bit = self.next_random() as usize % (WRITE * 8);
            self.bytes[range.start + bit / 8] ^= 1 << (bit % 8);
        }
        self.unstable.remove(&word);
        self.weak.remove(&word);
        self.written[word] = !erase;
    }

    /// One word is left half done on its way to `new`.
    fn tear_word(&mut self, word: usize, new: &[u8], erase: bool, edge: Edge) {
        let range = self.word(word);
        match edge {
            Edge::Old => {}
            Edge::Mixed => {
                for (at, &target) in range.zip(new) {
                    let mask = self.next_random() as u8;
                    self.bytes[at] = (self.bytes[at] & !mask) | (target & mask);
                }
                self.written[word] = true;
            }
            Edge::Unstable => {
                let old = self.bytes[range.clone()].to_vec();
                self.bytes[range].copy_from_slice(new);
                self.unstable.insert(word, old);
                self.written[word] = true;
            }
            Edge::Weak if erase => {
                self.set_word(word, new, true);
                self.weak.insert(word);
            }
            // A word that a write hardly touched: still all ones to a reader.
            Edge::Weak if self.bytes[range].iter().all(|&byte| byte == 0xFF) => {
                self.weak.insert(word);
            }
            Edge::Weak => {}
        }
    }

    /// Does an operation as far as the cut lets it; `data` is none for an erase.
    fn run(&mut self, offset: u32, len: usize, data: Option<&[u8]>) -> Result<(), RamError> {
        if self.off {
            return Err(RamError::PowerOff);
        }
        let refuses = |switch: &Arc<AtomicBool>| switch.load(Ordering::Relaxed);
        if self.refuses.as_ref().is_some_and(refuses) {
            return Err(RamError::Refused);
        }
        let erase = data.is_none();
        let first = offset as usize / WRITE;
        let words = len / WRITE;
        if let Some(twice) = (first..first + words).find(|&word| !erase && self.written[word]) {
            return Err(RamError::WrittenTwice((twice * WRITE) as u32));
        }
        let index = self.ops.len() as u32;
        self.ops.push(Op {
            erase,
            offset,
            words: words as u32,
        });
        self.note_pages(offset, len);
        let tear = self.cut.filter(|cut| cut.op == index).map(|cut| cut.tear);
        let whole = match tear {
            None | Some(Tear::After) => words,
            Some(Tear::Before) => 0,
            Some(Tear::Inside(done, _)) => (done as usize).min(words.saturating_sub(1)),
        };
        let ones = [0xFF; WRITE];
        let target = |at: usize| data.map_or(&ones[..], |data| &data[at * WRITE..(at + 1) * WRITE]);
        let done = first..first + whole;
        let odd = self.weak.range(done.clone()).next().is_some()
            || self.unstable.range(done.clone()).next().is_some();
        if odd {
            for at in 0..whole {
                self.set_word(first + at, target(at), erase);
            }
        } else {
            let bytes = &mut self.bytes[first * WRITE..(first + whole) * WRITE];
            match data {
                Some(data) => bytes.copy_from_slice(&data[..whole * WRITE]),
                None => bytes.fill(0xFF),
            }
            self.written[done].fill(!erase);
        }
        if let Some(Tear::Inside(_, edge)) = tear {
            // A write stops in one word; an erase leaves the rest of its sectors alike.
            let end = if erase { words } else { whole + 1 };
            for at in whole..end.min(words) {
                self.tear_word(first + at, target(at), erase, edge);
            }
        }
        if tear.is_some() {
            self.lose_power();
            return Err(RamError::PowerOff);
        }
        self.settle_pages(offset);
        Ok(())
    }

    /// Before an operation: a barrier makes all before it durable, any other one makes its pages
    /// dirty.
    fn note_pages(&mut self, offset: u32, len: usize) {
        let Some(cache) = &mut self.cache else {
            return;
        };
        if cache.barrier.contains(&offset) {
            cache.dirty.clear();
            return;
        }
        for page in offset as usize / PAGE..(offset as usize + len).div_ceil(PAGE) {
            let end = self.bytes.len().min((page + 1) * PAGE);
            let now = self.bytes[page * PAGE..end].to_vec();
            cache.dirty.entry(page as u32).or_default().push(now);
        }
    }

    /// After an operation: one in the barrier is durable itself.
    fn settle_pages(&mut self, offset: u32) {
        if let Some(cache) = &mut self.cache
            && cache.barrier.contains(&offset)
        {
            cache.dirty.clear();
        }
    }

    /// The power goes: each dirty page is as it was at some moment since it was last durable.
    fn lose_power(&mut self) {
        self.off = true;
        let Some(cache) = &mut self.cache else {
            return;
        };
        for (page, mut versions) in core::mem::take(&mut cache.dirty) {
            let pick = self.next_random() as usize % (versions.len() + 1);
            if pick < versions.len() {
                let version = versions.swap_remove(pick);
                let start = page as usize * PAGE;
                self.bytes[start..start + version.len()].copy_from_slice(&version);
            }
        }
        for (word, bytes) in self.bytes.chunks(WRITE).enumerate() {
            self.written[word] = bytes.iter().any(|&byte| byte != 0xFF);
        }
    }

    /// Cuts the power between two operations.
    pub fn power_off(&mut self) {
        self.lose_power();
    }

    fn check(&self, offset: u32, len: usize, align: usize) -> Result<(), RamError> {
        let offset = offset as usize;
        if !offset.is_multiple_of(align) || !len.is_multiple_of(align) {
            return Err(RamError::NotAligned);
        }
        match offset.checked_add(len) {
            Some(end) if end <= self.bytes.len() => Ok(()),
            _ => Err(RamError::OutOfBounds),
        }
    }
}

impl<const WRITE: usize, const ERASE: usize> ErrorType for RamFlash<WRITE, ERASE> {
    type Error = RamError;
}

impl<const WRITE: usize, const ERASE: usize> ReadNorFlash for RamFlash<WRITE, ERASE> {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), RamError> {
        if self.off {
            return Err(RamError::PowerOff);
        }
        if let Some((range, unreadable)) = &self.unreadable
            && range.contains(&offset)
            && unreadable.load(Ordering::Relaxed)
        {
            return Err(RamError::Refused);
        }
        self.check(offset, bytes.len(), 1)?;
        let start = offset as usize;
        let end = start + bytes.len();
        bytes.copy_from_slice(&self.bytes[start..end]);
        let words = start / WRITE..end.div_ceil(WRITE);
        let unstable: Vec<usize> = self.unstable.range(words).map(|(&word, _)| word).collect();
        for word in unstable {
            if self.next_random() & 1 == 0 {
                continue;
            }
            for at in self.word(word) {
                if (start..end).contains(&at) {
                    bytes[at - start] = self.unstable[&word][at % WRITE];
                }
            }
        }
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.bytes.len()
    }
}

impl<const WRITE: usize, const ERASE: usize> NorFlash for RamFlash<WRITE, ERASE> {
    const WRITE_SIZE: usize = WRITE;
    const ERASE_SIZE: usize = ERASE;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), RamError> {
        let len = to.checked_sub(from).ok_or(RamError::OutOfBounds)? as usize;
        self.check(from, len, ERASE)?;
        self.run(from, len, None)
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), RamError> {
        self.check(offset, bytes.len(), WRITE)?;
        self.run(offset, bytes.len(), Some(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Flash = RamFlash<4, 64>;

    #[test]
    fn the_rules_of_nor_hold() {
        let mut flash = Flash::new(128);
        assert_eq!(flash.write(0, &[0; 6]), Err(RamError::NotAligned));
        assert_eq!(flash.write(2, &[0; 4]), Err(RamError::NotAligned));
        assert_eq!(flash.write(128, &[0; 4]), Err(RamError::OutOfBounds));
        assert_eq!(flash.erase(0, 4), Err(RamError::NotAligned));
        assert_eq!(flash.erase(64, 0), Err(RamError::OutOfBounds));
        flash.write(4, &[1, 2, 3, 4]).unwrap();
        assert_eq!(flash.write(0, &[0; 8]), Err(RamError::WrittenTwice(4)));
        flash.erase(0, 64).unwrap();
        assert!(flash.bytes().iter().all(|&byte| byte == 0xFF));
        flash.write(0, &[0; 8]).unwrap();
    }

    #[test]
    fn a_torn_write_keeps_its_prefix() {
        for edge in Edge::ALL {
            let mut flash = Flash::new(64);
            let tear = Tear::Inside(2, edge);
            flash.cut_at(Some(Cut { op: 0, tear }));
            assert_eq!(flash.write(0, &[0; 16]), Err(RamError::PowerOff));
            assert_eq!(flash.read(0, &mut [0; 4]), Err(RamError::PowerOff));
            flash.power_on();
            let mut seen = [0xAA; 16];
            flash.read(0, &mut seen).unwrap();
            assert_eq!(seen[..8], [0; 8], "{edge:?}");
            assert_eq!(seen[12..], [0xFF; 4], "{edge:?}");
        }
    }

    #[test]
    fn an_unstable_word_reads_both_ways_until_erased() {
        let mut flash = Flash::new(64);
        let tear = Tear::Inside(0, Edge::Unstable);
        flash.cut_at(Some(Cut { op: 0, tear }));
        flash.write(0, &[0; 4]).unwrap_err();
        flash.power_on();
        let mut seen = BTreeSet::new();
        for _ in 0..64 {
            let mut word = [0; 4];
            flash.read(0, &mut word).unwrap();
            seen.insert(word);
        }
        assert_eq!(seen.len(), 2);
        flash.erase(0, 64).unwrap();
        for _ in 0..64 {
            let mut word = [0; 4];
            flash.read(0, &mut word).unwrap();
            assert_eq!(word, [0xFF; 4]);
        }
    }

    #[test]
    fn a_weakly_erased_word_takes_no_write() {
        let mut flash = Flash::new(64);
        flash.write(0, &[0; 4]).unwrap();
        let tear = Tear::Inside(0, Edge::Weak);
        flash.cut_at(Some(Cut { op: 1, tear }));
        flash.erase(0, 64).unwrap_err();
        flash.power_on();
        assert!(flash.bytes().iter().all(|&byte| byte == 0xFF));
        flash.write(0, &[1, 2, 3, 4]).unwrap();
        assert_ne!(flash.bytes()[..4], [1, 2, 3, 4]);
        flash.erase(0, 64).unwrap();
        flash.write(0, &[1, 2, 3, 4]).unwrap();
        assert_eq!(flash.bytes()[..4], [1, 2, 3, 4]);
    }

    #[test]
    fn a_page_cache_may_lose_what_no_barrier_followed() {
        let mut lost = 0;
        for seed in 0..32 {
            let mut flash = RamFlash::<4, 4096>::new(3 * 4096).with_page_cache(0..4096);
            flash.seed(seed);
            flash.write(4096, &[0; 4]).unwrap();
            flash.write(0, &[0; 4]).unwrap();
            flash.write(8192, &[0; 4]).unwrap();
            flash.power_off();
            assert_eq!(flash.bytes()[4096], 0, "a barrier followed");
            assert_eq!(flash.bytes()[0], 0, "the barrier itself");
            lost += u32::from(flash.bytes()[8192] == 0xFF);
        }
        assert!((1..32).contains(&lost), "{lost}");
    }
}
