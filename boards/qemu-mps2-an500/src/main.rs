//! The firmware for QEMU's mps2-an500: a Cortex-M7 with Ethernet.
#![no_std]
#![no_main]

use cortex_m_rt::entry;
use edgeward_mps2::Board;
use static_cell::ConstStaticCell;

/// The figures of `board.toml`.
mod board {
    include!(concat!(env!("OUT_DIR"), "/board.rs"));
}

/// What a model may have by them.
mod model {
    use super::board;

    edgeward_mcu::types! {
        features: board::MODEL_FEATURES,
        outputs: board::MODEL_OUTPUTS,
        inputs: board::MODEL_INPUTS,
    }
}

edgeward_mps2::tasks!(model);

const _: () = assert!(board::STORAGE_ERASE_BYTES == edgeward_mps2::ERASE_BYTES);
const _: () = assert!(board::STORAGE_WRITE_BYTES == edgeward_mps2::WRITE_BYTES);

const ARENA_BYTES: usize = board::ARENA_BYTES as usize;
const RECORDER_BYTES: usize = board::RECORDER_BYTES as usize;

#[repr(align(16))]
struct ArenaMemory([i8; ARENA_BYTES]);

static ARENA: ConstStaticCell<ArenaMemory> = ConstStaticCell::new(ArenaMemory([0; ARENA_BYTES]));
static RECORDER: ConstStaticCell<[u8; RECORDER_BYTES]> = ConstStaticCell::new([0; RECORDER_BYTES]);

#[entry]
fn main() -> ! {
    start(Board {
        firmware: concat!("qemu-mps2-an500 ", env!("CARGO_PKG_VERSION")),
        ethernet: board::ETHERNET_ORIGIN,
        storage_bytes: board::STORAGE_BYTES,
        copy: board::COPY_ORIGIN,
        outbox_sectors: board::STORAGE_OUTBOX_SECTORS as u16,
        arena: &mut ARENA.take().0,
        recorder: RECORDER.take(),
        stack_bytes: board::STACK_BYTES,
    })
}
