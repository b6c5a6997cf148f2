//! The keys of a fleet's owner, and the root that names them.
//!
//! A folder holds one PKCS#8 file a private key, readable by its owner only, and the signed roots:
//! `root-1.cose`, `root-2.cose` and so on, each signed by enough root keys of itself and of the one
//! before, and `root.cose`, the newest. Private keys may live elsewhere: whoever keeps the root keys
//! offline moves their files away, and brings them back to rotate.

mod partial;

use crate::files;
use edgeward::trust::cose::{self, ContentType};
use edgeward::trust::ring::{KeyRejected, RingSigner, RingVerifier};
use edgeward::trust::root::{MAX_KEYS, MAX_ROOT_BYTES, RoleKeys, Root, TrustError};
use edgeward::trust::{KeyId, PublicKey, Role, Signer};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

pub use partial::{Countersigned, Replacement};

const ROOT_FILE: &str = "root.cose";

/// Why keys can't be read, made or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// A file can't be read or written.
    #[error("cannot {verb} {}", path.display())]
    Io {
        /// Read, write and so on.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no root in the folder.
    #[error("there are no keys in {}", .0.display())]
    NoRoot(PathBuf),
    /// There is a root already.
    #[error("there are keys in {} already", .0.display())]
    Exists(PathBuf),
    /// The root is not what it claims to be.
    #[error("{} is no valid root: {fault:?}", path.display())]
    Root {
        /// The file.
        path: PathBuf,
        /// Why.
        fault: TrustError,
    },
    /// A private key's file holds none.
    #[error("{}: {source}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        source: KeyRejected,
    },
    /// The system has no randomness.
    #[error("the system gives no randomness for a key")]
    Random,
    /// Not enough private keys of a role are in the folder.
    #[error("{held} of the {needed} private {role} keys needed are in {}", folder.display())]
    TooFew {
        /// The role.
        role: &'static str,
        /// Keys that there are.
        held: usize,
        /// Keys that it takes.
        needed: usize,
        /// The folder.
        folder: PathBuf,
    },
    /// A root on its way does not follow the one in the folder.
    #[error("it is root version {offered}; the one that follows here is version {expected}")]
    NotNext {
        /// The version of the root on its way.
        offered: u32,
        /// The version after the one in the folder.
        expected: u32,
    },
    /// A signature that a root key is said to have made, and did not.
    #[error("its signature of the key {0} does not hold: it was changed after it was signed")]
    Forged(String),
    /// The root names no such key.
    #[error("the root names no key {0}")]
    NoSuchKey(String),
    /// Without this key the role could not sign.
    #[error("without it, {role} has {left} keys and needs {needed}")]
    Needed {
        /// The role.
        role: &'static str,
        /// Keys left.
        left: usize,
        /// Its threshold.
        needed: u8,
    },
    /// A key that shall be named and is no new one.
    #[error("the key {0} is given twice, or this root or an earlier one names it")]
    NotNew(String),
    /// More keys made elsewhere than are replaced.
    #[error("{given} keys are given, and {room} replaced")]
    TooMany {
        /// Keys that were given.
        given: usize,
        /// Keys that are replaced.
        room: usize,
    },
    /// Numbers of keys that make no role.
    #[error(
        "{role}: {threshold} of {keys} keys is impossible (1 to {MAX_KEYS} keys, at least 1 of them)"
    )]
    Threshold {
        /// The role.
        role: &'static str,
        /// Keys that must sign.
        threshold: u8,
        /// Keys that there shall be.
        keys: u8,
    },
}

/// How many keys a role has, and how many of them must sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quorum {
    /// Keys that must sign.
    pub threshold: u8,
    /// Keys that there are.
    pub keys: u8,
}

/// One key that a root names, or that lies in the folder without being named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// Its role.
    pub role: Role,
    /// The key.
    pub public: PublicKey,
    /// Whether its private half is in the folder.
    pub held: bool,
    /// What the roots say of it.
    pub status: KeyStatus,
}

/// What the roots of a folder say of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyStatus {
    /// The newest names it.
    Active,
    /// No root has named it yet: it is meant for one on its way, and may be the only copy.
    Pending,
    /// An earlier one named it, and the newest does not.
    Revoked,
}

impl KeyStatus {
    /// Its name; stable.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Pending => "pending",
            Self::Revoked => "revoked",
        }
    }
}

/// A folder of keys.
#[derive(Debug, Clone)]
pub struct KeyStore {
    folder: PathBuf,
}

/// A role's name for people and files.
#[must_use]
pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Root => "root",
        Role::Release => "release",
        Role::Rollout => "rollout",
        Role::Collector => "collector",
    }
}

/// Bytes as lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The bytes that hexadecimal digits stand for, if they are `N`.
#[must_use]
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// A public key as PEM (SubjectPublicKeyInfo, RFC 8410), as OpenSSL reads it.
#[must_use]
pub fn pem(key: &PublicKey) -> String {
    // SEQUENCE { SEQUENCE { OID 1.3.101.112 }, BIT STRING } with lengths that never change.
    const PREFIX: [u8; 12] = [
        0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
    ];
    let der = [&PREFIX[..], &key.0].concat();
    format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        base64(&der)
    )
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let mut bits = 0u32;
        for at in 0..3 {
            bits = bits << 8 | u32::from(group.get(at).copied().unwrap_or(0));
        }
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= group.len() {
                digit as char
            } else {
                '='
            });
        }
    }
    text
}

impl KeyStore {
    /// The keys in the folder `keys` of `home`.
    #[must_use]
    pub fn at(home: &Path) -> Self {
        Self {
            folder: home.join("keys"),
        }
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Checks that [`init`](Self::init) can begin.
    ///
    /// # Errors
    /// [`KeyError::Exists`] when there is a root already, [`KeyError::Threshold`] for impossible numbers.
    pub fn check_init(&self, quorum: impl Fn(Role) -> Quorum) -> Result<(), KeyError> {
        if self.folder.join(ROOT_FILE).exists() {
            return Err(KeyError::Exists(self.folder.clone()));
        }
        for role in Role::ALL {
            let Quorum { threshold, keys } = quorum(role);
            if threshold == 0 || threshold > keys || usize::from(keys) > MAX_KEYS {
                return Err(KeyError::Threshold {
                    role: role_name(role),
                    threshold,
                    keys,
                });
            }
        }
        Ok(())
    }

    /// Makes the keys of all roles and the first root. `quorum` says how many a role shall have.
    ///
    /// # Errors
    /// [`KeyError::Exists`] when there is a root already; the folder is then unchanged.
    pub fn init(&self, quorum: impl Fn(Role) -> Quorum) -> Result<Root, KeyError> {
        self.check_init(&quorum)?;
        self.make_folder()?;
        let _alone = self.alone()?;
        self.check_init(&quorum)?;
        let mut roles: [RoleKeys; Role::COUNT] = Default::default();
        for role in Role::ALL {
            let Quorum { threshold, keys } = quorum(role);
            let made = (0..keys).map(|_| self.make_key(role));
            roles[role as usize] = role_keys(threshold, &made.collect::<Result<Vec<_>, _>>()?);
        }
        let root = Root { version: 1, roles };
        let signed = self.sign_root(&root, &root, [root.role(Role::Root).threshold; 2])?;
        let accepted = Root::accept_first(&signed, &RingVerifier);
        accepted.map_err(|fault| self.root_fault(fault))?;
        self.write_root(&root, &signed)?;
        Ok(root)
    }

    /// The newest signed root, as boards take it.
    ///
    /// # Errors
    /// [`KeyError::NoRoot`] when there is none.
    pub fn root_bytes(&self) -> Result<Vec<u8>, KeyError> {
        let path = self.folder.join(ROOT_FILE);
        match fs::read(&path) {
            Ok(bytes) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(KeyError::NoRoot(self.folder.clone()))
            }
            Err(error) => Err(fault("read", &path)(error)),
        }
    }

    /// The newest root.
    ///
    /// # Errors
    /// [`KeyError::NoRoot`] when there is none, [`KeyError::Root`] when it isn't signed by itself.
    pub fn root(&self) -> Result<Root, KeyError> {
        let bytes = self.root_bytes()?;
        Root::accept_first(&bytes, &RingVerifier).map_err(|fault| self.root_fault(fault))
    }

    /// Every signed root of the folder, the oldest first, with its version.
    ///
    /// # Errors
    /// [`KeyError`] when one can't be read.
    pub fn history(&self) -> Result<Vec<(u32, Vec<u8>)>, KeyError> {
        let newest = self.root()?.version;
        let mut roots = Vec::new();
        for version in 1..=newest {
            let path = self.numbered(version);
            if path.is_file() {
                roots.push((version, fs::read(&path).map_err(fault("read", &path))?));
            }
        }
        Ok(roots)
    }

    /// The private keys of `role` that the root names and the folder holds.
    ///
    /// # Errors
    /// [`KeyError::TooFew`] when they are fewer than must sign.
    pub fn signers(&self, role: Role) -> Result<Vec<RingSigner>, KeyError> {
        self.signers_of(&self.root()?, role)
    }

    /// Those of them that the folder holds, though they may be too few: others have the rest.
    ///
    /// # Errors
    /// [`KeyError::TooFew`] when there is none.
    pub fn signers_at_hand(&self, role: Role) -> Result<Vec<RingSigner>, KeyError> {
        self.at_least(&self.root()?, role, 1)
    }

    /// All keys, by role: those that the root names, then those that only lie in the folder.
    ///
    /// # Errors
    /// [`KeyError`] when the root or a file can't be read.
    pub fn list(&self) -> Result<Vec<KeyInfo>, KeyError> {
        let root = self.root()?;
        let earlier = self.earlier_roots()?;
        let mut keys = Vec::new();
        for role in Role::ALL {
            let held = self.held(role)?;
            let named = &root.role(role).keys;
            keys.extend(named.iter().map(|&public| KeyInfo {
                role,
                public,
                held: held.iter().any(|signer| signer.public_key() == public),
                status: KeyStatus::Active,
            }));
            let others = held.iter().map(Signer::public_key);
            let others = others.filter(|key| !named.contains(key));
            keys.extend(others.map(|public| {
                KeyInfo {
                    role,
                    public,
                    held: true,
                    status: match earlier
                        .iter()
                        .any(|it| it.role(role).keys.contains(&public))
                    {
                        true => KeyStatus::Revoked,
                        false => KeyStatus::Pending,
                    },
                }
            }));
        }
        Ok(keys)
    }

    /// The roots before the newest, as far as they are in the folder and can be read. They only tell what
    /// became of keys: a damaged one is no reason to fail.
    fn earlier_roots(&self) -> Result<Vec<Root>, KeyError> {
        let newest = self.root()?.version;
        let mut roots = Vec::new();
        for version in 1..newest {
            let path = self.numbered(version);
            if !path.is_file() {
                continue;
            }
            match open_root(&path) {
                Ok(root) => roots.push(root),
                Err(error) => tracing::warn!(%error, "which keys it named is not known"),
            }
        }
        Ok(roots)
    }

    /// Replaces the keys of `role` by new ones, as many, in a new root.
    ///
    /// # Errors
    /// [`KeyError::TooFew`] when too few root keys are at hand to sign it.
    pub fn rotate(&self, role: Role) -> Result<Root, KeyError> {
        let _alone = self.alone()?;
        let old = self.root()?;
        self.signers_of(&old, Role::Root)?;
        let next = self.rotated(&old, role, &[])?;
        self.succeed(&old, &next)
    }

    /// The root after `old` in which `role` has other keys, as many: `given`, and new ones for the rest.
    fn rotated(&self, old: &Root, role: Role, given: &[PublicKey]) -> Result<Root, KeyError> {
        let RoleKeys { threshold, keys } = old.role(role);
        self.check_given(old, given, keys.len())?;
        let mut next = given.to_vec();
        for _ in given.len()..keys.len() {
            next.push(self.make_key(role)?);
        }
        Ok(successor(old, role, *threshold, &next))
    }

    /// Checks that [`revoke`](Self::revoke) can begin: the key's role, and the root that names it.
    ///
    /// # Errors
    /// [`KeyError::NoSuchKey`], or [`KeyError::Needed`] when the role could not sign without it.
    pub fn check_revoke(&self, id: KeyId, replace: bool) -> Result<(Role, Root), KeyError> {
        let root = self.root()?;
        let role = Role::ALL
            .into_iter()
            .find(|&role| root.key(role, id).is_some())
            .ok_or_else(|| KeyError::NoSuchKey(hex(&id.0)))?;
        let RoleKeys { threshold, keys } = root.role(role);
        let left = keys.iter().filter(|key| key.id() != id).count();
        if !replace && left < usize::from(*threshold) {
            return Err(KeyError::Needed {
                role: role_name(role),
                left,
                needed: *threshold,
            });
        }
        Ok((role, root))
    }

    /// Strikes one key off in a new root; with `replace`, a new one takes its place.
    ///
    /// # Errors
    /// As [`check_revoke`](Self::check_revoke), and [`KeyError::TooFew`] when too few root keys are at
    /// hand to sign it.
    pub fn revoke(&self, id: KeyId, replace: bool) -> Result<(Role, Root), KeyError> {
        let _alone = self.alone()?;
        let (role, old) = self.check_revoke(id, replace)?;
        self.signers_of(&old, Role::Root)?;
        let by = replace.then_some(Replacement::New);
        let next = self.revoked(&old, role, id, by)?;
        Ok((role, self.succeed(&old, &next)?))
    }

    fn revoked(
        &self,
        old: &Root,
        role: Role,
        id: KeyId,
        by: Option<Replacement>,
    ) -> Result<Root, KeyError> {
        let RoleKeys { threshold, keys } = old.role(role);
        let mut left: Vec<_> = keys.iter().copied().filter(|key| key.id() != id).collect();
        match by {
            None => {}
            Some(Replacement::New) => left.push(self.make_key(role)?),
            Some(Replacement::Given(key)) => {
                self.check_given(old, &[key], 1)?;
                left.push(key);
            }
        }
        Ok(successor(old, role, *threshold, &left))
    }

    /// Signs, checks and writes the root after `old`.
    fn succeed(&self, old: &Root, next: &Root) -> Result<Root, KeyError> {
        let signed = self.sign_root(next, old, [next.role(Role::Root).threshold; 2])?;
        let accepted = old.accept_next(&signed, &RingVerifier);
        accepted.map_err(|fault| self.root_fault(fault))?;
        self.write_root(next, &signed)?;
        Ok(next.clone())
    }

    /// Signs `root` by its own root keys and those of the one before, each key once; by at least so
    /// many of each.
    fn sign_root(&self, root: &Root, old: &Root, least: [u8; 2]) -> Result<Vec<u8>, KeyError> {
        let mut signers = self.at_least(root, Role::Root, least[0])?;
        for signer in self.at_least(old, Role::Root, least[1])? {
            if !signers
                .iter()
                .any(|other| other.public_key() == signer.public_key())
            {
                signers.push(signer);
            }
        }
        let mut payload = [0; MAX_ROOT_BYTES];
        let unwritable = |_| KeyError::NoRoot(self.folder.clone());
        let payload = root.encode(&mut payload).map_err(unwritable)?;
        sign_all(&signers, ContentType::Root, payload).ok_or(KeyError::Random)
    }

    fn signers_of(&self, root: &Root, role: Role) -> Result<Vec<RingSigner>, KeyError> {
        self.at_least(root, role, root.role(role).threshold)
    }

    fn at_least(&self, root: &Root, role: Role, least: u8) -> Result<Vec<RingSigner>, KeyError> {
        let RoleKeys { threshold, keys } = root.role(role);
        let mut held = self.held(role)?;
        held.retain(|signer| keys.contains(&signer.public_key()));
        if held.len() < usize::from(least) {
            return Err(KeyError::TooFew {
                role: role_name(role),
                held: held.len(),
                needed: usize::from(*threshold),
                folder: self.folder.clone(),
            });
        }
        Ok(held)
    }

    /// The private keys of `role` in the folder, in the order of their names.
    fn held(&self, role: Role) -> Result<Vec<RingSigner>, KeyError> {
        let prefix = format!("{}-", role_name(role));
        let entries = fs::read_dir(&self.folder).map_err(fault("read", &self.folder))?;
        let mut paths = Vec::new();
        for entry in entries {
            let path = entry.map_err(fault("read", &self.folder))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(&prefix) && name.ends_with(".p8") {
                paths.push(path);
            }
        }
        paths.sort();
        let load = |path: PathBuf| {
            let document = fs::read(&path).map_err(fault("read", &path))?;
            RingSigner::from_pkcs8(&document).map_err(|source| KeyError::Key { path, source })
        };
        paths.into_iter().map(load).collect()
    }

    fn make_key(&self, role: Role) -> Result<PublicKey, KeyError> {
        let document = RingSigner::generate().map_err(|_| KeyError::Random)?;
        let signer = RingSigner::from_pkcs8(&document).map_err(|_| KeyError::Random)?;
        let public = signer.public_key();
        let name = format!("{}-{}.p8", role_name(role), hex(&public.id().0));
        write(&self.folder.join(name), &document, files::PRIVATE)?;
        Ok(public)
    }

    fn make_folder(&self) -> Result<(), KeyError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .map_err(fault("make", &self.folder))
    }

    /// Keeps others from changing the roots until it is dropped: of two with one version, boards that
    /// have taken the one would refuse whatever follows the other, for ever.
    fn alone(&self) -> Result<fs::File, KeyError> {
        let folder = match fs::File::open(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(KeyError::NoRoot(self.folder.clone()));
            }
            opened => opened.map_err(fault("read", &self.folder))?,
        };
        folder.lock().map_err(fault("lock", &self.folder))?;
        Ok(folder)
    }

    /// Keeps a root under its version.
    fn keep_root(&self, root: &Root, signed: &[u8]) -> Result<(), KeyError> {
        write(&self.numbered(root.version), signed, files::PUBLIC)
    }

    /// Where the root of a version is kept.
    fn numbered(&self, version: u32) -> PathBuf {
        self.folder.join(format!("root-{version}.cose"))
    }

    fn write_root(&self, root: &Root, signed: &[u8]) -> Result<(), KeyError> {
        self.keep_root(root, signed)?;
        write(&self.folder.join(ROOT_FILE), signed, files::PUBLIC)
    }

    fn root_fault(&self, fault: TrustError) -> KeyError {
        KeyError::Root {
            path: self.folder.join(ROOT_FILE),
            fault,
        }
    }
}

/// A root that is signed by itself.
fn open_root(path: &Path) -> Result<Root, KeyError> {
    let bytes = fs::read(path).map_err(fault("read", path))?;
    let path = path.to_owned();
    Root::accept_first(&bytes, &RingVerifier).map_err(|fault| KeyError::Root { path, fault })
}

/// A CBOR sequence of signatures over one payload, which the first embeds; `None` without a signer.
#[must_use]
pub fn sign_all<S: Signer>(signers: &[S], content: ContentType, payload: &[u8]) -> Option<Vec<u8>> {
    let (first, others) = signers.split_first()?;
    let mut bytes = vec![0; content.embedded_bytes(payload.len())];
    let written = cose::sign_embedded(first, content, payload, &mut bytes).ok()?;
    bytes.truncate(written);
    for signer in others {
        bytes.extend(sign_detached(signer, content, payload)?);
    }
    Some(bytes)
}

/// One detached signature over `payload`.
#[must_use]
pub fn sign_detached<S: Signer>(
    signer: &S,
    content: ContentType,
    payload: &[u8],
) -> Option<Vec<u8>> {
    let mut bytes = vec![0; content.detached_bytes()];
    let written = cose::sign_detached(signer, content, payload, &mut bytes).ok()?;
    bytes.truncate(written);
    Some(bytes)
}

/// The root after `old`, in which `role` has these keys.
fn successor(old: &Root, role: Role, threshold: u8, keys: &[PublicKey]) -> Root {
    let mut next = old.clone();
    next.version = old.version.saturating_add(1);
    next.roles[role as usize] = role_keys(threshold, keys);
    next
}

/// Keys whose number was checked against [`MAX_KEYS`].
fn role_keys(threshold: u8, keys: &[PublicKey]) -> RoleKeys {
    RoleKeys {
        threshold,
        keys: keys.iter().copied().take(MAX_KEYS).collect(),
    }
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), KeyError> {
    files::write_whole(path, bytes, mode).map_err(fault("write", path))
}

fn fault(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeyError {
    let path = path.to_owned();
    move |source| KeyError::Io { verb, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    fn one_of_one(_: Role) -> Quorum {
        Quorum {
            threshold: 1,
            keys: 1,
        }
    }

    #[test]
    fn a_new_folder_holds_a_root_that_holds() {
        let home = tempfile::tempdir().expect("folder");
        let store = KeyStore::at(home.path());
        assert!(matches!(store.root(), Err(KeyError::NoRoot(_))));
        let root = store.init(one_of_one).expect("keys");
        assert_eq!(store.root().expect("root"), root);
        assert!(matches!(store.init(one_of_one), Err(KeyError::Exists(_))));
        for entry in fs::read_dir(store.folder()).expect("folder") {
            let entry = entry.expect("entry");
            let mode = entry.metadata().expect("metadata").permissions().mode() & 0o777;
            let private = entry.file_name().to_string_lossy().ends_with(".p8");
            assert_eq!(mode & 0o077 == 0, private, "{entry:?} {mode:o}");
        }
        assert_eq!(store.signers(Role::Release).expect("signers").len(), 1);
    }

    #[test]
    fn rotation_makes_a_chain_that_a_board_follows() {
        let home = tempfile::tempdir().expect("folder");
        let store = KeyStore::at(home.path());
        let first = store
            .init(|role| match role {
                Role::Root => Quorum {
                    threshold: 2,
                    keys: 3,
                },
                _ => Quorum {
                    threshold: 1,
                    keys: 2,
                },
            })
            .expect("keys");
        let second = store.rotate(Role::Root).expect("rotation");
        assert_eq!(second.version, 2);
        assert!(
            first
                .role(Role::Root)
                .keys
                .iter()
                .all(|key| !second.role(Role::Root).keys.contains(key))
        );
        let third = store.rotate(Role::Release).expect("rotation");
        let mut held = first;
        for (version, bytes) in store.history().expect("roots").into_iter().skip(1) {
            held = held
                .accept_next(&bytes, &RingVerifier)
                .expect("the next root");
            assert_eq!(held.version, version);
        }
        assert_eq!(held, third);
    }

    #[test]
    fn those_who_change_the_root_at_once_take_turns() {
        let home = tempfile::tempdir().expect("folder");
        let store = KeyStore::at(home.path());
        let mut held = store.init(one_of_one).expect("keys");
        let (people, times) = (4, 8);
        let barrier = std::sync::Barrier::new(people);
        std::thread::scope(|scope| {
            for _ in 0..people {
                scope.spawn(|| {
                    let mine = KeyStore::at(home.path());
                    for _ in 0..times {
                        barrier.wait();
                        mine.rotate(Role::Rollout).expect("rotation");
                    }
                });
            }
        });
        for (version, bytes) in store.history().expect("roots").into_iter().skip(1) {
            held = held
                .accept_next(&bytes, &RingVerifier)
                .expect("the next root");
            assert_eq!(held.version, version);
        }
        assert_eq!(held.version as usize, 1 + people * times);
        assert_eq!(store.root().expect("root"), held);
    }

    #[test]
    fn a_revoked_key_signs_no_more_and_the_last_one_is_not_revoked() {
        let home = tempfile::tempdir().expect("folder");
        let store = KeyStore::at(home.path());
        let root = store.init(one_of_one).expect("keys");
        let id = root.role(Role::Release).keys[0].id();
        assert!(matches!(
            store.revoke(id, false),
            Err(KeyError::Needed { left: 0, .. })
        ));
        assert_eq!(store.root().expect("root").version, 1);
        let (role, next) = store.revoke(id, true).expect("revocation");
        assert_eq!((role, next.version), (Role::Release, 2));
        assert!(next.key(Role::Release, id).is_none());
        let listed = store.list().expect("list");
        let old = listed
            .iter()
            .find(|key| key.public.id() == id)
            .expect("the key");
        assert!(old.held && old.status == KeyStatus::Revoked);
        assert!(matches!(
            store.revoke(id, true),
            Err(KeyError::NoSuchKey(_))
        ));
    }

    #[test]
    fn those_who_have_a_root_key_each_sign_one_after_the_other() {
        let one = tempfile::tempdir().expect("folder");
        let alice = KeyStore::at(one.path());
        let two_of_three = |role| Quorum {
            threshold: if role == Role::Root { 2 } else { 1 },
            keys: if role == Role::Root { 3 } else { 1 },
        };
        let first = alice.init(two_of_three).expect("keys");
        // The second root key goes to Bob, who has the public root; the third to a safe.
        let other = tempfile::tempdir().expect("folder");
        let bob = KeyStore::at(other.path());
        bob.make_folder().expect("folder");
        let files: Vec<_> = first.role(Role::Root).keys[1..]
            .iter()
            .map(|key| format!("root-{}.p8", hex(&key.id().0)))
            .collect();
        fs::rename(alice.folder().join(&files[0]), bob.folder().join(&files[0])).expect("moved");
        fs::remove_file(alice.folder().join(&files[1])).expect("away");
        bob.write_root(&first, &alice.root_bytes().expect("root"))
            .expect("written");

        assert!(matches!(
            alice.rotate(Role::Release),
            Err(KeyError::TooFew {
                held: 1,
                needed: 2,
                ..
            })
        ));
        let begun = alice.propose_rotation(Role::Release, &[]).expect("begun");
        assert_eq!(alice.root().expect("root"), first, "nothing is in force");
        let own = alice.countersigned(&begun).expect("read");
        assert_eq!((own.added, own.missing), (0, Some((1, 2))));
        assert!(matches!(alice.accept(&begun), Err(KeyError::Root { .. })));

        let both = bob.countersigned(&begun).expect("signed");
        assert_eq!((both.added, both.missing), (1, None));
        let second = bob.accept(&both.signed).expect("in force");
        assert_eq!(alice.accept(&both.signed).expect("in force"), second);
        assert_eq!(second.version, 2);
        assert_ne!(second.role(Role::Release), first.role(Role::Release));
        assert_eq!(second.role(Role::Root), first.role(Role::Root));
        // It is in force: it does not follow itself.
        assert!(matches!(
            bob.countersigned(&both.signed),
            Err(KeyError::NotNext {
                offered: 2,
                expected: 3
            })
        ));
        // Any byte changed, it is not signed by both.
        for at in 0..both.signed.len() {
            let mut bytes = begun.clone();
            let Some(byte) = bytes.get_mut(at) else { break };
            *byte ^= 1;
            let accepted = bob
                .countersigned(&bytes)
                .is_ok_and(|it| it.missing.is_none());
            assert!(!accepted, "byte {at}");
        }
    }

    #[test]
    fn a_key_that_no_root_has_named_is_pending_and_none_to_delete() {
        let home = tempfile::tempdir().expect("folder");
        let store = KeyStore::at(home.path());
        let first = store.init(one_of_one).expect("keys");
        let begun = store.propose_rotation(Role::Release, &[]).expect("begun");
        let status = |public: PublicKey| {
            let mut listed = store.list().expect("list").into_iter();
            let key = listed.find(|key| key.public == public);
            key.map(|key| (key.held, key.status))
        };
        let next = store.countersigned(&begun).expect("read").next;
        let [old, new] = [&first, &next].map(|root| root.role(Role::Release).keys[0]);
        assert_eq!(status(old), Some((true, KeyStatus::Active)));
        assert_eq!(status(new), Some((true, KeyStatus::Pending)));
        store.accept(&begun).expect("in force");
        assert_eq!(status(old), Some((true, KeyStatus::Revoked)));
        assert_eq!(status(new), Some((true, KeyStatus::Active)));
        let made = store.make(Role::Release).expect("made");
        assert_eq!(status(made), Some((true, KeyStatus::Pending)));
    }

    #[test]
    fn each_makes_a_root_key_of_the_next_root_in_a_folder_of_their_own() {
        let (one, other) = (tempfile::tempdir(), tempfile::tempdir());
        let (one, other) = (one.expect("folder"), other.expect("folder"));
        let (alice, bob) = (KeyStore::at(one.path()), KeyStore::at(other.path()));
        let two_of_two = |role| Quorum {
            threshold: if role == Role::Root { 2 } else { 1 },
            keys: if role == Role::Root { 2 } else { 1 },
        };
        let first = alice.init(two_of_two).expect("keys");
        let of_bob = first.role(Role::Root).keys[1];
        let file = format!("root-{}.p8", hex(&of_bob.id().0));
        bob.make_folder().expect("folder");
        fs::rename(alice.folder().join(&file), bob.folder().join(&file)).expect("moved");
        bob.write_root(&first, &alice.root_bytes().expect("root"))
            .expect("written");

        let made = bob.make(Role::Root).expect("made");
        let before = alice.list().expect("list");
        for wrong in [vec![made, made], vec![of_bob], vec![made; 3]] {
            let refused = alice.propose_rotation(Role::Root, &wrong);
            assert!(
                matches!(refused, Err(KeyError::NotNew(_) | KeyError::TooMany { .. })),
                "{refused:?}"
            );
        }
        assert_eq!(alice.list().expect("list"), before, "nothing was made");
        let begun = alice.propose_rotation(Role::Root, &[made]).expect("begun");
        let held = |store: &KeyStore| store.held(Role::Root).expect("keys").len();
        assert_eq!((held(&alice), held(&bob)), (2, 2), "an old and a new one");
        assert_eq!(
            alice.countersigned(&begun).expect("read").missing,
            Some((1, 2))
        );
        let both = bob.countersigned(&begun).expect("signed");
        assert_eq!((both.added, both.missing), (2, None));
        let second = bob.accept(&both.signed).expect("in force");
        assert!(second.role(Role::Root).keys.contains(&made));
        assert_eq!(alice.accept(&both.signed).expect("in force"), second);

        // A root of which the beginner has no key, and a key that takes another's place.
        let others = [bob.make(Role::Root), bob.make(Role::Root)].map(|key| key.expect("made"));
        let begun = alice.propose_rotation(Role::Root, &others).expect("begun");
        assert_eq!(bob.countersigned(&begun).expect("signed").missing, None);
        let by = Replacement::Given(others[0]);
        let begun = alice
            .propose_revocation(made.id(), Some(by))
            .expect("begun");
        let next = bob.countersigned(&begun).expect("signed").next;
        assert!(next.role(Role::Root).keys.contains(&others[0]));
    }

    #[test]
    fn a_key_that_was_revoked_comes_back_in_no_root() {
        let home = tempfile::tempdir().expect("folder");
        let store = KeyStore::at(home.path());
        let first = store.init(one_of_one).expect("keys");
        let revoked = first.role(Role::Rollout).keys[0];
        store.rotate(Role::Rollout).expect("rotated");
        store.rotate(Role::Rollout).expect("rotated");
        let before = store.list().expect("list");
        for role in [Role::Rollout, Role::Release] {
            let refused = store.propose_rotation(role, &[revoked]);
            assert!(matches!(refused, Err(KeyError::NotNew(_))), "{refused:?}");
        }
        let id = store.root().expect("root").role(Role::Rollout).keys[0].id();
        let by = Some(Replacement::Given(revoked));
        let refused = store.propose_revocation(id, by);
        assert!(matches!(refused, Err(KeyError::NotNew(_))), "{refused:?}");
        let refused = store.check_public(&[revoked], 1);
        assert!(matches!(refused, Err(KeyError::NotNew(_))), "{refused:?}");
        assert_eq!(store.list().expect("list"), before, "nothing was made");
    }

    /// Whoever was handed the newest root alone can't know what earlier ones named.
    #[test]
    fn a_root_that_names_a_revoked_key_gets_no_further_signature() {
        let [alice, bob] = [(); 2].map(|()| tempfile::tempdir().expect("folder"));
        let [alice, bob] = [&alice, &bob].map(|home| KeyStore::at(home.path()));
        let first = alice.init(one_of_one).expect("keys");
        let revoked = first.role(Role::Rollout).keys[0];
        alice.rotate(Role::Rollout).expect("rotated");
        fs::create_dir_all(bob.folder()).expect("folder");
        for entry in fs::read_dir(alice.folder()).expect("folder") {
            let path = entry.expect("a file").path();
            let name = path.file_name().expect("a name");
            if name != "root-1.cose" {
                fs::copy(&path, bob.folder().join(name)).expect("copied");
            }
        }
        let begun = bob.propose_rotation(Role::Rollout, &[revoked]);
        let begun = begun.expect("he can't know");
        let refused = alice.countersigned(&begun);
        assert!(matches!(refused, Err(KeyError::NotNew(_))), "{refused:?}");
        let refused = alice.accept(&begun);
        assert!(matches!(refused, Err(KeyError::NotNew(_))), "{refused:?}");
        assert_eq!(alice.root().expect("root").version, 2);
    }

    #[test]
    fn a_damaged_earlier_root_keeps_nobody_from_listing_and_rotating() {
        let home = tempfile::tempdir().expect("folder");
        let store = KeyStore::at(home.path());
        let first = store.init(one_of_one).expect("keys");
        let second = store.rotate(Role::Rollout).expect("rotated");
        store.rotate(Role::Rollout).expect("rotated");
        fs::write(store.folder().join("root-1.cose"), "damaged").expect("written");
        let keys = store.list().expect("list");
        let status = |root: &Root| {
            let public = root.role(Role::Rollout).keys[0];
            let found = keys.iter().find(|key| key.public == public);
            found.map(|key| key.status)
        };
        assert_eq!(status(&second), Some(KeyStatus::Revoked), "from root 2");
        assert_eq!(status(&first), Some(KeyStatus::Pending), "not known");
        let elsewhere = tempfile::tempdir().expect("folder");
        let made = KeyStore::at(elsewhere.path())
            .make(Role::Rollout)
            .expect("made");
        store
            .propose_rotation(Role::Rollout, &[made])
            .expect("begun");
    }

    #[test]
    fn without_its_root_keys_a_folder_rotates_nothing_and_makes_nothing() {
        let home = tempfile::tempdir().expect("folder");
        let store = KeyStore::at(home.path());
        let root = store.init(one_of_one).expect("keys");
        let id = hex(&root.role(Role::Root).keys[0].id().0);
        fs::remove_file(store.folder().join(format!("root-{id}.p8"))).expect("removal");
        let before = store.list().expect("list");
        assert!(matches!(
            store.rotate(Role::Rollout),
            Err(KeyError::TooFew {
                held: 0,
                needed: 1,
                ..
            })
        ));
        assert_eq!(store.list().expect("list"), before);
    }

    #[test]
    fn what_cannot_be_written_leaves_no_part() {
        let home = tempfile::tempdir().expect("folder");
        let store = KeyStore::at(home.path());
        store.init(one_of_one).expect("keys");
        let in_the_way = store.folder().join("root-2.cose");
        fs::create_dir_all(in_the_way.join("not empty")).expect("folder");
        let failed = store.rotate(Role::Rollout);
        assert!(matches!(failed, Err(KeyError::Io { .. })), "{failed:?}");
        for entry in fs::read_dir(store.folder()).expect("folder") {
            let name = entry.expect("entry").file_name();
            assert!(!name.to_string_lossy().ends_with(".partial"), "{name:?}");
        }
        assert_eq!(store.root().expect("root").version, 1);
    }

    #[test]
    fn a_tampered_root_is_refused() {
        let home = tempfile::tempdir().expect("folder");
        let store = KeyStore::at(home.path());
        store.init(one_of_one).expect("keys");
        let path = store.folder().join(ROOT_FILE);
        let mut bytes = fs::read(&path).expect("root");
        bytes[60] ^= 1;
        fs::write(&path, bytes).expect("root");
        assert!(matches!(store.root(), Err(KeyError::Root { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// A private key, or a root, that is any bytes, or was cut or changed: it is read, or an error names the
        /// file; and nothing in the folder changes.
        #[test]
        fn a_damaged_key_file_is_named(
            any in proptest::collection::vec(any::<u8>(), 0..128),
            keep in any::<prop::sample::Index>(),
            flip in (any::<prop::sample::Index>(), 0u8..),
            (sound, of_root) in any::<(bool, bool)>(),
        ) {
            let home = tempfile::tempdir().expect("folder");
            let store = KeyStore::at(home.path());
            store.init(one_of_one).expect("keys");
            let ending = if of_root { ROOT_FILE } else { ".p8" };
            let path = fs::read_dir(store.folder()).expect("folder").find_map(|entry| {
                let path = entry.expect("entry").path();
                let name = path.file_name()?.to_string_lossy().into_owned();
                let wanted = name.ends_with(ending) && (of_root || name.starts_with("release-"));
                wanted.then_some(path)
            });
            let path = path.expect("a file");
            let publics = || {
                let signers = store.signers_at_hand(Role::Release)?;
                Ok(signers.iter().map(Signer::public_key).collect::<Vec<_>>())
            };
            let before = publics().map_err(|error: KeyError| error.to_string()).expect("keys");
            let mut bytes = fs::read(&path).expect("its bytes");
            if sound {
                bytes.truncate(keep.index(bytes.len() + 1));
                if !bytes.is_empty() {
                    let at = flip.0.index(bytes.len());
                    bytes[at] ^= flip.1;
                }
            } else {
                bytes = any;
            }
            fs::write(&path, &bytes).expect("written");
            match publics() {
                Ok(after) => prop_assert_eq!(after, before),
                Err(error) => {
                    let said = error.to_string();
                    prop_assert!(said.contains(&*path.display().to_string()), "{said}");
                }
            }
            prop_assert_eq!(fs::read(&path).expect("its bytes"), bytes);
        }
    }

    #[test]
    fn pem_is_what_openssl_writes() {
        // The public key of RFC 8410, section 10.1.
        let key = unhex("19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1");
        let text = pem(&PublicKey(key.expect("hex")));
        assert!(text.contains("MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE="));
        assert_eq!(base64(b"fo"), "Zm8=");
    }
}
