//! What the head of a program must keep to.

use super::super::border::Feature;
use super::super::codec::Field as _;
use super::super::{HEADER_BYTES, Header, Layout, MAGIC, VERSION};
use super::{HeadField, MAX_ARENA, MAX_OPS, ProgramError};

/// Checks the head of a program of `len` bytes.
pub(super) fn check(header: &Header, len: usize) -> Result<Layout, ProgramError> {
    let require = |holds: bool, field: HeadField, value: u32| {
        if holds {
            Ok(())
        } else {
            Err(ProgramError::Head { field, value })
        }
    };
    let inside =
        |offset: u32, len: u32, end: u64| len > 0 && u64::from(offset) + u64::from(len) <= end;
    require(header.magic == MAGIC, HeadField::Magic, header.magic)?;
    let version = u32::from(header.version);
    require(header.version == VERSION, HeadField::Version, version)?;
    let layout = Layout::from_code(header.layout).ok_or(ProgramError::Head {
        field: HeadField::Layout,
        value: u32::from(header.layout),
    })?;
    let flags = header.flags;
    require(
        flags & !(Header::DISJOINT | Header::HALF_TO_EVEN) == 0,
        HeadField::Flags,
        u32::from(flags),
    )?;
    require(header.bytes as usize == len, HeadField::Bytes, header.bytes)?;
    let room = len.saturating_sub(HEADER_BYTES);
    require(
        header.op_bytes as usize <= room,
        HeadField::OpBytes,
        header.op_bytes,
    )?;
    require(
        header.op_count <= MAX_OPS,
        HeadField::OpCount,
        header.op_count,
    )?;
    let bytes = header.arena_bytes;
    require(bytes <= MAX_ARENA, HeadField::Arena, bytes)?;
    let arena = u64::from(bytes);
    let (input, output) = (header.input, header.output);
    require(
        inside(input, header.input_len, arena),
        HeadField::Input,
        input,
    )?;
    require(
        inside(output, header.output_len, arena),
        HeadField::Output,
        output,
    )?;
    for scale in [header.input_scale, header.output_scale] {
        require(
            scale.is_normal() && scale > 0.0,
            HeadField::Scale,
            scale.to_bits(),
        )?;
    }
    let features = HeadField::Features;
    require(features_hold(header, len), features, header.features)?;
    let planes = u32::from(header.input_planes);
    require(
        planes == 0 || header.input_len.is_multiple_of(planes),
        HeadField::InputPlanes,
        planes,
    )?;
    let reserved = header.reserved.iter().copied().max().unwrap_or(0);
    require(reserved == 0, HeadField::Reserved, u32::from(reserved))?;
    Ok(layout)
}

/// Whether the input's features lie among the constants, or are nowhere when there are none.
fn features_hold(header: &Header, len: usize) -> bool {
    let start = u64::from(header.features);
    let bytes = u64::from(header.feature_count) * Feature::BYTES as u64;
    let constants = HEADER_BYTES as u64 + u64::from(header.op_bytes);
    if bytes == 0 {
        return start == 0 && header.feature_inner == 0;
    }
    let inside = start >= constants && start + bytes <= len as u64;
    inside && start.is_multiple_of(4) && header.feature_inner > 0
}
