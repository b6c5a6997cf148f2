//! Roots on their way from hand to hand, where several people hold the root keys.

use super::{KeyError, KeyStore, role_keys, sign_detached};
use edgeward::trust::cose::ContentType;
use edgeward::trust::ring::RingVerifier;
use edgeward::trust::root::{Root, TrustError, signed_payload};
use edgeward::trust::{KeyId, PublicKey, Role, Signer};
use std::path::PathBuf;

/// A root on its way from hand to hand.
#[derive(Debug, Clone)]
pub struct Countersigned {
    /// The root in force.
    pub old: Root,
    /// The one that shall follow.
    pub next: Root,
    /// It, signed.
    pub signed: Vec<u8>,
    /// Signatures that were added here.
    pub added: usize,
    /// Valid signatures of root keys and how many it takes, while they are too few.
    pub missing: Option<(u8, u8)>,
}

impl KeyStore {
    /// What [`rotate`](Self::rotate) makes as a root on its way, for those who have the other root keys
    /// to sign ([`countersigned`](Self::countersigned)). Nothing is in force yet but the new keys' files.
    ///
    /// # Errors
    /// [`KeyError::TooFew`] without a root key.
    pub fn propose_rotation(&self, role: Role) -> Result<Vec<u8>, KeyError> {
        let _alone = self.alone()?;
        let old = self.root()?;
        self.signers_at_hand(Role::Root)?;
        let next = self.rotated(&old, role)?;
        self.sign_root(&next, &old, 1)
    }

    /// What [`revoke`](Self::revoke) makes as a root on its way; see [`propose_rotation`](Self::propose_rotation).
    ///
    /// # Errors
    /// As [`check_revoke`](Self::check_revoke), and [`KeyError::TooFew`] without a root key.
    pub fn propose_revocation(&self, id: KeyId, replace: bool) -> Result<Vec<u8>, KeyError> {
        let _alone = self.alone()?;
        let (role, old) = self.check_revoke(id, replace)?;
        self.signers_at_hand(Role::Root)?;
        let next = self.revoked(&old, role, id, replace)?;
        self.sign_root(&next, &old, 1)
    }

    /// A root on its way, with the signatures of this folder's root keys added.
    ///
    /// # Errors
    /// [`KeyError::Root`] when it is none, [`KeyError::NotNext`] when it does not follow the root here.
    pub fn countersigned(&self, bytes: &[u8]) -> Result<Countersigned, KeyError> {
        let old = self.root()?;
        let payload = signed_payload(ContentType::Root, bytes);
        let payload = payload.map_err(on_its_way)?;
        let next = Root::decode(payload).map_err(on_its_way)?;
        let expected = old.version.saturating_add(1);
        if next.version != expected {
            return Err(KeyError::NotNext {
                offered: next.version,
                expected,
            });
        }
        let mut signed = bytes.to_vec();
        let mut signatures = 0;
        let signers = [&old, &next].map(|root| root.role(Role::Root).keys.clone());
        for signer in self.held(Role::Root)? {
            let key = signer.public_key();
            let named = signers.iter().any(|keys| keys.contains(&key));
            if named && !is_signed_by(&next, key, &signed) {
                let added = sign_detached(&signer, ContentType::Root, payload);
                signed.extend(added.ok_or(KeyError::Random)?);
                signatures += 1;
            }
        }
        let missing = match old.accept_next(&signed, &RingVerifier) {
            Ok(_) => None,
            Err(TrustError::Threshold { valid, needed, .. }) => Some((valid, needed)),
            Err(fault) => return Err(on_its_way(fault)),
        };
        Ok(Countersigned {
            old,
            next,
            signed,
            added: signatures,
            missing,
        })
    }

    /// Puts a root in force that enough keys have signed.
    ///
    /// # Errors
    /// [`KeyError::Root`] when it does not follow the root here, or lacks signatures.
    pub fn accept(&self, signed: &[u8]) -> Result<Root, KeyError> {
        let _alone = self.alone()?;
        let accepted = self.root()?.accept_next(signed, &RingVerifier);
        let next = accepted.map_err(on_its_way)?;
        self.write_root(&next, signed)?;
        Ok(next)
    }
}

fn on_its_way(fault: TrustError) -> KeyError {
    let path = PathBuf::from("the root on its way");
    KeyError::Root { path, fault }
}

/// Whether a key's own signature is among those of a root.
fn is_signed_by(root: &Root, key: PublicKey, signed: &[u8]) -> bool {
    let mut alone = root.clone();
    alone.roles[Role::Root as usize] = role_keys(1, &[key]);
    alone
        .verify_threshold(Role::Root, ContentType::Root, signed, &RingVerifier)
        .is_ok()
}
