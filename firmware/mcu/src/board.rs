//! What a board's crate brings.
//!
//! The clock is embassy's time driver, counting microseconds; no trait stands for it.

use crate::CrashRecord;
use core::net::SocketAddrV4;
use edgeward::contract::SourceInfo;
use embedded_io_async::{Read, Write};
use embedded_storage::nor_flash::NorFlash;

/// Flash whose content is in the address space, so that programs run in place.
#[allow(
    unsafe_code,
    reason = "in place means that somebody promises not to write"
)]
pub trait Flash: NorFlash {
    /// Whether all of a range, which lies in the flash, can be read in place. It can't where flash has a check of
    /// its own that does not hold and the processor would end in a fault; most flash has none.
    fn is_sound(&self, offset: u32, len: u32) -> bool {
        let _ = (offset, len);
        true
    }

    /// The bytes of a range, as flash holds them now.
    ///
    /// # Safety
    /// The range lies in the flash, it [is sound](Self::is_sound), and nothing in it is written or erased for as
    /// long as the slice is in use. [`crate::Store`] sees to that.
    unsafe fn mapped(&self, offset: u32, len: u32) -> &'static [u8];
}

/// One turn of a sensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// A sample; its values are in the buffer given to [`Sensor::next`].
    Sample {
        /// Its number; the next one is this plus one, wrapping.
        sequence: u32,
        /// When it was taken, in milliseconds of embassy's clock.
        time_ms: u64,
        /// How many values there are.
        count: usize,
    },
    /// A new recording begins: what comes has nothing to do with what came.
    Reset,
}

/// Where samples come from.
#[allow(async_fn_in_trait, reason = "nobody but one executor runs it")]
pub trait Sensor {
    /// What it delivers.
    fn source(&self) -> SourceInfo<'_>;

    /// Waits for what comes next; `values` has room for the most features that a model of this board may have.
    /// Dropping the future loses nothing.
    async fn next(&mut self, values: &mut [f32]) -> Reading;
}

/// No connection could be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreachable;

/// Makes connections.
#[allow(async_fn_in_trait, reason = "nobody but one executor runs it")]
pub trait Network {
    /// A stream of bytes. Reading waits until there is something; an end or an error is the end of the
    /// connection. Writing fails within a bounded time where the peer takes nothing.
    type Connection<'a>: Read + Write
    where
        Self: 'a;

    /// Connects.
    ///
    /// # Errors
    /// When nobody answers.
    async fn connect(&mut self, to: SocketAddrV4) -> Result<Self::Connection<'_>, Unreachable>;
}

/// Randomness that nobody can guess: the device's key is made of it.
pub trait Entropy {
    /// Fills `bytes`.
    fn fill(&mut self, bytes: &mut [u8]);
}

/// The end of a boot, and what the one before left behind.
pub trait Power {
    /// How the boot before ended, should that have been a crash. Asking changes nothing.
    fn crash(&self) -> CrashRecord;

    /// It was stored: [`Power::crash`] is nothing from now on, over restarts too.
    fn forget_crash(&mut self);

    /// Starts the board again.
    fn restart(&mut self) -> !;
}

/// Restarts the board unless it is fed.
pub trait Watchdog {
    /// The inference loop lives.
    fn feed(&mut self);
}
