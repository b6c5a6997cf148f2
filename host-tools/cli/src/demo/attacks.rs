//! What must be refused: a forged signature, a downgrade, another board's bundle, a damaged chunk.

use super::model::Releases;
use super::report::Report;
use super::world::{FLEET, Offer, PATIENCE, Signed, World, running};
use anyhow::{Context, Result};
use edgeward::bundle::{BoardClass, CHUNK_BYTES};
use edgeward::sync::{Desired, RolloutState, Target};
use edgeward::telemetry::{Id, ReleaseId, SlotState};
use edgeward::topic;
use edgeward::trust::ring::RingSigner;
use edgeward_host::collector::now_ms;
use edgeward_host::mqtt::Mqtt;
use edgeward_host::release::{Changes, Release, publish_desired, repack, sign_desired};
use serde_json::{Value, json};

/// A board that is offered what it must refuse.
struct Victim<'a> {
    name: &'a str,
    class: BoardClass,
    /// What is made into offers.
    releases: &'a Releases,
    /// What it runs, and must go on running.
    confirmed: ReleaseId,
}

impl Victim<'_> {
    /// What a step about it is called: as it is for the first Linux board, which every demo has.
    fn step(&self, name: &str) -> String {
        match self.class {
            BoardClass::Linux => name.to_owned(),
            _ => format!("{name}, {}", self.name),
        }
    }

    /// Release 2 under another number, for another class where one is given.
    fn renumbered(
        &self,
        version: &str,
        counter: u32,
        class: Option<BoardClass>,
    ) -> Result<Vec<u8>> {
        let changes = Changes {
            version: Some(version.to_owned()),
            counter: Some(counter),
            class,
        };
        Ok(repack(&self.releases.v2, &changes)?)
    }
}

/// Offers all four to the first board, and to the microcontroller where there is one; returns the last, whose
/// download now hangs at the damaged chunk.
pub fn run(
    world: &World,
    report: &mut Report,
    linux: &Releases,
    mcu: Option<&Releases>,
    second: &Offer,
) -> Result<Offer> {
    let mqtt = Mqtt::connect(&world.mqtt("attacker"));
    let mut victims = vec![Victim {
        name: &world.boards[0].name,
        class: BoardClass::Linux,
        releases: linux,
        confirmed: second.linux.release,
    }];
    if let (Some(board), Some(releases), Some(second)) = (&world.emulated, mcu, &second.mcu) {
        victims.push(Victim {
            name: board.name(),
            class: BoardClass::Mcu,
            releases,
            confirmed: second.release,
        });
    }
    for victim in &victims {
        whole(world, report, &mqtt, victim)?;
    }
    damaged(world, report, &victims)
}

/// Offers a board what is whole, and not for it.
fn whole(world: &World, report: &mut Report, mqtt: &Mqtt, victim: &Victim<'_>) -> Result<()> {
    let mut forged = victim.renumbered("10.0.0", 10, None)?;
    let stranger = RingSigner::from_pkcs8(&RingSigner::generate()?)?;
    edgeward::bundle::write::sign(&mut forged, &stranger)?;
    let name = "forged signature";
    offer(world, report, mqtt, victim, name, &forged, "Signature")?;

    // Old content under its old counter, with other bytes than the release that was confirmed.
    let old = world.sign(victim.renumbered("1.0.1", 1, None)?)?;
    let name = "downgrade";
    offer(world, report, mqtt, victim, name, &old.bundle, "Downgrade")?;

    let class = match victim.class {
        BoardClass::Linux => BoardClass::Mcu,
        _ => BoardClass::Linux,
    };
    let other = world.sign(victim.renumbered("11.0.0", 11, Some(class))?)?;
    let name = "another board class";
    offer(
        world,
        report,
        mqtt,
        victim,
        name,
        &other.bundle,
        "WrongClass",
    )
}

/// Publishes a release that no honest host would, and waits for the board's refusal.
fn offer(
    world: &World,
    report: &mut Report,
    mqtt: &Mqtt,
    victim: &Victim<'_>,
    name: &str,
    bundle: &[u8],
    reason: &str,
) -> Result<()> {
    let board = victim.name;
    let after = world.newest(board)?;
    let release = Release::open_unchecked(bundle)?;
    release.publish(mqtt, |_| {});
    let mut target = release.target().clone();
    // The desired state is honest in form: signed by the rollout key, for this class of boards.
    target.class = victim.class;
    desire(world, mqtt, &format!("attack-{reason}"), &[target])?;
    let refused = world.event(board, after, |event| {
        event["Refused"]["what"]["Release"]["reason"] == reason
    })?;
    let birth = world.birth(board)?.context("a birth")?;
    let untouched = running(&birth) == Some((victim.confirmed, SlotState::Confirmed));
    report.step(
        victim.step(name),
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

/// A good release for every class, with one chunk of each bundle damaged on the broker.
fn damaged(world: &World, report: &mut Report, victims: &[Victim<'_>]) -> Result<Offer> {
    let mqtt = Mqtt::connect(&world.mqtt("saboteur"));
    let mut offered = Vec::new();
    let mut since = Vec::new();
    for victim in victims {
        let signed = world.sign(victim.renumbered("12.0.0", 12, None)?)?;
        publish_damaged(world, &mqtt, victim, &signed)?;
        offered.push(signed);
        since.push(world.newest(victim.name)?);
    }
    let mut targets = Vec::new();
    for signed in &offered {
        targets.push(Release::open_unchecked(&signed.bundle)?.target().clone());
    }
    desire(world, &mqtt, "damaged", &targets)?;
    for ((victim, signed), after) in victims.iter().zip(&offered).zip(since) {
        let board = victim.name;
        let chunks = signed.bundle.len().div_ceil(CHUNK_BYTES);
        let refused = world.event(board, after, is_chunk)?;
        let birth = world.birth(board)?.context("a birth")?;
        let untouched = running(&birth) == Some((victim.confirmed, SlotState::Confirmed));
        report.step(
            victim.step("corrupted chunk on the broker"),
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
    }
    let mut offered = offered.into_iter();
    Ok(Offer {
        linux: offered.next().context("the first board's")?,
        mcu: offered.next(),
    })
}

/// Publishes a release with one chunk damaged. The board's idle slot has held the releases before: a chunk that
/// is there already is kept and never fetched, so another one is damaged.
fn publish_damaged(world: &World, mqtt: &Mqtt, victim: &Victim<'_>, signed: &Signed) -> Result<()> {
    let held = [&victim.releases.v1[..], &victim.releases.bad];
    let bundle = &signed.bundle;
    let release = Release::open(bundle, &world.keys.root()?)?;
    release.publish(mqtt, |_| {});
    let chunks = release.chunks().len();
    let head = release.target().head_bytes as usize / CHUNK_BYTES;
    let fetched = (head..chunks)
        .rev()
        .find(|&n| held.iter().all(|old| chunk(old, n) != chunk(bundle, n)));
    let number = fetched.context("a chunk that the idle slots lack")?;
    let mut wrong = release.chunks().nth(number).context("a chunk")?.to_vec();
    wrong[0] ^= 1;
    let topic = topic::blob(release.digest(), u32::try_from(number)?);
    mqtt.maintain(&topic, &wrong);
    Ok(())
}

/// Publishes a desired state for the whole fleet, signed by the rollout key.
fn desire(world: &World, mqtt: &Mqtt, rollout: &str, targets: &[Target]) -> Result<()> {
    let desired = Desired {
        fleet: Id::try_from(FLEET).unwrap_or_default(),
        sequence: world.store.next_desired(FLEET)?,
        expires_s: now_ms() / 1000 + 3600,
        rollout: Id::try_from(rollout).unwrap_or_default(),
        state: RolloutState::Active,
        targets: targets.iter().cloned().collect(),
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
