//! The commands that run a fleet, as processes: an embedded broker, what they put onto it, and how
//! they exit.

mod board;
#[path = "../common/mod.rs"]
#[allow(dead_code, reason = "each test takes what it needs")]
mod common;
mod dry_run;
mod looking;
mod outbox;
mod publish;
mod record;
mod rollouts;
mod serve;
mod site;
