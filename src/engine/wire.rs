//! A first walk over an ONNX file, before anything is decoded from it.
//!
//! The protobuf decoder behind `onnx` is sound, but what it builds can be a hundred times larger than
//! the file (two bytes make a node), its errors name no offset, and what follows walks nested graphs
//! by recursion. So the bytes are walked once here, in place: every length inside its message, wire
//! types as ONNX has them, nesting and number of parts bounded.

use core::fmt;
use std::vec::Vec;

/// Deepest nesting of messages. A graph inside a node's attribute is three levels; most files have
/// seven.
pub const MAX_DEPTH: usize = 48;
/// Most parts in a file: messages, strings and byte fields. A part takes at most about a kilobyte
/// when decoded.
pub const MAX_PARTS: usize = 1 << 18;

/// What is wrong in the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WireFault {
    /// A number that does not end, or is longer than 64 bits.
    Number,
    /// A length that its message does not hold.
    Length {
        /// Bytes that it claims.
        claimed: u64,
        /// Bytes that there are.
        present: usize,
    },
    /// A wire type that protobuf does not have or ONNX does not use.
    WireType(u8),
    /// A message, by its field number, that comes as a number.
    NotAMessage,
    /// Field number 0 or over 2^29 - 1.
    FieldNumber,
    /// Deeper than [`MAX_DEPTH`].
    Depth,
    /// More than [`MAX_PARTS`] parts.
    Parts,
}

impl fmt::Display for WireFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number => f.write_str("a number does not end"),
            Self::Length { claimed, present } => {
                write!(f, "claims {claimed} bytes where {present} are left")
            }
            Self::WireType(kind) => write!(f, "wire type {kind} is none that ONNX uses"),
            Self::NotAMessage => f.write_str("a message was expected"),
            Self::FieldNumber => f.write_str("no such field number"),
            Self::Depth => write!(f, "nested deeper than {MAX_DEPTH} messages"),
            Self::Parts => write!(f, "more than {MAX_PARTS} parts in one file"),
        }
    }
}

/// Where something is wrong, and what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireError {
    /// The message, as `onnx.proto` calls it.
    pub message: &'static str,
    /// The field's number in it; 0 when it can't be read.
    pub field: u32,
    /// Where the field begins, in bytes from the start of the file.
    pub offset: usize,
    /// What is wrong.
    pub fault: WireFault,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            message,
            field,
            offset,
            fault,
        } = self;
        write!(f, "{message}, field {field} at byte {offset}: {fault}")
    }
}

/// Messages that hold messages, and those they hold, as `onnx.proto` numbers them.
const CHILDREN: &[(&str, u32, &str)] = &[
    ("ModelProto", 7, "GraphProto"),
    ("ModelProto", 8, "OperatorSetIdProto"),
    ("ModelProto", 14, "StringStringEntryProto"),
    ("ModelProto", 20, "TrainingInfoProto"),
    ("ModelProto", 25, "FunctionProto"),
    ("GraphProto", 1, "NodeProto"),
    ("GraphProto", 5, "TensorProto"),
    ("GraphProto", 11, "ValueInfoProto"),
    ("GraphProto", 12, "ValueInfoProto"),
    ("GraphProto", 13, "ValueInfoProto"),
    ("GraphProto", 14, "TensorAnnotation"),
    ("GraphProto", 15, "SparseTensorProto"),
    ("NodeProto", 5, "AttributeProto"),
    ("AttributeProto", 5, "TensorProto"),
    ("AttributeProto", 6, "GraphProto"),
    ("AttributeProto", 10, "TensorProto"),
    ("AttributeProto", 11, "GraphProto"),
    ("AttributeProto", 15, "TypeProto"),
    ("AttributeProto", 22, "SparseTensorProto"),
    ("AttributeProto", 23, "SparseTensorProto"),
    ("TensorProto", 3, "Segment"),
    ("TensorProto", 13, "StringStringEntryProto"),
    ("SparseTensorProto", 1, "TensorProto"),
    ("SparseTensorProto", 2, "TensorProto"),
    ("ValueInfoProto", 2, "TypeProto"),
    ("TypeProto", 1, "Tensor"),
    ("Tensor", 2, "TensorShapeProto"),
    ("TensorShapeProto", 1, "Dimension"),
    ("TensorAnnotation", 2, "StringStringEntryProto"),
    ("TrainingInfoProto", 1, "GraphProto"),
    ("TrainingInfoProto", 2, "GraphProto"),
    ("TrainingInfoProto", 3, "StringStringEntryProto"),
    ("TrainingInfoProto", 4, "StringStringEntryProto"),
    ("FunctionProto", 7, "NodeProto"),
    ("FunctionProto", 9, "OperatorSetIdProto"),
];

fn child(message: &str, field: u32) -> Option<&'static str> {
    CHILDREN
        .iter()
        .find(|(parent, number, _)| *number == field && *parent == message)
        .map(|(_, _, child)| *child)
}

/// Walks the whole file.
///
/// # Errors
/// [`WireError`] names message, field and offset of the first thing that is wrong.
pub fn check(bytes: &[u8]) -> Result<(), WireError> {
    let mut at = 0;
    let mut parts = 0;
    // Messages that are open, each with its end; never longer than MAX_DEPTH.
    let mut open: Vec<(&'static str, usize)> = Vec::with_capacity(MAX_DEPTH);
    open.push(("ModelProto", bytes.len()));
    while let Some(&(message, end)) = open.last() {
        if at == end {
            open.pop();
            continue;
        }
        let offset = at;
        let error = |field, fault| WireError {
            message,
            field,
            offset,
            fault,
        };
        // Ends lie within the file, since each was checked against its parent's.
        let rest = bytes.get(..end).unwrap_or_default();
        let key = number(rest, &mut at).ok_or(error(0, WireFault::Number))?;
        let field = u32::try_from(key >> 3)
            .ok()
            .filter(|field| (1..1 << 29).contains(field))
            .ok_or(error(0, WireFault::FieldNumber))?;
        let kind = (key & 7) as u8;
        let known = child(message, field);
        if known.is_some() && kind != 2 {
            return Err(error(field, WireFault::NotAMessage));
        }
        let claimed = match kind {
            0 => {
                number(rest, &mut at).ok_or(error(field, WireFault::Number))?;
                0
            }
            1 => 8,
            5 => 4,
            2 => {
                parts += 1;
                if parts > MAX_PARTS {
                    return Err(error(field, WireFault::Parts));
                }
                number(rest, &mut at).ok_or(error(field, WireFault::Number))?
            }
            other => return Err(error(field, WireFault::WireType(other))),
        };
        let present = end - at;
        let len = usize::try_from(claimed)
            .ok()
            .filter(|&len| len <= present)
            .ok_or(error(field, WireFault::Length { claimed, present }))?;
        match known {
            Some(_) if open.len() == MAX_DEPTH => return Err(error(field, WireFault::Depth)),
            Some(child) => open.push((child, at + len)),
            None => at += len,
        }
    }
    Ok(())
}

/// A base-128 number of at most 64 bits at `at`, which moves behind it.
fn number(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        if shift == 63 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}
