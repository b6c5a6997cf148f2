//! The power goes in mid-download; the broker goes for a while.

use super::beside;
use super::report::Report;
use super::updates::start;
use super::world::{Offer, PATIENCE, World, must, wait_until};
use anyhow::{Context, Result};
use edgeward::bundle::CHUNK_BYTES;
use serde_json::json;
use std::time::Duration;

const ASK: Duration = Duration::from_secs(5);

/// Kills the first board while its download hangs at the damaged chunk, starts it again, and repairs
/// the chunk.
pub fn killed(world: &mut World, report: &mut Report, fourth: &Offer) -> Result<()> {
    let name = world.boards[0].name.clone();
    let after = world.newest(&name)?;
    // Its refusal of the damaged chunk may come before the last of the others.
    let bundle = &fourth.linux.bundle;
    let chunks = bundle.len().div_ceil(CHUNK_BYTES);
    let running = world.birth(&name)?.and_then(|birth| birth.running);
    let idle = 1 - usize::from(running.context("a release that runs")?);
    let hangs = wait_until(PATIENCE, || {
        Ok(world.boards[0].holds(idle, bundle)? + 1 == chunks)
    })?;
    must(hangs, "all chunks but the damaged one", world)?;
    world.boards[0].kill()?;
    world.boards[0].restart()?;
    let resumed = world.event(&name, after, |event| !event["Resumed"].is_null())?;
    let on_the_emulated = beside::killed_in_download(world, fourth)?;
    let figures = resumed.as_ref().map(|frame| &frame.body["Resumed"]);
    let number = |key: &str| figures.and_then(|figures| figures[key].as_u64());
    // The repair: an honest rollout of the same release publishes its chunks whole.
    start(world, "repaired", fourth, &[1000], 0)?;
    let mut confirmed = 0;
    for board in &world.boards {
        confirmed += usize::from(world.confirmed(&board.name, fourth.linux.release)?);
    }
    let (kept, total) = (number("kept"), number("total"));
    // All but the damaged one were there when the power went.
    let all_but_one = kept
        .zip(total)
        .is_some_and(|(kept, total)| kept + 1 == total);
    report.step(
        "board killed in mid-download",
        "resumes, lacking only the damaged chunk; then confirms",
        match (kept, total) {
            (Some(kept), Some(total)) => {
                format!(
                    "kept {kept} of {total} chunks; after the repair {confirmed} boards confirmed"
                )
            }
            _ => format!("no report of a resumed download; {confirmed} boards confirmed"),
        },
        all_but_one && confirmed == world.boards.len(),
        json!({ "resumed": resumed, "birth": world.birth(&name)? }),
    );
    match on_the_emulated {
        Some(resumed) => beside::resumed(world, report, fourth, &resumed),
        None => Ok(()),
    }
}

/// Stops the broker; boards go on, and afterwards every summary is there once, without a gap.
pub fn broker_gone(world: &mut World, report: &mut Report) -> Result<()> {
    let windows = |world: &World| -> Result<Vec<u64>> {
        let stats = world.boards.iter().map(|board| board.feeder.stats(ASK));
        let stats = stats.collect::<Result<Vec<_>>>()?;
        Ok(stats
            .iter()
            .map(|stats| stats["windows"].as_u64().unwrap_or(0))
            .collect())
    };
    let at_stop = windows(world)?;
    world.broker.down()?;
    let before: Vec<u64> = world
        .boards
        .iter()
        .map(|board| board.feeder.peek().predictions)
        .collect();
    // Long enough for every board to end several windows without a broker.
    let went_on = wait_until(PATIENCE, || {
        Ok(windows(world)?
            .iter()
            .zip(&at_stop)
            .all(|(now, then)| *now >= then + 4))
    })?;
    must(went_on, "four windows without a broker", world)?;
    let during: Vec<u64> = world
        .boards
        .iter()
        .map(|board| board.feeder.peek().predictions)
        .collect();
    world.broker.up()?;
    let mut evidence = Vec::new();
    let mut good = 0;
    for index in 0..world.boards.len() {
        let (ok, proof) = complete(world, index)?;
        good += usize::from(ok);
        evidence.push(proof);
    }
    let made: u64 = during
        .iter()
        .zip(&before)
        .map(|(now, then)| now - then)
        .sum();
    report.step(
        "broker stops for a while",
        "predictions go on; every window stored once, no gap",
        format!("{made} predictions without a broker; {good} of 3 boards complete and gapless"),
        good == world.boards.len() && made > 0,
        json!(evidence),
    );
    Ok(())
}

/// Whether the store holds every window that a board ended since it booted, each once.
fn complete(world: &World, index: usize) -> Result<(bool, serde_json::Value)> {
    let board = &world.boards[index];
    let stats = board.feeder.stats(ASK)?;
    let ended = stats["windows"].as_u64().context("windows in stats")?;
    let boot = stats["boot"].as_u64().context("boot in stats")?;
    let mut windows = 0;
    // What the board ended is on its way; more than it ended would be doubled.
    let stored = wait_until(PATIENCE, || {
        windows = world.windows(&board.name, boot)?;
        Ok(windows >= ended && world.store.gaps(&board.name)?.is_empty())
    })?;
    let gaps = world.store.gaps(&board.name)?;
    // Windows went on while we looked: the store's count lies between the board's before and after.
    let later = board.feeder.stats(ASK)?["windows"]
        .as_u64()
        .context("windows in stats")?;
    let ok = stored && gaps.is_empty() && (ended..=later).contains(&windows);
    let proof = json!({
        "device": board.name,
        "windows the board ended by then": ended,
        "windows stored": windows,
        "windows the board ended afterwards": later,
        "frames stored through": world.newest(&board.name)?,
        "gaps": gaps,
    });
    Ok((ok, proof))
}
