//! A frame: its encoding, its values by their format strings, and the line that they make.

use crate::{Image, Line};
use defmt_parser::{DisplayHint, Fragment, Parameter, ParserMode, TimePrecision, Type, parse};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// How much a line matters; later ones matter more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Each step.
    Trace,
    /// For whoever looks for a fault.
    Debug,
    /// What happens.
    Info,
    /// What should not happen, and the board goes on.
    Warn,
    /// What the board can't go on after.
    Error,
}

impl Level {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// No frame of this image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Deepest nesting of values in values.
const DEPTH: usize = 32;
/// Most elements of a list whose elements may take no bytes.
const ELEMENTS: usize = 1024;

/// Most values of a frame, all lists and nestings together: a frame of a few bytes may ask for any number of
/// values that take none.
const VALUES: usize = 65_536;
/// Widest number: 128 binary digits and what says so.
const WIDEST: usize = 130;

/// Undoes rzCOBS: from the end, each byte says which of the seven before it were zeros, or how many were
/// none.
pub(crate) fn unstuff(frame: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut bytes = Vec::new();
    let mut rest = frame.iter().rev().copied();
    while let Some(code) = rest.next() {
        let mut copy = |bytes: &mut Vec<u8>| {
            bytes.push(rest.next().ok_or(Malformed)?);
            Ok(())
        };
        match code {
            0 => return Err(Malformed),
            1..=0x7F => {
                for bit in (0..7).rev() {
                    if code >> bit & 1 == 0 {
                        copy(&mut bytes)?;
                    } else {
                        bytes.push(0);
                    }
                }
            }
            0x80..=0xFE => {
                bytes.push(0);
                (0..(code & 0x7F) + 7).try_for_each(|_| copy(&mut bytes))?;
            }
            0xFF => (0..134).try_for_each(|_| copy(&mut bytes))?,
        }
    }
    bytes.reverse();
    Ok(bytes)
}

/// A value as it was sent.
enum Value<'t> {
    Bool(bool),
    Unsigned(u128),
    Signed(i128),
    Single(f32),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
    /// Values with format strings of their own, one after another.
    Nested(Vec<Formatted<'t>>),
    /// The same as a list.
    List(Vec<Formatted<'t>>),
}

/// A format string and its values.
struct Formatted<'t> {
    fragments: Vec<Fragment<'t>>,
    values: Vec<Value<'t>>,
}

/// The line of a frame.
pub(crate) fn decode(image: &Image, frame: &[u8]) -> Result<Line, Malformed> {
    let bytes = unstuff(frame)?;
    let mut reader = Bytes {
        image,
        rest: &bytes,
        values: VALUES,
    };
    let (level, format) = image.line(reader.u16()?)?;
    let time = match image.timestamp() {
        Some(format) => Some(reader.formatted(format, 0)?.text(None)),
        None => None,
    };
    let text = reader.formatted(format, 0)?.text(None);
    // defmt pads the end of a frame with zeros, for its encoding goes by groups of seven.
    if reader.rest.iter().any(|&byte| byte != 0) || reader.rest.len() > 7 {
        return Err(Malformed);
    }
    Ok(Line {
        time_s: time.and_then(|time| time.parse().ok()),
        level,
        text,
    })
}

/// What is left of a frame.
struct Bytes<'t, 'b> {
    image: &'t Image,
    rest: &'b [u8],
    /// How many values there may yet be.
    values: usize,
}

impl<'t> Bytes<'t, '_> {
    fn take(&mut self, len: usize) -> Result<&[u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn len(&mut self) -> Result<usize, Malformed> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    fn string(&mut self, len: usize) -> Result<String, Malformed> {
        String::from_utf8(self.take(len)?.to_vec()).map_err(|_| Malformed)
    }

    /// The values of a format string.
    fn formatted(&mut self, format: &'t str, depth: usize) -> Result<Formatted<'t>, Malformed> {
        if depth > DEPTH {
            return Err(Malformed);
        }
        self.values = self.values.checked_sub(1).ok_or(Malformed)?;
        let fragments = parse(format, ParserMode::ForwardsCompatible).map_err(|_| Malformed)?;
        let mut wanted: Vec<&Parameter> = Vec::new();
        for fragment in &fragments {
            if let Fragment::Parameter(parameter) = fragment {
                wanted.push(parameter);
            }
        }
        // Each is sent once, in the order of their numbers.
        wanted.sort_by_key(|parameter| parameter.index);
        wanted.dedup_by_key(|parameter| parameter.index);
        let values: Result<_, _> = wanted
            .iter()
            .map(|parameter| self.value(&parameter.ty, depth))
            .collect();
        let values = values?;
        Ok(Formatted { fragments, values })
    }

    /// A value whose format string is one of several: the alternatives of an enum.
    fn alternative(&mut self, format: &'t str, depth: usize) -> Result<Formatted<'t>, Malformed> {
        let chosen = match format.matches('|').count() {
            0 => 0,
            1..=255 => usize::from(self.array::<1>()?[0]),
            256..=65_535 => usize::from(self.u16()?),
            _ => return Err(Malformed),
        };
        let format = format.split('|').nth(chosen).ok_or(Malformed)?;
        self.formatted(format, depth + 1)
    }

    fn nested(&mut self, depth: usize) -> Result<Formatted<'t>, Malformed> {
        let index = self.u16()?;
        let format = self.image.format(index)?;
        self.alternative(format, depth)
    }

    fn list(&mut self, len: usize, depth: usize) -> Result<Value<'t>, Malformed> {
        let index = self.u16()?;
        let format = self.image.format(index)?;
        if len > self.rest.len().max(ELEMENTS) {
            return Err(Malformed);
        }
        let elements: Result<_, _> = (0..len).map(|_| self.alternative(format, depth)).collect();
        Ok(Value::List(elements?))
    }

    fn sequence(&mut self, depth: usize) -> Result<Value<'t>, Malformed> {
        let mut parts = Vec::new();
        loop {
            let index = self.u16()?;
            if index == 0 {
                return Ok(Value::Nested(parts));
            }
            let format = self.image.format(index)?;
            parts.push(self.alternative(format, depth)?);
        }
    }

    fn value(&mut self, kind: &Type, depth: usize) -> Result<Value<'t>, Malformed> {
        self.values = self.values.checked_sub(1).ok_or(Malformed)?;
        Ok(match kind {
            Type::Bool => match self.array()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                _ => return Err(Malformed),
            },
            Type::U8 => Value::Unsigned(u8::from_le_bytes(self.array()?).into()),
            Type::U16 => Value::Unsigned(self.u16()?.into()),
            Type::U32 | Type::Usize => Value::Unsigned(u32::from_le_bytes(self.array()?).into()),
            Type::U64 => Value::Unsigned(u64::from_le_bytes(self.array()?).into()),
            Type::U128 => Value::Unsigned(u128::from_le_bytes(self.array()?)),
            Type::I8 => Value::Signed(i8::from_le_bytes(self.array()?).into()),
            Type::I16 => Value::Signed(i16::from_le_bytes(self.array()?).into()),
            Type::I32 | Type::Isize => Value::Signed(i32::from_le_bytes(self.array()?).into()),
            Type::I64 => Value::Signed(i64::from_le_bytes(self.array()?).into()),
            Type::I128 => Value::Signed(i128::from_le_bytes(self.array()?)),
            Type::F32 => Value::Single(f32::from_le_bytes(self.array()?)),
            Type::F64 => Value::Double(f64::from_le_bytes(self.array()?)),
            Type::Char => {
                let code = u32::from_le_bytes(self.array()?);
                Value::Text(char::from_u32(code).ok_or(Malformed)?.to_string())
            }
            Type::Str => {
                let len = self.len()?;
                Value::Text(self.string(len)?)
            }
            Type::IStr => {
                let index = self.u16()?;
                Value::Text(self.image.format(index)?.to_owned())
            }
            // Text that the board formatted itself, up to a byte that is in no text.
            Type::Debug | Type::Display => {
                let len = self.rest.iter().position(|&byte| byte == 0xFF);
                let text = self.string(len.ok_or(Malformed)?)?;
                self.take(1)?;
                Value::Text(text)
            }
            Type::U8Slice => {
                let len = self.len()?;
                Value::Bytes(self.take(len)?.to_vec())
            }
            Type::U8Array(len) => Value::Bytes(self.take(*len)?.to_vec()),
            Type::Format => Value::Nested(vec![self.nested(depth)?]),
            Type::FormatSequence => self.sequence(depth)?,
            Type::FormatSlice => {
                let len = self.len()?;
                self.list(len, depth)?
            }
            Type::FormatArray(len) => self.list(*len, depth)?,
            _ => return Err(Malformed),
        })
    }
}

impl Formatted<'_> {
    /// The text; `outer` is the hint of the parameter that this is the value of.
    fn text(&self, outer: Option<&DisplayHint>) -> String {
        let mut text = String::new();
        for fragment in &self.fragments {
            match fragment {
                Fragment::Literal(literal) => text.push_str(literal),
                Fragment::Parameter(parameter) => {
                    // `{:?}` of a field says nothing that the outer hint does not overrule.
                    let own = parameter.hint.as_ref();
                    let own = own.filter(|hint| !matches!(hint, DisplayHint::Debug));
                    let hint = own.or(outer).or(parameter.hint.as_ref());
                    if let Some(value) = self.values.get(parameter.index) {
                        value.write(hint, &mut text);
                    }
                }
            }
        }
        text
    }
}

impl Value<'_> {
    fn write(&self, hint: Option<&DisplayHint>, text: &mut String) {
        // Writing to a string can't fail.
        let _ = match self {
            Self::Bool(value) => write!(text, "{value}"),
            Self::Unsigned(value) => number(*value, hint, text),
            Self::Signed(value) => match u128::try_from(*value) {
                Ok(value) => number(value, hint, text),
                Err(_) => write!(text, "{value}"),
            },
            Self::Single(value) => write!(text, "{value}"),
            Self::Double(value) => write!(text, "{value}"),
            Self::Text(value) => match hint {
                Some(DisplayHint::Debug) => write!(text, "{value:?}"),
                _ => write!(text, "{value}"),
            },
            Self::Bytes(bytes) => {
                let mut list = Vec::new();
                for byte in bytes {
                    let mut one = String::new();
                    let _ = number(u128::from(*byte), hint, &mut one);
                    list.push(one);
                }
                write!(text, "[{}]", list.join(", "))
            }
            Self::Nested(parts) => {
                parts
                    .iter()
                    .for_each(|part| text.push_str(&part.text(hint)));
                Ok(())
            }
            Self::List(elements) => {
                let elements: Vec<_> = elements.iter().map(|it| it.text(hint)).collect();
                write!(text, "[{}]", elements.join(", "))
            }
        };
    }
}

/// A number as its hint wants it.
fn number(value: u128, hint: Option<&DisplayHint>, text: &mut String) -> std::fmt::Result {
    // The width is the image's, which may say anything.
    let within = |width: &usize| (*width).min(WIDEST);
    match hint {
        Some(DisplayHint::NoHint { zero_pad }) => {
            write!(text, "{value:0width$}", width = within(zero_pad))
        }
        Some(DisplayHint::Hexadecimal {
            alternate,
            uppercase,
            zero_pad,
        }) => {
            let width = within(zero_pad);
            match (alternate, uppercase) {
                (false, false) => write!(text, "{value:0width$x}"),
                (false, true) => write!(text, "{value:0width$X}"),
                (true, false) => write!(text, "{value:#0width$x}"),
                (true, true) => write!(text, "{value:#0width$X}"),
            }
        }
        Some(DisplayHint::Binary {
            alternate,
            zero_pad,
        }) => {
            let width = within(zero_pad);
            match alternate {
                false => write!(text, "{value:0width$b}"),
                true => write!(text, "{value:#0width$b}"),
            }
        }
        Some(DisplayHint::Seconds(TimePrecision::Micros)) => {
            write!(text, "{}.{:06}", value / 1_000_000, value % 1_000_000)
        }
        Some(DisplayHint::Seconds(TimePrecision::Millis)) => {
            write!(text, "{}.{:03}", value / 1000, value % 1000)
        }
        _ => write!(text, "{value}"),
    }
}
