//! What the errors of trust say to people: hosts only.

use super::Role;
use super::cose::{CoseError, CoseErrorKind, CoseField};
use super::root::{MAX_SIGNATURES, RootField, TrustError};
use core::fmt::{Display, Formatter, Result};

impl Display for CoseField {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Tag => "tag",
            Self::Protected => "protected header",
            Self::ContentType => "content type",
            Self::KeyId => "key id",
            Self::Unprotected => "unprotected header",
            Self::Payload => "payload",
            Self::Signature => "signature",
            Self::End => "end",
            Self::Output => "output buffer",
        })
    }
}

impl Display for CoseErrorKind {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Truncated => "the bytes end here",
            Self::Malformed => "not the bytes of COSE_Sign1 as Edgeward writes it",
            Self::NotCanonical => "a length that is not in its shortest form",
            Self::WrongContent => "another content type than expected here",
            Self::WrongKey => "another key than expected",
            Self::WrongPlace => "a payload that should be detached, or should not be",
            Self::BadSignature => "the signature does not hold",
            Self::Trailing => "bytes follow the message",
            Self::NoSpace => "too small",
        })
    }
}

impl Display for CoseError {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{} at byte {}: {}", self.field, self.offset, self.kind)
    }
}

impl Display for Role {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Root => "root",
            Self::Release => "release",
            Self::Rollout => "rollout",
            Self::Collector => "collector",
        })
    }
}

impl Display for RootField {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Version => f.write_str("the version"),
            Self::Threshold(role) => write!(f, "the threshold of the {role} role"),
            Self::Keys(role) => write!(f, "the keys of the {role} role"),
        }
    }
}

impl Display for TrustError {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Cose { index, error } => write!(f, "signature {index}: {error}"),
            Self::TooManySignatures => write!(f, "more than {MAX_SIGNATURES} signatures"),
            Self::Threshold {
                role,
                valid,
                needed,
            } => write!(
                f,
                "{valid} valid signature(s) of the {role} role, {needed} needed"
            ),
            Self::Undecodable { field, offset } => {
                write!(f, "root at byte {offset}: {field} can't be decoded")
            }
            Self::Trailing { offset } => write!(f, "root at byte {offset}: bytes follow it"),
            Self::Version { expected, offered } => {
                write!(f, "root version {offered}, where {expected} comes next")
            }
            Self::BadThreshold {
                role,
                threshold,
                keys,
            } => write!(
                f,
                "{role} role: a threshold of {threshold} of {keys} key(s)"
            ),
            Self::DuplicateKey { role, index } => {
                write!(f, "{role} role: key {index} is there already")
            }
            Self::WeakKey { role, index } => {
                write!(
                    f,
                    "{role} role: key {index} is one that anyone can sign for"
                )
            }
        }
    }
}

#[cfg(any(test, feature = "std"))]
impl std::error::Error for CoseError {}
#[cfg(any(test, feature = "std"))]
impl std::error::Error for TrustError {}
