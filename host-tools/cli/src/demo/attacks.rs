//! What must be refused: a forged signature, a downgrade, another board's bundle, a damaged chunk.

use super::report::Report;
use super::world::{FLEET, PATIENCE, World, running};
use anyhow::{Context, Result};
use edgeward::bundle::{BoardClass, CHUNK_BYTES};
use edgeward::sync::{Desired, RolloutState, Target};
use edgeward::telemetry::{Id, ReleaseId, SlotState, release_id};
use edgeward::topic;
use edgeward::trust::ring::RingSigner;
use edgeward_host::collector::now_ms;
use edgeward_host::mqtt::Mqtt;
use edgeward_host::release::{Changes, Release, publish_desired, repack, sign_desired};
use serde_json::{Value, json};

/// A good release, of which one chunk on the broker is damaged.
pub struct Damaged {
    /// The whole bundle.
    pub bundle: Vec<u8>,
    /// How telemetry names it.
    pub release: ReleaseId,
}

/// Offers all four; returns the last, whose download now hangs at the damaged chunk.
pub fn run(
    world: &World,
    report: &mut Report,
    good: &[u8],
    held: &[&[u8]],
    second: ReleaseId,
) -> Result<Damaged> {
    let mqtt = Mqtt::connect(&world.mqtt("attacker"));
    let renumbered = |counter, class| {
        let version = Some(format!("{counter}.0.0"));
        repack(
            good,
            &Changes {
                version,
                counter: Some(counter),
                class,
            },
        )
    };

    let mut forged = renumbered(10, None)?;
    let stranger = RingSigner::from_pkcs8(&RingSigner::generate()?)?;
    edgeward::bundle::write::sign(&mut forged, &stranger)?;
    offer(
        world,
        report,
        &mqtt,
        "forged signature",
        &forged,
        "Signature",
        second,
    )?;

    // Old content under its old counter, with other bytes than the release that was confirmed.
    let old = world.sign(repack(
        good,
        &Changes {
            version: Some("1.0.1".into()),
            counter: Some(1),
            class: None,
        },
    )?)?;
    offer(world, report, &mqtt, "downgrade", &old, "Downgrade", second)?;

    let other = world.sign(renumbered(11, Some(BoardClass::Mcu))?)?;
    offer(
        world,
        report,
        &mqtt,
        "another board class",
        &other,
        "WrongClass",
        second,
    )?;
    damaged(
        world,
        report,
        world.sign(renumbered(12, None)?)?,
        held,
        second,
    )
}

/// Publishes a release that no honest host would, and waits for the first board's refusal.
fn offer(
    world: &World,
    report: &mut Report,
    mqtt: &Mqtt,
    name: &str,
    bundle: &[u8],
    reason: &str,
    confirmed: ReleaseId,
) -> Result<()> {
    let board = &world.boards[0].name;
    let after = world.newest(board)?;
    let release = Release::open_unchecked(bundle)?;
    release.publish(mqtt, |_| {});
    let mut target = release.target().clone();
    // The desired state is honest in form: signed by the rollout key, for this class of boards.
    target.class = BoardClass::Linux;
    desire(world, mqtt, &format!("attack-{reason}"), target)?;
    let refused = world.event(board, after, |event| {
        event["Refused"]["what"]["Release"]["reason"] == reason
    })?;
    let birth = world.birth(board)?.context("a birth")?;
    let untouched = running(&birth) == Some((confirmed, SlotState::Confirmed));
    report.step(
        name,
        format!("refused: {reason}; the confirmed slot untouched"),
        match &refused {
            Some(frame) => format!(
                "frame {}: refused for {reason}; release 2 runs: {untouched}",
                frame.sequence
            ),
            None => "not refused".to_owned(),
        },
        refused.is_some() && untouched,
        json!({ "frame": refused, "birth": birth }),
    );
    Ok(())
}

/// A good release with one chunk damaged on the broker. `held` is what the boards' idle slots have
/// held: a chunk that is there already is kept and never fetched, so another one is damaged.
fn damaged(
    world: &World,
    report: &mut Report,
    bundle: Vec<u8>,
    held: &[&[u8]],
    confirmed: ReleaseId,
) -> Result<Damaged> {
    let board = &world.boards[0].name;
    let after = world.newest(board)?;
    let mqtt = Mqtt::connect(&world.mqtt("saboteur"));
    let release = Release::open(&bundle, &world.keys.root()?)?;
    release.publish(&mqtt, |_| {});
    let chunks = release.chunks().len();
    let head = release.target().head_bytes as usize / CHUNK_BYTES;
    let fetched = (head..chunks)
        .rev()
        .find(|&n| held.iter().all(|old| chunk(old, n) != chunk(&bundle, n)));
    let number = fetched.context("a chunk that the idle slots lack")?;
    let mut wrong = release.chunks().nth(number).context("a chunk")?.to_vec();
    wrong[0] ^= 1;
    mqtt.maintain(
        &topic::blob(release.digest(), u32::try_from(number)?),
        &wrong,
    );
    desire(world, &mqtt, "damaged", release.target().clone())?;
    let refused = world.event(board, after, is_chunk)?;
    let birth = world.birth(board)?.context("a birth")?;
    let untouched = running(&birth) == Some((confirmed, SlotState::Confirmed));
    report.step(
        "corrupted chunk on the broker",
        "refused: the chunk's hash; the confirmed slot untouched",
        match &refused {
            Some(frame) => format!(
                "frame {}: chunk {} of {chunks} refused; release 2 runs: {untouched}",
                frame.sequence, frame.body["Refused"]["what"]["Chunk"]["index"]
            ),
            None => "not refused".to_owned(),
        },
        refused.is_some() && untouched,
        json!({ "frame": refused, "birth": birth, "chunks": chunks }),
    );
    let release = release_id(release.digest());
    Ok(Damaged { bundle, release })
}

/// Publishes a desired state for the whole fleet, signed by the rollout key.
fn desire(world: &World, mqtt: &Mqtt, rollout: &str, target: Target) -> Result<()> {
    let desired = Desired {
        fleet: Id::try_from(FLEET).unwrap_or_default(),
        sequence: world.store.next_desired(FLEET)?,
        expires_s: now_ms() / 1000 + 3600,
        rollout: Id::try_from(rollout).unwrap_or_default(),
        state: RolloutState::Active,
        targets: heapless::Vec::from_slice(&[target]).unwrap_or_default(),
        tags: heapless::Vec::new(),
        share_per_mille: 1000,
    };
    let signed = sign_desired(&world.keys, &desired)?;
    publish_desired(mqtt, &world.keys, FLEET, &signed)?;
    mqtt.flush(PATIENCE)?;
    Ok(())
}

fn is_chunk(event: &Value) -> bool {
    !event["Refused"]["what"]["Chunk"].is_null()
}

fn chunk(bundle: &[u8], number: usize) -> Option<&[u8]> {
    bundle.chunks(CHUNK_BYTES).nth(number)
}
