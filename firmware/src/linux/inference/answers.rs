//! What a source is told.

use super::BoardRuntime;
use edgeward::engine::Engine;
use edgeward::guard::Prediction;
use edgeward::telemetry::Alarm;
use std::fmt::Write as _;

/// Where answers go.
pub struct Answers {
    /// Lines to be written.
    pub text: String,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            text: String::with_capacity(ANSWER_BYTES),
        }
    }
}

/// Bytes of answers that may wait until they are written.
pub const ANSWER_BYTES: usize = 64 * 1024;
/// Longest answer to one line, alarms included; below this much room the answers are written.
pub const ANSWER_ROOM: usize = 16 * 1024;

/// Writes one answer. Flag 16 marks a fallback.
pub(super) fn answer<E: Engine>(
    runtime: &BoardRuntime<E>,
    sequence: u32,
    prediction: &Prediction,
    answers: &mut Answers,
) {
    let names = &runtime.profile().output.names;
    let class = names.get(usize::from(prediction.class));
    let flags = prediction.flags.bits() | u8::from(prediction.fallback) << 4;
    // Writing to a string can't fail, and its capacity outlasts one line.
    let _ = writeln!(
        answers.text,
        "{sequence},{},{:.6},{flags},{}",
        class.map_or("-", |name| name.as_str()),
        prediction.confidence,
        prediction.latency_us
    );
}

/// Writes one alarm.
pub(super) fn tell<E: Engine>(runtime: &BoardRuntime<E>, alarm: Alarm, answers: &mut Answers) {
    let features = &runtime.profile().features;
    let name = |index: Option<u16>| {
        let feature = index.and_then(|index| features.get(usize::from(index)));
        feature.map_or("-", |feature| feature.name.as_str())
    };
    let _ = match alarm {
        Alarm::Violation {
            kind,
            feature,
            value,
            sample,
        } => writeln!(
            answers.text,
            "alarm violation kind={kind:?} feature={} value={value} sample={sample}",
            name(feature)
        ),
        Alarm::Drift {
            statistic,
            feature,
            value,
            limit,
        } => writeln!(
            answers.text,
            "alarm drift statistic={statistic:?} feature={} value={value} limit={limit}",
            name(feature)
        ),
        _ => Ok(()),
    };
}

/// The name of the field in which a sample line is wrong, if it has one.
pub(super) fn field_name<'a>(header: Option<&'a str>, line: &[u8], column: u16) -> Option<&'a str> {
    if !line.first().is_some_and(u8::is_ascii_digit) {
        return None;
    }
    match column {
        0 => None,
        1 => Some("sequence"),
        2 => Some("time_ms"),
        _ => header?
            .split_ascii_whitespace()
            .find_map(|field| field.strip_prefix("features="))?
            .split(',')
            .nth(usize::from(column) - 3),
    }
}
