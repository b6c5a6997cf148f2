//! What a board runs and how it fares, put together from its newest reports.

mod latency;

use crate::catalog::{Catalog, Explained};
use crate::controller::in_cohort;
use crate::keys::hex;
use crate::names::{reason_name, severity_name, slot_state_name, statistic_name};
use crate::rollout::{BoardView, Rollout, State};
use crate::store::{Device, FrameQuery, Kind, Store, StoreError, StoredFrame};
use crate::{MAX_FEATURES, MAX_OUTPUTS};
use edgeward::contract::ViolationKind;
use edgeward::drift::{WindowStatistics, drifted, evaluate};
use edgeward::policy::Severity;
use edgeward::telemetry::codec::decode_frame;
use edgeward::telemetry::{Alarm, Birth, Body, ReleaseId, SlotState, Statistic};
use edgeward::trust::cose;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A summary as the host reads it.
pub type Summary = edgeward::telemetry::Summary<MAX_FEATURES, MAX_OUTPUTS>;

/// Windows that a status shows.
const WINDOWS: usize = 5;
/// Events that are looked through for the alarms of a status.
const EVENTS: usize = 2000;

/// How a board stands. The field names are stable.
#[derive(Debug, Clone, Serialize)]
pub struct BoardStatus {
    /// Version of its firmware or agent.
    pub agent: Option<String>,
    /// Its boot, counted from 1.
    pub boot: Option<u32>,
    /// Its tags.
    pub tags: Vec<String>,
    /// The release that answers.
    pub running: Option<Running>,
    /// Its two slots.
    pub slots: Vec<SlotStatus>,
    /// Least release counter that it accepts.
    pub floor: Option<u32>,
    /// Version of its trust root.
    pub root_version: Option<u32>,
    /// The fleet's newest rollout, as far as it concerns this board.
    pub rollout: Option<RolloutStatus>,
    /// Why its last trial failed.
    pub last_failure: Option<TrialFailure>,
    /// Its newest windows, the newest first.
    pub windows: Vec<WindowStatus>,
    /// Features whose newest window has drifted, and those nearest to it, the worst first.
    pub drift: Vec<FeatureDrift>,
    /// Alarms since `alarms_since_ms`, the gravest first.
    pub alarms: Vec<AlarmCount>,
    /// From when on alarms are counted, in milliseconds since 1970.
    pub alarms_since_ms: u64,
    /// Frames that are missing below the newest one: ranges of numbers, both ends included.
    pub gaps: Vec<(u64, u64)>,
    /// How many frames those are.
    pub missing_frames: u64,
}

/// The release that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Running {
    /// `A` or `B`.
    pub slot: char,
    /// `confirmed`, `trial`, or `revoked`: confirmed, and no longer signed by enough keys that the
    /// board's trust root has.
    pub state: &'static str,
    /// First digits of its digest.
    pub release: String,
    /// Its digest, where it was published from here.
    pub digest: Option<String>,
    /// Its model, likewise.
    pub model: Option<String>,
    /// Its version.
    pub version: String,
    /// Its release counter.
    pub counter: u32,
}

/// One slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SlotStatus {
    /// `A` or `B`.
    pub slot: char,
    /// Its state.
    pub state: &'static str,
    /// Why it was rejected, if it was.
    pub reason: Option<&'static str>,
    /// First digits of the digest of the release in it; none when it is empty.
    pub release: Option<String>,
    /// Its version.
    pub version: String,
    /// Its release counter.
    pub counter: u32,
}

/// A rollout and this board.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RolloutStatus {
    /// Its name.
    pub id: String,
    /// Where it stands: `running`, `paused`, `aborted` or `done`.
    pub state: &'static str,
    /// Whether the board is in the cohort of the present phase.
    pub in_cohort: bool,
    /// What the board made of it: `confirmed` (and it runs), `rejected`, `busy` or `waiting` (also when
    /// it confirmed the release once, and left it since).
    pub board: &'static str,
}

/// A trial that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TrialFailure {
    /// First digits of the release's digest.
    pub release: String,
    /// Its version, where it was published from here.
    pub version: Option<String>,
    /// Why.
    pub reason: &'static str,
}

/// A summary in short.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WindowStatus {
    /// When it came, in milliseconds since 1970.
    pub received_ms: u64,
    /// Windows that are merged in it.
    pub windows: u32,
    /// First digits of the digest of the release that ran.
    pub release: String,
    /// Samples offered.
    pub samples: u32,
    /// Samples kept out by the policy.
    pub rejected: u32,
    /// Inferences tried.
    pub inferences: u32,
    /// Inferences that failed.
    pub errors: u32,
    /// Answers from the last good one.
    pub fallbacks: u32,
    /// Alarms raised.
    pub alarms: u32,
    /// Median of the latency, in microseconds.
    pub latency_p50_us: Option<u32>,
    /// 99th percentile of it.
    pub latency_p99_us: Option<u32>,
    /// The same in cycles of the core that ran the inferences; none where its clock is not known.
    pub latency_p99_cycles: Option<u64>,
    /// The clock of that core, in kHz.
    pub core_khz: Option<u32>,
    /// Accuracy estimated from calibrated confidence.
    pub estimated_accuracy: Option<f64>,
    /// Predictions per class, by name where the names are known.
    pub classes: BTreeMap<String, u32>,
}

/// A feature of the newest window against the profile.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FeatureDrift {
    /// The feature.
    pub feature: String,
    /// Whether it has drifted, by the board's own rule.
    pub drifted: bool,
    /// The statistic that is the largest against its limit.
    pub statistic: &'static str,
    /// Its value.
    pub value: f32,
    /// Its limit.
    pub limit: f32,
}

impl FeatureDrift {
    /// How far it is, as a share of its limit.
    #[must_use]
    pub fn ratio(&self) -> f32 {
        self.value / self.limit
    }
}

/// Alarms of one kind and feature.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AlarmCount {
    /// The newest of them.
    #[serde(flatten)]
    pub newest: Explained,
    /// How many.
    pub count: u32,
    /// When the newest came, in milliseconds since 1970.
    pub newest_ms: u64,
}

/// `A` or `B`.
#[must_use]
pub fn slot_letter(slot: u8) -> char {
    if slot == 0 { 'A' } else { 'B' }
}

/// The summary in a stored frame, whose signature was verified when it came.
///
/// From the signed bytes: JSON has no infinity, which stands for the least of no values.
#[must_use]
pub fn summary_of(raw: &[u8]) -> Option<Box<Summary>> {
    let payload = cose::parse(raw).ok()?.payload?;
    match decode_frame(payload).ok()?.body {
        Body::Summary(summary) => Some(Box::new(summary)),
        _ => None,
    }
}

/// The alarm in an event's JSON, and the release that ran. A value that was not finite is null there.
#[must_use]
pub fn alarm_of(body: &serde_json::Value) -> Option<(ReleaseId, Alarm)> {
    #[derive(Deserialize)]
    enum Stored {
        Violation {
            kind: ViolationKind,
            feature: Option<u16>,
            value: Option<f32>,
            sample: u32,
        },
        Drift {
            statistic: Statistic,
            feature: Option<u16>,
            value: Option<f32>,
            limit: Option<f32>,
        },
    }
    let event = body.get("Alarm")?;
    let release = ReleaseId::deserialize(event.get("release")?).ok()?;
    let alarm = match Stored::deserialize(event.get("alarm")?).ok()? {
        Stored::Violation {
            kind,
            feature,
            value,
            sample,
        } => Alarm::Violation {
            kind,
            feature,
            value: value.unwrap_or(f32::NAN),
            sample,
        },
        Stored::Drift {
            statistic,
            feature,
            value,
            limit,
        } => Alarm::Drift {
            statistic,
            feature,
            value: value.unwrap_or(f32::NAN),
            limit: limit.unwrap_or(f32::NAN),
        },
    };
    Some((release, alarm))
}

fn newest(
    store: &dyn Store,
    device: &str,
    kind: Kind,
    limit: usize,
) -> Result<Vec<StoredFrame>, StoreError> {
    store.frames(&FrameQuery {
        device: Some(device.to_owned()),
        kind: Some(kind),
        newest_first: true,
        limit,
        ..FrameQuery::default()
    })
}

/// How a board stands; its alarms are those received since `since_ms`.
///
/// # Errors
/// [`StoreError`].
pub fn board(
    store: &dyn Store,
    catalog: &Catalog,
    device: &Device,
    since_ms: u64,
) -> Result<BoardStatus, StoreError> {
    let mut status = standing(store, catalog, device)?;
    status.alarms_since_ms = since_ms;
    status.alarms = alarms(store, catalog, &device.name, since_ms)?;
    Ok(status)
}

/// The same without its alarms, which take a look through its events.
///
/// # Errors
/// [`StoreError`].
pub fn standing(
    store: &dyn Store,
    catalog: &Catalog,
    device: &Device,
) -> Result<BoardStatus, StoreError> {
    let frame = newest(store, &device.name, Kind::Birth, 1)?.pop();
    let birth = frame
        .as_ref()
        .and_then(|frame| Birth::deserialize(&frame.body).ok());
    let summaries = newest(store, &device.name, Kind::Summary, WINDOWS)?;
    let newest_any = store.frames(&FrameQuery {
        device: Some(device.name.clone()),
        newest_first: true,
        limit: 1,
        ..FrameQuery::default()
    })?;
    let decoded: Vec<(u64, Box<Summary>)> = summaries
        .iter()
        .filter_map(|frame| Some((frame.received_ms, summary_of(&frame.raw)?)))
        .collect();
    let rollout = store.newest_rollout(&device.fleet)?;
    let gaps = store.gaps(&device.name)?;
    let missing = |(first, last): &(u64, u64)| last - first + 1;
    Ok(BoardStatus {
        agent: birth
            .as_ref()
            .map(|birth| birth.firmware.as_str().to_owned()),
        boot: newest_any.first().map(|frame| frame.boot),
        tags: birth.as_ref().map_or_else(Vec::new, |birth| {
            birth
                .tags
                .iter()
                .map(|tag| tag.as_str().to_owned())
                .collect()
        }),
        running: birth.as_ref().and_then(|birth| running(birth, catalog)),
        slots: birth.as_ref().map_or_else(Vec::new, slots),
        floor: birth.as_ref().map(|birth| birth.floor),
        root_version: birth.as_ref().map(|birth| birth.root_version),
        rollout: rollout.map(|rollout| rollout_status(&rollout, device, birth.as_ref())),
        last_failure: birth.as_ref().and_then(|birth| birth.last_failure).map(
            |(release, reason)| TrialFailure {
                release: hex(&release),
                version: catalog.get(release).map(|known| known.version.clone()),
                reason: reason_name(reason),
            },
        ),
        windows: decoded
            .iter()
            .map(|(received_ms, summary)| window(*received_ms, summary, catalog))
            .collect(),
        drift: decoded
            .iter()
            .find(|(_, summary)| summary.windows > 0)
            .map_or_else(Vec::new, |(_, summary)| drift(summary, catalog)),
        alarms: Vec::new(),
        alarms_since_ms: 0,
        missing_frames: gaps.iter().map(missing).sum(),
        gaps,
    })
}

fn running(birth: &Birth, catalog: &Catalog) -> Option<Running> {
    let index = birth.running?;
    let slot = birth.slots.get(usize::from(index))?;
    let published = catalog.get(slot.release);
    Some(Running {
        slot: slot_letter(index),
        state: slot_state_name(slot.state),
        release: hex(&slot.release),
        digest: published.as_ref().map(|known| known.digest.clone()),
        model: published.as_ref().map(|known| known.name.clone()),
        version: slot.version.as_str().to_owned(),
        counter: slot.counter,
    })
}

fn slots(birth: &Birth) -> Vec<SlotStatus> {
    let slots = birth.slots.iter().zip([0, 1]);
    slots
        .map(|(slot, index)| SlotStatus {
            slot: slot_letter(index),
            state: slot_state_name(slot.state),
            reason: match slot.state {
                SlotState::Rejected(reason) => Some(reason_name(reason)),
                _ => None,
            },
            release: (slot.state != SlotState::Empty).then(|| hex(&slot.release)),
            version: slot.version.as_str().to_owned(),
            counter: slot.counter,
        })
        .collect()
}

fn rollout_status(rollout: &Rollout, device: &Device, birth: Option<&Birth>) -> RolloutStatus {
    let view = birth.map_or_else(
        || BoardView::unheard(&device.name, device.class),
        |birth| BoardView::of(&device.name, birth),
    );
    RolloutStatus {
        id: rollout.plan.id.as_str().to_owned(),
        state: match rollout.state {
            State::Running => "running",
            State::Paused => "paused",
            State::Aborted { .. } => "aborted",
            State::Done => "done",
        },
        in_cohort: rollout.asks(&view, &in_cohort),
        board: rollout.standing(&view).name(),
    }
}

/// Accuracy estimated from calibrated confidence (CBPE); none without predictions.
#[must_use]
pub fn estimated_accuracy(summary: &Summary) -> Option<f64> {
    let output = &summary.output;
    (output.n > 0).then(|| f64::from(output.expected_right) / f64::from(output.n))
}

/// A summary in short.
#[must_use]
pub fn window(received_ms: u64, summary: &Summary, catalog: &Catalog) -> WindowStatus {
    let published = catalog.get(summary.release);
    let class = |index: usize| {
        let name = published.as_ref().and_then(|known| known.class(index));
        name.map_or_else(|| format!("class {index}"), str::to_owned)
    };
    WindowStatus {
        received_ms,
        windows: summary.windows,
        release: hex(&summary.release),
        samples: summary.samples,
        rejected: summary.rejected,
        inferences: summary.inferences,
        errors: summary.errors,
        fallbacks: summary.fallbacks,
        alarms: summary.alarms,
        latency_p50_us: summary.latency.quantile_us(500),
        latency_p99_us: summary.latency.quantile_us(990),
        latency_p99_cycles: summary.latency_p99_cycles(),
        core_khz: (summary.core_khz > 0).then_some(summary.core_khz),
        estimated_accuracy: estimated_accuracy(summary),
        classes: summary
            .output
            .classes
            .iter()
            .enumerate()
            .map(|(index, &count)| (class(index), count))
            .collect(),
    }
}

/// Every feature of a window against the profile of the release that ran, the worst first; nothing
/// when that was not published from here.
#[must_use]
pub fn drift(summary: &Summary, catalog: &Catalog) -> Vec<FeatureDrift> {
    let Some(published) = catalog.get(summary.release) else {
        return Vec::new();
    };
    let profile = &published.profile;
    let mut found: Vec<FeatureDrift> = profile
        .features
        .iter()
        .zip(&summary.features)
        .filter_map(|(feature, seen)| {
            let statistics = evaluate(&feature.edges, &feature.reference, &seen.bins)?;
            let excess = drifted(&statistics, &feature.limits, seen.n, profile.drift_window);
            let (statistic, value, limit) = match &excess {
                Some(excess) => (excess.statistic, excess.value, excess.limit),
                None => largest(&statistics, &feature.limits)?,
            };
            Some(FeatureDrift {
                feature: feature.name.as_str().to_owned(),
                drifted: excess.is_some(),
                statistic: statistic_name(statistic),
                value,
                limit,
            })
        })
        .collect();
    found.sort_by(|a, b| {
        let by_ratio = b.ratio().total_cmp(&a.ratio());
        b.drifted.cmp(&a.drifted).then(by_ratio)
    });
    found
}

/// The statistic that is the largest against its limit.
fn largest(
    found: &WindowStatistics,
    limits: &edgeward::profile::DriftLimits,
) -> Option<(Statistic, f32, f32)> {
    let all = [
        (Statistic::Psi, found.psi, limits.psi),
        (Statistic::Ks, found.ks, limits.ks),
        (Statistic::JensenShannon, found.js, limits.js),
        (
            Statistic::Wasserstein,
            found.wasserstein,
            limits.wasserstein,
        ),
    ];
    all.into_iter()
        .filter(|(_, _, limit)| limit.is_finite() && *limit > 0.0)
        .max_by(|a, b| (a.1 / a.2).total_cmp(&(b.1 / b.2)))
}

/// Alarms of a device by kind and feature since `since_ms`, the gravest first.
fn alarms(
    store: &dyn Store,
    catalog: &Catalog,
    device: &str,
    since_ms: u64,
) -> Result<Vec<AlarmCount>, StoreError> {
    let events = store.frames(&FrameQuery {
        device: Some(device.to_owned()),
        kind: Some(Kind::Event),
        since_ms: Some(since_ms),
        newest_first: true,
        limit: EVENTS,
        ..FrameQuery::default()
    })?;
    let found = events.iter().filter_map(|event| {
        let (release, alarm) = alarm_of(&event.body)?;
        Some((event.received_ms, catalog.explain(release, &alarm)))
    });
    Ok(group(found))
}

/// Alarms of one kind and feature together, the gravest and most frequent first. The first of a kind
/// is taken for the newest.
#[must_use]
pub fn group(alarms: impl IntoIterator<Item = (u64, Explained)>) -> Vec<AlarmCount> {
    let mut groups: Vec<AlarmCount> = Vec::new();
    for (newest_ms, newest) in alarms {
        let same = |group: &&mut AlarmCount| {
            group.newest.alarm == newest.alarm && group.newest.feature == newest.feature
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.count += 1,
            None => groups.push(AlarmCount {
                newest,
                count: 1,
                newest_ms,
            }),
        }
    }
    groups.sort_by(|a, b| {
        let by_count = b.count.cmp(&a.count);
        b.newest.severity.cmp(&a.newest.severity).then(by_count)
    });
    groups
}

/// Features of one kind of alarm that are named; the rest are counted.
const NAMED: usize = 4;

/// Groups of alarms in words, one text for each kind with its severity.
#[must_use]
pub fn words(groups: &[AlarmCount]) -> Vec<(Severity, String)> {
    let mut kinds: Vec<(&Explained, Vec<&AlarmCount>)> = Vec::new();
    for group in groups {
        let kind = &group.newest;
        let same = |(other, _): &&mut (&Explained, _)| {
            (other.alarm, other.severity) == (kind.alarm, kind.severity)
        };
        match kinds.iter_mut().find(same) {
            Some((_, members)) => members.push(group),
            None => kinds.push((kind, vec![group])),
        }
    }
    let text = |(kind, members): (&Explained, Vec<&AlarmCount>)| {
        let details: Vec<String> = members.iter().take(NAMED).map(|m| m.details()).collect();
        let mut text = format!("{} {}", severity_name(kind.severity), kind.alarm);
        text.push_str(&details.join(","));
        if members.len() > NAMED {
            text.push_str(&format!(" and {} more", members.len() - NAMED));
        }
        (kind.severity, text)
    };
    kinds.into_iter().map(text).collect()
}

impl AlarmCount {
    /// Which feature, how far, and how often; with a space before each.
    fn details(&self) -> String {
        let alarm = &self.newest;
        let mut text = String::new();
        if let Some(feature) = &alarm.feature {
            text.push(' ');
            text.push_str(feature);
        }
        match (alarm.statistic, alarm.limit) {
            (Some(statistic), Some(limit)) => {
                let value = alarm.value;
                text.push_str(&format!(" ({statistic} {value:.3}, limit {limit:.3})"));
            }
            _ if alarm.value.is_finite() && alarm.feature.is_some() => {
                text.push_str(&format!(" ({})", alarm.value));
            }
            _ => {}
        }
        if self.count > 1 {
            text.push_str(&format!(" x{}", self.count));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::Plan;
    use edgeward::bundle::BoardClass;
    use edgeward::sync::Target;
    use edgeward::telemetry::{Event, Id, Reason, SlotReport, Text, release_id};
    use edgeward::trust::PublicKey;

    fn plan() -> Plan {
        Plan {
            id: Id::try_from("r-1").unwrap_or_default(),
            fleet: Id::try_from("f").unwrap_or_default(),
            targets: vec![Target {
                class: BoardClass::Linux,
                digest: [1; 32],
                counter: 1,
                version: Text::new(),
                head_bytes: 4096,
                total_bytes: 8192,
            }],
            tags: Vec::new(),
            phases: vec![1000],
            soak_ms: 0,
            max_failures: 0,
            deadline_ms: 0,
            min_confirmed_per_mille: 0,
            expires_after_s: 60,
        }
    }

    /// A board whose slots hold releases 1 and 2, by the first byte of their digests.
    fn born(states: [SlotState; 2], running: u8) -> Birth {
        let mut number = 0;
        let slots = states.map(|state| {
            number += 1;
            SlotReport {
                state,
                release: release_id(&[number; 32]),
                counter: u32::from(number),
                version: Text::new(),
            }
        });
        Birth {
            class: BoardClass::Linux,
            firmware: Text::new(),
            slots,
            running: Some(running),
            floor: 0,
            root_version: 1,
            desired: 1,
            tags: heapless::Vec::new(),
            last_failure: None,
        }
    }

    #[test]
    fn a_release_is_confirmed_for_a_rollout_only_where_it_runs() {
        let rollout = Rollout::start(plan(), 0).expect("plan");
        let device = Device {
            name: "b".into(),
            fleet: "f".into(),
            key: PublicKey([1; 32]),
            class: BoardClass::Linux,
            enrolled_ms: 0,
            seen_ms: None,
            online: true,
            epoch: None,
            through: 0,
        };
        let of = |birth: Option<&Birth>| rollout_status(&rollout, &device, birth);
        let (done, revoked) = (SlotState::Confirmed, SlotState::Revoked);
        for (states, running, word) in [
            ([done, done], 0, "confirmed"),
            // Release 2 came after it, and is what answers.
            ([done, done], 1, "waiting"),
            ([revoked, done], 0, "confirmed"),
            ([revoked, done], 1, "waiting"),
            ([SlotState::Trial, done], 0, "busy"),
            ([SlotState::Rejected(Reason::Revoked), done], 1, "rejected"),
            ([SlotState::Empty, done], 1, "waiting"),
        ] {
            let birth = born(states, running);
            let status = of(Some(&birth));
            assert_eq!((status.board, status.in_cohort), (word, true), "{birth:?}");
        }
        let mut failed = born([SlotState::Empty, done], 1);
        failed.last_failure = Some((release_id(&[1; 32]), Reason::Latency));
        assert_eq!(
            of(Some(&failed)).board,
            "rejected",
            "as the rollout counts it"
        );
        assert_eq!((of(None).board, of(None).in_cohort), ("waiting", true));
    }

    #[test]
    fn alarms_come_back_from_json_whatever_their_value() {
        for value in [1.5, f32::NAN, f32::INFINITY] {
            let alarm = Alarm::Violation {
                kind: ViolationKind::NotFinite,
                feature: Some(3),
                value,
                sample: 7,
            };
            let release = [1, 2, 3, 4, 5, 6, 7, 8];
            let body = serde_json::to_value(Event::Alarm { release, alarm }).expect("JSON");
            let (from, found) = alarm_of(&body).expect("an alarm");
            assert_eq!(from, release);
            let Alarm::Violation {
                kind,
                feature,
                value: read,
                sample,
            } = found
            else {
                panic!("{found:?}");
            };
            assert_eq!(
                (kind, feature, sample),
                (ViolationKind::NotFinite, Some(3), 7)
            );
            assert!(read == value || (read.is_nan() && !value.is_finite()));
        }
        let other = serde_json::to_value(Event::Refused {
            what: edgeward::telemetry::Refused::Ack,
        });
        assert_eq!(alarm_of(&other.expect("JSON")), None);
    }

    #[test]
    fn alarms_are_grouped_by_kind_and_feature_and_the_gravest_comes_first() {
        let catalog = Catalog::at(std::path::Path::new("nowhere"));
        let violation = |kind, feature| {
            let alarm = Alarm::Violation {
                kind,
                feature,
                value: 2.0,
                sample: 1,
            };
            (5, catalog.explain([0; 8], &alarm))
        };
        let drift = Alarm::Drift {
            statistic: Statistic::Psi,
            feature: Some(1),
            value: 0.75,
            limit: 0.5,
        };
        let mut alarms = vec![
            violation(ViolationKind::ZScore, Some(0)),
            violation(ViolationKind::ZScore, Some(0)),
            (5, catalog.explain([0; 8], &drift)),
            violation(ViolationKind::Gap, None),
        ];
        alarms.extend((10..17).map(|feature| violation(ViolationKind::Stuck, Some(feature))));
        let groups = group(alarms);
        let words: Vec<String> = words(&groups).into_iter().map(|(_, text)| text).collect();
        assert_eq!(
            words,
            [
                "high stuck feature 10 (2), feature 11 (2), feature 12 (2), feature 13 (2) and 3 more",
                "medium feature_drift feature 1 (psi 0.750, limit 0.500)",
                "medium gap",
                "low z_score feature 0 (2) x2",
            ]
        );
    }
}
