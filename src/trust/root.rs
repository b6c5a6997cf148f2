//! The trust root: which keys may sign what, and how many of them it takes.

use super::{KeyId, PublicKey, Role};
use heapless::Vec;
use serde::{Deserialize, Serialize};

/// Most keys a role may have.
pub const MAX_KEYS: usize = 8;

/// The keys of one role, and how many of them must sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct RoleKeys {
    /// Signatures needed, at least 1 and at most `keys.len()`.
    pub threshold: u8,
    /// The keys, without duplicates.
    pub keys: Vec<PublicKey, MAX_KEYS>,
}

/// The root of trust of a fleet.
///
/// A board accepts version `n + 1` when it holds version `n` and the new one is signed by enough
/// root keys of both (the rule of The Update Framework, section 5.3). A key that the new version
/// does not name is revoked from that moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Version, from 1.
    pub version: u32,
    /// Keys and thresholds, indexed by [`Role`].
    pub roles: [RoleKeys; Role::COUNT],
}

impl Root {
    /// The keys of `role`.
    #[must_use]
    pub fn role(&self, role: Role) -> &RoleKeys {
        &self.roles[role as usize]
    }

    /// The key that `id` names in `role`.
    #[must_use]
    pub fn key(&self, role: Role, id: KeyId) -> Option<&PublicKey> {
        self.role(role).keys.iter().find(|key| key.id() == id)
    }
}
