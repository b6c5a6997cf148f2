//! What a release calls its features and classes, and how grave it finds what goes wrong.
//!
//! Frames name a release by the first bytes of its digest and a feature by its place. The names are in
//! the bundle, and every bundle that this host published lies in its home folder.

use crate::controller::releases_folder;
use crate::keys::hex;
use crate::names::{alarm_name, alarm_severity};
use crate::{MAX_FEATURES, MAX_OUTPUTS, Profile};
use edgeward::bundle::decode::{decode_policy, decode_profile};
use edgeward::bundle::{Bundle, SectionKind};
use edgeward::policy::{Policy, Severity};
use edgeward::telemetry::{Alarm, ReleaseId, release_id};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a release that was not found is taken for missing: it may be published meanwhile.
const RETRY: Duration = Duration::from_secs(5);
/// Releases remembered at once; boards may claim any number of them.
const REMEMBERED: usize = 64;

/// A published release, as far as its reports need it.
#[derive(Debug)]
pub struct Published {
    /// Its digest in hexadecimal digits.
    pub digest: String,
    /// The model.
    pub name: String,
    /// The version.
    pub version: String,
    /// The profile: names, references and limits.
    pub profile: Profile,
    /// The policy: how grave each violation is.
    pub policy: Policy,
}

impl Published {
    /// Reads what a bundle says of itself; `None` when it is damaged or is not `release`.
    fn read(path: &Path, release: ReleaseId) -> Option<Self> {
        let bytes = std::fs::read(path).ok()?;
        let bundle = Bundle::open(&bytes).ok()?;
        let digest = bundle.head().digest();
        if release_id(&digest) != release || bundle.verify_data().is_err() {
            return None;
        }
        let section = |kind| bundle.require(kind).ok();
        Some(Self {
            digest: hex(&digest),
            name: bundle.manifest().name.to_owned(),
            version: bundle.manifest().version.to_owned(),
            profile: decode_profile::<MAX_FEATURES, MAX_OUTPUTS>(section(SectionKind::Profile)?)
                .ok()?,
            policy: decode_policy(section(SectionKind::Policy)?).ok()?,
        })
    }

    /// A feature's name.
    #[must_use]
    pub fn feature(&self, index: u16) -> Option<&str> {
        let feature = self.profile.features.get(usize::from(index))?;
        Some(feature.name.as_str())
    }

    /// A class's name.
    #[must_use]
    pub fn class(&self, index: usize) -> Option<&str> {
        self.profile
            .output
            .names
            .get(index)
            .map(|name| name.as_str())
    }
}

struct Entry {
    published: Option<Arc<Published>>,
    looked: Instant,
}

/// The releases that this host published, read when they are first asked for.
pub struct Catalog {
    folder: PathBuf,
    entries: Mutex<HashMap<ReleaseId, Entry>>,
}

impl Catalog {
    /// The catalog of a home folder.
    #[must_use]
    pub fn at(home: &Path) -> Self {
        Self {
            folder: releases_folder(home),
            entries: Mutex::default(),
        }
    }

    /// What is known of a release; `None` for one that was not published from here.
    #[must_use]
    pub fn get(&self, release: ReleaseId) -> Option<Arc<Published>> {
        // The map is changed by whole entries, so a reader that died left it usable.
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get(&release)
            && (entry.published.is_some() || entry.looked.elapsed() < RETRY)
        {
            return entry.published.clone();
        }
        if entries.len() >= REMEMBERED {
            entries.clear();
        }
        let published = self.find(release).map(Arc::new);
        let entry = Entry {
            published: published.clone(),
            looked: Instant::now(),
        };
        entries.insert(release, entry);
        published
    }

    fn find(&self, release: ReleaseId) -> Option<Published> {
        let prefix = hex(&release);
        let files = std::fs::read_dir(&self.folder).ok()?;
        files
            .filter_map(Result::ok)
            .map(|file| file.path())
            .filter(|path| path.extension().is_some_and(|kind| kind == "bundle"))
            .filter(|path| {
                let name = path.file_stem().and_then(|name| name.to_str());
                name.is_some_and(|name| name.starts_with(&prefix))
            })
            .find_map(|path| Published::read(&path, release))
    }

    /// An alarm with the names that its release gives.
    #[must_use]
    pub fn explain(&self, release: ReleaseId, alarm: &Alarm) -> Explained {
        let published = self.get(release);
        let (feature, value, limit) = match *alarm {
            Alarm::Violation { feature, value, .. } => (feature, value, None),
            Alarm::Drift {
                feature,
                value,
                limit,
                ..
            } => (feature, value, Some(limit)),
            _ => (None, f32::NAN, None),
        };
        let named = |index: u16| {
            let published = published.as_ref();
            let name = published.and_then(|published| published.feature(index));
            name.map_or_else(|| format!("feature {index}"), str::to_owned)
        };
        let standard = Policy::standard();
        let policy = published.as_ref().map_or(&standard, |known| &known.policy);
        Explained {
            alarm: alarm_name(alarm),
            statistic: match alarm {
                Alarm::Drift { statistic, .. } => Some(crate::names::statistic_name(*statistic)),
                _ => None,
            },
            feature: feature.map(named),
            severity: alarm_severity(alarm, policy),
            value,
            limit,
            release: hex(&release),
            model: published.as_ref().map(|known| known.name.clone()),
            version: published.as_ref().map(|known| known.version.clone()),
        }
    }
}

/// An alarm in names. The field names are stable.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Explained {
    /// What kind, as [`crate::names::alarm_name`] calls it.
    pub alarm: &'static str,
    /// Which statistic of the window, for those that come at a window's end.
    pub statistic: Option<&'static str>,
    /// The feature; none for what concerns the whole sample or the predictions.
    pub feature: Option<String>,
    /// How grave it is.
    #[serde(serialize_with = "severity_word")]
    pub severity: Severity,
    /// The value; null where it is not finite.
    pub value: f32,
    /// The limit that it is beyond, where there is one.
    pub limit: Option<f32>,
    /// First digits of the digest of the release that ran.
    pub release: String,
    /// Its model, where it was published from here.
    pub model: Option<String>,
    /// Its version, likewise.
    pub version: Option<String>,
}

fn severity_word<S: serde::Serializer>(severity: &Severity, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(crate::names::severity_name(*severity))
}
