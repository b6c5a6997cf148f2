//! The firmware for ST's NUCLEO-H743ZI and ZI2: a Cortex-M7 with Ethernet, flash in two banks, a watchdog and
//! a generator of random numbers. An MPU-6050 at the Arduino pins SCL and SDA is its sensor.
//!
//! Two executors: inference runs in an interrupt of its own above everything that flash and network do, which
//! runs in the main program. What it logs goes to the debug probe.
#![no_std]
#![no_main]
#![allow(unsafe_code)]

mod clocks;
mod flash;
mod network;

use core::cell::RefCell;
use core::convert::Infallible;
use cortex_m::peripheral::SCB;
use cortex_m_rt::{ExceptionFrame, entry, exception};
use defmt_rtt as _;
use edgeward::program::kernels::cortex_m::CortexM;
use edgeward::telemetry::Crash;
use edgeward_board::crash::{self, Power};
use edgeward_board::lan::Lan;
use edgeward_board::mpu6050::{self, Mpu6050};
use edgeward_mcu::board::{Entropy, Watchdog};
use edgeward_mcu::{CrashRecord, Map, Parts, StartError, Store, inference};
use embassy_executor::{Executor, InterruptExecutor, Spawner};
use embassy_stm32::i2c::{self, I2c, Master};
use embassy_stm32::interrupt::{self, InterruptExt, Priority};
use embassy_stm32::mode::Blocking;
use embassy_stm32::peripherals::{IWDG1, RNG};
use embassy_stm32::rcc;
use embassy_stm32::rng::{self, Rng};
use embassy_stm32::time::Hertz;
use embassy_stm32::wdg::IndependentWatchdog;
use embassy_stm32::{bind_interrupts, eth, pac};
use embassy_time::Instant;
use flash::ChipFlash;
use model::{Inference, Link, Memory, Space, Stock};
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
    ETH => eth::InterruptHandler;
    RNG => rng::InterruptHandler<RNG>;
});

/// How long the inference loop may stand still: far longer than any self-test.
const WATCHDOG_US: u32 = 10_000_000;
/// Bits a second of the sensor's bus.
const BUS: Hertz = Hertz(400_000);

const ARENA_BYTES: usize = board::ARENA_BYTES as usize;
const RECORDER_BYTES: usize = board::RECORDER_BYTES as usize;

#[repr(align(16))]
struct ArenaMemory([i8; ARENA_BYTES]);

static ARENA: ConstStaticCell<ArenaMemory> = ConstStaticCell::new(ArenaMemory([0; ARENA_BYTES]));
static SHARED_ARENA: StaticCell<RefCell<&'static mut [i8]>> = StaticCell::new();
static RECORDER: ConstStaticCell<[u8; RECORDER_BYTES]> = ConstStaticCell::new([0; RECORDER_BYTES]);
static INFERENCE_TASK: StaticCell<Inference<CortexM>> = StaticCell::new();
static STOCK: StaticCell<Stock<CortexM>> = StaticCell::new();
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
type Imu = Mpu6050<I2c<'static, Blocking, Master>>;

/// The watchdog, started with its first meal.
struct Iwdg {
    watchdog: IndependentWatchdog<'static, IWDG1>,
    started: bool,
}

impl Watchdog for Iwdg {
    fn feed(&mut self) {
        if !self.started {
            self.watchdog.unleash();
            self.started = true;
        }
        self.watchdog.pet();
    }
}

/// The chip's generator of random numbers.
pub struct Random(Rng<'static, RNG>);

impl Entropy for Random {
    fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }
}

#[embassy_executor::task]
async fn infer(
    arena: &'static mut RefCell<&'static mut [i8]>,
    core_khz: u32,
    sensor: Imu,
    watchdog: Iwdg,
) {
    let inference = INFERENCE_TASK.init_with(|| Inference::new(&LINK));
    inference.equip(arena, STOCK.init_with(Stock::new));
    inference.clock(core_khz);
    inference.record(RECORDER.take());
    inference::run(inference, sensor, watchdog).await;
}

#[embassy_executor::task]
async fn application(
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
        firmware: concat!("nucleo-h743zi ", env!("CARGO_PKG_VERSION")),
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

fn reset() -> ! {
    SCB::sys_reset()
}

/// Whether the watchdog ended the boot before; asked once, for the answer is cleared.
fn watchdog_bit() -> bool {
    let bit = pac::RCC.rsr().read().iwdg1rstf();
    pac::RCC.rsr().modify(|w| w.set_rmvf(true));
    bit
}

/// Apart from the executor, which would keep for ever what of the stack this takes.
#[inline(never)]
fn start_application(spawner: Spawner, devices: network::Devices, mut entropy: Random) {
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
    let store = STORE.init(Store::new(ChipFlash::new(), map));
    let lan = network::start(spawner, devices, &mut entropy);
    if let Ok(task) = application(store, MEMORY.take(), lan, entropy) {
        spawner.spawn(task);
    }
}

#[entry]
fn main() -> ! {
    let p = embassy_stm32::init(clocks::config());
    if watchdog_bit() {
        crash::note_watchdog();
    }
    let mut bus = i2c::Config::default();
    bus.frequency = BUS;
    let sensor = Mpu6050::new(I2c::new_blocking(p.I2C1, p.PB8, p.PB9, bus));
    let watchdog = Iwdg {
        watchdog: IndependentWatchdog::new(p.IWDG1, WATCHDOG_US),
        started: false,
    };
    let arena = SHARED_ARENA.init(RefCell::new(&mut ARENA.take().0));
    interrupt::UART4.set_priority(Priority::P12);
    let spawner = INFERENCE.start(interrupt::UART4);
    // The core runs at the system's clock.
    let core = rcc::clocks(&p.RCC).sys.to_hertz();
    let core_khz = core.map_or(0, |core| core.0 / 1000);
    if let Ok(task) = infer(arena, core_khz, sensor, watchdog) {
        spawner.spawn(task);
    }
    let devices = network::Devices {
        eth: p.ETH,
        sma: p.ETH_SMA,
        clock: p.PA1,
        mdio: p.PA2,
        mdc: p.PC1,
        crs: p.PA7,
        rx: (p.PC4, p.PC5),
        tx: (p.PG13, p.PB13),
        tx_on: p.PG11,
    };
    let entropy = Random(Rng::new(p.RNG, Irqs));
    let executor = MAIN.init(Executor::new());
    executor.run(|spawner| start_application(spawner, devices, entropy))
}

#[embassy_stm32::interrupt]
unsafe fn UART4() {
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
