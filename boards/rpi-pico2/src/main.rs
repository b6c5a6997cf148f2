//! The firmware for a Raspberry Pi Pico 2 with a W5500 on SPI 0: a Cortex-M33 with Ethernet, a watchdog and a
//! generator of random numbers. An MPU-6050 at GP4 (SDA) and GP5 (SCL) is its sensor.
//!
//! Two executors: inference runs in an interrupt of its own above everything that flash and network do, which
//! runs in the main program. What it logs goes to the debug probe.
#![no_std]
#![no_main]
#![allow(unsafe_code)]

mod flash;
mod network;
mod random;

use core::cell::RefCell;
use core::convert::Infallible;
use cortex_m_rt::{ExceptionFrame, entry, exception};
use defmt_rtt as _;
use edgeward::program::Portable;
use edgeward::telemetry::Crash;
use edgeward_board::crash::{self, Power};
use edgeward_board::lan::Lan;
use edgeward_board::mpu6050::{self, Mpu6050};
use edgeward_mcu::board::{Power as _, Watchdog};
use edgeward_mcu::{CrashRecord, Map, Parts, StartError, Store, inference};
use embassy_executor::{Executor, InterruptExecutor, Spawner};
use embassy_rp::clocks::clk_sys_freq;
use embassy_rp::i2c::{self, Blocking, I2c};
use embassy_rp::interrupt::{self, InterruptExt, Priority};
use embassy_rp::peripherals::{DMA_CH0, DMA_CH1, FLASH, I2C0};
use embassy_rp::watchdog::{self, ResetReason};
use embassy_rp::{Peri, bind_interrupts, dma};
use embassy_time::{Duration, Instant, Timer};
use flash::ChipFlash;
use model::{Inference, Link, Memory, Space, Stock};
use random::Random;
use static_cell::{ConstStaticCell, StaticCell};

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

const _: () = assert!(model::FEATURES >= mpu6050::FEATURES.len());

bind_interrupts!(struct Irqs {
    DMA_IRQ_0 => dma::InterruptHandler<DMA_CH0>, dma::InterruptHandler<DMA_CH1>;
});

/// How long the inference loop may stand still: half of the longest that the watchdog counts.
const WATCHDOG: Duration = Duration::from_secs(8);
/// How long to wait before the board is started again whose W5500 was silent.
const AGAIN: Duration = Duration::from_secs(10);
/// Bits a second of the sensor's bus.
const BUS_HZ: u32 = 400_000;

const ARENA_BYTES: usize = board::ARENA_BYTES as usize;
const RECORDER_BYTES: usize = board::RECORDER_BYTES as usize;

#[repr(align(16))]
struct ArenaMemory([i8; ARENA_BYTES]);

static ARENA: ConstStaticCell<ArenaMemory> = ConstStaticCell::new(ArenaMemory([0; ARENA_BYTES]));
static SHARED_ARENA: StaticCell<RefCell<&'static mut [i8]>> = StaticCell::new();
static RECORDER: ConstStaticCell<[u8; RECORDER_BYTES]> = ConstStaticCell::new([0; RECORDER_BYTES]);
static INFERENCE_TASK: StaticCell<Inference<Portable>> = StaticCell::new();
static STOCK: StaticCell<Stock<Portable>> = StaticCell::new();
static MEMORY: ConstStaticCell<Memory> = ConstStaticCell::new(Memory::new());
#[cfg(feature = "tls")]
static TLS: ConstStaticCell<edgeward_mcu::TlsMemory> =
    ConstStaticCell::new(edgeward_mcu::TlsMemory::new());
static SPACE: StaticCell<Space<ChipFlash>> = StaticCell::new();
static STORE: StaticCell<Store<ChipFlash>> = StaticCell::new();
static LINK: Link = Link::new();

static MAIN: StaticCell<Executor> = StaticCell::new();
/// In the interrupt of a device that is not used.
static INFERENCE: InterruptExecutor = InterruptExecutor::new();

defmt::timestamp!("{=u64:us}", Instant::now().as_micros());

/// The sensor on its bus.
type Imu = Mpu6050<I2c<'static, I2C0, Blocking>>;

/// The watchdog, started with its first meal.
struct Guard {
    watchdog: watchdog::Watchdog,
    started: bool,
}

impl Watchdog for Guard {
    fn feed(&mut self) {
        if !self.started {
            self.watchdog.start(WATCHDOG);
            self.started = true;
        }
        self.watchdog.feed(WATCHDOG);
    }
}

#[embassy_executor::task]
async fn infer(arena: &'static mut RefCell<&'static mut [i8]>, sensor: Imu, watchdog: Guard) {
    let inference = INFERENCE_TASK.init_with(|| Inference::new(&LINK));
    inference.equip(arena, STOCK.init_with(Stock::new));
    // The core runs at the system's clock.
    inference.clock(clk_sys_freq() / 1000);
    inference.record(RECORDER.take());
    inference::run(inference, sensor, watchdog).await;
}

#[embassy_executor::task]
async fn application(
    spawner: Spawner,
    store: &'static Store<ChipFlash>,
    memory: &'static mut Memory,
    devices: network::Devices,
    mut entropy: Random,
) {
    let Some(network) = network::start(spawner, devices, &mut entropy).await else {
        // The start of the board resets the chip, too.
        defmt::error!(
            "can't start: the W5500 does not answer; again in {} s",
            AGAIN.as_secs()
        );
        Timer::after(AGAIN).await;
        Power { reset }.restart()
    };
    run(store, memory, network, entropy).await;
}

async fn run(
    store: &'static Store<ChipFlash>,
    memory: &'static mut Memory,
    network: Lan,
    entropy: Random,
) {
    let parts = Parts {
        store,
        memory,
        space: SPACE.init_with(Space::new),
        network,
        entropy,
        link: &LINK,
        firmware: concat!("rpi-pico2 ", env!("CARGO_PKG_VERSION")),
        arena_bytes: ARENA_BYTES as u32,
    };
    let power = Power { reset };
    #[cfg(feature = "tls")]
    let run = edgeward_mcu::run_secure(parts, TLS.take(), power);
    #[cfg(not(feature = "tls"))]
    let run = edgeward_mcu::run(parts, power);
    let ended: Result<Infallible, StartError> = run.await;
    let Err(error) = ended;
    defmt::error!("can't start: {}", error);
}

#[embassy_executor::task]
async fn watch_stack() {
    edgeward_board::stack::watch(board::STACK_BYTES).await;
}

/// By the watchdog, which says so at the next start: a bite of its own is told apart from that.
fn reset() -> ! {
    // SAFETY: nothing else runs any more.
    let watchdog = unsafe { embassy_rp::peripherals::WATCHDOG::steal() };
    watchdog::Watchdog::new(watchdog).trigger_reset();
    loop {
        cortex_m::asm::nop();
    }
}

/// Apart from the executor, which would keep for ever what of the stack this takes.
#[inline(never)]
fn start_application(
    spawner: Spawner,
    flash: Peri<'static, FLASH>,
    devices: network::Devices,
    entropy: Random,
) {
    if let Ok(task) = watch_stack() {
        spawner.spawn(task);
    }
    let sectors = board::STORAGE_OUTBOX_SECTORS as u16;
    let map = Map::new(
        board::STORAGE_BYTES,
        board::STORAGE_ERASE_BYTES,
        sectors,
        model::RECORD_BYTES,
    );
    let Ok(map) = map else {
        defmt::error!("can't start: the flash is too small");
        LINK.stay();
        return;
    };
    let store = STORE.init(Store::new(ChipFlash::new(flash), map));
    if let Ok(task) = application(spawner, store, MEMORY.take(), devices, entropy) {
        spawner.spawn(task);
    }
}

#[entry]
fn main() -> ! {
    let p = embassy_rp::init(Default::default());
    let watchdog = watchdog::Watchdog::new(p.WATCHDOG);
    if watchdog.reset_reason() == Some(ResetReason::TimedOut) {
        crash::note_watchdog();
    }
    let mut bus = i2c::Config::default();
    bus.frequency = BUS_HZ;
    let sensor = Mpu6050::new(I2c::new_blocking(p.I2C0, p.PIN_5, p.PIN_4, bus));
    let guard = Guard {
        watchdog,
        started: false,
    };
    let arena = SHARED_ARENA.init(RefCell::new(&mut ARENA.take().0));
    interrupt::SWI_IRQ_0.set_priority(Priority::P3);
    let spawner = INFERENCE.start(interrupt::SWI_IRQ_0);
    if let Ok(task) = infer(arena, sensor, guard) {
        spawner.spawn(task);
    }
    let devices = network::Devices {
        spi: p.SPI0,
        clock: p.PIN_18,
        to_chip: p.PIN_19,
        from_chip: p.PIN_16,
        select: p.PIN_17,
        reset: p.PIN_20,
        interrupt: p.PIN_21,
        dma: (p.DMA_CH0, p.DMA_CH1),
    };
    let entropy = Random::new(p.TRNG);
    let flash = p.FLASH;
    let executor = MAIN.init(Executor::new());
    executor.run(|spawner| start_application(spawner, flash, devices, entropy))
}

#[embassy_rp::interrupt]
unsafe fn SWI_IRQ_0() {
    // SAFETY: the interrupt that the executor was started with.
    unsafe { INFERENCE.on_interrupt() }
}

#[exception]
unsafe fn HardFault(frame: &ExceptionFrame) -> ! {
    crash::end(crash::fault(frame.pc()), reset)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let line = info.location().map_or(0, |location| location.line());
    crash::end(CrashRecord::new(Crash::Panic, line), reset)
}
