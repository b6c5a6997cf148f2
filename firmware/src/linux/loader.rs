//! From a release's bytes to a runtime that is proven on its golden vectors; off the inference
//! thread.

use super::inference::{BoardRuntime, Loaded};
use super::watchdog::Beat;
use crate::control::Purpose;
use crate::{MAX_FEATURES as F, MAX_OUTPUTS as C};
use edgeward::bundle::decode::{decode_policy, decode_profile};
use edgeward::bundle::golden::Golden;
use edgeward::bundle::{Bundle, SectionKind};
use edgeward::engine::Engine;
use edgeward::engine::board::BoardEngine;
use edgeward::guard::self_test;
use edgeward::runtime::Runtime;
use edgeward::slots::Slot;
use edgeward::telemetry::{Reason, ReleaseId, release_id};
use edgeward::trust::Digest32;
use std::sync::mpsc::{Receiver, Sender};
use std::thread::{self, JoinHandle, Thread};

/// Stack of threads that move runtimes and summaries about; both are large values.
pub const STACK_BYTES: usize = 8 << 20;

/// A release to be loaded.
pub struct Job {
    /// The slot it is in.
    pub slot: Slot,
    /// Its digest.
    pub digest: Digest32,
    /// What for.
    pub purpose: Purpose,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// What became of a [`Job`].
pub struct Done {
    /// The slot.
    pub slot: Slot,
    /// The release.
    pub release: ReleaseId,
    /// What for.
    pub purpose: Purpose,
    /// The runtime, or why there is none.
    pub outcome: Result<Loaded<BoardEngine>, Refused>,
}

/// Why a release can't run here.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    /// As it is reported.
    pub reason: Reason,
    /// For the log.
    pub detail: String,
}

fn refused<E: std::fmt::Display>(reason: Reason) -> impl Fn(E) -> Refused {
    move |error| Refused {
        reason,
        detail: error.to_string(),
    }
}

/// Starts the thread that loads. It ends when the jobs do. `beat` moves with each step of loading a
/// release that is not confirmed: a confirmed one has passed here before, and restarting would not
/// help where there is nothing to go back to.
///
/// A model that panics as it is loaded or in its self-test is refused like one that fails it; the
/// process goes on.
///
/// # Errors
/// When the system has no thread to give.
pub fn spawn(
    jobs: Receiver<Job>,
    done: Sender<Done>,
    control: Thread,
    beat: Beat,
) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new()
        .name("loader".into())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            for job in jobs {
                let watched = (job.purpose != Purpose::Confirmed).then_some(&beat);
                let outcome = attempt(|| load(&job.bytes, &job.digest, watched));
                beat.end();
                let outcome = outcome.map(|runtime| Loaded {
                    slot: job.slot,
                    runtime,
                });
                let sent = done.send(Done {
                    slot: job.slot,
                    release: release_id(&job.digest),
                    purpose: job.purpose,
                    outcome,
                });
                control.unpark();
                if sent.is_err() {
                    return;
                }
            }
        })
}

/// What `load` says, or that it panicked. What it had built is dropped with the panic, so that
/// nothing half done is left.
fn attempt<T>(load: impl FnOnce() -> Result<T, Refused>) -> Result<T, Refused> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(load)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(Refused {
            reason: Reason::Crash,
            detail: format!("it panics: {}", said.unwrap_or("without a word")),
        })
    })
}

/// Loads the release that `bytes` are and runs its golden vectors. `beat`, if there is one, moves
/// with each vector.
///
/// The caller has verified its signatures, or verified them when it was received.
///
/// # Errors
/// [`Refused`] says what is wrong with it.
pub fn load(
    bytes: &[u8],
    digest: &Digest32,
    beat: Option<&Beat>,
) -> Result<Box<BoardRuntime<BoardEngine>>, Refused> {
    if let Some(beat) = beat {
        beat.begin();
    }
    let corrupt = |what: &str| Refused {
        reason: Reason::Corrupt,
        detail: what.to_owned(),
    };
    let bundle = Bundle::open(bytes).map_err(refused(Reason::Corrupt))?;
    if bundle.head().digest() != *digest {
        return Err(corrupt("the slot holds another release"));
    }
    bundle.verify_data().map_err(refused(Reason::Corrupt))?;
    let section = |kind| bundle.require(kind).map_err(refused(Reason::Unsupported));
    let profile = decode_profile::<F, C>(section(SectionKind::Profile)?)
        .map_err(refused(Reason::Unsupported))?;
    let policy = decode_policy(section(SectionKind::Policy)?).map_err(refused(Reason::Corrupt))?;
    let golden = Golden::parse(section(SectionKind::Golden)?).map_err(refused(Reason::Corrupt))?;
    let mut engine = BoardEngine::of_bundle(&bundle).map_err(refused(Reason::Unsupported))?;
    let mut input = vec![0.0; engine.input_len()];
    let mut output = vec![0.0; engine.output_len()];
    let vectors = golden.iter().map(|vector| {
        if let Some(beat) = beat {
            beat.next();
        }
        (vector.input.iter(), vector.output.iter())
    });
    self_test(
        &mut engine,
        vectors,
        golden.tolerance(),
        &mut input,
        &mut output,
    )
    .map_err(|failure| Refused {
        reason: Reason::SelfTest,
        detail: format!("{failure:?}"),
    })?;
    let runtime = Runtime::new(engine, release_id(digest), profile, policy, input);
    match runtime {
        Ok(runtime) => Ok(Box::new(runtime)),
        Err(error) => Err(Refused {
            reason: Reason::Unsupported,
            detail: format!("{error:?}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_refusal_that_says_what() {
        let refused = attempt(|| -> Result<(), _> { panic!("index {} of {}", 3, 2) });
        let refused = refused.expect_err("it panicked");
        assert_eq!(refused.reason, Reason::Crash);
        assert_eq!(refused.detail, "it panics: index 3 of 2");
        assert_eq!(attempt(|| Ok(1)), Ok(1));
    }
}
