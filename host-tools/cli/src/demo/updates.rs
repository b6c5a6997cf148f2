//! Releases reach the fleet: the first, a better one, and one that goes wrong.

use super::report::Report;
use super::world::{FLEET, Offer, PATIENCE, Signed, World, must, running, slots, wait_until};
use crate::demo::faults::{GAIN, accuracy_under_gain};
use anyhow::{Context, Result};
use edgeward::sync::{RolloutState, cohort_per_mille};
use edgeward::telemetry::{Id, Reason, SlotState};
use edgeward::topic;
use edgeward_host::collector::now_ms;
use edgeward_host::keys::hex;
use edgeward_host::mqtt::{self, Mqtt};
use edgeward_host::release::{Release, read_desired};
use edgeward_host::rollout::{Plan, Rollout, State};
use serde_json::json;
use std::time::Duration;

/// Share of the first phase: a third of the fleet.
const THIRD: u16 = 333;

/// Every board reports its first birth.
pub fn boards_come_up(world: &World, report: &mut Report) -> Result<()> {
    let mut births = Vec::new();
    for board in &world.boards {
        let up = wait_until(PATIENCE, || Ok(world.birth(&board.name)?.is_some()))?;
        must(up, "the first birth of a board", world)?;
        births.push(json!({ "device": board.name, "birth": world.birth(&board.name)? }));
    }
    let seen = format!("{} boards reported, each with its own key", births.len());
    report.step(
        "boards come up",
        "3 signed births",
        seen,
        births.len() == 3,
        json!(births),
    );
    Ok(())
}

/// Starts a rollout as `edgeward rollout start` does: a bundle for each class of boards.
pub fn start(
    world: &World,
    id: &str,
    offer: &Offer,
    phases: &[u16],
    max_failures: u32,
) -> Result<()> {
    let root = world.keys.root()?;
    let mut targets = Vec::new();
    for bundle in offer.bundles() {
        targets.push(Release::open(bundle, &root)?.target().clone());
    }
    let plan = Plan {
        id: Id::try_from(id).unwrap_or_default(),
        fleet: Id::try_from(FLEET).unwrap_or_default(),
        targets,
        tags: Vec::new(),
        phases: phases.to_vec(),
        soak_ms: 300,
        max_failures,
        deadline_ms: 0,
        min_confirmed_per_mille: 0,
        expires_after_s: 3600,
    };
    let rollout = Rollout::start(plan, now_ms())?;
    world.store.start_rollout(&rollout, now_ms())?;
    Ok(())
}

/// Release 1 to every board.
pub fn first_release(world: &World, report: &mut Report, offer: &Offer) -> Result<()> {
    start(world, "first", offer, &[1000], 0)?;
    let mut evidence = Vec::new();
    let linux = world.boards.iter().map(|it| (&it.name[..], &offer.linux));
    let mcu = world
        .emulated
        .as_ref()
        .map(|it| it.name())
        .zip(offer.mcu.as_ref());
    for (board, signed) in linux.chain(mcu) {
        must(
            world.confirmed(board, signed.release)?,
            "confirming release 1",
            world,
        )?;
        let birth = world.birth(board)?.context("a birth")?;
        evidence.push(json!({ "device": board, "slots": slots(&birth), "floor": birth.floor }));
    }
    let all = world.boards.len() + usize::from(world.emulated.is_some());
    let patience = world.longest_patience();
    let done = wait_until(patience, || Ok(newest(world)?.state == State::Done))?;
    let releases = [Some(&offer.linux), offer.mcu.as_ref()];
    let releases = releases.into_iter().flatten().map(|it| hex(&it.release));
    let releases = releases.collect::<Vec<_>>().join(" and ");
    report.step(
        "release 1 reaches the fleet",
        format!("fetched, verified, self-tested, tried, confirmed by {all}"),
        format!("{} boards confirmed {releases}", evidence.len()),
        done && evidence.len() == all,
        json!({ "boards": evidence, "rollout": newest(world)? }),
    );
    Ok(())
}

fn newest(world: &World) -> Result<Rollout> {
    world
        .store
        .rollouts(FLEET)?
        .into_iter()
        .next()
        .context("a rollout")
}

/// Predictions a second, latency, accuracy.
pub fn live(world: &World, report: &mut Report) -> Result<()> {
    for board in &world.boards {
        board.feeder.take();
    }
    // Enough for a 99.9th percentile that is not simply the maximum, over all boards.
    let enough = 400;
    let done = wait_until(PATIENCE, || {
        Ok(world
            .boards
            .iter()
            .all(|board| board.feeder.peek().predictions >= enough))
    })?;
    must(done, "400 predictions a board", world)?;
    let mut evidence = Vec::new();
    let (mut right, mut all, mut rate) = (0, 0, 0.0);
    for board in &world.boards {
        let answers = board.feeder.peek();
        right += answers.right;
        all += answers.predictions;
        rate += answers.rate();
        evidence.push(json!({
            "device": board.name,
            "predictions": answers.predictions,
            "predictions_per_s": answers.rate().round(),
            "accuracy": answers.accuracy(),
            "latency_us": {
                "p50": answers.latency_us(0.5), "p99": answers.latency_us(0.99),
                "p99.9": answers.latency_us(0.999),
            },
            "agent": board.feeder.stats(Duration::from_secs(5))?,
        }));
    }
    let accuracy = right as f64 / all.max(1) as f64;
    let latency = &evidence[0]["latency_us"];
    let sum = |what: &str| -> Result<u64> {
        let counts = evidence.iter().map(|it| it["agent"][what].as_u64());
        counts
            .sum::<Option<u64>>()
            .with_context(|| format!("{what} in stats"))
    };
    let (rejected, alarms, drifting) = (sum("rejected")?, sum("alarms")?, sum("drifting")?);
    report.step(
        "live accuracy, latency, rate",
        "accuracy at least 95 %",
        format!(
            "{:.1} % of {all} predictions right, {rate:.0} a second; p50 {} us, p99 {} us, p99.9 {} us; \
             {rejected} samples rejected, {alarms} alarms, {drifting} features drifting",
            accuracy * 100.0, latency["p50"], latency["p99"], latency["p99.9"]
        ),
        accuracy >= 0.95,
        json!(evidence),
    );
    Ok(())
}

/// A rollout's name that puts exactly one Linux board into the first third, by the boards' own hash, and the
/// microcontroller only where it is wanted there.
fn name_with_one_in_a_third(world: &World, stem: &str, mcu: bool) -> Result<(String, String)> {
    for n in 1..1000 {
        let id = format!("{stem}-{n}");
        let is_in = |board: &str| cohort_per_mille(&id, board) < THIRD;
        let inside = world.boards.iter().filter(|board| is_in(&board.name));
        let names: Vec<_> = inside.map(|board| board.name.clone()).collect();
        let emulated = world.emulated.as_ref();
        let as_wanted = emulated.is_none_or(|board| is_in(board.name()) == mcu);
        if let [only] = &names[..]
            && as_wanted
        {
            return Ok((id, only.clone()));
        }
    }
    anyhow::bail!("no name found for the rollout {stem}")
}

/// Slots of every board, in words.
fn all_slots(world: &World) -> Result<serde_json::Value> {
    let mut boards = serde_json::Map::new();
    for board in &world.boards {
        let birth = world.birth(&board.name)?.context("a birth")?;
        boards.insert(board.name.clone(), json!(slots(&birth)));
    }
    Ok(boards.into())
}

/// Release 2 in two phases; `hurt` is release 1's accuracy under gain drift on the first board.
pub fn better_release(world: &World, report: &mut Report, offer: &Offer, hurt: f64) -> Result<()> {
    let release = offer.linux.release;
    let before = all_slots(world)?;
    let (id, first) = name_with_one_in_a_third(world, "better", false)?;
    start(world, &id, offer, &[THIRD, 1000], 0)?;
    must(
        world.confirmed(&first, release)?,
        "confirming release 2 in the first phase",
        world,
    )?;
    let middle = all_slots(world)?;
    let alone = world.boards.iter().filter(|board| board.name != first);
    let mut waiting = 0;
    for board in alone {
        let birth = world.birth(&board.name)?.context("a birth")?;
        waiting += usize::from(running(&birth).is_some_and(|(running, _)| running != release));
    }
    for board in &world.boards {
        must(
            world.confirmed(&board.name, release)?,
            "confirming release 2",
            world,
        )?;
    }
    let after = all_slots(world)?;
    let changes = world.boards.iter().map(|board| {
        let words =
            |slots: &serde_json::Value| slots[&board.name].as_str().unwrap_or("?").to_owned();
        format!("{}: {} -> {}", board.name, words(&before), words(&after))
    });
    let changes = changes.collect::<Vec<_>>().join("; ");
    report.step(
        "release 2, a third and then all",
        "one board first, then all three",
        format!("{first} first while {waiting} waited; slots: {changes}"),
        waiting == 2,
        json!({ "before": before, "first phase": middle, "after": after, "rollout": newest(world)? }),
    );
    let better = accuracy_under_gain(world, &world.boards[0].name)?;
    report.step(
        "release 2 stands gain drift better",
        format!(
            "more than release 1's {:.1} % at a gain of {GAIN}",
            hurt * 100.0
        ),
        format!("{:.1} %", better * 100.0),
        better > hurt,
        json!({ "release 1": hurt, "release 2": better, "gain": GAIN }),
    );
    Ok(())
}

/// Release 3: signed, reproduces its golden vectors, and collapses on live data.
pub fn bad_release(world: &World, report: &mut Report, offer: &Offer, good: &Offer) -> Result<()> {
    let release = offer.linux.release;
    let (id, first) = name_with_one_in_a_third(world, "bad", true)?;
    let emulated = world
        .emulated
        .as_ref()
        .map(|it| it.name())
        .zip(good.mcu.as_ref());
    let tried = [Some((&first[..], &good.linux)), emulated];
    let tried = tried.into_iter().flatten().collect::<Vec<_>>();
    // Where there are two boards in the first third, each is to find out by itself.
    let may_fail = tried.len() as u32 - 1;
    let mut since = Vec::new();
    for (board, _) in &tried {
        since.push(world.newest(board)?);
    }
    start(world, &id, offer, &[THIRD, 1000], may_fail)?;
    for (&(board, good), after) in tried.iter().zip(since) {
        let name = match board == first {
            true => "release 3 fails its trial".to_owned(),
            false => format!("release 3 fails its trial on {board}"),
        };
        fails_its_trial(world, report, name, (board, after), good)?;
    }
    let (good, patience) = (good.linux.release, world.longest_patience());
    let stopped = wait_until(patience, || {
        Ok(matches!(newest(world)?.state, State::Aborted { .. }))
    })?;
    // The controller notes the end first and tells the boards then: whatever is offered next must
    // not be overtaken by that.
    let told = told_to_give_up(world, &id)?;
    let rollout = newest(world)?;
    let mut untouched = 0;
    for board in &world.boards {
        let birth = world.birth(&board.name)?.context("a birth")?;
        untouched += usize::from(running(&birth) == Some((good, SlotState::Confirmed)));
    }
    report.step(
        "the rollout stops by itself",
        "aborted in its first phase; all run release 2",
        match &rollout.state {
            State::Aborted { why } => format!(
                "phase {}: {why}; {untouched} run release 2",
                rollout.phase + 1
            ),
            state => format!("{state:?}"),
        },
        stopped && told && rollout.phase == 0 && untouched == 3,
        json!({ "rollout": rollout, "release": hex(&release) }),
    );
    Ok(())
}

/// A board tries release 3, since `after`, and goes back to the good one.
fn fails_its_trial(
    world: &World,
    report: &mut Report,
    name: String,
    (board, after): (&str, u64),
    good: &Signed,
) -> Result<()> {
    let tried = world.event(board, after, |event| event["Slot"]["state"] == "Trial")?;
    let reverted = world.event(board, after, |event| !event["Reverted"].is_null())?;
    let reason = reverted
        .as_ref()
        .map(|frame| frame.body["Reverted"]["reason"].clone());
    let reason = reason.and_then(|reason| serde_json::from_value::<Reason>(reason).ok());
    let back = world.confirmed(board, good.release)?;
    report.step(
        name,
        "self-test passes, trial reverts for prediction drift",
        format!(
            "{board}: {}, {}, back to release 2: {back}",
            if tried.is_some() {
                "trial began"
            } else {
                "no trial"
            },
            reason.map_or("no revert".to_owned(), |reason| format!(
                "reverted for {reason:?}"
            )),
        ),
        tried.is_some() && reason == Some(Reason::PredictionDrift) && back,
        json!({ "trial": tried, "reverted": reverted, "birth": world.birth(board)? }),
    );
    Ok(())
}

/// Waits until the broker holds the signed word that a rollout was aborted.
fn told_to_give_up(world: &World, rollout: &str) -> Result<bool> {
    let root = world.keys.root()?;
    let witness = Mqtt::connect(&world.mqtt("witness"));
    witness.subscribe(&topic::desired(FLEET));
    let moment = Duration::from_millis(25);
    wait_until(PATIENCE, || {
        let desired = match witness.recv_timeout(moment) {
            Some(mqtt::Event::Message(message)) => read_desired(&message.payload, &root),
            _ => None,
        };
        Ok(desired.is_some_and(|desired| {
            desired.rollout.as_str() == rollout && desired.state == RolloutState::Aborted
        }))
    })
}

/// Allocations an inference over the whole demo, as each agent counted them.
pub fn allocations(world: &World, report: &mut Report) -> Result<()> {
    let mut worst: Option<f64> = Some(0.0);
    let mut evidence = Vec::new();
    let mut fewest = u64::MAX;
    for board in &world.boards {
        let stats = board.feeder.stats(Duration::from_secs(5))?;
        let counted = [
            &stats["allocations_per_inference"],
            &stats["frees_per_inference"],
        ];
        for figure in counted {
            worst = worst
                .zip(figure.as_f64())
                .map(|(worst, figure)| worst.max(figure));
        }
        fewest = fewest.min(stats["steady_inferences"].as_u64().unwrap_or(0));
        evidence.push(json!({ "device": board.name, "stats": stats }));
    }
    report.allocations_per_inference = worst;
    report.step(
        "allocations an inference",
        "0 calls to the system's allocator, 0 frees",
        match worst {
            Some(worst) => format!("{worst} over at least {fewest} inferences a board"),
            None => "not counted".to_owned(),
        },
        worst == Some(0.0) && fewest > 0,
        json!(evidence),
    );
    Ok(())
}
