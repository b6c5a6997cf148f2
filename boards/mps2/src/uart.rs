//! UART 0: frames of defmt, which `edgeward logs` reads, and between them a few lines of text for whoever
//! reads nothing else: which image this is, and how a boot ends.
//!
//! Frames end with a zero byte and hold none; a text stands between two of them, so that it is a frame of its
//! own that is none of defmt's.

use core::sync::atomic::{AtomicBool, Ordering};
use critical_section::RestoreState;
use defmt::Encoder;
use embassy_time::Instant;

const UART: *mut u32 = 0x4000_4000 as *mut u32;
/// Registers, in words.
const DATA: usize = 0;
const STATE: usize = 1;
const CTRL: usize = 2;
const BAUDDIV: usize = 4;
/// The transmitter's buffer is full.
const FULL: u32 = 1;

/// Bytes of the linker's note in front of its hash.
const NOTE_BYTES: usize = 16;
/// Bytes of the hash that are said.
const ID_BYTES: usize = 8;

unsafe extern "C" {
    static __edgeward_build_id: [u8; NOTE_BYTES + ID_BYTES];
}

/// Switches the transmitter on and says which image this is.
pub fn start(firmware: &str) {
    // SAFETY: registers of the UART, which only this module uses.
    unsafe {
        UART.add(BAUDDIV).write_volatile(16);
        UART.add(CTRL).write_volatile(1);
    }
    // SAFETY: the linker puts its note there.
    let note = unsafe { &__edgeward_build_id };
    text(|text| {
        let text = text.word("edgeward ").word(firmware).word(" image ");
        note[NOTE_BYTES..]
            .iter()
            .fold(text, |text, byte| text.byte(*byte))
    });
}

fn send(bytes: &[u8]) {
    for byte in bytes {
        // SAFETY: as above.
        unsafe {
            while UART.add(STATE).read_volatile() & FULL != 0 {}
            UART.add(DATA).write_volatile(u32::from(*byte));
        }
    }
}

/// A line of text on its way, without `core::fmt` and all that it takes.
pub struct Text(());

impl Text {
    /// Words as they are.
    pub fn word(self, word: &str) -> Self {
        send(word.as_bytes());
        self
    }

    /// A byte in hexadecimal.
    fn byte(self, byte: u8) -> Self {
        for digit in [byte >> 4, byte & 15] {
            send(&[b"0123456789abcdef"[usize::from(digit)]]);
        }
        self
    }

    /// An address.
    pub fn hex(self, word: u32) -> Self {
        word.to_be_bytes()
            .into_iter()
            .fold(self.word("0x"), Self::byte)
    }

    /// A number.
    pub fn number(self, number: u32) -> Self {
        let mut digits = [0; 10];
        let mut rest = number;
        let mut from = digits.len();
        while from == digits.len() || rest > 0 {
            from -= 1;
            digits[from] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        send(&digits[from..]);
        self
    }
}

/// Writes a line of text, in the middle of a frame too: that one is lost.
pub fn text(write: impl FnOnce(Text) -> Text) {
    critical_section::with(|_| {
        send(&[0]);
        let _ = write(Text(()));
        send(b"\n\0");
    });
}

#[defmt::global_logger]
struct Uart;

static TAKEN: AtomicBool = AtomicBool::new(false);
static mut RESTORE: RestoreState = RestoreState::invalid();
static mut ENCODER: Encoder = Encoder::new();

/// Where the encoder is; whoever uses it is in the critical section.
fn encoder() -> *mut Encoder {
    &raw mut ENCODER
}

// SAFETY: between `acquire` and `release` is a critical section, so that the encoder has one user.
unsafe impl defmt::Logger for Uart {
    fn acquire() {
        // SAFETY: released below.
        let restore = unsafe { critical_section::acquire() };
        assert!(
            !TAKEN.swap(true, Ordering::Relaxed),
            "a log line in a log line"
        );
        // SAFETY: in the critical section.
        unsafe {
            RESTORE = restore;
            (*encoder()).start_frame(send);
        }
    }

    unsafe fn flush() {}

    unsafe fn release() {
        // SAFETY: in the critical section that begins in `acquire`, and ends here.
        unsafe {
            (*encoder()).end_frame(send);
            TAKEN.store(false, Ordering::Relaxed);
            critical_section::release(RESTORE);
        }
    }

    unsafe fn write(bytes: &[u8]) {
        // SAFETY: as above.
        unsafe { (*encoder()).write(bytes, send) }
    }
}

defmt::timestamp!("{=u64:us}", Instant::now().as_micros());
