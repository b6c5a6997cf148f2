//! Panics of a library that are caught, and not reported.
//!
//! The hook that reports a panic runs before anything can catch it: a message and perhaps a backtrace
//! on stderr, for what becomes an error with the same words. So a hook that passes over threads which
//! are about to catch stands before the one that was there. It is put in place once, by the first
//! call; a hook that the program sets later takes its place, and reports again.

use std::boxed::Box;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::string::String;
use std::sync::Once;

std::thread_local! {
    /// Calls of [`caught`] that this thread is in.
    static CATCHING: Cell<u32> = const { Cell::new(0) };
}

/// Does some work; the error is what it said when it panicked.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    // A thread that unwinds must not touch the hook.
    if !std::thread::panicking() {
        HOOK.call_once(|| {
            let before = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                // Where the thread is being torn down, it is not catching.
                if CATCHING.try_with(Cell::get).unwrap_or(0) == 0 {
                    before(info);
                }
            }));
        });
    }
    CATCHING.set(CATCHING.get() + 1);
    let done = panic::catch_unwind(AssertUnwindSafe(work));
    CATCHING.set(CATCHING.get() - 1);
    done.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        text.unwrap_or("no message").into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// What is caught is not reported; what is not, is, from this thread and from others meanwhile.
    #[test]
    fn only_what_is_caught_is_silent() {
        static REPORTED: AtomicUsize = AtomicUsize::new(0);
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let ours = info.payload().downcast_ref::<&str>() == Some(&"for the test");
            match ours {
                true => _ = REPORTED.fetch_add(1, Ordering::Relaxed),
                false => before(info),
            }
        }));
        let reported = || REPORTED.load(Ordering::Relaxed);
        assert_eq!(caught(|| 5), Ok(5));
        let said = caught(|| {
            let other = std::thread::spawn(|| panic!("for the test"));
            assert!(other.join().is_err());
            assert_eq!(caught(|| panic!("{}", 1 + 1)), Err::<(), _>("2".into()));
            panic!("for the test")
        });
        assert_eq!(said, Err::<(), _>("for the test".into()));
        assert_eq!(reported(), 1, "the other thread's alone");
        let loud = panic::catch_unwind(|| panic!("for the test"));
        assert!(loud.is_err());
        assert_eq!(reported(), 2);
    }
}
