//! Recorded samples: CSV and NPY files.
//!
//! A CSV file has a header; the features are columns chosen by name, and a file may also have a
//! column of labels and one that names the recording a sample belongs to. An NPY file holds
//! `[samples, features]`, or `[recordings, samples, features]`.

mod bounded;

pub use bounded::MAX_ROW_BYTES;

use crate::npy::{Array, NpyError};
use bounded::{Bounded, Limits};
use edgeward::contract::MISSING;
use std::collections::HashMap;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Largest file that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 30;

/// Why a data file can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The file can't be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is larger than [`MAX_FILE_BYTES`].
    #[error("{} has {bytes} bytes; at most {MAX_FILE_BYTES} are read", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// A name that ends neither in `.csv` nor in `.npy`.
    #[error("{}: the name must end in .csv or .npy", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
    },
    /// It is no CSV.
    #[error("{}, line {line}: {what}", path.display())]
    Csv {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        what: String,
    },
    /// The header lacks a column.
    #[error("{}: there is no column `{column}`; the header has: {found}", path.display())]
    NoColumn {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// The columns there are.
        found: String,
    },
    /// The header names a column twice.
    #[error("{}: the header names the column `{column}` twice", path.display())]
    TwoColumns {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
    },
    /// A cell is no number.
    #[error("{}, line {line}, column `{column}`: `{cell}` is not a number (leave it empty when it is missing)", path.display())]
    Cell {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The column.
        column: String,
        /// What it holds.
        cell: String,
    },
    /// It is no NPY file that we read.
    #[error("{}", path.display())]
    Npy {
        /// The file.
        path: PathBuf,
        /// Why.
        source: NpyError,
    },
    /// The array has another shape than wanted.
    #[error("{}: the array has shape {found:?}, wanted is {wanted}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// Its shape.
        found: Vec<usize>,
        /// The wanted one.
        wanted: String,
    },
    /// There is no sample in it.
    #[error("{}: there is no sample in it", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// Which columns of a CSV file are what.
#[derive(Debug, Clone, Copy)]
pub struct Columns<'a> {
    /// The features, in the order wanted.
    pub features: &'a [String],
    /// The label, where the file has such a column.
    pub label: &'a str,
    /// The recording, where the file has such a column.
    pub recording: &'a str,
}

impl<'a> Columns<'a> {
    /// The features by name, and columns `label` and `recording` where there are such.
    #[must_use]
    pub fn of(features: &'a [String]) -> Self {
        Self {
            features,
            label: "label",
            recording: "recording",
        }
    }
}

/// Samples, one row a sample, one column a feature.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Samples {
    /// Number of features.
    pub width: usize,
    /// Values, row-major; [`MISSING`] where a file has none.
    pub values: Vec<f32>,
    /// One label a sample, where the file has them.
    pub labels: Option<Vec<String>>,
    /// The rows of each recording, ascending and adjacent; they cover all rows.
    pub recordings: Vec<Range<usize>>,
}

impl Samples {
    /// Number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len().checked_div(self.width).unwrap_or(0)
    }

    /// Whether there is no sample.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values of one sample.
    ///
    /// # Panics
    /// When `row` is not below [`Samples::len`].
    #[must_use]
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.width..(row + 1) * self.width]
    }

    /// The values of one feature, in time order.
    pub fn column(&self, column: usize) -> impl Iterator<Item = f32> + Clone + '_ {
        self.values
            .iter()
            .skip(column)
            .step_by(self.width.max(1))
            .copied()
    }

    /// The rows of each window of `window` samples, `hop` apart, that lies inside one recording.
    pub fn windows(&self, window: usize, hop: usize) -> impl Iterator<Item = Range<usize>> + '_ {
        self.recordings.iter().flat_map(move |recording| {
            let last = (recording.end + 1).saturating_sub(window);
            (recording.start..last.max(recording.start))
                .step_by(hop.max(1))
                .map(move |from| from..from + window)
        })
    }

    /// Reads a CSV or NPY file, by the ending of its name.
    ///
    /// # Errors
    /// [`DataError`] says what is wrong and where.
    pub fn load(path: &Path, columns: Columns<'_>) -> Result<Self, DataError> {
        match extension(path).as_str() {
            "csv" => Self::from_csv(open(path)?, path, columns),
            "npy" => Self::from_array(load_npy(path)?, path, columns.features.len()),
            _ => Err(DataError::Kind {
                path: path.to_owned(),
            }),
        }
    }

    /// Reads CSV text; `path` names it in errors. Takes in at most [`MAX_FILE_BYTES`], and
    /// [`MAX_ROW_BYTES`] in a row, however much the text goes on.
    ///
    /// # Errors
    /// [`DataError`] says what is wrong and where.
    pub fn from_csv(text: impl Read, path: &Path, columns: Columns<'_>) -> Result<Self, DataError> {
        Self::from_rows(Rows::new(text, path, Limits::STANDARD), path, columns)
    }

    fn from_rows(
        mut rows: Rows<'_, impl Read>,
        path: &Path,
        columns: Columns<'_>,
    ) -> Result<Self, DataError> {
        if columns.features.is_empty() {
            return Err(DataError::Empty {
                path: path.to_owned(),
            });
        }
        let header = rows.header()?;
        let places = Places::find(&header, path, columns)?;
        let mut samples = Self {
            width: columns.features.len(),
            labels: places.label.map(|_| Vec::new()),
            ..Self::default()
        };
        let mut recording: Option<String> = None;
        let mut record = csv::StringRecord::new();
        while rows.next(&mut record)? {
            let line = record.position().map_or(0, csv::Position::line);
            for (&at, name) in places.features.iter().zip(columns.features) {
                let cell = record.get(at).unwrap_or_default();
                let value = parse_cell(cell).ok_or_else(|| DataError::Cell {
                    path: path.to_owned(),
                    line,
                    column: name.clone(),
                    cell: cell.chars().take(40).collect(),
                })?;
                samples.values.push(value);
            }
            if let (Some(at), Some(labels)) = (places.label, &mut samples.labels) {
                labels.push(record.get(at).unwrap_or_default().to_owned());
            }
            let of = places
                .recording
                .and_then(|at| record.get(at))
                .unwrap_or_default();
            let row = samples.len() - 1;
            match samples.recordings.last_mut() {
                Some(last) if recording.as_deref() == Some(of) => last.end = row + 1,
                _ => {
                    samples.recordings.push(row..row + 1);
                    recording = Some(of.to_owned());
                }
            }
        }
        if samples.is_empty() {
            return Err(DataError::Empty {
                path: path.to_owned(),
            });
        }
        Ok(samples)
    }

    /// Samples of an array of two or three dimensions, the last one the features.
    ///
    /// # Errors
    /// [`DataError::Shape`] when it is no such array; [`DataError::Empty`] when nothing is in it.
    pub fn from_array(array: Array, path: &Path, features: usize) -> Result<Self, DataError> {
        let (count, length) = match array.shape[..] {
            [rows, width] if width == features => (1, rows),
            [count, length, width] if width == features => (count, length),
            _ => {
                return Err(DataError::Shape {
                    path: path.to_owned(),
                    found: array.shape,
                    wanted: format!("[samples, {features}] or [recordings, samples, {features}]"),
                });
            }
        };
        let values = array.into_f32();
        if values.is_empty() {
            return Err(DataError::Empty {
                path: path.to_owned(),
            });
        }
        Ok(Self {
            width: features,
            values,
            labels: None,
            recordings: (0..count).map(|i| i * length..(i + 1) * length).collect(),
        })
    }
}

/// Reads an NPY file.
///
/// # Errors
/// [`DataError`] when it can't be read or is no such file.
pub fn load_npy(path: &Path) -> Result<Array, DataError> {
    let mut bytes = Vec::new();
    let io = |source| DataError::Io {
        path: path.to_owned(),
        source,
    };
    open(path)?
        .take(MAX_FILE_BYTES)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    Array::parse(&bytes).map_err(|source| DataError::Npy {
        path: path.to_owned(),
        source,
    })
}

/// The ending of a file's name, in lower case.
pub(crate) fn extension(path: &Path) -> String {
    let extension = path.extension().unwrap_or_default();
    extension.to_string_lossy().to_lowercase()
}

fn open(path: &Path) -> Result<std::fs::File, DataError> {
    let io = |source| DataError::Io {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(io)?;
    let bytes = file.metadata().map_err(io)?.len();
    if bytes > MAX_FILE_BYTES {
        return Err(DataError::TooLarge {
            path: path.to_owned(),
            bytes,
        });
    }
    Ok(file)
}

/// An empty cell is missing; Rust's parser takes `nan` and `inf` in any case.
fn parse_cell(cell: &str) -> Option<f32> {
    if cell.is_empty() {
        return Some(MISSING);
    }
    cell.parse().ok()
}

/// The rows of a CSV text.
struct Rows<'a, R> {
    reader: csv::Reader<Bounded<R>>,
    path: &'a Path,
}

impl<'a, R: Read> Rows<'a, R> {
    fn new(text: R, path: &'a Path, limits: Limits) -> Self {
        let reader = csv::ReaderBuilder::new()
            .trim(csv::Trim::All)
            .from_reader(Bounded::new(text, limits));
        Self { reader, path }
    }

    fn header(&mut self) -> Result<csv::StringRecord, DataError> {
        match self.reader.headers() {
            Ok(header) => Ok(header.clone()),
            Err(error) => Err(self.error(&error, 1)),
        }
    }

    /// Reads the next row; false at the end.
    fn next(&mut self, record: &mut csv::StringRecord) -> Result<bool, DataError> {
        let (byte, line) = {
            let at = self.reader.position();
            (at.byte(), at.line())
        };
        self.reader.get_mut().row_at(byte);
        let read = self.reader.read_record(record);
        read.map_err(|error| self.error(&error, line))
    }

    /// What is wrong with the row that begins at `line`.
    fn error(&self, error: &csv::Error, line: u64) -> DataError {
        let path = self.path.to_owned();
        if let Some(what) = self.reader.get_ref().exceeded() {
            let what = what.to_owned();
            return DataError::Csv { path, line, what };
        }
        let line = error.position().map_or(0, csv::Position::line);
        let what = match error.kind() {
            csv::ErrorKind::UnequalLengths {
                expected_len, len, ..
            } => format!("{len} cells, the header has {expected_len}"),
            csv::ErrorKind::Utf8 { .. } => "the text is not UTF-8".to_owned(),
            _ => error.to_string(),
        };
        DataError::Csv { path, line, what }
    }
}

/// Where the columns stand.
struct Places {
    features: Vec<usize>,
    label: Option<usize>,
    recording: Option<usize>,
}

impl Places {
    fn find(
        header: &csv::StringRecord,
        path: &Path,
        columns: Columns<'_>,
    ) -> Result<Self, DataError> {
        let mut at = HashMap::new();
        for (place, name) in header.iter().enumerate() {
            if at.insert(name, place).is_some() {
                return Err(DataError::TwoColumns {
                    path: path.to_owned(),
                    column: name.to_owned(),
                });
            }
        }
        let feature = |name: &String| {
            at.get(name.as_str())
                .copied()
                .ok_or_else(|| DataError::NoColumn {
                    path: path.to_owned(),
                    column: name.clone(),
                    found: header.iter().collect::<Vec<_>>().join(", "),
                })
        };
        Ok(Self {
            features: columns
                .features
                .iter()
                .map(feature)
                .collect::<Result<_, _>>()?,
            label: at.get(columns.label).copied(),
            recording: at.get(columns.recording).copied(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeward::contract::is_missing;
    use proptest::prelude::*;

    fn read(text: &str, features: &[&str]) -> Result<Samples, DataError> {
        let features: Vec<_> = features.iter().map(|&name| name.to_owned()).collect();
        Samples::from_csv(text.as_bytes(), Path::new("x.csv"), Columns::of(&features))
    }

    #[test]
    fn columns_are_chosen_by_name() {
        let text = "recording,b,label,a\n1,2,walk,1\n1,,walk,3\n2,6,run,nan\n";
        let samples = read(text, &["a", "b"]).expect("samples");
        assert_eq!(samples.len(), 3);
        assert_eq!(samples.row(0), [1.0, 2.0]);
        assert!(is_missing(samples.row(1)[1]));
        assert!(samples.row(2)[0].is_nan() && !is_missing(samples.row(2)[0]));
        assert_eq!(samples.recordings, [0..2, 2..3]);
        assert_eq!(
            samples.labels,
            Some(vec!["walk".into(), "walk".into(), "run".into()])
        );
        assert_eq!(samples.column(0).next(), Some(1.0));
    }

    #[test]
    fn errors_name_file_line_and_column() {
        let message =
            |text, features: &[&str]| read(text, features).expect_err("error").to_string();
        assert_eq!(
            message("a,b\n1,x\n", &["b"]),
            "x.csv, line 2, column `b`: `x` is not a number (leave it empty when it is missing)"
        );
        assert_eq!(
            message("a,b\n1,2\n", &["c"]),
            "x.csv: there is no column `c`; the header has: a, b"
        );
        assert_eq!(
            message("a,b\n1\n", &["a"]),
            "x.csv, line 2: 1 cells, the header has 2"
        );
        assert_eq!(
            message("a,a\n1,2\n", &["a"]),
            "x.csv: the header names the column `a` twice"
        );
        assert_eq!(message("a\n", &["a"]), "x.csv: there is no sample in it");
    }

    /// Text that goes on for ever, and of which no more may be taken in than this.
    struct Endless {
        left: usize,
        text: &'static [u8],
    }

    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            assert!(self.left >= buffer.len(), "it reads on");
            self.left -= buffer.len();
            let text = self.text.iter().cycle();
            buffer
                .iter_mut()
                .zip(text)
                .for_each(|(to, &from)| *to = from);
            Ok(buffer.len())
        }
    }

    #[test]
    fn a_row_without_an_end_is_refused_by_line_and_limit() {
        let starts = ["", "a,b\n1,2\n\"1\n\",3\n", "a,b\n1,2\n3,4\n5,\""];
        let texts = [&b"1,"[..], b"9", b"\n"];
        // The second begins after two rows of three lines; the third opens a quote in the fourth line.
        for ((start, text), line) in starts.into_iter().zip(texts).zip([1, 5, 4]) {
            let left = MAX_ROW_BYTES as usize + (1 << 16);
            let endless = start.as_bytes().chain(Endless { left, text });
            let features = ["a".to_owned()];
            let path = Path::new("stdin");
            let error = Samples::from_csv(endless, path, Columns::of(&features)).expect_err(start);
            let expected = format!(
                "stdin, line {line}: the row is longer than 1048576 bytes; is a line end or a closing quote missing?"
            );
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn rows_and_texts_end_at_their_limits_to_the_byte() {
        let read = |text: &str, row, total| {
            let path = Path::new("stdin");
            let rows = Rows::new(text.as_bytes(), path, Limits { row, total });
            let read = Samples::from_rows(rows, path, Columns::of(&["a".to_owned()]));
            read.map(|samples| samples.len())
                .map_err(|error| error.to_string())
        };
        let text = "a,bc\n1,22\n3,44\n";
        assert_eq!(read(text, 5, 15), Ok(2));
        assert_eq!(read("a\n1\n", 2, 100), Ok(1));
        let row = "the row is longer than 4 bytes; is a line end or a closing quote missing?";
        assert_eq!(read(text, 4, 15), Err(format!("stdin, line 1: {row}")));
        assert_eq!(
            read("a\n1\n22222\n", 4, 100),
            Err(format!("stdin, line 3: {row}"))
        );
        let total = "stdin, line 3: there are more than 14 bytes in all";
        assert_eq!(read(text, 5, 14), Err(total.to_owned()));
    }

    #[test]
    fn windows_stay_inside_their_recording() {
        let samples = Samples {
            width: 1,
            values: vec![0.0; 10],
            labels: None,
            recordings: vec![0..5, 5..7, 7..10],
        };
        let windows: Vec<_> = samples.windows(3, 2).collect();
        assert_eq!(windows, [0..3, 2..5, 7..10]);
    }

    #[test]
    fn three_dimensions_are_recordings() {
        let array = Array::f32(&[2, 3, 2], vec![0.0; 12]).expect("it fits");
        let samples = Samples::from_array(array.clone(), Path::new("x.npy"), 2).expect("samples");
        assert_eq!(samples.recordings, [0..3, 3..6]);
        assert!(Samples::from_array(array, Path::new("x.npy"), 3).is_err());
    }

    /// How a cell is written, and what it means; nothing means that it is no number.
    type Cell = (&'static str, Option<f32>);
    /// Two features, recording, label, and what a row has too much.
    type Row = ([Cell; 2], &'static str, &'static str, &'static str);

    fn cell() -> impl Strategy<Value = Cell> {
        prop::sample::select(vec![
            ("3", Some(3.0)),
            (" -2.5e1 ", Some(-25.0)),
            ("\"7\"", Some(7.0)),
            ("", Some(MISSING)),
            // A cell of two lines: the ones below it move.
            ("\"\n\"", Some(MISSING)),
            ("inf", Some(f32::INFINITY)),
            ("-Inf", Some(f32::NEG_INFINITY)),
            ("4", Some(4.0)),
            ("0", Some(0.0)),
            ("1e-3", Some(0.001)),
            ("12", Some(12.0)),
            ("x", None),
        ])
    }

    fn row() -> impl Strategy<Value = Row> {
        let more = prop_oneof![19 => Just(""), 1 => Just(",z")];
        let recording = prop::sample::select(vec!["", "r", "s"]);
        let label = prop::sample::select(vec!["", "l", "m"]);
        ([cell(), cell()], recording, label, more)
    }

    /// Where a table is wrong: the kind of error, its line and column.
    type Wrong = (&'static str, u64, String);
    type Table = (Vec<u32>, Vec<String>, Vec<Range<usize>>);

    fn expected(rows: &[Row]) -> Result<Table, Wrong> {
        let (mut bits, mut labels, mut recordings) = Table::default();
        let mut line = 2;
        let mut last = None;
        for (at, (cells, recording, label, more)) in rows.iter().enumerate() {
            if !more.is_empty() {
                return Err(("csv", line, String::new()));
            }
            for (cell, column) in cells.iter().zip(["a", "b"]) {
                let value = cell.1.ok_or(("cell", line, column.to_owned()))?;
                bits.push(value.to_bits());
            }
            labels.push((*label).to_owned());
            match recordings.last_mut() {
                Some(range) if last == Some(recording) => *range = range.start..at + 1,
                _ => recordings.push(at..at + 1),
            }
            last = Some(recording);
            line += 1 + cells.iter().filter(|cell| cell.0.contains('\n')).count() as u64;
        }
        if rows.is_empty() {
            return Err(("empty", 0, String::new()));
        }
        Ok((bits, labels, recordings))
    }

    fn place(error: &DataError) -> Wrong {
        match error {
            DataError::Csv { line, .. } => ("csv", *line, String::new()),
            DataError::Cell { line, column, .. } => ("cell", *line, column.clone()),
            DataError::Empty { .. } => ("empty", 0, String::new()),
            _ => ("another", 0, error.to_string()),
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let features = ["a".to_owned()];
            for columns in [Columns::of(&features), Columns::of(&[])] {
                let _ = Samples::from_csv(&bytes[..], Path::new("x.csv"), columns);
                let with_header = [b"a,recording,label\n", &bytes[..]].concat();
                let _ = Samples::from_csv(&with_header[..], Path::new("x.csv"), columns);
            }
        }

        /// Every cell arrives where it belongs, and the first thing that is wrong is named by its line.
        #[test]
        fn a_table_is_what_its_rows_say(
            rows in prop::collection::vec(row(), 0..12),
            window in 1usize..5,
            hop in 0usize..3,
        ) {
            let features = ["a".to_owned(), "b".to_owned()];
            // The columns lie in another order than the features.
            let mut text = String::from("b,recording,a,label\n");
            for ([a, b], recording, label, more) in &rows {
                text.push_str(&format!("{},{recording},{},{label}{more}\n", b.0, a.0));
            }
            let found = Samples::from_csv(text.as_bytes(), Path::new("x.csv"), Columns::of(&features));
            match (expected(&rows), found) {
                (Ok((bits, labels, recordings)), Ok(samples)) => {
                    let seen: Vec<_> = samples.values.iter().map(|x| x.to_bits()).collect();
                    prop_assert_eq!(seen, bits);
                    prop_assert_eq!(&samples.labels, &Some(labels));
                    prop_assert_eq!(&samples.recordings, &recordings);
                    let fits = |rec: &Range<usize>, at: usize| {
                        (at - rec.start).is_multiple_of(hop.max(1)) && at + window <= rec.end
                    };
                    let windows: Vec<_> = recordings
                        .iter()
                        .flat_map(|rec| rec.clone().filter(|&at| fits(rec, at)))
                        .map(|at| at..at + window)
                        .collect();
                    prop_assert_eq!(samples.windows(window, hop).collect::<Vec<_>>(), windows);
                }
                (Err(wrong), Err(found)) => prop_assert_eq!(wrong, place(&found)),
                (expected, found) => prop_assert!(false, "{:?} but {:?}", expected, found),
            }
        }

        #[test]
        fn an_array_is_samples_when_its_last_axis_is_the_features(
            mut shape in prop::collection::vec(0usize..5, 1..5),
            features in 0usize..5,
            fits in prop::bool::weighted(0.8),
        ) {
            if fits && let Some(last) = shape.last_mut() {
                *last = features;
            }
            let count = shape.iter().product::<usize>();
            let values: Vec<_> = (0..count).map(|i| i as f32).collect();
            let array = Array::f32(&shape, values.clone()).expect("it fits");
            let found = Samples::from_array(array, Path::new("x.npy"), features);
            let (recordings, length) = match shape[..] {
                [length, width] if width == features => (1, length),
                [recordings, length, width] if width == features => (recordings, length),
                _ => {
                    let refused = matches!(&found, Err(DataError::Shape { found, .. }) if *found == shape);
                    prop_assert!(refused, "{:?}", found);
                    return Ok(());
                }
            };
            if count == 0 {
                prop_assert!(matches!(found, Err(DataError::Empty { .. })), "{:?}", found);
                return Ok(());
            }
            let samples = found.expect("samples");
            prop_assert_eq!(samples.width, features);
            prop_assert_eq!(&samples.values, &values);
            prop_assert_eq!(samples.recordings.len(), recordings);
            for (i, recording) in samples.recordings.iter().enumerate() {
                prop_assert_eq!(recording.clone(), i * length..(i + 1) * length);
            }
        }

        #[test]
        fn numbers_come_back_as_written(values in prop::collection::vec(any::<f32>(), 1..50)) {
            let mut text = String::from("a\n");
            for value in &values {
                text.push_str(&format!("{value}\n"));
            }
            let samples = read(&text, &["a"]).expect("samples");
            for (seen, value) in samples.values.iter().zip(&values) {
                prop_assert!(seen == value || seen.is_nan() && value.is_nan());
            }
        }
    }
}
