//! The firmware for QEMU's mps2-an386: a Cortex-M4F with Ethernet, and a host in place of flash, sensor
//! and randomness.
//!
//! QEMU's folder holds `flash.bin` (made and provisioned by `edgeward flash`) and `samples.txt` (what the
//! sensor replays). Two executors: inference runs in an interrupt of its own above everything that flash
//! and network do, which runs in the main program.
#![no_std]
#![no_main]
#![allow(unsafe_code)]

mod crash;
mod executor;
mod flash;
mod host;
mod lan9118;
mod network;
mod sensor;
mod time;
mod uart;
mod watchdog;

use core::cell::RefCell;
use core::convert::Infallible;
use cortex_m_rt::{ExceptionFrame, entry, exception};
use edgeward::program::kernels::cortex_m::CortexM;
use edgeward::telemetry::Crash;
use edgeward_mcu::inference::{self, Inference, Tensors};
use edgeward_mcu::{CrashRecord, Link, MAX_INPUT, Map, Memory, Parts, Space, StartError, Store};
use embassy_executor::{SendSpawner, Spawner};
use flash::HostFlash;
use network::Lan;
use sensor::Recording;
use static_cell::{ConstStaticCell, StaticCell};

/// The figures of `board.toml`.
mod board {
    include!(concat!(env!("OUT_DIR"), "/board.rs"));
}

/// Bytes of the arena that models work in.
const ARENA_BYTES: usize = board::ARENA_BYTES as usize;
/// Sectors of the outbox.
const OUTBOX_SECTORS: u16 = board::STORAGE_OUTBOX_SECTORS as u16;

#[repr(align(16))]
struct ArenaMemory([i8; ARENA_BYTES]);

static ARENA: ConstStaticCell<ArenaMemory> = ConstStaticCell::new(ArenaMemory([0; ARENA_BYTES]));
static SHARED_ARENA: StaticCell<RefCell<&'static mut [i8]>> = StaticCell::new();
/// Bytes of the flight recorder.
const RECORDER_BYTES: usize = board::RECORDER_BYTES as usize;
static RECORDER: ConstStaticCell<[u8; RECORDER_BYTES]> = ConstStaticCell::new([0; RECORDER_BYTES]);
static TENSORS: ConstStaticCell<Tensors> = ConstStaticCell::new([[0.0; MAX_INPUT]; 2]);
static MEMORY: ConstStaticCell<Memory> = ConstStaticCell::new(Memory::new());
#[cfg(feature = "tls")]
static TLS: ConstStaticCell<edgeward_mcu::TlsMemory> =
    ConstStaticCell::new(edgeward_mcu::TlsMemory::new());
static SPACE: StaticCell<Space<HostFlash>> = StaticCell::new();
static STORE: StaticCell<Store<HostFlash>> = StaticCell::new();
static LINK: Link = Link::new();

#[embassy_executor::task]
async fn infer(arena: &'static mut RefCell<&'static mut [i8]>, tensors: &'static mut Tensors) {
    let inference = Inference::<CortexM>::new(&LINK, arena, tensors);
    let mut inference = inference.recorded(RECORDER.take());
    let sensor = Recording::open();
    inference::run(&mut inference, sensor, watchdog::start()).await;
}

#[embassy_executor::task]
async fn application(store: &'static Store<HostFlash>, memory: &'static mut Memory, network: Lan) {
    let parts = Parts {
        store,
        memory,
        space: SPACE.init_with(Space::new),
        network,
        entropy: host::Entropy,
        link: &LINK,
        log: uart::line,
        firmware: concat!("qemu-mps2-an386 ", env!("CARGO_PKG_VERSION")),
        arena_bytes: ARENA_BYTES as u32,
    };
    #[cfg(feature = "tls")]
    let run = edgeward_mcu::run_secure(parts, TLS.take(), crash::Power);
    #[cfg(not(feature = "tls"))]
    let run = edgeward_mcu::run(parts, crash::Power);
    let ended: Result<Infallible, StartError> = run.await;
    let Err(error) = ended;
    uart::line(format_args!("can't start: {error}"));
}

fn start_inference(spawner: SendSpawner) {
    let arena = SHARED_ARENA.init(RefCell::new(&mut ARENA.take().0));
    if let Ok(task) = infer(arena, TENSORS.take()) {
        spawner.spawn(task);
    }
}

fn start_application(spawner: Spawner) {
    let Some(flash) = HostFlash::open() else {
        uart::line(format_args!("can't start: no flash.bin"));
        return;
    };
    let map = Map::new(flash::CAPACITY, flash::ERASE_BYTES, OUTBOX_SECTORS);
    let Ok(map) = map else {
        uart::line(format_args!("can't start: the flash is too small"));
        return;
    };
    let store = STORE.init(Store::new(flash, map));
    let lan = network::start(spawner);
    if let Ok(task) = application(store, MEMORY.take(), lan) {
        spawner.spawn(task);
    }
}

#[entry]
fn main() -> ! {
    uart::start();
    time::start();
    executor::start_inference(start_inference);
    executor::run(start_application)
}

#[exception]
unsafe fn DefaultHandler(irqn: i16) {
    match irqn {
        time::ALARM_IRQ => time::on_alarm(),
        time::CLOCK_IRQ => time::on_wrap(),
        lan9118::IRQ => lan9118::on_interrupt(),
        executor::IRQ => executor::on_interrupt(),
        _ => {}
    }
}

#[exception]
unsafe fn HardFault(frame: &ExceptionFrame) -> ! {
    crash::end(CrashRecord::new(Crash::Fault, frame.pc()))
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    uart::line(format_args!("{info}"));
    let line = info.location().map_or(0, |location| location.line());
    crash::end(CrashRecord::new(Crash::Panic, line))
}
