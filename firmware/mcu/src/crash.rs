//! What a crash leaves behind, for the next boot to report.
//!
//! A board's crate keeps a [`CrashRecord`] in memory that a restart leaves as it is, fills it in its panic
//! handler, fault handler and the first stage of its watchdog, and gives it by [`crate::board::Power`] until
//! it is stored. Four words that check themselves: what memory holds after power on is no crash.

use edgeward::telemetry::Crash;

const MAGIC: u32 = 0x4544_4743;

/// A crash, or whatever else is in that memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct CrashRecord {
    magic: u32,
    how: u32,
    at: u32,
    check: u32,
}

impl CrashRecord {
    /// No crash.
    pub const NONE: Self = Self {
        magic: 0,
        how: 0,
        at: 0,
        check: 0,
    };

    /// This crash: `at` is the line of a panic, or the address of an instruction, also that of a panic in a lean image.
    #[must_use]
    pub const fn new(how: Crash, at: u32) -> Self {
        let how = match how {
            Crash::Panic => 1,
            Crash::Fault => 2,
            _ => 3,
        };
        Self {
            magic: MAGIC,
            how,
            at,
            check: !(MAGIC ^ how ^ at),
        }
    }

    /// What crashed, if this is a crash.
    #[must_use]
    pub fn read(&self) -> Option<(Crash, u32)> {
        let how = match self.how {
            1 => Crash::Panic,
            2 => Crash::Fault,
            3 => Crash::Watchdog,
            _ => return None,
        };
        let sound = self.magic == MAGIC && self.check == !(MAGIC ^ self.how ^ self.at);
        sound.then_some((how, self.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_is_read_and_anything_else_is_not() {
        for how in [Crash::Panic, Crash::Fault, Crash::Watchdog] {
            let record = CrashRecord::new(how, 0x1234);
            assert_eq!(record.read(), Some((how, 0x1234)));
            for bit in 0..32 {
                let mut bad = record;
                bad.at ^= 1 << bit;
                assert_eq!(bad.read(), None);
                let mut bad = record;
                bad.magic ^= 1 << bit;
                assert_eq!(bad.read(), None);
            }
        }
        assert_eq!(CrashRecord::NONE.read(), None);
    }
}
