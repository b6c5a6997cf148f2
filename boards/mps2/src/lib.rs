//! What QEMU's mps2 boards have in common: a host in place of flash, sensor and randomness, and Ethernet.
//!
//! QEMU's folder holds `flash.bin` (made and provisioned by `edgeward flash`) and `samples.txt` (what the
//! sensor replays). Two executors: inference runs in an interrupt of its own above everything that flash
//! and network do, which runs in the main program. A board's crate brings its figures and memory.
#![no_std]
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
use cortex_m_rt::{ExceptionFrame, exception};
use edgeward::program::kernels::cortex_m::CortexM;
use edgeward::telemetry::Crash;
use edgeward_board::crash::Power;
use edgeward_board::lan::Lan;
use edgeward_mcu::inference::{self, Inference, Stock};
use edgeward_mcu::{CrashRecord, Link, Map, Memory, Parts, Space, StartError, Store};
use embassy_executor::{SendSpawner, Spawner};
use flash::HostFlash;
use sensor::Recording;
use static_cell::{ConstStaticCell, StaticCell};

pub use flash::{ERASE_BYTES, WRITE_BYTES};

/// A board, by what its `board.toml` says and its crate has.
pub struct Board {
    /// Its name and version, for people.
    pub firmware: &'static str,
    /// Where its Ethernet device is.
    pub ethernet: u32,
    /// Bytes of the flash of outbox, journal and slots.
    pub storage_bytes: u32,
    /// Where the copy of that flash is, in which programs run.
    pub copy: u32,
    /// Sectors of the outbox.
    pub outbox_sectors: u16,
    /// What models work in, aligned to 16 bytes.
    pub arena: &'static mut [i8],
    /// The flight recorder's.
    pub recorder: &'static mut [u8],
    /// What the stack may take.
    pub stack_bytes: u32,
}

static ARENA: StaticCell<RefCell<&'static mut [i8]>> = StaticCell::new();
static INFERENCE: StaticCell<Inference<CortexM>> = StaticCell::new();
static STOCK: StaticCell<Stock<CortexM>> = StaticCell::new();
static MEMORY: ConstStaticCell<Memory> = ConstStaticCell::new(Memory::new());
#[cfg(feature = "tls")]
static TLS: ConstStaticCell<edgeward_mcu::TlsMemory> =
    ConstStaticCell::new(edgeward_mcu::TlsMemory::new());
static SPACE: StaticCell<Space<HostFlash>> = StaticCell::new();
static STORE: StaticCell<Store<HostFlash>> = StaticCell::new();
static LINK: Link = Link::new();

#[embassy_executor::task]
async fn infer(arena: &'static mut RefCell<&'static mut [i8]>, recorder: &'static mut [u8]) {
    let inference = INFERENCE.init_with(|| Inference::new(&LINK));
    inference.equip(arena, STOCK.init_with(Stock::new));
    inference.clock(time::CORE_KHZ);
    inference.record(recorder);
    let sensor = Recording::open();
    inference::run(inference, sensor, watchdog::start()).await;
}

#[embassy_executor::task]
async fn application(
    store: &'static Store<HostFlash>,
    memory: &'static mut Memory,
    network: Lan,
    firmware: &'static str,
    arena_bytes: u32,
) {
    let parts = Parts {
        store,
        memory,
        space: SPACE.init_with(Space::new),
        network,
        entropy: host::Entropy,
        link: &LINK,
        firmware,
        arena_bytes,
    };
    let power = Power {
        reset: crash::reset,
    };
    #[cfg(feature = "tls")]
    let run = edgeward_mcu::run_secure(parts, TLS.take(), power);
    #[cfg(not(feature = "tls"))]
    let run = edgeward_mcu::run(parts, power);
    let ended: Result<Infallible, StartError> = run.await;
    let Err(error) = ended;
    defmt::error!("can't start: {}", error);
}

#[embassy_executor::task]
async fn watch_stack(bytes: u32) {
    edgeward_board::stack::watch(bytes).await;
}

/// Apart from the executor, which would keep for ever what of the stack this takes.
#[inline(never)]
fn start_application(spawner: Spawner, board: Figures) {
    if let Ok(task) = watch_stack(board.stack_bytes) {
        spawner.spawn(task);
    }
    let Some(flash) = HostFlash::open(board.storage_bytes, board.copy) else {
        defmt::error!("can't start: no flash.bin");
        LINK.stay();
        return;
    };
    let map = Map::new(board.storage_bytes, ERASE_BYTES, board.outbox_sectors);
    let Ok(map) = map else {
        defmt::error!("can't start: the flash is too small");
        LINK.stay();
        return;
    };
    let store = STORE.init(Store::new(flash, map));
    let lan = network::start(spawner, board.ethernet);
    let memory = MEMORY.take();
    let task = application(store, memory, lan, board.firmware, board.arena_bytes);
    if let Ok(task) = task {
        spawner.spawn(task);
    }
}

/// What of a board the application needs.
struct Figures {
    firmware: &'static str,
    ethernet: u32,
    storage_bytes: u32,
    copy: u32,
    outbox_sectors: u16,
    arena_bytes: u32,
    stack_bytes: u32,
}

/// Runs the board, for ever.
pub fn run(board: Board) -> ! {
    let figures = Figures {
        firmware: board.firmware,
        ethernet: board.ethernet,
        storage_bytes: board.storage_bytes,
        copy: board.copy,
        outbox_sectors: board.outbox_sectors,
        arena_bytes: board.arena.len() as u32,
        stack_bytes: board.stack_bytes,
    };
    uart::start(board.firmware);
    time::start();
    executor::start_inference(|spawner: SendSpawner| {
        let arena = ARENA.init(RefCell::new(board.arena));
        if let Ok(task) = infer(arena, board.recorder) {
            spawner.spawn(task);
        }
    });
    executor::run(|spawner| start_application(spawner, figures))
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
    let record = edgeward_board::crash::fault(frame.pc());
    let what = match record.read() {
        Some((Crash::Panic, _)) => "panic at ",
        _ => "fault at ",
    };
    uart::text(|text| text.word(what).hex(frame.pc()));
    crash::end(record)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let (file, line) = match info.location() {
        Some(location) => (location.file(), location.line()),
        None => ("somewhere", 0),
    };
    uart::text(|text| text.word("panic at ").word(file).word(":").number(line));
    crash::end(CrashRecord::new(Crash::Panic, line))
}
