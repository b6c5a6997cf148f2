//! Results on stdout, as tables or JSON; progress on stderr.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs: one JSON object, whose field names are stable.
    Json,
}

/// Reads what `-o` names.
///
/// # Errors
/// A sentence that says what it may be.
pub fn format_of(text: &str) -> Result<Format, String> {
    match text {
        "table" => Ok(Format::Table),
        "json" => Ok(Format::Json),
        _ => Err("use table or json; the file that `pack` writes is --out FILE".to_owned()),
    }
}

/// Whether JSON was asked for by arguments that could not be read as a whole.
pub fn json_is_asked_for(args: impl Iterator<Item = OsString>) -> bool {
    let args: Vec<_> = args.map(|arg| arg.to_string_lossy().into_owned()).collect();
    let named = args
        .iter()
        .zip(args.iter().skip(1))
        .rev()
        .find_map(|(flag, value)| {
            let joined = ["--output=", "-o"]
                .iter()
                .find_map(|flag| value.strip_prefix(flag));
            match flag.as_str() {
                "-o" | "--output" => Some(value.clone()),
                _ => joined.filter(|value| !value.is_empty()).map(str::to_owned),
            }
        });
    let named = named.or_else(|| std::env::var("EDGEWARD_OUTPUT").ok());
    named.is_some_and(|named| named.trim_start_matches('=') == "json")
}

/// Where results and progress go.
pub struct Out {
    format: Format,
    quiet: bool,
}

impl Out {
    /// Prints results as `format`; `quiet` keeps progress silent.
    pub fn new(format: Format, quiet: bool) -> Self {
        Self { format, quiet }
    }

    /// How results are printed.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether progress is kept silent.
    pub fn quiet(&self) -> bool {
        self.quiet
    }

    /// Prints a result: `value` as JSON, or what `human` writes.
    pub fn emit<T: Serialize>(
        &self,
        value: &T,
        human: impl FnOnce(&T, &mut dyn Write) -> io::Result<()>,
    ) -> anyhow::Result<()> {
        self.print(value, serde_json::to_vec_pretty, human)
    }

    /// Prints one value of a stream: a JSON line, or what `human` writes.
    pub fn emit_line<T: Serialize>(
        &self,
        value: &T,
        human: impl FnOnce(&T, &mut dyn Write) -> io::Result<()>,
    ) -> anyhow::Result<()> {
        self.print(value, serde_json::to_vec, human)
    }

    fn print<T: Serialize>(
        &self,
        value: &T,
        json: impl FnOnce(&T) -> serde_json::Result<Vec<u8>>,
        human: impl FnOnce(&T, &mut dyn Write) -> io::Result<()>,
    ) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        match self.format {
            Format::Json => {
                bytes = json(value)?;
                bytes.push(b'\n');
            }
            Format::Table => human(value, &mut bytes)?,
        }
        self.raw(&bytes)
    }

    /// Prints bytes on stdout as they are. A reader that has left (`| head`) is no error.
    pub fn raw(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            done => Ok(done?),
        }
    }

    /// Says on stderr what is being done.
    pub fn say(&self, text: impl AsRef<str>) {
        if !self.quiet {
            eprintln!("{}", text.as_ref());
        }
    }

    /// A bar over `total` steps on stderr; invisible unless stderr is a terminal.
    pub fn bar(&self, total: u64, what: &'static str) -> ProgressBar {
        let target = if self.quiet || !io::stderr().is_terminal() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(Some(total), target).with_message(what);
        // The template is a constant; should it ever be wrong, the default style does.
        if let Ok(style) = ProgressStyle::with_template("{msg} {bar:32} {pos}/{len} {eta}") {
            bar.set_style(style);
        }
        bar
    }
}

/// Whether to colour what goes to `stream`: it is a terminal, and NO_COLOR is unset or empty.
pub fn colour(stream: &impl IsTerminal) -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !refused
}

/// A table for people: columns are as wide as their widest cell, numbers stand to the right.
#[derive(Debug, Default)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column names.
    pub fn new<'a>(header: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            header: header.into_iter().map(str::to_owned).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row, a cell a column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Writes the table.
    pub fn write(&self, w: &mut dyn Write) -> io::Result<()> {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells
                .chain(self.header.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<_> = (0..self.header.len()).map(width).collect();
        let numeric: Vec<_> = (0..self.header.len())
            .map(|column| self.is_numeric(column))
            .collect();
        let header: Vec<_> = self.header.iter().map(|name| name.to_uppercase()).collect();
        let bold = colour(&io::stdout());
        if bold {
            write!(w, "\x1b[1m")?;
        }
        write_row(w, &header, &widths, &numeric)?;
        if bold {
            write!(w, "\x1b[0m")?;
        }
        for row in &self.rows {
            write_row(w, row, &widths, &numeric)?;
        }
        Ok(())
    }

    fn is_numeric(&self, column: usize) -> bool {
        let mut cells = self.rows.iter().filter_map(|row| row.get(column));
        let number = |cell: &String| {
            let digits = cell.trim_end_matches(['%', 's', 'm', 'u', 'n']);
            cell.is_empty() || cell == "-" || digits.parse::<f64>().is_ok()
        };
        !self.rows.is_empty() && cells.all(number)
    }
}

fn write_row(
    w: &mut dyn Write,
    cells: &[String],
    widths: &[usize],
    numeric: &[bool],
) -> io::Result<()> {
    let mut line = String::new();
    for ((cell, &width), &right) in cells.iter().zip(widths).zip(numeric) {
        if !line.is_empty() {
            line.push_str("  ");
        }
        if right {
            line.push_str(&format!("{cell:>width$}"));
        } else {
            line.push_str(&format!("{cell:<width$}"));
        }
    }
    writeln!(w, "{}", line.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_found_among_arguments_that_are_wrong() {
        let asked = |line: &str| json_is_asked_for(line.split(' ').map(OsString::from));
        for line in [
            "e -o json pakc",
            "e pakc --output=json",
            "e -ojson x",
            "e x --output json",
        ] {
            assert!(asked(line), "{line}");
        }
        for line in ["e -o table json", "e json", "e -o", "e --out json x"] {
            assert!(!asked(line), "{line}");
        }
    }

    #[test]
    fn columns_fit_their_widest_cell_and_numbers_stand_right() {
        let mut table = Table::new(["name", "count"]);
        table.row(["a".to_owned(), "5".to_owned()]);
        table.row(["longer".to_owned(), "1234567".to_owned()]);
        let mut bytes = Vec::new();
        table.write(&mut bytes).expect("a vector takes all");
        let text = String::from_utf8(bytes).expect("UTF-8");
        assert_eq!(text, "NAME      COUNT\na             5\nlonger  1234567\n");
    }
}
