//! What the host writes into a microcontroller's flash before its first boot.
//!
//! ```text
//! 0    magic "EDGP"
//! 4    version of the format, 2; little-endian like all that follows
//! 6    bytes of the body, u16
//! 8    CRC-32 (ISO HDLC) of the body
//! 12   the body: a [`Provisioning`] in postcard
//! ```
//! It holds no secret but the broker's password: the device's key is made on the board.

use crc::{CRC_32_ISO_HDLC, Crc, NoTable};
use edgeward::telemetry::{Id, Text};
use edgeward::topic;
use heapless::Vec;
use serde::{Deserialize, Serialize};

/// Bytes that it may have in all: a page of most flashes.
pub const PROVISIONING_BYTES: usize = 4096;

/// Bytes of fleet and device together: a client's name in MQTT holds both.
pub const NAMES_BYTES: usize = 54;

const MAGIC: [u8; 4] = *b"EDGP";
const VERSION: u16 = 2;
const HEADER_BYTES: usize = 12;
static CRC: Crc<u32, NoTable> = Crc::<u32, NoTable>::new(&CRC_32_ISO_HDLC);

/// Who the board is, whom it trusts and where its broker is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provisioning<'a> {
    /// Its fleet.
    pub fleet: Id,
    /// Its name.
    pub device: Id,
    /// Its tags.
    pub tags: Vec<Text, 8>,
    /// The broker's IPv4 address.
    pub broker: [u8; 4],
    /// The broker's port.
    pub port: u16,
    /// User name and password at the broker; empty for none.
    pub username: Text,
    /// The password.
    pub password: Text,
    /// How the broker is known that is spoken to in TLS; none for one that is spoken to in plain.
    #[serde(borrow)]
    pub secure: Option<Secure<'a>>,
    /// The first trust root, as the host exports it.
    #[serde(borrow)]
    pub root: &'a [u8],
}

/// Authorities that a board can know at once.
pub const AUTHORITIES: usize = 4;

/// How a broker is known that is spoken to in TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secure<'a> {
    /// Its name or address, as its certificate has it.
    pub name: &'a str,
    /// Who may have signed its certificate: certificates in DER.
    #[serde(borrow)]
    pub authorities: Vec<&'a [u8], AUTHORITIES>,
    /// When this was written, in seconds since 1970: it is later whenever it is read.
    pub since_s: u64,
}

/// Why provisioning can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProvisioningError {
    /// The flash is blank there.
    Blank,
    /// Something else is there, or a part of it.
    Damaged,
    /// Written by another version of the host command.
    Version(u16),
    /// More than [`PROVISIONING_BYTES`].
    TooLarge,
    /// Fleet or device are no names, or together longer than [`NAMES_BYTES`], or the root is empty.
    Invalid,
}

impl core::fmt::Display for ProvisioningError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Blank => f.write_str("the board is not provisioned"),
            Self::Damaged => f.write_str("what the board was provisioned with is damaged"),
            Self::Version(version) => write!(
                f,
                "provisioned in version {version} of the format, this program reads {VERSION}"
            ),
            Self::TooLarge => write!(f, "more than {PROVISIONING_BYTES} bytes"),
            Self::Invalid => write!(
                f,
                "fleet or device are no names or together longer than {NAMES_BYTES} bytes, or there is \
                 no trust root"
            ),
        }
    }
}

impl core::error::Error for ProvisioningError {}

#[cfg(feature = "defmt")]
impl defmt::Format for ProvisioningError {
    fn format(&self, f: defmt::Formatter<'_>) {
        match self {
            Self::Blank => defmt::write!(f, "the board is not provisioned"),
            Self::Damaged => defmt::write!(f, "what the board was provisioned with is damaged"),
            Self::Version(version) => defmt::write!(
                f,
                "provisioned in version {} of the format, this program reads {}",
                version,
                VERSION
            ),
            Self::TooLarge => defmt::write!(f, "more than {} bytes", PROVISIONING_BYTES),
            Self::Invalid => defmt::write!(
                f,
                "fleet or device are no names or together longer than {} bytes, or there is no trust root",
                NAMES_BYTES
            ),
        }
    }
}

impl<'a> Provisioning<'a> {
    /// Writes it as flash holds it; returns its length.
    ///
    /// # Errors
    /// [`ProvisioningError::Invalid`], or [`ProvisioningError::TooLarge`] when `out` is too short.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, ProvisioningError> {
        self.check()?;
        let out = &mut out[..];
        let room = out.len().min(PROVISIONING_BYTES);
        let body = out.get_mut(HEADER_BYTES..room);
        let body = body.ok_or(ProvisioningError::TooLarge)?;
        let body = postcard::to_slice(self, body).map_err(|_| ProvisioningError::TooLarge)?;
        let (len, crc) = (body.len(), CRC.checksum(body));
        out[..4].copy_from_slice(&MAGIC);
        out[4..6].copy_from_slice(&VERSION.to_le_bytes());
        out[6..8].copy_from_slice(&(len as u16).to_le_bytes());
        out[8..12].copy_from_slice(&crc.to_le_bytes());
        Ok(HEADER_BYTES + len)
    }

    /// Reads what flash holds; bytes behind it are ignored.
    ///
    /// # Errors
    /// [`ProvisioningError`].
    pub fn decode(bytes: &'a [u8]) -> Result<Self, ProvisioningError> {
        let (header, rest) = bytes
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or(ProvisioningError::Damaged)?;
        if header.iter().all(|&byte| byte == 0xFF) {
            return Err(ProvisioningError::Blank);
        }
        if header[..4] != MAGIC {
            return Err(ProvisioningError::Damaged);
        }
        let version = u16::from_le_bytes([header[4], header[5]]);
        if version != VERSION {
            return Err(ProvisioningError::Version(version));
        }
        let len = usize::from(u16::from_le_bytes([header[6], header[7]]));
        let crc = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
        let body = rest.get(..len).ok_or(ProvisioningError::Damaged)?;
        if CRC.checksum(body) != crc {
            return Err(ProvisioningError::Damaged);
        }
        let found: Self = postcard::from_bytes(body).map_err(|_| ProvisioningError::Damaged)?;
        found.check()?;
        Ok(found)
    }

    fn check(&self) -> Result<(), ProvisioningError> {
        let named = topic::is_name(&self.fleet) && topic::is_name(&self.device);
        let short = self.fleet.len() + self.device.len() <= NAMES_BYTES;
        (named && short && !self.root.is_empty())
            .then_some(())
            .ok_or(ProvisioningError::Invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn example() -> Provisioning<'static> {
        Provisioning {
            fleet: Id::try_from("plant-7").unwrap(),
            device: Id::try_from("press-03").unwrap(),
            tags: [Text::try_from("line-2").unwrap()].into_iter().collect(),
            broker: [10, 0, 2, 2],
            port: 1883,
            username: Text::new(),
            password: Text::new(),
            secure: None,
            root: &[1, 2, 3],
        }
    }

    fn secure() -> Provisioning<'static> {
        Provisioning {
            secure: Some(Secure {
                name: "broker.site",
                authorities: [&[4, 5][..], &[6]].into_iter().collect(),
                since_s: 1_800_000_000,
            }),
            ..example()
        }
    }

    #[test]
    fn what_is_written_is_read_and_what_is_damaged_is_not() {
        let mut flash = [0xFF; PROVISIONING_BYTES];
        assert_eq!(Provisioning::decode(&flash), Err(ProvisioningError::Blank));
        for written in [example(), secure()] {
            let len = written.encode(&mut flash).unwrap();
            assert_eq!(Provisioning::decode(&flash), Ok(written));
            for at in 0..len {
                let mut bad = flash;
                bad[at] ^= 0x10;
                assert!(Provisioning::decode(&bad).is_err(), "byte {at}");
                assert!(Provisioning::decode(&flash[..at]).is_err(), "{at} bytes");
            }
        }
    }

    #[test]
    fn what_is_no_board_is_refused() {
        let mut flash = [0; PROVISIONING_BYTES];
        let mut nameless = example();
        nameless.device = Id::try_from("a/b").unwrap();
        let mut long = example();
        long.fleet = Id::try_from(&"f".repeat(32)[..]).unwrap();
        long.device = Id::try_from(&"d".repeat(23)[..]).unwrap();
        let mut untrusting = example();
        untrusting.root = &[];
        for wrong in [nameless, long, untrusting] {
            let refused = wrong.encode(&mut flash);
            assert_eq!(refused, Err(ProvisioningError::Invalid));
        }
        let mut large = example();
        large.root = &[7; PROVISIONING_BYTES];
        let refused = large.encode(&mut [0; 2 * PROVISIONING_BYTES]);
        assert_eq!(refused, Err(ProvisioningError::TooLarge));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Provisioning::decode(&bytes);
            let body = bytes.get(12..).unwrap_or_default();
            let mut sound = [&MAGIC[..], &VERSION.to_le_bytes(), &(body.len() as u16).to_le_bytes(), &CRC.checksum(body).to_le_bytes(), body].concat();
            sound.push(0);
            let _ = Provisioning::decode(&sound);
        }
    }
}
