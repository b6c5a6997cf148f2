//! Two executors: one in an interrupt, for inference, and one in the main program, for all else.

use core::sync::atomic::{AtomicBool, Ordering};
use cortex_m::interrupt::InterruptNumber;
use cortex_m::peripheral::NVIC;
use embassy_executor::raw::Executor;
use embassy_executor::{SendSpawner, Spawner};
use static_cell::StaticCell;

/// The interrupt in which inference runs; no device of the board has it.
pub const IRQ: i16 = 31;
/// Priorities: a smaller number interrupts a larger one. Devices only wake somebody, and come first.
const DEVICE_PRIORITY: u8 = 0x40;
const INFERENCE_PRIORITY: u8 = 0xC0;

/// Contexts by which embassy tells the executors apart.
const MAIN: usize = 0;
const INFERENCE: usize = 1;

static MAIN_EXECUTOR: StaticCell<Executor> = StaticCell::new();
static INFERENCE_EXECUTOR: StaticCell<Executor> = StaticCell::new();
/// Something of the main executor is to be polled.
static WORK: AtomicBool = AtomicBool::new(false);
/// The executor that the interrupt polls; set before the interrupt is enabled and never after.
static mut IN_INTERRUPT: Option<&'static Executor> = None;

/// A number of an interrupt.
#[derive(Clone, Copy)]
struct Irq(u16);

// SAFETY: the number is constant and below 32.
unsafe impl InterruptNumber for Irq {
    fn number(self) -> u16 {
        self.0
    }
}

/// Enables a device's interrupt.
pub fn enable(irq: i16) {
    enable_with(irq, DEVICE_PRIORITY);
}

fn enable_with(irq: i16, priority: u8) {
    let irq = Irq(irq as u16);
    // SAFETY: priorities are set before the interrupt can come, and no critical section of this program
    // masks by priority.
    unsafe {
        let mut peripherals = cortex_m::Peripherals::steal();
        peripherals.NVIC.set_priority(irq, priority);
        NVIC::unmask(irq);
    }
}

/// Starts the executor of the interrupt with what `init` spawns.
pub fn start_inference(init: impl FnOnce(SendSpawner)) {
    let executor = INFERENCE_EXECUTOR.init(Executor::new(INFERENCE as *mut ()));
    // SAFETY: the interrupt that reads it is enabled below, and nobody writes it again.
    unsafe { IN_INTERRUPT = Some(executor) };
    init(executor.spawner().make_send());
    enable_with(IRQ, INFERENCE_PRIORITY);
    NVIC::pend(Irq(IRQ as u16));
}

/// The interrupt of inference.
pub fn on_interrupt() {
    // SAFETY: set before the interrupt was enabled; and an interrupt never interrupts itself, so that
    // nobody else polls this executor.
    unsafe {
        if let Some(executor) = IN_INTERRUPT {
            executor.poll();
        }
    }
}

/// Runs the main program's executor with what `init` spawns.
pub fn run(init: impl FnOnce(Spawner)) -> ! {
    let executor: &'static Executor = MAIN_EXECUTOR.init(Executor::new(MAIN as *mut ()));
    init(executor.spawner());
    loop {
        // SAFETY: only here, and nothing in it calls this.
        unsafe { executor.poll() };
        // With interrupts masked none can come between the look and the sleep; one that is pending ends
        // the sleep all the same.
        cortex_m::interrupt::disable();
        if !WORK.swap(false, Ordering::AcqRel) {
            cortex_m::asm::wfi();
        }
        // SAFETY: outside of any critical section.
        unsafe { cortex_m::interrupt::enable() };
    }
}

/// What embassy calls when a task of an executor is to be polled.
#[unsafe(no_mangle)]
fn __pender(context: *mut ()) {
    if context as usize == INFERENCE {
        NVIC::pend(Irq(IRQ as u16));
    } else {
        WORK.store(true, Ordering::Release);
    }
}
