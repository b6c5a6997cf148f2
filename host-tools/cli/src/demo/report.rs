//! What the demo expected, what it saw, and the evidence for it.

use serde::Serialize;
use std::fmt::Write as _;
use std::time::Instant;

/// One thing that the demo checked.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// What was tried.
    pub name: String,
    /// What should happen.
    pub expected: String,
    /// What happened.
    pub seen: String,
    /// Whether they agree.
    pub ok: bool,
    /// Where it can be seen: stored events, slots, counters.
    pub evidence: serde_json::Value,
    /// Seconds since the demo began, when the step ended.
    pub at_s: f64,
}

/// The whole demo.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether every step went as expected.
    pub ok: bool,
    /// The broker that was used.
    pub broker: String,
    /// System allocations an inference, the greatest over all boards.
    pub allocations_per_inference: Option<f64>,
    /// Seconds in all.
    pub seconds: f64,
    /// The steps.
    pub steps: Vec<Step>,
    #[serde(skip)]
    start: Instant,
    #[serde(skip)]
    progress: bool,
}

impl Report {
    /// An empty report; `progress` shows each step on stderr as it ends.
    pub fn new(broker: &str, progress: bool) -> Self {
        Self {
            ok: true,
            broker: broker.to_owned(),
            allocations_per_inference: None,
            seconds: 0.0,
            steps: Vec::new(),
            start: Instant::now(),
            progress,
        }
    }

    /// Says on stderr what comes now.
    pub fn title(&self, text: &str) {
        if self.progress {
            eprintln!("[{:5.1} s] {text}", self.start.elapsed().as_secs_f64());
        }
    }

    /// Adds a step.
    pub fn step(
        &mut self,
        name: impl Into<String>,
        expected: impl Into<String>,
        seen: impl Into<String>,
        ok: bool,
        evidence: serde_json::Value,
    ) {
        let step = Step {
            name: name.into(),
            expected: expected.into(),
            seen: seen.into(),
            ok,
            evidence,
            at_s: (self.start.elapsed().as_secs_f64() * 10.0).round() / 10.0,
        };
        if self.progress {
            let mark = if ok { "ok  " } else { "FAIL" };
            eprintln!("          {mark} {}: {}", step.name, step.seen);
        }
        self.ok &= ok;
        self.steps.push(step);
    }

    /// Ends the clock.
    pub fn finish(&mut self) {
        self.seconds = (self.start.elapsed().as_secs_f64() * 10.0).round() / 10.0;
    }

    /// The table for people.
    pub fn table(&self) -> String {
        const WIDTHS: [usize; 3] = [34, 38, 62];
        let mut text = String::new();
        let mut row = |cells: [&str; 4]| {
            let wrapped: Vec<Vec<String>> = cells[..3]
                .iter()
                .zip(WIDTHS)
                .map(|(cell, width)| wrap(cell, width))
                .collect();
            let height = wrapped.iter().map(Vec::len).max().unwrap_or(1);
            for line in 0..height {
                for (column, width) in wrapped.iter().zip(WIDTHS) {
                    let cell = column.get(line).map_or("", String::as_str);
                    let _ = write!(text, "{cell:width$}  ");
                }
                let _ = writeln!(text, "{}", if line == 0 { cells[3] } else { "" });
            }
        };
        row(["step", "expected", "seen", "ok"]);
        row(["----", "--------", "----", "--"]);
        for step in &self.steps {
            row([
                &step.name,
                &step.expected,
                &step.seen,
                if step.ok { "yes" } else { "NO" },
            ]);
        }
        let good = self.steps.iter().filter(|step| step.ok).count();
        let _ = writeln!(
            text,
            "\n{good} of {} as expected in {} s; allocations an inference: {}",
            self.steps.len(),
            self.seconds,
            self.allocations_per_inference
                .map_or("not counted".to_owned(), |n| n.to_string())
        );
        text
    }
}

/// Breaks a text at spaces; a word that is longer than a line is cut.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let mut word = word.to_owned();
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::take(&mut line));
        }
        while word.chars().count() > width {
            lines.push(word.chars().take(width).collect());
            word = word.chars().skip(width).collect();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&word);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_step_fails_the_report() {
        let mut report = Report::new("embedded", false);
        report.step("a", "1", "1", true, serde_json::Value::Null);
        assert!(report.ok);
        report.step("b", "1", "2", false, serde_json::Value::Null);
        report.step("c", "1", "1", true, serde_json::Value::Null);
        assert!(!report.ok);
        assert!(report.table().contains("2 of 3 as expected"));
    }

    #[test]
    fn long_cells_wrap_and_lose_nothing() {
        let lines = wrap("aa bb cccccccccc d", 4);
        assert_eq!(lines, ["aa", "bb", "cccc", "cccc", "cc d"]);
    }
}
