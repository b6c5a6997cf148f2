//! Roots on their way from hand to hand, where several people hold the root keys.

use super::{KeyError, KeyStore, hex, role_keys, sign_detached};
use edgeward::trust::cose::{self, ContentType};
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

/// What takes a revoked key's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replacement {
    /// A key that is made in the folder.
    New,
    /// One that was made elsewhere.
    Given(PublicKey),
}

impl KeyStore {
    /// Makes a key that no root names yet, in a folder that need not have one: for whoever begins the next
    /// root to name there. Its private half is nowhere else.
    ///
    /// # Errors
    /// [`KeyError`] when it can't be written.
    pub fn make(&self, role: Role) -> Result<PublicKey, KeyError> {
        self.make_folder()?;
        self.make_key(role)
    }

    /// Checks that keys made elsewhere may be named in the next root in the place of so many.
    ///
    /// # Errors
    /// [`KeyError::NotNew`] and [`KeyError::TooMany`].
    pub fn check_public(&self, given: &[PublicKey], room: usize) -> Result<(), KeyError> {
        self.check_given(&self.root()?, given, room)
    }

    /// What [`rotate`](Self::rotate) makes as a root on its way, for those who have the other root keys
    /// to sign ([`countersigned`](Self::countersigned)). Nothing is in force yet but the new keys' files.
    /// Those `given` were made elsewhere ([`make`](Self::make)), by those who will hold them; the rest is
    /// made here.
    ///
    /// # Errors
    /// [`KeyError::TooFew`] without a root key, [`KeyError::NotNew`] and [`KeyError::TooMany`] for keys that
    /// can't be named.
    pub fn propose_rotation(&self, role: Role, given: &[PublicKey]) -> Result<Vec<u8>, KeyError> {
        let _alone = self.alone()?;
        let old = self.root()?;
        self.signers_at_hand(Role::Root)?;
        let next = self.rotated(&old, role, given)?;
        next.validate().map_err(on_its_way)?;
        self.sign_root(&next, &old, [0, 1])
    }

    /// What [`revoke`](Self::revoke) makes as a root on its way; see [`propose_rotation`](Self::propose_rotation).
    ///
    /// # Errors
    /// As [`check_revoke`](Self::check_revoke), [`KeyError::TooFew`] without a root key, and
    /// [`KeyError::NotNew`].
    pub fn propose_revocation(
        &self,
        id: KeyId,
        by: Option<Replacement>,
    ) -> Result<Vec<u8>, KeyError> {
        let _alone = self.alone()?;
        let (role, old) = self.check_revoke(id, by.is_some())?;
        self.signers_at_hand(Role::Root)?;
        let next = self.revoked(&old, role, id, by)?;
        next.validate().map_err(on_its_way)?;
        self.sign_root(&next, &old, [0, 1])
    }

    /// A root on its way, with the signatures of this folder's root keys added.
    ///
    /// # Errors
    /// [`KeyError::Root`] when it is none, [`KeyError::NotNext`] when it does not follow the root here,
    /// [`KeyError::Forged`] when a signature of a root key does not hold, [`KeyError::NotNew`] when it names
    /// a key that was struck off.
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
        self.check_new(&old, &next)?;
        let signers = [&old, &next].map(|root| root.role(Role::Root).keys.clone());
        if let Some(id) = forged(bytes, payload, &signers.concat()) {
            return Err(KeyError::Forged(hex(&id.0)));
        }
        let mut signed = bytes.to_vec();
        let mut signatures = 0;
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
    /// [`KeyError::Root`] when it does not follow the root here, or lacks signatures; [`KeyError::NotNew`] when
    /// it names a key that was struck off.
    pub fn accept(&self, signed: &[u8]) -> Result<Root, KeyError> {
        let _alone = self.alone()?;
        let (old, bytes) = (self.root()?, self.root_bytes()?);
        let accepted = old.accept_next(signed, &RingVerifier);
        let next = accepted.map_err(on_its_way)?;
        self.check_new(&old, &next)?;
        // Whoever was handed `root.cose` alone needs the one before to tell which keys it named.
        self.keep_root(&old, &bytes)?;
        self.write_root(&next, signed)?;
        Ok(next)
    }

    /// Whether a root names none that an earlier one did and `old` does not. Whoever began it may lack the
    /// earlier roots, so that each who signs looks by those that are here.
    fn check_new(&self, old: &Root, next: &Root) -> Result<(), KeyError> {
        let earlier = self.earlier_roots()?;
        let named = next.roles.iter().flat_map(|role| role.keys.iter());
        let mut added = named.filter(|key| !names(old, key));
        match added.find(|key| earlier.iter().any(|root| names(root, key))) {
            Some(key) => Err(KeyError::NotNew(hex(&key.0))),
            None => Ok(()),
        }
    }

    /// Whether keys made elsewhere may be named in the root after `old`, where there is room for so many.
    /// One that an earlier root named was struck off, and boards would trust it again.
    pub(super) fn check_given(
        &self,
        old: &Root,
        given: &[PublicKey],
        room: usize,
    ) -> Result<(), KeyError> {
        if given.len() > room {
            let given = given.len();
            return Err(KeyError::TooMany { given, room });
        }
        if given.is_empty() {
            return Ok(());
        }
        let mut roots = self.earlier_roots()?;
        roots.push(old.clone());
        for (index, key) in given.iter().enumerate() {
            let named = roots.iter().any(|root| names(root, key));
            if named || given[..index].contains(key) {
                return Err(KeyError::NotNew(hex(&key.0)));
            }
        }
        Ok(())
    }
}

/// Whether a root names a key, in whatever role.
fn names(root: &Root, key: &PublicKey) -> bool {
    root.roles.iter().any(|role| role.keys.contains(key))
}

/// The first of `keys` whose signature in `bytes` does not hold.
fn forged(bytes: &[u8], payload: &[u8], keys: &[PublicKey]) -> Option<KeyId> {
    let mut rest = bytes;
    while let Ok(message) = cose::parse(rest) {
        let detached = message.payload.is_none().then_some(payload);
        let mut claimed = keys.iter().filter(|key| key.id() == message.key);
        if claimed.any(|key| !message.verify(&RingVerifier, key, detached)) {
            return Some(message.key);
        }
        rest = &rest[message.len..];
    }
    None
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
