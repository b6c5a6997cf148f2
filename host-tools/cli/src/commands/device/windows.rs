//! The table of a board's newest windows.

use super::ago;
use crate::output::Table;
use edgeward_host::status::WindowStatus;
use std::io::{self, Write};

/// Prints one line a window; nothing where there is none. Cycles have a column where a board tells its clock.
pub(super) fn print(windows: &[WindowStatus], w: &mut dyn Write) -> io::Result<()> {
    let in_cycles = windows.iter().any(|window| window.core_khz.is_some());
    let counts = [
        "window",
        "samples",
        "rejected",
        "inferences",
        "errors",
        "alarms",
    ];
    let cycles = in_cycles.then_some("p99 cycles");
    let mut table = Table::new(
        counts
            .into_iter()
            .chain(["p50 us", "p99 us"])
            .chain(cycles)
            .chain(["accuracy", "classes"]),
    );
    for window in windows {
        let number = |value: Option<u32>| value.map_or_else(|| "-".into(), |us| us.to_string());
        let classes: Vec<_> = window.classes.iter().filter(|(_, n)| **n > 0).collect();
        let classes = classes.iter().map(|(class, n)| format!("{class} {n}"));
        let counts = [
            ago(window.received_ms),
            window.samples.to_string(),
            window.rejected.to_string(),
            window.inferences.to_string(),
            window.errors.to_string(),
            window.alarms.to_string(),
            number(window.latency_p50_us),
            number(window.latency_p99_us),
        ];
        let cycles = in_cycles.then(|| window.p99_cycles().unwrap_or_else(|| "-".into()));
        let accuracy = window.estimated_accuracy;
        let judged = [
            accuracy.map_or_else(|| "-".into(), |share| format!("{:.1}%", share * 100.0)),
            classes.collect::<Vec<_>>().join(", "),
        ];
        table.row(counts.into_iter().chain(cycles).chain(judged));
    }
    if windows.is_empty() {
        return Ok(());
    }
    writeln!(w)?;
    table.write(w)
}
