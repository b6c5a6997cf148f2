//! A signed release on its way to the boards: its chunks on the broker, and the desired state that
//! names it.

use crate::controller::boards;
use crate::keys::{KeyError, KeyStore, sign_all};
use crate::mqtt::Mqtt;
use crate::store::{Store, StoreError};
use edgeward::bundle::{
    BoardClass, Bundle, BundleError, BundleWriter, CHUNK_BYTES, Description, WriteError,
};
use edgeward::sync::{Desired, Target};
use edgeward::telemetry::{ReleaseId, SlotState, Text, release_id};
use edgeward::topic;
use edgeward::trust::cose::ContentType;
use edgeward::trust::ring::{RingSigner, RingVerifier};
use edgeward::trust::root::{Root, TrustError};
use edgeward::trust::{Digest32, Role};
use std::collections::BTreeSet;

/// Why a release can't go out.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The file is not a whole bundle.
    #[error("no sound bundle: {0}")]
    Bundle(#[from] BundleError),
    /// The release keys of the fleet's root did not sign it.
    #[error("boards would refuse it: {0}; sign it with `edgeward sign`")]
    Unsigned(TrustError),
    /// It could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A key is missing.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The message could not be encoded.
    #[error("the desired state does not fit into its message")]
    Encode,
}

/// A bundle that boards of the fleet would accept.
#[derive(Debug)]
pub struct Release<'a> {
    bytes: &'a [u8],
    target: Target,
}

impl<'a> Release<'a> {
    /// Checks a bundle as a board would: structure, every hash, and the release signatures.
    ///
    /// # Errors
    /// [`ReleaseError`] says what a board would refuse it for.
    pub fn open(bytes: &'a [u8], root: &Root) -> Result<Self, ReleaseError> {
        let bundle = Bundle::open(bytes)?;
        bundle.verify_data()?;
        bundle
            .head()
            .verify(root, &RingVerifier)
            .map_err(ReleaseError::Unsigned)?;
        Ok(Self {
            bytes,
            target: target(&bundle),
        })
    }

    /// Takes a bundle as it is, valid or not: for showing that boards refuse it.
    ///
    /// # Errors
    /// [`ReleaseError::Bundle`] when the bytes have not even the structure of a bundle.
    pub fn open_unchecked(bytes: &'a [u8]) -> Result<Self, ReleaseError> {
        let bundle = Bundle::open(bytes)?;
        Ok(Self {
            bytes,
            target: target(&bundle),
        })
    }

    /// How a desired state names it.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Its digest.
    #[must_use]
    pub fn digest(&self) -> &Digest32 {
        &self.target.digest
    }

    /// Its chunks, in order.
    pub fn chunks(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        self.bytes.chunks(CHUNK_BYTES)
    }

    /// Publishes the chunks as retained messages and keeps them there; `each` is told after each.
    pub fn publish(&self, mqtt: &Mqtt, mut each: impl FnMut(usize)) {
        for (index, chunk) in self.chunks().enumerate() {
            let number = u32::try_from(index).unwrap_or(u32::MAX);
            mqtt.maintain(&topic::blob(self.digest(), number), chunk);
            each(index + 1);
        }
    }
}

/// Chunks of a bundle of so many bytes.
#[must_use]
pub fn chunks(total_bytes: u32) -> u32 {
    // A chunk has 4096 bytes.
    total_bytes.div_ceil(CHUNK_BYTES as u32)
}

/// Removes the chunks of a bundle of so many bytes from the broker, and keeps them there no longer.
/// [`needed`] says whether anybody still wants them.
pub fn withdraw(mqtt: &Mqtt, digest: &Digest32, total_bytes: u32) {
    for number in 0..chunks(total_bytes) {
        mqtt.clear(&topic::blob(digest, number));
    }
}

/// Who may still fetch a release, of `fleet` and of all fleets that have devices in the store; `None`
/// when it can go from the broker. The newest rollout of a fleet may, however it stands, and boards
/// that have begun and are not done.
///
/// # Errors
/// [`StoreError`].
pub fn needed(
    store: &dyn Store,
    fleet: &str,
    digest: &Digest32,
) -> Result<Option<String>, StoreError> {
    let devices = store.devices()?.into_iter();
    let mut fleets: BTreeSet<String> = devices.map(|device| device.fleet).collect();
    fleets.insert(fleet.to_owned());
    let release = release_id(digest);
    for fleet in &fleets {
        if let Some(rollout) = store.newest_rollout(fleet)? {
            let mut targets = rollout.plan.targets.iter();
            if targets.any(|target| target.digest == *digest) {
                let id = rollout.plan.id;
                return Ok(Some(format!("{id}, the newest rollout of fleet {fleet}")));
            }
        }
        for board in boards(store, fleet)? {
            let busy = |(held, state): &(ReleaseId, SlotState)| {
                use SlotState::{Confirmed, Empty, Rejected, Revoked};
                let done = matches!(state, Empty | Confirmed | Revoked | Rejected(_));
                *held == release && !done
            };
            if board.slots.iter().any(busy) {
                return Ok(Some(format!("{}, which has begun with it", board.device)));
            }
        }
    }
    Ok(None)
}

fn target(bundle: &Bundle<'_>) -> Target {
    let manifest = bundle.manifest();
    let mut version = Text::new();
    // A version longer than a desired state holds is cut; it is there for people only.
    for letter in manifest.version.chars() {
        if version.push(letter).is_err() {
            break;
        }
    }
    Target {
        class: manifest.class,
        digest: bundle.head().digest(),
        counter: manifest.counter,
        version,
        head_bytes: bundle.head().head_bytes(),
        total_bytes: bundle.head().total_bytes(),
    }
}

/// Signs a desired state with the rollout keys that the folder holds.
///
/// # Errors
/// [`ReleaseError`] when a key is missing or the state does not fit.
pub fn sign_desired(keys: &KeyStore, desired: &Desired) -> Result<Vec<u8>, ReleaseError> {
    sign_desired_by(&keys.signers(Role::Rollout)?, desired)
}

/// Signs a desired state with rollout keys that were read before.
///
/// # Errors
/// [`ReleaseError::Encode`] when there are none or the state does not fit.
pub fn sign_desired_by(signers: &[RingSigner], desired: &Desired) -> Result<Vec<u8>, ReleaseError> {
    let payload = postcard::to_stdvec(desired).map_err(|_| ReleaseError::Encode)?;
    sign_all(signers, ContentType::Desired, &payload).ok_or(ReleaseError::Encode)
}

/// Reads a desired state that enough rollout keys of `root` signed; `None` for anything else.
#[must_use]
pub fn read_desired(bytes: &[u8], root: &Root) -> Option<Desired> {
    let (role, content) = (Role::Rollout, ContentType::Desired);
    let payload = root.verify_threshold(role, content, bytes, &RingVerifier);
    postcard::from_bytes(payload.ok()?).ok()
}

/// Publishes every root that boards of the fleet may need, the oldest first, and keeps them there: a
/// board goes from its own to the next, and so on to the newest.
///
/// # Errors
/// [`KeyError`] when the roots can't be read.
pub fn publish_roots(mqtt: &Mqtt, keys: &KeyStore, fleet: &str) -> Result<(), KeyError> {
    for (version, root) in keys.history()? {
        mqtt.maintain(&topic::root(fleet, version), &root);
    }
    Ok(())
}

/// Publishes the fleet's desired state and every root that its boards may need, and keeps them there.
///
/// # Errors
/// [`ReleaseError::Keys`] when the roots can't be read.
pub fn publish_desired(
    mqtt: &Mqtt,
    keys: &KeyStore,
    fleet: &str,
    signed: &[u8],
) -> Result<(), ReleaseError> {
    publish_roots(mqtt, keys, fleet)?;
    mqtt.maintain(&topic::desired(fleet), signed);
    Ok(())
}

/// What a copy of a bundle shall differ in.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// Another version.
    pub version: Option<String>,
    /// Another release counter.
    pub counter: Option<u32>,
    /// Another board class.
    pub class: Option<BoardClass>,
}

/// Old content as a new release, unsigned: what a rollback sends, since no board goes below the
/// counter that it confirmed.
///
/// # Errors
/// [`ReleaseError`] when `bytes` are no bundle.
pub fn repack(bytes: &[u8], changes: &Changes) -> Result<Vec<u8>, ReleaseError> {
    let bundle = Bundle::open(bytes)?;
    bundle.verify_data()?;
    let old = bundle.manifest();
    let mut writer = BundleWriter::new(Description {
        name: old.name.to_owned(),
        version: changes
            .version
            .clone()
            .unwrap_or_else(|| old.version.to_owned()),
        counter: changes.counter.unwrap_or(old.counter),
        class: changes.class.unwrap_or(old.class),
        kernels: old.kernels.to_owned(),
        arena_bytes: old.arena_bytes,
        min_runtime: old.min_runtime,
    })?;
    for section in &old.sections {
        writer.section(section.kind, bundle.require(section.kind)?)?;
    }
    Ok(writer.finish()?)
}
