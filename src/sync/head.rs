//! Whether the head of a bundle is the one that is desired, is signed, and fits this board.

use super::Target;
use crate::bundle::{Capabilities, FileHeader, Head};
use crate::telemetry::Reason;
use crate::trust::root::Root;
use crate::trust::{Digest32, Verifier, sha256};

/// What is wrong with a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeadFault {
    /// The bytes are not the desired head: damaged on the way or on the broker. Another copy may
    /// hold.
    Damaged,
    /// It is the desired head, but its signatures do not hold. They are outside of the digest, so
    /// another copy may hold, and so may this one under the next root.
    Unsigned,
    /// It is the desired head, and this board will never run it.
    Refused(Reason),
}

impl HeadFault {
    /// Why a release whose head held when it was received is not to run now.
    pub(super) fn since(self) -> Reason {
        match self {
            Self::Damaged => Reason::Corrupt,
            Self::Unsigned => Reason::Revoked,
            Self::Refused(reason) => reason,
        }
    }
}

/// Checks `bytes`, which are `target.head_bytes` long; returns how many of them are signed.
pub(super) fn check_head<V: Verifier + ?Sized>(
    bytes: &[u8],
    target: &Target,
    root: &Root,
    verifier: &V,
    board: &Capabilities<'_>,
    floor: u32,
) -> Result<u32, HeadFault> {
    let (head, signed_bytes) = check_signatures(bytes, &target.digest, root, verifier)?;
    let refused = |reason| Err(HeadFault::Refused(reason));
    let Ok(manifest) = head.manifest() else {
        return refused(Reason::Corrupt);
    };
    if let Err(error) = manifest.check_fit(board, head.total_bytes()) {
        return refused(error.reason());
    }
    if manifest.counter < floor {
        return refused(Reason::Downgrade);
    }
    // What the desired state says of the release must be what the release says of itself.
    let same = manifest.counter == target.counter
        && head.head_bytes() == target.head_bytes
        && head.total_bytes() == target.total_bytes;
    if !same {
        return refused(Reason::Corrupt);
    }
    Ok(signed_bytes)
}

/// The head that `bytes` are, if they are the release `digest` and signed as `root` wants it, and how
/// many of them are signed.
pub(super) fn check_signatures<'b, V: Verifier + ?Sized>(
    bytes: &'b [u8],
    digest: &Digest32,
    root: &Root,
    verifier: &V,
) -> Result<(Head<'b>, u32), HeadFault> {
    let header = FileHeader::parse(bytes).map_err(|_| HeadFault::Damaged)?;
    let signed = bytes
        .get(..header.signed_bytes())
        .ok_or(HeadFault::Damaged)?;
    if sha256(signed) != *digest {
        return Err(HeadFault::Damaged);
    }
    let head = Head::parse(bytes).map_err(|_| HeadFault::Unsigned)?;
    head.verify(root, verifier)
        .map_err(|_| HeadFault::Unsigned)?;
    Ok((head, signed.len() as u32))
}
