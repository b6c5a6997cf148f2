//! What the demo tries with the microcontroller beside the Linux boards.

use super::emulated::{PERIOD_MS, SLOW_PERIOD_MS};
use super::faults::{CASES, seen};
use super::feeder::Fault;
use super::flight;
use super::report::Report;
use super::world::{Offer, Sensor, Signed, World, must, running, slots, wait_until};
use anyhow::{Context, Result};
use edgeward::telemetry::SlotState;
use edgeward_host::keys::hex;
use edgeward_host::pack;
use edgeward_host::store::{FrameQuery, Kind, StoredFrame};
use serde_json::json;

/// Inferences that its flight record must hold at least: its ring has room for two dozen.
const ENOUGH: usize = 10;
/// Windows of the whole sensor, from its start on, in which there may be no alarm of the faults.
const CALM: u32 = 2;

/// Each release has a bundle of its own for the microcontroller.
pub fn bundles(report: &mut Report, reports: &[pack::Report]) {
    let seen = reports.iter().map(|it| {
        format!(
            "{} for {}: {} bytes, {} kernels",
            it.version, it.class, it.bytes, it.kernels
        )
    });
    let rows = reports.iter().map(|it| {
        json!({
            "version": it.version, "class": it.class, "engine": it.engine, "kernels": it.kernels,
            "bytes": it.bytes, "digest": it.digest,
        })
    });
    report.step(
        "the same releases for a microcontroller",
        "each as an int8 program for its kernels",
        seen.collect::<Vec<_>>().join(", "),
        reports.len() == 3 && reports.iter().all(|it| it.engine == "program"),
        rows.collect(),
    );
}

/// It was provisioned and started, and reports under its own key.
pub fn comes_up(world: &World, report: &mut Report) -> Result<()> {
    let Some(board) = &world.emulated else {
        return Ok(());
    };
    let name = board.name();
    let up = wait_until(world.patience(name), || Ok(world.birth(name)?.is_some()))?;
    must(up, "the first birth of the emulated board", world)?;
    let birth = world.birth(name)?.context("a birth")?;
    let device = world.store.device(name)?.context("an enrolled board")?;
    let key = hex(&device.key.0);
    let firmware = birth.firmware.as_str();
    report.step(
        "an emulated microcontroller comes up",
        "flashed and started in QEMU; a signed birth",
        format!("{name}: {}; firmware {firmware}, key {key}", board.title()),
        firmware.starts_with(board.kind()),
        json!({ "flash": board.flashed()?, "key": key, "birth": birth }),
    );
    Ok(())
}

/// The stored summaries of a board that are numbered above `after`.
fn summaries(world: &World, board: &str, after: u64) -> Result<Vec<StoredFrame>> {
    Ok(world.store.frames(&FrameQuery {
        device: Some(board.to_owned()),
        kind: Some(Kind::Summary),
        after: Some(after),
        ..FrameQuery::default()
    })?)
}

/// Waits until a window is stored that ended after `after`.
fn next_window(world: &World, board: &str, after: u64) -> Result<()> {
    let stored = wait_until(world.patience(board), || {
        Ok(!summaries(world, board, after)?.is_empty())
    })?;
    must(stored, "storing a window of the emulated board", world)
}

/// Its windows are in the store.
pub fn reports(world: &World, report: &mut Report) -> Result<()> {
    let Some(board) = &world.emulated else {
        return Ok(());
    };
    let name = board.name();
    next_window(world, name, world.newest(name)?)?;
    let stored = summaries(world, name, 0)?;
    let newest = stored.last().context("a summary")?;
    let number = |of: &StoredFrame, field: &str| of.body[field].as_u64().unwrap_or(0);
    let sum = |field: &str| stored.iter().map(|it| number(it, field)).sum::<u64>();
    let (windows, samples) = (sum("windows"), sum("samples"));
    let (inferences, errors) = (sum("inferences"), sum("errors"));
    report.step(
        "the microcontroller predicts",
        "signed windows in the store, no inference failed",
        format!("{windows} windows, {samples} samples, {inferences} inferences, {errors} failed"),
        number(newest, "inferences") > 0 && errors == 0,
        json!({ "newest": newest, "windows": windows, "inferences": inferences }),
    );
    Ok(())
}

/// The same faults of its sensor, and its own alarms for them. Each sensor at fault is put in while the power
/// is off.
pub fn alarms(world: &mut World, report: &mut Report, sensor: &Sensor) -> Result<()> {
    let Some(board) = &world.emulated else {
        return Ok(());
    };
    let name = board.name();
    let calm = calm(world, name, sensor)?;
    for case in &CASES {
        let after = world.newest(name)?;
        let recording = sensor.recorded(case.fault, PERIOD_MS)?;
        let boot = restarted(world, &recording)?.0;
        // What the sensor before was the reason of may come only now.
        let is_alarm = |frame: &StoredFrame| frame.boot == boot && case.is_alarm(&frame.body);
        let frame = world.frame(name, after, is_alarm)?;
        let ok = frame.is_some();
        let (expected, seen) = (case.expected(), seen(frame.as_ref()));
        let evidence = json!({ "frame": frame, "a window without it": calm });
        report.step(
            format!("{}, {name}", case.name),
            expected,
            seen,
            ok,
            evidence,
        );
    }
    Ok(())
}

/// Cuts its power and starts it with another sensor; returns the number of its boot, and what it says of the
/// slots.
fn restarted(world: &mut World, recording: &[u8]) -> Result<(u32, String)> {
    let patience = world.longest_patience();
    let board = world.emulated()?;
    board.measure(recording)?;
    board.boot(patience)
}

/// Starts it with its whole sensor, as it is started with each fault. Number of the last frame of the windows
/// after that, in which none of the faults' alarms came, so that those that come belong to the faults.
fn calm(world: &mut World, name: &str, sensor: &Sensor) -> Result<u64> {
    let mut after = world.newest(name)?;
    let recording = sensor.recorded(Fault::None, PERIOD_MS)?;
    let boot = restarted(world, &recording)?.0;
    for _ in 0..CALM {
        let in_boot = |frame: &StoredFrame| frame.boot == boot;
        let stored = wait_until(world.patience(name), || {
            Ok(summaries(world, name, after)?.iter().any(in_boot))
        })?;
        must(stored, "storing a window of the whole sensor", world)?;
        // A window's alarms are on their way before its summary.
        let alarms = world.events(name, after)?;
        let is_one = |frame: &StoredFrame| {
            in_boot(frame) && CASES.iter().any(|case| case.is_alarm(&frame.body))
        };
        if let Some(alarm) = alarms.iter().find(|frame| is_one(frame)) {
            anyhow::bail!("{name}: an alarm without a fault: {}", alarm.body);
        }
        after = world.newest(name)?;
    }
    Ok(after)
}

/// Gives it the sensor of the recordings as slow as it was, so that its trial takes minutes.
pub fn slow_down(world: &mut World, sensor: &Sensor) -> Result<()> {
    if world.emulated.is_none() {
        return Ok(());
    }
    let recording = sensor.recorded(Fault::None, SLOW_PERIOD_MS)?;
    restarted(world, &recording).map(|_| ())
}

/// Its power goes in the trial of release 2, which goes on with the next boot.
pub fn killed_in_trial(
    world: &mut World,
    report: &mut Report,
    offer: &Offer,
    sensor: &Sensor,
) -> Result<()> {
    let (Some(board), Some(signed)) = (&world.emulated, &offer.mcu) else {
        return Ok(());
    };
    let name = board.name();
    let release = json!(signed.release);
    let tried = world.event(name, 0, |event| {
        event["Slot"]["state"] == "Trial" && event["Slot"]["release"] == release
    })?;
    must(tried.is_some(), "the trial on the emulated board", world)?;
    let recording = sensor.recorded(Fault::None, PERIOD_MS)?;
    let (boot, goes_on) = restarted(world, &recording)?;
    let confirmed = world.confirmed(name, signed.release)?;
    let next = tried.as_ref().map(|frame| frame.boot + 1) == Some(boot);
    let birth = world.birth(name)?.context("a birth")?;
    report.step(
        "microcontroller killed in mid-trial",
        "the trial goes on with the next boot, then confirms",
        format!("{name}: boot {boot} {goes_on}; slots: {}", slots(&birth)),
        confirmed && next && goes_on.contains("attempt: 2"),
        json!({ "trial": tried, "boot": boot, "said": goes_on, "birth": birth }),
    );
    Ok(())
}

/// Its flight record, run again on this machine.
pub fn replayed(world: &World, report: &mut Report, offer: &Offer) -> Result<()> {
    let (Some(board), Some(signed)) = (&world.emulated, &offer.mcu) else {
        return Ok(());
    };
    let name = board.name();
    // It was in trial a moment ago; what it makes as its confirmed release fills the ring anew.
    next_window(world, name, world.newest(name)?)?;
    let step = "microcontroller's flight record";
    flight::replayed(world, report, step, name, (signed.release, ENOUGH))
}

/// Its power goes while its download hangs at the damaged chunk; returns its report of the next boot.
pub fn killed_in_download(world: &mut World, offer: &Offer) -> Result<Option<Option<StoredFrame>>> {
    let (Some(board), Some(signed)) = (&world.emulated, &offer.mcu) else {
        return Ok(None);
    };
    let name = board.name();
    let chunks = signed.bundle.len().div_ceil(edgeward::bundle::CHUNK_BYTES);
    let after = world.newest(name)?;
    let hangs = wait_until(world.patience(name), || {
        Ok(board.holds(&signed.bundle)? + 1 == chunks)
    })?;
    must(hangs, "all chunks but the damaged one in flash", world)?;
    let board = world.emulated()?;
    board.cut_power()?;
    board.start()?;
    let resumed = world.event(name, after, |event| !event["Resumed"].is_null())?;
    Ok(Some(resumed))
}

/// After the repair its download ends, without fetching again what was there.
pub fn resumed(
    world: &World,
    report: &mut Report,
    offer: &Offer,
    resumed: &Option<StoredFrame>,
) -> Result<()> {
    let (Some(board), Some(Signed { release, .. })) = (&world.emulated, &offer.mcu) else {
        return Ok(());
    };
    let name = board.name();
    let confirmed = world.confirmed(name, *release)?;
    let number = |key: &str| {
        resumed
            .as_ref()
            .and_then(|it| it.body["Resumed"][key].as_u64())
    };
    let (kept, total) = (number("kept"), number("total"));
    report.step(
        "microcontroller killed in mid-download",
        "resumes, lacking only the damaged chunk; then confirms",
        match (kept, total) {
            (Some(kept), Some(total)) => {
                format!("kept {kept} of {total} chunks; confirmed after the repair: {confirmed}")
            }
            _ => format!("no report of a resumed download; confirmed: {confirmed}"),
        },
        confirmed
            && kept
                .zip(total)
                .is_some_and(|(kept, total)| kept + 1 == total),
        json!({ "resumed": resumed, "birth": world.birth(name)? }),
    );
    Ok(())
}

/// Through cuts of its power and a broker that was gone, nothing that it said is missing.
pub fn complete(world: &World, report: &mut Report, offer: &Offer) -> Result<()> {
    let (Some(board), Some(Signed { release, .. })) = (&world.emulated, &offer.mcu) else {
        return Ok(());
    };
    let name = board.name();
    // What it says now that the broker is back; and what reached the broker before the collector was back there,
    // which it says again when nobody has answered for it.
    next_window(world, name, world.newest(name)?)?;
    wait_until(world.patience(name), || {
        Ok(world.store.gaps(name)?.is_empty())
    })?;
    let all = world.store.frames(&FrameQuery {
        device: Some(name.to_owned()),
        ..FrameQuery::default()
    })?;
    let mut last = 0;
    let follow = all
        .iter()
        .all(|it| it.first_sequence == std::mem::replace(&mut last, it.sequence) + 1);
    let gaps = world.store.gaps(name)?;
    let boots = all.iter().map(|it| it.boot).max().unwrap_or(0);
    let birth = world.birth(name)?.context("a birth")?;
    let runs = running(&birth) == Some((*release, SlotState::Confirmed));
    report.step(
        "nothing of the microcontroller is missing",
        "every number stored once, over all boots",
        format!(
            "{} frames of {boots} boots, {} gaps; slots: {}",
            all.len(),
            gaps.len(),
            slots(&birth)
        ),
        follow && gaps.is_empty() && runs && last > 0,
        json!({ "through": last, "boots": boots, "gaps": gaps, "birth": birth }),
    );
    Ok(())
}
