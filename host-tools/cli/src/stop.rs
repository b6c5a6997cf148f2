//! How commands end that run until they are stopped.

use crate::exit::{Exit, Failure};
use anyhow::Result;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Pause between two looks at signals and threads.
const PERIOD: Duration = Duration::from_millis(100);

/// A part of a command by name, and whether it has ended.
pub type Part<'a> = (&'a str, &'a dyn Fn() -> bool);

/// A flag that the first SIGINT or SIGTERM raises, so that the command ends in good order; a second one
/// ends the process at once.
pub fn flag() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop))?;
        flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// Waits until the flag is raised.
///
/// # Errors
/// When one of the parts has ended by itself, which one.
pub fn wait(stop: &AtomicBool, parts: &[Part<'_>]) -> Result<()> {
    while !stop.load(Ordering::Acquire) {
        if let Some((name, _)) = parts.iter().find(|(_, has_ended)| has_ended()) {
            let what = format!("the {name} ended by itself, so all of it ends");
            let next =
                "what it said last is the reason; start it again, or have a supervisor do it";
            return Err(Failure::new(Exit::Error, what).next(next).into());
        }
        std::thread::park_timeout(PERIOD);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_died_ends_the_command_and_is_named() {
        let lives = || false;
        let dying = std::thread::spawn(|| panic!("as a test wants it"));
        let dead = || dying.is_finished();
        let ended = wait(
            &AtomicBool::new(false),
            &[("collector", &lives), ("controller", &dead)],
        );
        let said = ended.expect_err("it died").to_string();
        assert!(said.contains("the controller ended"), "{said}");
    }

    #[test]
    fn a_raised_flag_ends_it_in_good_order() {
        wait(&AtomicBool::new(true), &[("collector", &|| true)]).expect("it was asked to");
    }
}
