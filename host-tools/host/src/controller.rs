//! The rollout controller: looks at what the boards report, advances a rollout or stops it, and keeps
//! its roots, its desired state and its bundles on the broker.

mod ear;

use crate::collector::now_ms;
use crate::files;
use crate::keys::{KeyError, KeyStore, hex};
use crate::mqtt::{Mqtt, Options};
use crate::release::{Release, ReleaseError, needed, publish_roots, sign_desired_by, withdraw};
use crate::rollout::{BoardView, Counts, Decision, Listening, PlanError, Rollout, State};
use crate::store::{Member, Store, StoreError};
use ear::Ear;
use edgeward::sync::cohort_per_mille;
use edgeward::telemetry::Birth;
use edgeward::topic;
use edgeward::trust::ring::RingSigner;
use edgeward::trust::root::Root;
use edgeward::trust::{Digest32, Role};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

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

/// The boards that are enrolled in a fleet, as their newest births describe them, or as nobody has
/// described them yet.
///
/// # Errors
/// [`StoreError`].
pub fn boards(store: &dyn Store, fleet: &str) -> Result<Vec<BoardView>, StoreError> {
    views(store.members(fleet)?)
}

fn views(members: Vec<Member>) -> Result<Vec<BoardView>, StoreError> {
    let view = |Member { device, birth }| {
        let Some(frame) = birth else {
            return Ok(BoardView::unheard(&device.name, device.class));
        };
        let birth: Birth = serde_json::from_value(frame.body)
            .map_err(|error| StoreError::Corrupt(format!("birth of {}: {error}", device.name)))?;
        Ok(BoardView {
            heard_ms: frame.received_ms.max(device.seen_ms.unwrap_or(0)),
            ..BoardView::of(&device.name, &birth)
        })
    };
    members.into_iter().map(view).collect()
}

/// When somebody looks, and what he can hear, in milliseconds since 1970.
#[derive(Debug, Clone, Copy)]
struct Now {
    ms: u64,
    /// Since when the host is connected to the broker without a break; none while it is not.
    hearing_since_ms: Option<u64>,
}

/// A rollout a step further, what the boards did, and what follows from it.
type Step = (Rollout, Counts, Decision);

/// The fleet's newest rollout a step further, and whether that step changes it; nothing is stored. `None`
/// without a rollout.
///
/// # Errors
/// [`StoreError`].
fn look(store: &dyn Store, fleet: &str, now: Now) -> Result<Option<(Step, bool)>, StoreError> {
    let Some(before) = store.newest_rollout(fleet)? else {
        return Ok(None);
    };
    let mut after = before.clone();
    let boards = boards(store, fleet)?;
    let (counts, decision) = after.step(&boards, &in_cohort, now.ms, now.hearing_since_ms);
    let changes = after.differs(&before);
    let stands = if changes { after } else { before };
    Ok(Some(((stands, counts, decision), changes)))
}

/// Brings the fleet's newest rollout a step forward. A failure that was reported since [`look`] must
/// count before anything is decided, and what somebody did by hand stands: so what changes the rollout
/// is worked out again, on what holds while nobody else can write. This happens seldom, and the look
/// several times a second.
///
/// # Errors
/// [`StoreError`].
fn act(store: &dyn Store, fleet: &str, now: Now) -> Result<Option<Step>, StoreError> {
    let mut stepped = None;
    store.decide(fleet, &mut |before, members| {
        let mut after = before.clone();
        let boards = views(members)?;
        let (counts, decision) = after.step(&boards, &in_cohort, now.ms, now.hearing_since_ms);
        stepped = Some((after.clone(), counts, decision));
        Ok((after != *before).then_some(after))
    })?;
    Ok(stepped)
}

/// Since when and until when the host heard the boards, where it may hear them now. What it heard before a
/// break is stored with the fleet's newest rollout: between two notes that would be lost, and where the
/// connection never lasts, no deadline would ever pass.
///
/// # Errors
/// [`StoreError`]; what was heard must be kept for another try.
fn hear(
    store: &dyn Store,
    fleet: &str,
    heard: Option<Listening>,
    now: Now,
) -> Result<Option<Listening>, StoreError> {
    let goes_on = |it: &Listening| now.hearing_since_ms.is_some_and(|ms| ms <= it.until_ms);
    if let Some(ended) = heard.filter(|it| !goes_on(it)) {
        note(store, fleet, ended)?;
    }
    let begun = heard.filter(goes_on).map(|it| it.from_ms);
    Ok(now.hearing_since_ms.map(|since_ms| Listening {
        from_ms: begun.unwrap_or(since_ms),
        until_ms: now.ms,
    }))
}

/// Stores with the fleet's newest rollout until when its boards were heard.
fn note(store: &dyn Store, fleet: &str, heard: Listening) -> Result<(), StoreError> {
    store.decide(fleet, &mut |before, _| {
        let mut after = before.clone();
        Ok(after.heard(heard).then_some(after))
    })
}

/// What drives the rollouts of one fleet.
pub struct Controller {
    store: Arc<dyn Store>,
    keys: KeyStore,
    releases: PathBuf,
    fleet: String,
    mqtt: Mqtt,
    /// Bundles whose chunks this process keeps on the broker, and how many bytes each has.
    kept: BTreeMap<Digest32, u32>,
    /// The newest root that is on the broker, with all before it; empty for none yet.
    root: Vec<u8>,
    /// The rollout standing published last, and until when it holds.
    published: Option<(Rollout, u64)>,
    ear: Ear,
    /// What it hears of the boards, or heard last and has not stored.
    heard: Option<Listening>,
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
            kept: BTreeMap::new(),
            root: Vec::new(),
            published: None,
            ear: Ear::default(),
            heard: None,
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
        let now = now_ms();
        // The collector has a connection of its own to the same broker: without the broker, neither hears
        // a board.
        let stands = self.mqtt.connected_for();
        let hearing_since_ms = self.ear.hears_since_ms((now, Instant::now()), stands);
        let stepped = self.step_at(Now {
            ms: now,
            hearing_since_ms,
        });
        // A step may take its time, a large release to publish, say; that is no absence.
        self.ear.seen((now_ms(), Instant::now()));
        stepped
    }

    fn step_at(&mut self, when: Now) -> Result<Option<(Rollout, Counts)>, ControlError> {
        let now = when.ms;
        let heard = hear(self.store.as_ref(), &self.fleet, self.heard, when);
        // A root that revokes a key waits for no store.
        self.keep_roots()?;
        self.heard = heard?;
        let Some((seen, changes)) = look(self.store.as_ref(), &self.fleet, when)? else {
            return Ok(None);
        };
        if !changes && self.is_published(&seen.0, now) {
            self.let_go(&seen.0)?;
            return Ok(Some((seen.0, seen.1)));
        }
        // Nothing is decided that can't be signed: the store never runs ahead of what boards are told.
        let signers = match self.keys.signers(Role::Rollout) {
            // It has ended, and whoever holds the key has published that.
            Err(KeyError::TooFew { .. }) if !changes && seen.0.state == State::Done => {
                return Ok(Some((seen.0, seen.1)));
            }
            signers => signers?,
        };
        let step = match changes {
            true => act(self.store.as_ref(), &self.fleet, when)?,
            false => Some(seen),
        };
        let Some((rollout, counts, decision)) = step else {
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

    /// Whether this process has published how the rollout stands, and that holds for long enough.
    fn is_published(&self, rollout: &Rollout, now: u64) -> bool {
        self.published
            .as_ref()
            .is_some_and(|(published, renew_ms)| {
                published.plan == rollout.plan
                    && published.phase == rollout.phase
                    && published.state == rollout.state
                    && now < *renew_ms
            })
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
        if self.is_published(rollout, now) {
            return Ok(());
        }
        for target in &rollout.plan.targets {
            self.keep(&target.digest)?;
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
    fn keep(&mut self, digest: &Digest32) -> Result<(), ControlError> {
        if self.kept.contains_key(digest) {
            return Ok(());
        }
        let path = self.releases.join(format!("{}.bundle", hex(digest)));
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
        self.kept.insert(*digest, release.target().total_bytes);
        Ok(())
    }

    /// Takes bundles off the broker that were kept for earlier rollouts, once the newest one is done and
    /// nobody fetches them any more.
    fn let_go(&mut self, rollout: &Rollout) -> Result<(), ControlError> {
        if rollout.state != State::Done || self.kept.len() <= rollout.plan.targets.len() {
            return Ok(());
        }
        for (digest, total_bytes) in self.kept.clone() {
            if needed(self.store.as_ref(), &self.fleet, &digest)?.is_none() {
                withdraw(&self.mqtt, &digest, total_bytes);
                self.kept.remove(&digest);
                let digest = hex(&digest);
                self.store.audit("withdraw", &digest, now_ms())?;
                tracing::info!(digest, "no rollout names it any more; withdrawn");
            }
        }
        Ok(())
    }

    /// Stores what it heard last.
    fn ends(&mut self) {
        let Some(heard) = self.heard.take() else {
            return;
        };
        if let Err(error) = note(self.store.as_ref(), &self.fleet, heard) {
            tracing::error!(%error, "until when the boards were heard was not noted");
        }
    }

    /// Drives the rollouts on a thread of its own until the handle is dropped; it says goodbye to the
    /// broker then.
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
                self.ends();
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
