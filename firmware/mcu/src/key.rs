//! The device's key: made on the board, never leaves it.
//!
//! ```text
//! 0    the seed, 32 bytes
//! 32   CRC-32 (ISO HDLC) of the seed, and its complement: written last
//! ```
//! Where the last eight bytes are blank, the first boot was cut before anybody could have seen the key,
//! and a new one is made. Where they are not and do not hold, the key is lost, which is an error: the host
//! knows the board by it.

use crate::board::{Entropy, Flash};
use crate::start::StartError;
use crate::store::StoreFlash;
use crc::{CRC_32_ISO_HDLC, Crc, NoTable};
use edgeward::trust::dalek::DalekSigner;
use embedded_storage::nor_flash::{NorFlash, NorFlashError, ReadNorFlash};

const SEED_BYTES: usize = 32;
/// Seed and mark.
const BYTES: usize = SEED_BYTES + 8;
/// The longest word of a flash that this takes; a multiple of all shorter ones.
const WORD: usize = 64;
static CRC: Crc<u32, NoTable> = Crc::<u32, NoTable>::new(&CRC_32_ISO_HDLC);

/// Reads the key at `offset`, or makes one there.
pub(crate) fn load_or_create<F: Flash>(
    mut flash: StoreFlash<F>,
    offset: u32,
    entropy: &mut impl Entropy,
) -> Result<DalekSigner, StartError> {
    let mut held = [0; BYTES.next_multiple_of(WORD)];
    flash.read(offset, &mut held).map_err(failed)?;
    if held[SEED_BYTES..BYTES].iter().all(|&byte| byte == 0xFF) {
        create(&mut flash, offset, entropy)?;
        flash.read(offset, &mut held).map_err(failed)?;
    }
    let mut seed = [0; SEED_BYTES];
    seed.copy_from_slice(&held[..SEED_BYTES]);
    if held[SEED_BYTES..BYTES] != mark(&seed) {
        return Err(StartError::Key);
    }
    Ok(DalekSigner::from_seed(&seed))
}

fn mark(seed: &[u8; SEED_BYTES]) -> [u8; 8] {
    let crc = CRC.checksum(seed);
    let mut mark = [0; 8];
    mark[..4].copy_from_slice(&crc.to_le_bytes());
    mark[4..].copy_from_slice(&(!crc).to_le_bytes());
    mark
}

fn create<F: Flash>(
    flash: &mut StoreFlash<F>,
    offset: u32,
    entropy: &mut impl Entropy,
) -> Result<(), StartError> {
    let word = StoreFlash::<F>::WRITE_SIZE;
    if word > SEED_BYTES || !SEED_BYTES.is_multiple_of(word) {
        return Err(StartError::Key);
    }
    let mut seed = [0; SEED_BYTES];
    entropy.fill(&mut seed);
    let mut last = [0xFF; SEED_BYTES];
    last[..8].copy_from_slice(&mark(&seed));
    let last = &last[..8_usize.next_multiple_of(word)];
    let end = offset + StoreFlash::<F>::ERASE_SIZE as u32;
    flash
        .erase(offset, end)
        .and_then(|()| flash.write(offset, &seed))
        .and_then(|()| flash.write(offset + SEED_BYTES as u32, last))
        .map_err(failed)
}

fn failed(error: impl NorFlashError) -> StartError {
    StartError::KeyFlash(error.kind())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Counting, MemoryFlash, store, store_of};
    use edgeward::trust::Signer;
    use embedded_storage::nor_flash::NorFlashErrorKind;

    #[test]
    fn a_key_is_made_once() {
        let store = store();
        let load = |from| {
            let key = load_or_create(StoreFlash(store), store.map().key, &mut Counting(from));
            key.unwrap().public_key()
        };
        let first = load(1);
        assert_eq!(first, load(100), "no other randomness makes another");
        let mut seed = [0; SEED_BYTES];
        Counting(1).fill(&mut seed);
        assert_eq!(first, DalekSigner::from_seed(&seed).public_key());
    }

    #[test]
    fn a_cut_at_the_first_boot_leaves_no_half_of_a_key() {
        for writes in 0..2 {
            let mut flash = MemoryFlash::blank(256 * 1024);
            flash.writes = writes;
            let store = store_of(flash);
            let key = store.map().key;
            let cut = load_or_create(StoreFlash(store), key, &mut Counting(1));
            let failed = StartError::KeyFlash(NorFlashErrorKind::Other);
            assert_eq!(cut.err(), Some(failed));
            store.power_on();
            let made = load_or_create(StoreFlash(store), key, &mut Counting(50)).unwrap();
            let again = load_or_create(StoreFlash(store), key, &mut Counting(9)).unwrap();
            assert_eq!(made.public_key(), again.public_key());
        }
    }

    #[test]
    fn a_damaged_key_is_an_error_and_stays() {
        let store = store();
        let key = store.map().key;
        load_or_create(StoreFlash(store), key, &mut Counting(1)).unwrap();
        StoreFlash(store).write(key, &[0; 8]).unwrap();
        let mut before = [0; BYTES];
        StoreFlash(store).read(key, &mut before).unwrap();
        let loaded = load_or_create(StoreFlash(store), key, &mut Counting(1));
        assert_eq!(loaded.err(), Some(StartError::Key));
        let mut after = [0; BYTES];
        StoreFlash(store).read(key, &mut after).unwrap();
        assert_eq!(before, after);
    }
}
