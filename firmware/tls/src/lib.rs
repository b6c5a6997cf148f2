//! TLS 1.3 for microcontrollers: a client in fixed memory, without an allocator.
//!
//! It speaks what RFC 8446 has every server know, Ed25519, and nothing beside them: the suite
//! TLS_AES_128_GCM_SHA256, the group secp256r1, and certificates whose keys are ECDSA P-256 (with SHA-256)
//! or Ed25519. Primitives are those of RustCrypto; paths, names, purposes and times of certificates are
//! checked by webpki, which does it for rustls on Linux boards, too.
//!
//! What it does not do: older versions, sessions that are resumed, early data, a certificate of the
//! client's, revocation lists; and it never trusts without looking: there is no such mode.
//!
//! Nothing that a peer sends makes it panic, and dropping a future of [`Connection`]'s reading or writing
//! loses nothing, as long as that holds for the stream below.
#![cfg_attr(not(test), no_std)]
// What fails is returned; an assertion says what can't be.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)
)]

mod bytes;
mod connection;
mod flight;
mod hello;
mod keys;
mod record;
#[cfg(test)]
mod tests;
mod trust;

pub use connection::Connection;
pub use trust::{AUTHORITIES, Trust};

/// Most bytes of a record, with its header (RFC 8446, 5.2).
const RECORD_BYTES: usize = 5 + 16384 + 256;
/// Bytes of a record that is sent, with header, kind and tag. Longer ones are sent in parts.
const SENT_BYTES: usize = 5 + 1024 + 1 + 16;

/// What a connection works in; one at a time.
#[derive(Debug)]
pub struct Memory {
    input: [u8; RECORD_BYTES],
    output: [u8; SENT_BYTES],
    /// Whether the last server was refused, and why. All of it is zeros at first, so that no image holds it.
    refused: (bool, TlsError),
}

impl Memory {
    /// Memory in which nothing is.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            input: [0; RECORD_BYTES],
            output: [0; SENT_BYTES],
            refused: (false, TlsError::Ended),
        }
    }

    /// Why the last server was refused, for whoever dropped [`Connection::open`] while that server was told: it
    /// may take as long as it likes to hear it.
    #[must_use]
    pub fn refused(&self) -> Option<TlsError> {
        let (refused, why) = self.refused;
        refused.then_some(why)
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

/// Why there is no connection, or why it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsError {
    /// The stream ended or failed.
    Ended,
    /// What answers does not speak TLS, or ended the connection at once.
    NotTls,
    /// It speaks older versions only.
    Version,
    /// It ended the connection, and this is the number of its reason (RFC 8446, 6).
    Alert(u8),
    /// It chose or sent what was not offered.
    Unexpected,
    /// What it sent is not of the right form.
    Malformed,
    /// What it sent does not fit into memory.
    TooLarge,
    /// What it sent was changed on its way, or is not of who began the connection.
    Forged,
    /// Nobody who is trusted signed its certificate.
    Authority,
    /// Its certificate is for other names.
    Name,
    /// Its certificate, or one above it, has expired.
    Expired,
    /// Its certificate has a key or a signature of a kind that is not known here.
    Kind,
    /// Another fault of its certificate.
    Certificate,
    /// To see whether its certificate is signed takes more checks of signatures than a board makes.
    Costly,
    /// It does not hold the key of its certificate.
    Proof,
    /// The randomness can't be used.
    Random,
}

/// Says it in words, for people and for the log of a board.
macro_rules! says {
    ($($error:ident $(($alert:literal))? => $words:literal,)+) => {
        impl core::fmt::Display for TlsError {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match self {
                    $(Self::$error $(($alert))? => f.write_str($words),)+
                    Self::Alert(number) => write!(f, "the broker refuses: TLS alert {number}"),
                }
            }
        }

        #[cfg(feature = "defmt")]
        impl defmt::Format for TlsError {
            fn format(&self, f: defmt::Formatter<'_>) {
                match self {
                    $(Self::$error $(($alert))? => defmt::write!(f, $words),)+
                    Self::Alert(number) => {
                        defmt::write!(f, "the broker refuses: TLS alert {}", number);
                    }
                }
            }
        }
    };
}

says! {
    Ended => "the broker closed the connection without an answer",
    NotTls => "the port does not speak TLS",
    Version => "the broker does not speak TLS 1.3",
    Alert(40) => "handshake_failure: the broker offers no algorithm that this board has, e.g. only RSA",
    Alert(116) => "certificate_required: the broker wants a certificate, and this board has none",
    Unexpected => "the broker's TLS is not what was offered",
    Malformed => "the broker's TLS is garbled",
    TooLarge => "the broker's certificates are too large",
    Forged => "what the broker sent was changed on its way",
    Authority => "the broker's certificate is not signed by the authority that is trusted here",
    Name => "the broker's certificate is for other names",
    Expired => "the broker's certificate has expired",
    Kind => "the broker's certificate has a key or signature other than ECDSA P-256 or Ed25519",
    Certificate => "the broker's certificate is no good",
    Costly => "the broker's certificates take too many checks of signatures",
    Proof => "the broker does not hold the key of its certificate",
    Random => "the board's randomness can't be used",
}

impl core::error::Error for TlsError {}

impl embedded_io_async::Error for TlsError {
    fn kind(&self) -> embedded_io_async::ErrorKind {
        match self {
            Self::Ended => embedded_io_async::ErrorKind::ConnectionReset,
            _ => embedded_io_async::ErrorKind::InvalidData,
        }
    }
}

impl TlsError {
    /// The alert that tells the peer, where the place that found the fault says no other; none where the peer
    /// ended the connection by itself.
    const fn alert(self) -> Option<u8> {
        Some(match self {
            Self::Ended | Self::Alert(_) | Self::Random => return None,
            Self::Version => told::PROTOCOL_VERSION,
            Self::Unexpected | Self::NotTls => told::UNEXPECTED_MESSAGE,
            Self::Malformed => told::DECODE_ERROR,
            // The fault is this side's, which has no more memory.
            Self::TooLarge => told::INTERNAL_ERROR,
            Self::Forged => told::BAD_RECORD_MAC,
            Self::Authority => told::UNKNOWN_CA,
            Self::Expired => told::CERTIFICATE_EXPIRED,
            Self::Kind => told::UNSUPPORTED_CERTIFICATE,
            Self::Name | Self::Certificate => told::BAD_CERTIFICATE,
            Self::Costly => told::CERTIFICATE_UNKNOWN,
            Self::Proof => told::DECRYPT_ERROR,
        })
    }

    /// With the alert that RFC 8446 has for the place where it was found.
    const fn told(self, alert: u8) -> Refusal {
        Refusal {
            error: self,
            alert: Some(alert),
        }
    }
}

/// Alerts that a peer is told (RFC 8446, 6.2).
mod told {
    pub const UNEXPECTED_MESSAGE: u8 = 10;
    pub const BAD_RECORD_MAC: u8 = 20;
    pub const RECORD_OVERFLOW: u8 = 22;
    pub const BAD_CERTIFICATE: u8 = 42;
    pub const UNSUPPORTED_CERTIFICATE: u8 = 43;
    pub const CERTIFICATE_EXPIRED: u8 = 45;
    pub const CERTIFICATE_UNKNOWN: u8 = 46;
    pub const ILLEGAL_PARAMETER: u8 = 47;
    pub const UNKNOWN_CA: u8 = 48;
    pub const DECODE_ERROR: u8 = 50;
    pub const DECRYPT_ERROR: u8 = 51;
    pub const PROTOCOL_VERSION: u8 = 70;
    pub const INTERNAL_ERROR: u8 = 80;
    pub const MISSING_EXTENSION: u8 = 109;
    pub const UNSUPPORTED_EXTENSION: u8 = 110;
}

/// A fault, and what the peer is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Refusal {
    error: TlsError,
    alert: Option<u8>,
}

impl From<TlsError> for Refusal {
    fn from(error: TlsError) -> Self {
        Self {
            error,
            alert: error.alert(),
        }
    }
}
