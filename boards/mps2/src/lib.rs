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
use edgeward::telemetry::Crash;
use edgeward_board::crash::Power;
use edgeward_board::lan::Lan;
use edgeward_mcu::board::Watchdog;
use edgeward_mcu::inference::{Inference, Stock};
use edgeward_mcu::{CrashRecord, Link, Map, Memory, Parts, Space, StartError, Store};
use embassy_executor::{SendSpawner, SpawnError, SpawnToken, Spawner};
use sensor::Recording;
#[cfg(feature = "tls")]
use static_cell::ConstStaticCell;
use static_cell::StaticCell;

pub use edgeward::program::kernels::cortex_m::CortexM;
pub use flash::{ERASE_BYTES, HostFlash, WRITE_BYTES};
pub use sensor::line_memory_bytes;

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
#[cfg(feature = "tls")]
static TLS: ConstStaticCell<edgeward_mcu::TlsMemory> =
    ConstStaticCell::new(edgeward_mcu::TlsMemory::new());
static STORE: StaticCell<Store<HostFlash>> = StaticCell::new();

/// The tasks of a board and what they live in, by the module in which `edgeward_mcu::types!` stands: what they take hangs
/// on what a model may have, and a task has one type. It makes `start`, which runs a [`Board`] for ever.
#[macro_export]
macro_rules! tasks {
    ($model:ident) => {
        static INFERENCE: static_cell::StaticCell<$model::Inference<$crate::CortexM>> =
            static_cell::StaticCell::new();
        static STOCK: static_cell::StaticCell<$model::Stock<$crate::CortexM>> =
            static_cell::StaticCell::new();
        static LINES: static_cell::ConstStaticCell<
            [u8; $crate::line_memory_bytes($model::FEATURES)],
        > = static_cell::ConstStaticCell::new([0; _]);
        static MEMORY: static_cell::ConstStaticCell<$model::Memory> =
            static_cell::ConstStaticCell::new($model::Memory::new());
        static SPACE: static_cell::StaticCell<$model::Space<$crate::HostFlash>> =
            static_cell::StaticCell::new();
        static LINK: $model::Link = $model::Link::new();

        #[embassy_executor::task]
        async fn infer(senses: $crate::Senses) {
            let inference = INFERENCE.init_with(|| $model::Inference::new(&LINK));
            let stock = STOCK.init_with($model::Stock::new);
            let (sensor, watchdog) = $crate::equip(inference, stock, senses, LINES.take());
            edgeward_mcu::inference::run(inference, sensor, watchdog).await;
        }

        #[embassy_executor::task]
        async fn application(ground: $crate::Ground) {
            let space = SPACE.init_with($model::Space::new);
            let ended = $crate::application(ground, MEMORY.take(), space, &LINK).await;
            $crate::ended(ended);
        }

        /// Runs the board, for ever.
        fn start(board: $crate::Board) -> ! {
            $crate::run(board, &LINK, infer, application)
        }
    };
}

/// What inference has to itself.
pub struct Senses {
    /// Not shared yet: it goes to another executor.
    arena: &'static mut RefCell<&'static mut [i8]>,
    recorder: &'static mut [u8],
}

/// What the application stands on.
pub struct Ground {
    store: &'static Store<HostFlash>,
    network: Lan,
    firmware: &'static str,
    arena_bytes: u32,
}

/// Gives the task of inference what it has, for [`tasks!`].
pub fn equip<const F: usize, const C: usize, const N: usize>(
    inference: &mut Inference<CortexM, F, C>,
    stock: &'static mut Stock<CortexM, F, C, N>,
    senses: Senses,
    lines: &'static mut [u8],
) -> (Recording<F>, impl Watchdog + use<F, C, N>) {
    inference.equip(senses.arena, stock);
    inference.clock(time::CORE_KHZ);
    inference.record(senses.recorder);
    (Recording::open(lines), watchdog::start())
}

/// The task of all else, for [`tasks!`]. A future's own: one that waited for it would keep room for it twice.
pub fn application<const F: usize, const C: usize, const B: usize>(
    ground: Ground,
    memory: &'static mut Memory,
    space: &'static mut Space<HostFlash, F, C, B>,
    link: &'static Link<F, C>,
) -> impl Future<Output = Result<Infallible, StartError>> {
    let parts = Parts {
        store: ground.store,
        memory,
        space,
        network: ground.network,
        entropy: host::Entropy,
        link,
        firmware: ground.firmware,
        arena_bytes: ground.arena_bytes,
    };
    let power = Power {
        reset: crash::reset,
    };
    #[cfg(feature = "tls")]
    return edgeward_mcu::run_secure(parts, TLS.take(), power);
    #[cfg(not(feature = "tls"))]
    return edgeward_mcu::run(parts, power);
}

/// Says why it ended, for [`tasks!`].
pub fn ended(ended: Result<Infallible, StartError>) {
    let Err(error) = ended;
    defmt::error!("can't start: {}", error);
}

#[embassy_executor::task]
async fn watch_stack(bytes: u32) {
    edgeward_board::stack::watch(bytes).await;
}

/// Apart from the executor, which would keep for ever what of the stack this takes.
#[inline(never)]
fn ground(spawner: Spawner, board: &Figures) -> Option<Ground> {
    if let Ok(task) = watch_stack(board.stack_bytes) {
        spawner.spawn(task);
    }
    let Some(flash) = HostFlash::open(board.storage_bytes, board.copy) else {
        defmt::error!("can't start: no flash.bin");
        return None;
    };
    let map = Map::new(
        board.storage_bytes,
        ERASE_BYTES,
        board.outbox_sectors,
        board.record_bytes,
    );
    let Ok(map) = map else {
        defmt::error!("can't start: the flash is too small");
        return None;
    };
    Some(Ground {
        store: STORE.init(Store::new(flash, map)),
        network: network::start(spawner, board.ethernet),
        firmware: board.firmware,
        arena_bytes: board.arena_bytes,
    })
}

/// What of a board the application needs.
struct Figures {
    firmware: &'static str,
    ethernet: u32,
    storage_bytes: u32,
    copy: u32,
    outbox_sectors: u16,
    record_bytes: usize,
    arena_bytes: u32,
    stack_bytes: u32,
}

/// Runs the board, for ever, with the two tasks of [`tasks!`].
pub fn run<const F: usize, const C: usize, A, I: Send>(
    board: Board,
    link: &'static Link<F, C>,
    infer: impl FnOnce(Senses) -> Result<SpawnToken<I>, SpawnError>,
    application: impl FnOnce(Ground) -> Result<SpawnToken<A>, SpawnError>,
) -> ! {
    let figures = Figures {
        firmware: board.firmware,
        ethernet: board.ethernet,
        storage_bytes: board.storage_bytes,
        copy: board.copy,
        outbox_sectors: board.outbox_sectors,
        record_bytes: edgeward_mcu::record_bytes(F, C),
        arena_bytes: board.arena.len() as u32,
        stack_bytes: board.stack_bytes,
    };
    uart::start(board.firmware);
    time::start();
    executor::start_inference(|spawner: SendSpawner| {
        let senses = Senses {
            arena: ARENA.init(RefCell::new(board.arena)),
            recorder: board.recorder,
        };
        if let Ok(task) = infer(senses) {
            spawner.spawn(task);
        }
    });
    executor::run(|spawner| match ground(spawner, &figures) {
        Some(ground) => {
            if let Ok(task) = application(ground) {
                spawner.spawn(task);
            }
        }
        None => link.stay(),
    })
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
