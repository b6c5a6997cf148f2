//! The rollout controller: looks at what the boards report, advances a rollout or stops it, and keeps
//! its roots, its desired state and its bundles on the broker.

use crate::collector::now_ms;
use crate::files;
use crate::keys::{KeyError, KeyStore, hex};
use crate::mqtt::{Mqtt, Options};
use crate::release::{Release, ReleaseError, publish_roots, sign_desired_by};
use crate::rollout::{BoardView, Counts, Decision, PlanError, Rollout, State};
use crate::store::{Store, StoreError, StoredFrame};
use edgeward::sync::cohort_per_mille;
use edgeward::telemetry::Birth;
use edgeward::topic;
use edgeward::trust::Role;
use edgeward::trust::ring::RingSigner;
use edgeward::trust::root::Root;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Pause between two looks at the fleet.
const PERIOD: Duration = Duration::from_millis(250);

/// Why a rollout could not be driven.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The release or its keys.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// The roots.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A file.
    #[error("{}: {why}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// Whether `device` is in the cohort of `rollout` at a share in per mille: the boards' own rule.
#[must_use]
pub fn in_cohort(rollout: &str, device: &str, share: u16) -> bool {
    cohort_per_mille(rollout, device) < share
}

/// The boards of a fleet as their newest births describe them; boards that never reported are left
/// out.
///
/// # Errors
/// [`StoreError`].
pub fn boards(store: &dyn Store, fleet: &str) -> Result<Vec<BoardView>, StoreError> {
    views(store.births(fleet)?)
}

fn views(births: Vec<StoredFrame>) -> Result<Vec<BoardView>, StoreError> {
    let view = |frame: StoredFrame| {
        let birth: Birth = serde_json::from_value(frame.body)
            .map_err(|error| StoreError::Corrupt(format!("birth of {}: {error}", frame.device)))?;
        Ok(BoardView::of(&frame.device, &birth))
    };
    births.into_iter().map(view).collect()
}

/// Brings the fleet's newest rollout one step forward; its standing then, what the boards did, and
/// what follows from it. `None` without a rollout.
///
/// # Errors
/// [`StoreError`].
fn advance(store: &dyn Store, fleet: &str, now: u64) -> Result<Option<Step>, StoreError> {
    match look(store, fleet, now)? {
        // A failure that was reported meanwhile must count before anything is decided, and what somebody
        // did by hand stands: so what would change the rollout is worked out again, on what holds while
        // nobody else can write. This happens seldom, and the look several times a second.
        Some((_, true)) => act(store, fleet, now),
        Some((seen, false)) => Ok(Some(seen)),
        None => Ok(None),
    }
}

/// A rollout a step further, and whether that step changes it.
type Step = (Rollout, Counts, Decision);

fn look(store: &dyn Store, fleet: &str, now: u64) -> Result<Option<(Step, bool)>, StoreError> {
    let Some(before) = store.newest_rollout(fleet)? else {
        return Ok(None);
    };
    let mut after = before.clone();
    let (counts, decision) = after.step(&boards(store, fleet)?, &in_cohort, now);
    let changes = after != before;
    Ok(Some(((after, counts, decision), changes)))
}

fn act(store: &dyn Store, fleet: &str, now: u64) -> Result<Option<Step>, StoreError> {
    let mut stepped = None;
    store.decide(fleet, &mut |before, births| {
        let mut after = before.clone();
        let (counts, decision) = after.step(&views(births)?, &in_cohort, now);
        stepped = Some((after.clone(), counts, decision));
        Ok((after != *before).then_some(after))
    })?;
    Ok(stepped)
}

/// What drives the rollouts of one fleet.
pub struct Controller {
    store: Arc<dyn Store>,
    keys: KeyStore,
    releases: PathBuf,
    fleet: String,
    mqtt: Mqtt,
    /// Bundles whose chunks this process keeps on the broker.
    kept: BTreeSet<String>,
    /// The newest root that is on the broker, with all before it; empty for none yet.
    root: Vec<u8>,
    /// The rollout standing published last, and until when it holds.
    published: Option<(Rollout, u64)>,
}

impl Controller {
    /// A controller for `fleet`, with keys and published bundles in `home`.
    #[must_use]
    pub fn new(broker: &Options, store: Arc<dyn Store>, home: &Path, fleet: &str) -> Self {
        Self {
            store,
            keys: KeyStore::at(home),
            releases: releases_folder(home),
            fleet: fleet.to_owned(),
            mqtt: Mqtt::connect(broker),
            kept: BTreeSet::new(),
            root: Vec::new(),
            published: None,
        }
    }

    /// The client it publishes with.
    #[must_use]
    pub fn mqtt(&self) -> &Mqtt {
        &self.mqtt
    }

    /// Brings new roots to the broker, then looks at the newest rollout once, and does what follows.
    /// Returns its standing and counts.
    ///
    /// # Errors
    /// [`ControlError`]; the next call tries again.
    pub fn step(&mut self) -> Result<Option<(Rollout, Counts)>, ControlError> {
        self.keep_roots()?;
        if self.store.newest_rollout(&self.fleet)?.is_none() {
            return Ok(None);
        }
        // Nothing is decided that can't be signed: the store never runs ahead of what boards are told.
        let signers = self.keys.signers(Role::Rollout)?;
        let now = now_ms();
        let advanced = advance(self.store.as_ref(), &self.fleet, now)?;
        let Some((rollout, counts, decision)) = advanced else {
            return Ok(None);
        };
        if decision != Decision::Wait {
            let what = format!("{}: {decision:?}, {counts:?}", rollout.plan.id);
            self.store.audit("rollout", &what, now)?;
            tracing::info!(rollout = %rollout.plan.id, ?decision, "rollout");
        }
        self.publish(&rollout, &signers, now)?;
        Ok(Some((rollout, counts)))
    }

    /// Keeps all roots on the broker, whether or not there is a rollout.
    fn keep_roots(&mut self) -> Result<(), ControlError> {
        let newest = self.keys.root_bytes()?;
        if newest == self.root {
            return Ok(());
        }
        publish_roots(&self.mqtt, &self.keys, &self.fleet)?;
        self.root = newest;
        // The new root may have revoked the key that signed the standing, so it is signed again.
        self.published = None;
        Ok(())
    }

    /// Publishes the standing unless it is published and holds for long enough.
    fn publish(
        &mut self,
        rollout: &Rollout,
        signers: &[RingSigner],
        now: u64,
    ) -> Result<(), ControlError> {
        let same = |published: &Rollout| {
            published.plan == rollout.plan
                && published.phase == rollout.phase
                && published.state == rollout.state
        };
        if let Some((published, renew_ms)) = &self.published
            && same(published)
            && now < *renew_ms
        {
            return Ok(());
        }
        for target in &rollout.plan.targets {
            self.keep(&hex(&target.digest))?;
        }
        // A number is drawn last: this is tried several times a second, and where a bundle is missing,
        // say, each try would use one up.
        let mut desired = rollout.desired(0, now / 1000)?;
        // Somebody may have changed or replaced it since it was read. Boards go by the greatest number,
        // so what no longer holds must not get one; the next step publishes what does.
        let Some(sequence) = self.store.next_desired_for(rollout)? else {
            return Ok(());
        };
        desired.sequence = sequence;
        let signed = sign_desired_by(signers, &desired)?;
        self.mqtt.maintain(&topic::desired(&self.fleet), &signed);
        // Renewed at half of its life, so that boards never see it expire while the host lives.
        let life_ms = rollout.plan.expires_after_s.saturating_mul(500);
        let renew = now.saturating_add(life_ms);
        self.published = Some((rollout.clone(), renew));
        Ok(())
    }

    /// Keeps a published bundle's chunks on the broker, also after the broker forgot them.
    fn keep(&mut self, digest: &str) -> Result<(), ControlError> {
        if self.kept.contains(digest) {
            return Ok(());
        }
        let path = self.releases.join(format!("{digest}.bundle"));
        let failed = |why: String| ControlError::File {
            path: path.clone(),
            why,
        };
        let bytes = std::fs::read(&path).map_err(|error| {
            failed(format!(
                "{error}; `edgeward publish` puts published bundles there"
            ))
        })?;
        let release = Release::open_unchecked(&bytes)?;
        release.publish(&self.mqtt, |_| {});
        self.kept.insert(digest.to_owned());
        Ok(())
    }

    /// Drives the rollouts on a thread of its own until the handle is dropped.
    #[must_use]
    pub fn spawn(mut self) -> ControllerHandle {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut said = String::new();
                while !stop.load(Ordering::Acquire) {
                    let error = self.step().err().map(|error| error.to_string());
                    let error = error.unwrap_or_default();
                    // Once, not several times a second.
                    if !error.is_empty() && error != said {
                        tracing::error!(%error, "the rollout waits");
                    }
                    said = error;
                    std::thread::park_timeout(PERIOD);
                }
            }
        });
        ControllerHandle {
            stop,
            thread: Some(thread),
        }
    }
}

/// A controller's thread; it stops when this is dropped.
pub struct ControllerHandle {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl ControllerHandle {
    /// Whether the thread ended by itself, as it never should.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for ControllerHandle {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic in the thread has been reported by its own message.
            let _ = thread.join();
        }
    }
}

/// Where published bundles are kept.
#[must_use]
pub fn releases_folder(home: &Path) -> PathBuf {
    home.join("releases")
}

/// Checks a bundle as boards would and keeps a copy for the broker; the copy's path.
///
/// # Errors
/// [`ControlError`] when boards would refuse it or the copy can't be written.
pub fn keep_release(home: &Path, bytes: &[u8], root: &Root) -> Result<PathBuf, ControlError> {
    let release = Release::open(bytes, root)?;
    let folder = releases_folder(home);
    let path = folder.join(format!("{}.bundle", hex(release.digest())));
    let failed = |error: std::io::Error| ControlError::File {
        path: path.clone(),
        why: error.to_string(),
    };
    std::fs::create_dir_all(&folder).map_err(failed)?;
    files::write_whole(&path, bytes, files::PUBLIC).map_err(failed)?;
    Ok(path)
}

/// Changes the standing of the fleet's newest rollout by hand, where `change` says to what; how it stood
/// before and how it stands now. `None` without a rollout.
///
/// # Errors
/// [`ControlError::Store`].
pub fn set_state(
    store: &dyn Store,
    fleet: &str,
    change: impl Fn(&State) -> Option<State>,
) -> Result<Option<(Rollout, Rollout)>, ControlError> {
    let mut changed = None;
    store.decide(fleet, &mut |before, _| {
        let state = change(&before.state);
        let mut after = before.clone();
        if let Some(state) = &state {
            after.set_state(state.clone(), now_ms());
        }
        changed = Some((before.clone(), after.clone()));
        Ok(state.map(|_| after))
    })?;
    if let Some((before, after)) = &changed
        && before.state != after.state
    {
        let what = format!("{}: {:?} by hand", after.plan.id, after.state);
        store.audit("rollout", &what, now_ms())?;
    }
    Ok(changed)
}

#[cfg(test)]
mod tests;
