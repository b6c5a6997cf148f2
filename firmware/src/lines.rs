//! The line protocol between a sample source and the agent.
//!
//! ```text
//! edgeward-source schema=1 dtype=f32 features=ax,ay,az     the source says what it delivers
//! 17,1700000000123,0.12,-0.98,0.05                         one sample: sequence, time_ms, values
//! 18,1700000000143,,nan,0.05                               an empty field is missing, `nan` is NaN
//! reset                                                    a new recording begins
//! stats                                                    asks for one line of JSON
//! ```
//! Parsing allocates nothing, and any bytes are either one of these or an error that names the
//! column.

use crate::decimal;
use core::fmt;
use edgeward::contract::{MISSING, SourceInfo};
use edgeward::profile::DType;
use heapless::Vec;

/// Longest line in bytes, without its end.
pub const LINE_BYTES_MAX: usize = 8192;
/// First word of a header.
pub const HEADER: &str = "edgeward-source";

/// What a source announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header<'a, const F: usize> {
    /// Version of the schema it follows.
    pub schema: u16,
    /// Element type of its values.
    pub dtype: DType,
    /// Version of its feature pipeline; 0 when it says nothing of it.
    pub feature_version: u32,
    /// Names of the features, in the order of the values in its lines.
    pub features: Vec<&'a str, F>,
}

impl<const F: usize> Header<'_, F> {
    /// The announcement as the core takes it.
    #[must_use]
    pub fn info(&self) -> SourceInfo<'_> {
        SourceInfo {
            schema_version: self.schema,
            dtype: self.dtype,
            feature_version: self.feature_version,
            features: &self.features,
        }
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "no allocator to box with")]
pub enum Line<'a, const F: usize> {
    /// The source says what it delivers.
    Header(Header<'a, F>),
    /// A sample; its values are in the buffer given to [`parse`].
    Sample {
        /// Its number.
        sequence: u32,
        /// When it was taken, in milliseconds.
        time_ms: u64,
        /// Values in the line.
        count: usize,
    },
    /// A new recording begins.
    Reset,
    /// One line of JSON is wanted.
    Stats,
    /// Nothing but space.
    Empty,
}

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// Not UTF-8.
    Encoding,
    /// Longer than [`LINE_BYTES_MAX`].
    TooLong,
    /// Neither a sample nor a word of the protocol.
    UnknownLine,
    /// Not a number of the type that belongs there.
    Number,
    /// Fewer fields than sequence, time and one value.
    TooFewFields,
    /// More values than the buffer holds.
    TooManyFields,
    /// A header field that is unknown, twice there, or without `=`.
    HeaderField,
    /// A header with a `dtype` that is none.
    DType,
    /// A header without `schema`, `dtype` or `features`.
    HeaderIncomplete,
    /// A feature without a name.
    EmptyName,
}

/// A line that was refused; the stream goes on with the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineError {
    /// What is wrong.
    pub what: What,
    /// Position of the field in the line: from 1, counted by commas in a sample and by spaces in a
    /// header; 0 when the whole line is meant.
    pub column: u16,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Encoding => "not UTF-8",
            Self::TooLong => "line too long",
            Self::UnknownLine => "neither a sample nor a command",
            Self::Number => "not a number of this field's type",
            Self::TooFewFields => "too few fields",
            Self::TooManyFields => "too many fields",
            Self::HeaderField => "unknown or repeated header field",
            Self::DType => "unknown dtype; there are f32 and i8",
            Self::HeaderIncomplete => "header lacks schema, dtype or features",
            Self::EmptyName => "feature without a name",
        })
    }
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {}: {}", self.column, self.what)
    }
}

fn error<T>(what: What, column: usize) -> Result<T, LineError> {
    Err(LineError {
        what,
        column: u16::try_from(column).unwrap_or(u16::MAX),
    })
}

/// Reads one line, without its end; a sample's values go into `values`.
///
/// # Errors
/// [`LineError`]; `values` is then unspecified.
pub fn parse<'a, const F: usize>(
    line: &'a [u8],
    values: &mut [f32; F],
) -> Result<Line<'a, F>, LineError> {
    if line.len() > LINE_BYTES_MAX {
        return error(What::TooLong, 0);
    }
    let Ok(text) = core::str::from_utf8(line) else {
        return error(What::Encoding, 0);
    };
    let text = text.trim();
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return sample(text, values);
    }
    match text {
        "" => Ok(Line::Empty),
        "reset" => Ok(Line::Reset),
        "stats" => Ok(Line::Stats),
        _ => match text.strip_prefix(HEADER) {
            Some(rest) if rest.starts_with(' ') => header(rest).map(Line::Header),
            _ => error(What::UnknownLine, 1),
        },
    }
}

fn sample<'a, const F: usize>(text: &str, values: &mut [f32; F]) -> Result<Line<'a, F>, LineError> {
    let mut fields = text.split(',').map(str::trim).enumerate();
    let Some(Ok(sequence)) = fields.next().map(|(_, field)| field.parse()) else {
        return error(What::Number, 1);
    };
    let time_ms = match fields.next().map(|(_, field)| field.parse()) {
        Some(Ok(time_ms)) => time_ms,
        Some(Err(_)) => return error(What::Number, 2),
        None => return error(What::TooFewFields, 2),
    };
    let mut count = 0;
    for (at, field) in fields {
        let Some(value) = values.get_mut(count) else {
            return error(What::TooManyFields, at + 1);
        };
        *value = if field.is_empty() {
            MISSING
        } else {
            match number(field) {
                // A NaN that the sensor made is not one that stands for nothing.
                Some(number) if number.is_nan() => f32::NAN,
                Some(number) => number,
                None => return error(What::Number, at + 1),
            }
        };
        count += 1;
    }
    if count == 0 {
        return error(What::TooFewFields, 3);
    }
    Ok(Line::Sample {
        sequence,
        time_ms,
        count,
    })
}

/// A number, read fast where there is room for that.
fn number(field: &str) -> Option<f32> {
    if cfg!(feature = "linux") {
        field.parse().ok()
    } else {
        decimal::parse(field)
    }
}

fn header<const F: usize>(rest: &str) -> Result<Header<'_, F>, LineError> {
    let (mut schema, mut dtype, mut feature_version, mut features) = (None, None, None, None);
    for (at, field) in rest.split_ascii_whitespace().enumerate() {
        let column = at + 2;
        let Some((name, value)) = field.split_once('=') else {
            return error(What::HeaderField, column);
        };
        let repeated = match name {
            "schema" => {
                let Ok(version) = value.parse() else {
                    return error(What::Number, column);
                };
                schema.replace(version).is_some()
            }
            "feature_version" => {
                let Ok(version) = value.parse() else {
                    return error(What::Number, column);
                };
                feature_version.replace(version).is_some()
            }
            "dtype" => {
                let known = match value {
                    "f32" => DType::F32,
                    "i8" => DType::I8,
                    _ => return error(What::DType, column),
                };
                dtype.replace(known).is_some()
            }
            "features" => features.replace(names(value, column)?).is_some(),
            _ => true,
        };
        if repeated {
            return error(What::HeaderField, column);
        }
    }
    match (schema, dtype, features) {
        (Some(schema), Some(dtype), Some(features)) => Ok(Header {
            schema,
            dtype,
            feature_version: feature_version.unwrap_or(0),
            features,
        }),
        _ => error(What::HeaderIncomplete, 0),
    }
}

fn names<const F: usize>(list: &str, column: usize) -> Result<Vec<&str, F>, LineError> {
    let mut names = Vec::new();
    for name in list.split(',') {
        if name.is_empty() {
            return error(What::EmptyName, column);
        }
        if names.push(name).is_err() {
            return error(What::TooManyFields, column);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeward::contract::is_missing;
    use proptest::prelude::*;

    fn read(line: &str) -> (Result<Line<'_, 4>, LineError>, [f32; 4]) {
        let mut values = [0.0; 4];
        (parse(line.as_bytes(), &mut values), values)
    }

    #[test]
    fn a_sample_has_values_missing_ones_and_nan() {
        let (line, values) = read("17,1700000000123,0.5,, nan\r");
        let sample = Line::Sample {
            sequence: 17,
            time_ms: 1_700_000_000_123,
            count: 3,
        };
        assert_eq!(line, Ok(sample));
        assert_eq!(values[0], 0.5);
        assert!(is_missing(values[1]));
        assert!(values[2].is_nan() && !is_missing(values[2]));
    }

    #[test]
    fn words_are_words() {
        assert_eq!(read("reset").0, Ok(Line::Reset));
        assert_eq!(read("stats\r").0, Ok(Line::Stats));
        assert_eq!(read("  ").0, Ok(Line::Empty));
    }

    #[test]
    fn a_header_names_everything() {
        let (line, _) = read("edgeward-source schema=3 dtype=f32 feature_version=9 features=a,b");
        let Ok(Line::Header(header)) = line else {
            panic!("{line:?}");
        };
        assert_eq!((header.schema, header.dtype), (3, DType::F32));
        assert_eq!(header.feature_version, 9);
        assert_eq!(header.features, ["a", "b"]);
    }

    #[test]
    fn errors_name_the_column() {
        for (line, what, column) in [
            ("1", What::TooFewFields, 2),
            ("1,2", What::TooFewFields, 3),
            ("99999999999,2,3", What::Number, 1),
            ("1,-2,3", What::Number, 2),
            ("1,2,3,x", What::Number, 4),
            ("1,2,3,4,5,6,7", What::TooManyFields, 7),
            ("sample", What::UnknownLine, 1),
            ("edgeward-sources x", What::UnknownLine, 1),
            (
                "edgeward-source schema=1 dtype=f32",
                What::HeaderIncomplete,
                0,
            ),
            ("edgeward-source schema=x", What::Number, 2),
            ("edgeward-source schema=1 schema=1", What::HeaderField, 3),
            ("edgeward-source schema=1 dtype=f64", What::DType, 3),
            ("edgeward-source features=a,,b", What::EmptyName, 2),
            ("edgeward-source features=a,b,c,d,e", What::TooManyFields, 2),
        ] {
            assert_eq!(
                read(line).0,
                Err(LineError {
                    what,
                    column: column as u16
                }),
                "{line}"
            );
        }
        let long = [b'1'; LINE_BYTES_MAX + 1];
        let mut values = [0.0; 4];
        assert_eq!(
            parse(&long, &mut values).map_err(|e| e.what),
            Err(What::TooLong)
        );
        assert_eq!(
            parse(&[0xFF, 0xFE], &mut values).map_err(|e| e.what),
            Err(What::Encoding)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_line_or_an_error(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut values = [0.0; 4];
            if let Ok(Line::Sample { count, .. }) = parse(&line, &mut values) {
                prop_assert!((1..=4).contains(&count));
            }
        }

        #[test]
        fn printed_samples_read_back(
            sequence: u32,
            time: u64,
            value in proptest::num::f32::NORMAL | proptest::num::f32::ZERO
        ) {
            let line = format!("{sequence},{time},{value}");
            let (parsed, values) = read(&line);
            prop_assert_eq!(parsed, Ok(Line::Sample { sequence, time_ms: time, count: 1 }));
            prop_assert_eq!(values[0].to_bits(), value.to_bits());
        }
    }
}
