//! The life of a board, step by step, on flash that keeps the rules.

use super::ram::RamFlash;
use super::*;
use crate::bundle::{BoardClass, CHUNK_BYTES};
use crate::telemetry::Text;
use crate::trust::root::RoleKeys;
use crate::trust::sha256;

type Flash<const ERASE: usize> = RamFlash<4, ERASE>;

/// A release as the slots see it: a head whose signed part ends with the chunk table, then data.
struct Release {
    bytes: Vec<u8>,
    signed_bytes: u32,
    target: Target,
}

fn release(counter: u32, data: usize) -> Release {
    let data: Vec<u8> = (0..data)
        .map(|at| (at as u32 * 7 + counter) as u8)
        .collect();
    let mut bytes = format!("release {counter:08}").into_bytes();
    for chunk in data.chunks(CHUNK_BYTES) {
        bytes.extend(sha256(chunk));
    }
    let signed_bytes = bytes.len() as u32;
    let digest = sha256(&bytes);
    bytes.resize(CHUNK_BYTES, 0);
    bytes.extend(&data);
    let target = Target {
        class: BoardClass::Mcu,
        digest,
        counter,
        version: Text::try_from("1.0").unwrap(),
        head_bytes: CHUNK_BYTES as u32,
        total_bytes: bytes.len() as u32,
    };
    Release {
        bytes,
        signed_bytes,
        target,
    }
}

fn root(version: u32) -> Root {
    Root {
        version,
        roles: core::array::from_fn(|_| RoleKeys::default()),
    }
}

fn board<const ERASE: usize>() -> Slots<Flash<ERASE>> {
    let capacity = 4 * ERASE.max(4096) + 8 * ERASE.max(4096);
    let flash = Flash::<ERASE>::new(capacity);
    let layout = Layout::split(capacity as u32, ERASE as u32).unwrap();
    Slots::provision(flash, layout, root(1)).unwrap()
}

fn reboot<const ERASE: usize>(slots: Slots<Flash<ERASE>>) -> (Slots<Flash<ERASE>>, BootDecision) {
    let layout = *slots.layout();
    let mut slots = Slots::open(slots.into_flash(), layout).unwrap();
    let decision = slots.begin_boot().unwrap();
    (slots, decision)
}

fn receive<const ERASE: usize>(slots: &mut Slots<Flash<ERASE>>, release: &Release) -> Slot {
    let slot = slots
        .begin_receive(&release.target, rollout_tag("r"))
        .unwrap();
    let chunks: Vec<&[u8]> = release.bytes.chunks(CHUNK_BYTES).collect();
    // Until all hold: a large erase takes neighbours along.
    for _ in 0..3 {
        for (n, chunk) in chunks.iter().enumerate().rev() {
            if slots.hash_chunk(slot, n as u32).unwrap() != sha256(chunk) {
                slots.write_chunk(slot, n as u32, chunk).unwrap();
            }
        }
    }
    slot
}

fn install<const ERASE: usize>(slots: &mut Slots<Flash<ERASE>>, release: &Release) -> Slot {
    let slot = receive(slots, release);
    slots.stage(slot, release.signed_bytes).unwrap();
    slots.begin_trial(slot, 2).unwrap();
    slots.confirm(slot).unwrap();
    slot
}

fn updates_alternate<const ERASE: usize>() {
    let mut slots = board::<ERASE>();
    assert_eq!(slots.begin_boot(), Ok(BootDecision::Empty));
    for counter in 1..6 {
        let release = release(counter, 6000);
        let slot = install(&mut slots, &release);
        let expected = if counter % 2 == 1 { Slot::A } else { Slot::B };
        assert_eq!(slot, expected);
        assert_eq!(slots.state().floor, counter);
        let (again, decision) = reboot(slots);
        slots = again;
        assert_eq!(decision, BootDecision::Confirmed(slot));
        let mut head = [0; CHUNK_BYTES];
        assert_eq!(
            slots.read_head(slot, &mut head).unwrap(),
            &release.bytes[..CHUNK_BYTES]
        );
    }
    assert_eq!(slots.state().boot, 6);
}

#[test]
fn updates_alternate_for_every_erase_size() {
    updates_alternate::<256>();
    updates_alternate::<2048>();
    updates_alternate::<4096>();
    updates_alternate::<16384>();
    updates_alternate::<65536>();
}

#[test]
fn a_large_erase_names_the_chunks_it_took() {
    let mut slots = board::<16384>();
    let release = release(1, 12000);
    let slot = slots.begin_receive(&release.target, [0; 8]).unwrap();
    let chunk = |n: usize| release.bytes.chunks(CHUNK_BYTES).nth(n).unwrap();
    assert_eq!(slots.write_chunk(slot, 0, chunk(0)).unwrap().lost, 0..0);
    assert_eq!(slots.write_chunk(slot, 1, chunk(1)).unwrap().lost, 1..1);
    // Chunk 1 again: its place is not blank, so the sector goes, and chunk 0 with it.
    assert_eq!(slots.write_chunk(slot, 1, chunk(1)).unwrap().lost, 0..4);
    assert_ne!(slots.hash_chunk(slot, 0).unwrap(), sha256(chunk(0)));
    assert_eq!(slots.hash_chunk(slot, 1).unwrap(), sha256(chunk(1)));
    assert_eq!(slots.stage(slot, release.signed_bytes), Err(Error::Head));
}

#[test]
fn a_trial_reverts_at_the_boot_after_its_last() {
    let mut slots = board::<4096>();
    let good = release(1, 5000);
    let kept = install(&mut slots, &good);
    let bad = release(2, 5000);
    let slot = receive(&mut slots, &bad);
    slots.stage(slot, bad.signed_bytes).unwrap();
    slots.shadow(slot, 2).unwrap();
    slots.begin_trial(slot, 2).unwrap();
    // It dies, and dies again; the third boot goes back.
    let (slots, decision) = reboot(slots);
    assert_eq!(decision, BootDecision::Trial { slot, attempt: 2 });
    let (slots, decision) = reboot(slots);
    let from = release_id(&bad.target.digest);
    let reason = Reason::Crash;
    let to = Some(kept);
    assert_eq!(decision, BootDecision::Reverted { from, to, reason });
    assert_eq!(slots.state().last_failure, Some((from, reason)));
    assert_eq!(slots.state().floor, 1, "a failed trial burns nothing");
    let (mut slots, decision) = reboot(slots);
    assert_eq!(decision, BootDecision::Confirmed(kept));
    let again = slots.begin_receive(&bad.target, rollout_tag("r"));
    assert_eq!(again, Err(Error::Rejected(reason)));
    assert_eq!(slots.begin_receive(&bad.target, rollout_tag("s")), Ok(slot));
}

#[test]
fn a_shadow_that_takes_two_boots_with_it_is_not_run_in_a_third() {
    let mut slots = board::<4096>();
    let kept = install(&mut slots, &release(1, 5000));
    let bad = release(2, 5000);
    let slot = receive(&mut slots, &bad);
    slots.stage(slot, bad.signed_bytes).unwrap();
    slots.shadow(slot, 2).unwrap();
    assert_eq!(slots.attempt(slot), Ok(true), "counted already");
    assert_eq!(slots.record(slot).attempts, 1);
    // Boots in which it does not run, and such as end on purpose, are not its fault.
    for _ in 0..5 {
        let (again, decision) = reboot(slots);
        slots = again;
        assert_eq!(decision, BootDecision::Confirmed(kept));
        if slots.state().boot.is_multiple_of(2) {
            assert_eq!(slots.attempt(slot), Ok(true));
            slots.end_boot().unwrap();
        }
        assert_eq!(slots.record(slot).attempts, 1);
    }
    let (mut slots, _) = reboot(slots);
    assert_eq!(slots.attempt(slot), Ok(true));
    let (mut slots, decision) = reboot(slots);
    assert_eq!(decision, BootDecision::Confirmed(kept));
    let sequence = slots.sequence();
    assert_eq!(slots.attempt(slot), Ok(false));
    assert_eq!(slots.sequence(), sequence, "nothing is written");
    slots.reject(slot, Reason::Crash).unwrap();
    let (slots, decision) = reboot(slots);
    assert_eq!(decision, BootDecision::Confirmed(kept));
    let failed = (release_id(&bad.target.digest), Reason::Crash);
    assert_eq!(slots.state().last_failure, Some(failed));
}

#[test]
fn a_self_test_may_take_two_boots_and_what_passes_begins_with_none() {
    let mut slots = board::<4096>();
    let release = release(1, 5000);
    let slot = receive(&mut slots, &release);
    for _ in 0..EARLY_BOOTS {
        assert_eq!(slots.attempt(slot), Ok(true));
        assert_eq!(slots.attempt(slot), Ok(true), "a boot counts once");
        slots = reboot(slots).0;
        // Receiving goes on where it was, and with it the count.
        assert_eq!(receive(&mut slots, &release), slot);
    }
    assert_eq!(slots.attempt(slot), Ok(false));
    // Another rollout is another chance.
    let again = slots.begin_receive(&release.target, rollout_tag("s"));
    assert_eq!(again, Ok(slot));
    assert_eq!(slots.attempt(slot), Ok(true));
    slots.stage(slot, release.signed_bytes).unwrap();
    assert_eq!(slots.record(slot).attempts, 0);
    // As it is loaded to run it counts anew, until it is known to wait.
    assert_eq!(slots.attempt(slot), Ok(true));
    assert_eq!(slots.record(slot).attempts, 1);
    slots.settle(slot).unwrap();
    assert_eq!(slots.record(slot).attempts, 0);
    slots.end_boot().unwrap();
    assert_eq!(slots.record(slot).attempts, 0);
    slots.begin_trial(slot, 2).unwrap();
    let on_trial = Error::State(SlotState::Trial);
    assert_eq!(slots.attempt(slot), Err(on_trial));
    assert_eq!(slots.settle(slot), Err(on_trial));
}

#[test]
fn boots_that_end_on_purpose_do_not_count() {
    let mut slots = board::<4096>();
    let release = release(1, 5000);
    let slot = receive(&mut slots, &release);
    slots.stage(slot, release.signed_bytes).unwrap();
    slots.begin_trial(slot, 2).unwrap();
    for _ in 0..10 {
        slots.end_boot().unwrap();
        let (again, decision) = reboot(slots);
        slots = again;
        assert_eq!(decision, BootDecision::Trial { slot, attempt: 1 });
    }
    slots.confirm(slot).unwrap();
    slots.end_boot().unwrap();
}

#[test]
fn a_failed_first_release_leaves_the_board_empty() {
    let mut slots = board::<4096>();
    let release = release(1, 5000);
    let slot = receive(&mut slots, &release);
    slots.stage(slot, release.signed_bytes).unwrap();
    slots.begin_trial(slot, 2).unwrap();
    assert_eq!(slots.revert(slot, Reason::Latency), Ok(None));
    let (slots, decision) = reboot(slots);
    assert_eq!(decision, BootDecision::Empty);
    let rejected = SlotState::Rejected(Reason::Latency);
    assert_eq!(slots.record(slot).state, rejected);
}

#[test]
fn a_confirmed_slot_that_rots_gives_way_to_the_one_before() {
    let mut slots = board::<4096>();
    let old = install(&mut slots, &release(1, 5000));
    let new_release = release(2, 5000);
    let new = install(&mut slots, &new_release);
    let at = slots.layout().slot(new).start as usize + 4097;
    let layout = *slots.layout();
    let mut flash = slots.into_flash();
    flash.bytes_mut()[at] ^= 1;
    let mut slots = Slots::open(flash, layout).unwrap();
    let from = release_id(&new_release.target.digest);
    let reason = Reason::Corrupt;
    let to = Some(old);
    let expected = BootDecision::Reverted { from, to, reason };
    assert_eq!(slots.begin_boot(), Ok(expected));
    assert_eq!(slots.state().floor, 2, "the floor stays");
    let at = slots.layout().slot(old).start as usize;
    let mut flash = slots.into_flash();
    flash.bytes_mut()[at] ^= 1;
    let mut slots = Slots::open(flash, layout).unwrap();
    let seen = slots.begin_boot().unwrap();
    assert!(
        matches!(seen, BootDecision::Reverted { to: None, .. }),
        "{seen:?}"
    );
    let (_, decision) = reboot(slots);
    assert_eq!(decision, BootDecision::Empty);
}

#[test]
fn a_trial_slot_that_rots_is_not_run() {
    let mut slots = board::<4096>();
    let kept = install(&mut slots, &release(1, 5000));
    let bad = release(2, 5000);
    let slot = receive(&mut slots, &bad);
    slots.stage(slot, bad.signed_bytes).unwrap();
    slots.begin_trial(slot, 3).unwrap();
    let layout = *slots.layout();
    let mut flash = slots.into_flash();
    flash.bytes_mut()[layout.slot(slot).start as usize + 5000] ^= 1;
    let mut slots = Slots::open(flash, layout).unwrap();
    let from = release_id(&bad.target.digest);
    let reason = Reason::Corrupt;
    let to = Some(kept);
    let expected = BootDecision::Reverted { from, to, reason };
    assert_eq!(slots.begin_boot(), Ok(expected));
}

#[test]
fn every_changed_byte_of_a_received_release_is_found() {
    let mut slots = board::<4096>();
    let release = release(1, 300);
    let slot = receive(&mut slots, &release);
    let layout = *slots.layout();
    let base = layout.slot(slot).start as usize;
    let covered = (0..release.signed_bytes as usize).chain(CHUNK_BYTES..release.bytes.len());
    for at in covered {
        let mut flash = slots.into_flash();
        flash.bytes_mut()[base + at] ^= 0x80;
        slots = Slots::open(flash, layout).unwrap();
        let seen = slots.stage(slot, release.signed_bytes);
        let expected = if at < CHUNK_BYTES {
            Error::Head
        } else {
            Error::Chunk(1)
        };
        assert_eq!(seen, Err(expected), "byte {at}");
        let mut flash = slots.into_flash();
        flash.bytes_mut()[base + at] ^= 0x80;
        slots = Slots::open(flash, layout).unwrap();
    }
    slots.stage(slot, release.signed_bytes).unwrap();
}

#[test]
fn no_state_is_skipped() {
    let mut slots = board::<4096>();
    let release = release(3, 5000);
    let a = Slot::A;
    let empty = Err(Error::State(SlotState::Empty));
    assert_eq!(slots.write_chunk(a, 0, &[]).map(|_| ()), empty);
    assert_eq!(slots.stage(a, 48), empty);
    assert_eq!(slots.begin_trial(a, 1), empty);
    assert_eq!(slots.confirm(a), empty);
    assert_eq!(slots.revert(a, Reason::Crash).map(|_| ()), empty);
    let slot = receive(&mut slots, &release);
    let receiving = Err(Error::State(SlotState::Receiving));
    assert_eq!(slots.shadow(slot, 2), receiving);
    assert_eq!(slots.begin_trial(slot, 1), receiving);
    assert_eq!(slots.confirm(slot), receiving);
    slots.stage(slot, release.signed_bytes).unwrap();
    let staged = Err(Error::State(SlotState::Staged));
    assert_eq!(slots.confirm(slot), staged);
    assert_eq!(
        slots
            .write_chunk(slot, 0, &release.bytes[..4096])
            .map(|_| ()),
        staged
    );
    slots.begin_trial(slot, 1).unwrap();
    let busy = slots.begin_receive(&release.target, rollout_tag("x"));
    assert_eq!(busy, Err(Error::OnTrial));
    assert_eq!(
        slots.reject(slot, Reason::Crash),
        Err(Error::State(SlotState::Trial))
    );
    slots.confirm(slot).unwrap();
    let confirmed = Err(Error::State(SlotState::Confirmed));
    assert_eq!(
        slots
            .write_chunk(slot, 0, &release.bytes[..4096])
            .map(|_| ()),
        confirmed
    );
    assert_eq!(slots.abandon(slot), confirmed);
}

#[test]
fn sizes_counters_and_chunks_out_of_range_are_refused() {
    let mut slots = board::<4096>();
    install(&mut slots, &release(5, 5000));
    let old = release(4, 5000);
    let tag = rollout_tag("r");
    assert_eq!(
        slots.begin_receive(&old.target, tag),
        Err(Error::BelowFloor(5))
    );
    // Other content under the counter that is confirmed; the same content may come again.
    let other = release(5, 6000);
    assert_eq!(
        slots.begin_receive(&other.target, tag),
        Err(Error::CounterTaken)
    );
    assert!(slots.is_counter_taken(5, &other.target.digest));
    assert!(!slots.is_counter_taken(5, &release(5, 5000).target.digest));
    let target = release(6, 5000).target;
    let bad = [
        Target {
            total_bytes: slots.layout().slot_bytes + 1,
            ..target.clone()
        },
        Target {
            head_bytes: 0,
            ..target.clone()
        },
        Target {
            head_bytes: 100,
            ..target.clone()
        },
        Target {
            head_bytes: 8192 + 4096,
            ..target.clone()
        },
    ];
    for target in bad {
        assert_eq!(
            slots.begin_receive(&target, tag),
            Err(Error::Size),
            "{target:?}"
        );
    }
    let slot = slots.begin_receive(&target, tag).unwrap();
    assert_eq!(slots.chunks(slot), 3);
    let wrong = [(3, 4096), (u32::MAX, 4096), (0, 4095), (2, 4096), (0, 0)];
    for (n, len) in wrong {
        let seen = slots.write_chunk(slot, n, &vec![0; len]);
        assert_eq!(seen, Err(Error::Range), "chunk {n} of {len} bytes");
    }
    assert_eq!(
        slots.table_entry(slot, 100, 0),
        Err(Error::Range),
        "a head chunk"
    );
    assert_eq!(
        slots.table_entry(slot, 4, 1),
        Err(Error::Range),
        "no room for a table"
    );
    assert_eq!(slots.table_entry(slot, u32::MAX, 1), Err(Error::Range));
    assert_eq!(slots.verify_slot(slot, 0), Err(Error::Range));
    assert_eq!(slots.verify_slot(slot, 4097), Err(Error::Range));
    assert_eq!(slots.hash(slot, 0..u32::MAX), Err(Error::Range));
    assert_eq!(slots.read(slot, u32::MAX, &mut [0; 8]), Err(Error::Range));
}

#[test]
fn the_root_goes_on_by_one_and_the_desired_state_forward() {
    let mut slots = board::<4096>();
    assert_eq!(slots.set_root(root(1)), Err(Error::RootVersion(1)));
    assert_eq!(slots.set_root(root(3)), Err(Error::RootVersion(1)));
    slots.set_root(root(2)).unwrap();
    slots.set_desired(7, [1; 32]).unwrap();
    slots.set_desired(7, [1; 32]).unwrap();
    assert_eq!(slots.set_desired(7, [2; 32]), Err(Error::Replay(7)));
    assert_eq!(slots.set_desired(6, [2; 32]), Err(Error::Replay(7)));
    let (slots, _) = reboot(slots);
    assert_eq!(slots.state().root.version, 2);
    assert_eq!(slots.state().desired_sequence, 7);
}

#[test]
fn provisioning_happens_once_and_damage_is_not_repaired_silently() {
    let slots = board::<4096>();
    let layout = *slots.layout();
    let mut flash = slots.into_flash();
    let again = Slots::provision(flash.clone(), layout, root(1)).unwrap_err();
    assert_eq!(again, Error::Provisioned);
    flash.bytes_mut()[40] ^= 1;
    let open = Slots::open(flash.clone(), layout).unwrap_err();
    let Error::Unreadable { offset, why } = open else {
        panic!("{open:?}");
    };
    assert_eq!(offset, layout.journal[0]);
    assert!(matches!(why, RecordError::Crc(_)), "{why:?}");
    let provision = Slots::provision(flash.clone(), layout, root(1)).unwrap_err();
    assert_eq!(provision, open);
    Slots::format(&mut flash, layout).unwrap();
    let blank = Slots::open(flash.clone(), layout).unwrap_err();
    assert_eq!(blank, Error::Unprovisioned);
    Slots::provision(flash, layout, root(1)).unwrap();
}

#[test]
fn the_rejected_are_remembered_up_to_a_bound() {
    let mut slots = board::<4096>();
    for counter in 1..8 {
        let release = release(counter, 100);
        let slot = slots.begin_receive(&release.target, [0; 8]).unwrap();
        slots.reject(slot, Reason::Signature).unwrap();
    }
    assert_eq!(slots.state().rejected.len(), journal::MAX_REJECTED);
    let newest = release(7, 100).target.digest;
    assert_eq!(slots.rejection(&newest, [0; 8]), Some(Reason::Signature));
    assert_eq!(slots.rejection(&newest, [1; 8]), None);
}
