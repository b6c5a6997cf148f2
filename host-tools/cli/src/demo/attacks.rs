//! What must be refused: a forged signature, a downgrade, another board's bundle, a damaged chunk.

use super::report::Report;
use super::updates::start;
use super::world::{FLEET, PATIENCE, World, running};
use anyhow::{Context, Result};
use edgeward::bundle::{BoardClass, CHUNK_BYTES};
use edgeward::sync::{Desired, RolloutState};
use edgeward::telemetry::{Id, ReleaseId, SlotState};
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
    /// Number of the damaged chunk.
    pub chunk: u32,
    /// The client whose maintained message damages it.
    pub saboteur: Mqtt,
}

/// Offers all four; returns the last, whose download now hangs at the damaged chunk.
pub fn run(
    world: &World,
    report: &mut Report,
    good: &[u8],
    first: ReleaseId,
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
    let _ = first;

    damaged(world, report, world.sign(renumbered(12, None)?)?, second)
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
    let desired = Desired {
        fleet: Id::try_from(FLEET).unwrap_or_default(),
        sequence: world.store.next_desired(FLEET)?,
        expires_s: now_ms() / 1000 + 3600,
        rollout: Id::try_from(format!("attack-{reason}").as_str()).unwrap_or_default(),
        state: RolloutState::Active,
        targets: heapless::Vec::from_slice(&[target]).unwrap_or_default(),
        tags: heapless::Vec::new(),
        share_per_mille: 1000,
    };
    let signed = sign_desired(&world.keys, &desired)?;
    publish_desired(mqtt, &world.keys, FLEET, &signed)?;
    mqtt.flush(PATIENCE)?;
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

/// A good release with one chunk damaged on the broker, before any board sees it.
fn damaged(
    world: &World,
    report: &mut Report,
    bundle: Vec<u8>,
    confirmed: ReleaseId,
) -> Result<Damaged> {
    let board = &world.boards[0].name;
    let after = world.newest(board)?;
    let release = Release::open(&bundle, &world.keys.root()?)?;
    let digest = *release.digest();
    let chunks = bundle.len().div_ceil(CHUNK_BYTES);
    let chunk = u32::try_from(chunks - 1)?;
    let saboteur = Mqtt::connect(&world.mqtt("saboteur"));
    let id = start(world, "repaired", &bundle, &[1000])?;
    // The controller publishes the chunks when it begins the rollout; this one is overwritten again
    // and again until a board has met it.
    let topic = topic::blob(&digest, chunk);
    let mut wrong = release.chunks().last().context("a chunk")?.to_vec();
    wrong[0] ^= 1;
    let refused = {
        let mut refused = None;
        for _ in 0..200 {
            saboteur.publish(&topic, &wrong, true);
            saboteur.flush(PATIENCE)?;
            let query = edgeward_host::store::FrameQuery {
                device: Some(board.clone()),
                kind: Some(edgeward_host::store::Kind::Event),
                after: Some(after),
                ..Default::default()
            };
            refused = world
                .store
                .frames(&query)?
                .into_iter()
                .find(|frame| is_chunk(&frame.body));
            if refused.is_some() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        refused
    };
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
    Ok(Damaged {
        bundle,
        release: id,
        chunk,
        saboteur,
    })
}

fn is_chunk(event: &Value) -> bool {
    !event["Refused"]["what"]["Chunk"].is_null()
}
