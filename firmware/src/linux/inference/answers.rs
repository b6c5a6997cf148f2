//! What a source is told.

use super::BoardRuntime;
use crate::lines::HEADER;
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

/// Longest field of a header that is repeated to its source, in bytes.
const SHOWN_BYTES: usize = 48;

/// The name of the field in which a sample line is wrong, or the field of a header itself, if it has one.
pub(super) fn field_name<'a>(
    header: Option<&'a str>,
    line: &'a [u8],
    column: u16,
) -> Option<&'a str> {
    if line.starts_with(HEADER.as_bytes()) {
        let mut fields = str::from_utf8(line).ok()?.split_ascii_whitespace();
        let field = fields.nth(usize::from(column).checked_sub(1)?)?;
        return (field.len() <= SHOWN_BYTES).then_some(field);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_field_is_named() {
        let header = "edgeward-source schema=1 dtype=f32 features=ax,ay";
        let named = |line: &'static str, column| field_name(Some(header), line.as_bytes(), column);
        assert_eq!(named("1,2,3,x", 4), Some("ay"));
        assert_eq!(named("x,2", 1), None);
        let line = "edgeward-source schema=1 dtype=f64 features=ax";
        assert_eq!(named(line, 3), Some("dtype=f64"));
        assert_eq!((named(line, 0), named(line, 9)), (None, None));
        let long = Vec::from(format!("edgeward-source features={}", ",".repeat(99)));
        assert_eq!(field_name(None, &long, 2), None);
    }
}
