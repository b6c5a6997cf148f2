//! embassy's clock: timer 1 counts for ever, timer 0 rings.

use crate::executor;
use core::cell::RefCell;
use core::sync::atomic::{AtomicU32, Ordering};
use core::task::Waker;
use critical_section::{CriticalSection, Mutex};
use embassy_time_driver::Driver;
use embassy_time_queue_utils::Queue;

/// Interrupt of timer 0.
pub const ALARM_IRQ: i16 = 8;
/// Interrupt of timer 1.
pub const CLOCK_IRQ: i16 = 9;

/// Ticks of the timers in a microsecond: 25 MHz.
const TICKS: u64 = 25;
/// The core's clock in kHz, which is the timers', too. QEMU counts no cycles: what took so long would have taken so
/// many.
pub const CORE_KHZ: u32 = TICKS as u32 * 1000;
/// Longest alarm; a later one rings once in between.
const LONGEST_US: u64 = 60_000_000;

/// A CMSDK timer: it counts down from its reload value, again and again.
struct Timer(*mut u32);

const ALARM: Timer = Timer(0x4000_0000 as *mut u32);
const CLOCK: Timer = Timer(0x4000_1000 as *mut u32);

/// Registers, in words.
const CTRL: usize = 0;
const VALUE: usize = 1;
const RELOAD: usize = 2;
/// Reads as the interrupt's state; a one clears it.
const INTERRUPT: usize = 3;
/// Counts, and interrupts at zero.
const RUN: u32 = 1 | 1 << 3;

impl Timer {
    fn read(&self, register: usize) -> u32 {
        // SAFETY: a register of this timer, which only this module uses.
        unsafe { self.0.add(register).read_volatile() }
    }

    fn write(&self, register: usize, value: u32) {
        // SAFETY: as above.
        unsafe { self.0.add(register).write_volatile(value) }
    }
}

struct Clock {
    /// How often timer 1 came to zero.
    wraps: AtomicU32,
    queue: Mutex<RefCell<Queue>>,
}

embassy_time_driver::time_driver_impl!(static CLOCK_DRIVER: Clock = Clock {
    wraps: AtomicU32::new(0),
    queue: Mutex::new(RefCell::new(Queue::new())),
});

/// Starts the clock.
pub fn start() {
    CLOCK.write(CTRL, 0);
    CLOCK.write(RELOAD, u32::MAX);
    CLOCK.write(VALUE, u32::MAX);
    CLOCK.write(CTRL, RUN);
    executor::enable(CLOCK_IRQ);
    executor::enable(ALARM_IRQ);
}

/// Timer 1 came to zero.
pub fn on_wrap() {
    critical_section::with(|_| {
        if CLOCK.read(INTERRUPT) != 0 {
            CLOCK.write(INTERRUPT, 1);
            let wraps = CLOCK_DRIVER.wraps.load(Ordering::Relaxed);
            CLOCK_DRIVER.wraps.store(wraps + 1, Ordering::Relaxed);
        }
    });
}

/// Timer 0 came to zero.
pub fn on_alarm() {
    critical_section::with(|cs| {
        ALARM.write(CTRL, 0);
        ALARM.write(INTERRUPT, 1);
        CLOCK_DRIVER.ring(cs, &mut CLOCK_DRIVER.queue.borrow(cs).borrow_mut());
    });
}

impl Clock {
    /// Wakes who waited for now, and sets the alarm for who comes next.
    fn ring(&self, _: CriticalSection<'_>, queue: &mut Queue) {
        let now = self.now();
        let next = queue.next_expiration(now);
        let wait = next.saturating_sub(now).clamp(1, LONGEST_US) * TICKS;
        ALARM.write(CTRL, 0);
        ALARM.write(INTERRUPT, 1);
        ALARM.write(RELOAD, wait as u32);
        ALARM.write(VALUE, wait as u32);
        ALARM.write(CTRL, RUN);
    }
}

impl Driver for Clock {
    fn now(&self) -> u64 {
        critical_section::with(|_| {
            let mut value = CLOCK.read(VALUE);
            let mut wraps = self.wraps.load(Ordering::Relaxed);
            if CLOCK.read(INTERRUPT) != 0 {
                // It wrapped before its interrupt was taken; before or after the value was read. At zero
                // it has interrupted and not begun anew, which that wrap says already.
                value = CLOCK.read(VALUE);
                value = if value == 0 { u32::MAX } else { value };
                wraps += 1;
            }
            (u64::from(wraps) << 32 | u64::from(u32::MAX - value)) / TICKS
        })
    }

    fn schedule_wake(&self, at: u64, waker: &Waker) {
        critical_section::with(|cs| {
            let mut queue = self.queue.borrow(cs).borrow_mut();
            if queue.schedule_wake(at, waker) {
                self.ring(cs, &mut queue);
            }
        });
    }
}
