//! Golden vectors: inputs with the outputs that the release must reproduce before it may run.
//!
//! All numbers are little-endian: count, input length, output length (u32 each, lengths in values),
//! absolute tolerance (f32), then each vector: its inputs, its outputs (f32).

use super::error::{BundleError, BundleErrorKind as Kind, Field};

/// Bytes before the first vector.
pub const GOLDEN_HEADER_BYTES: usize = 16;

/// The golden vectors of a bundle, read in place.
#[derive(Debug, Clone, Copy)]
pub struct Golden<'a> {
    values: &'a [u8],
    count: u32,
    input_len: u32,
    output_len: u32,
    tolerance: f32,
}

/// Numbers in place; they need not be aligned.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a>(&'a [u8]);

/// One golden vector.
#[derive(Debug, Clone, Copy)]
pub struct GoldenVector<'a> {
    /// The input tensor, flat.
    pub input: Values<'a>,
    /// The output tensor that it must give, flat.
    pub output: Values<'a>,
}

impl<'a> Golden<'a> {
    /// Reads the section and checks its sizes and that every number is finite.
    ///
    /// # Errors
    /// Names the first field that is wrong, and its offset in the section.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BundleError> {
        let Some((header, values)) = bytes.split_first_chunk::<GOLDEN_HEADER_BYTES>() else {
            return Err(BundleError::at(Field::Golden, bytes.len(), Kind::Truncated));
        };
        let word = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
        let golden = Self {
            values,
            count: u32::from_le_bytes(word(0)),
            input_len: u32::from_le_bytes(word(4)),
            output_len: u32::from_le_bytes(word(8)),
            tolerance: f32::from_le_bytes(word(12)),
        };
        for (field, offset, value) in [
            (Field::GoldenCount, 0, golden.count),
            (Field::GoldenInputLen, 4, golden.input_len),
            (Field::GoldenOutputLen, 8, golden.output_len),
        ] {
            if value == 0 {
                return Err(BundleError::at(field, offset, Kind::Empty));
            }
        }
        if !(golden.tolerance.is_finite() && golden.tolerance >= 0.0) {
            return Err(BundleError::at(
                Field::GoldenTolerance,
                12,
                Kind::OutOfRange,
            ));
        }
        // Two lengths of 32 bits and a count of 32 bits: their product needs more than 64.
        let vector = (u128::from(golden.input_len) + u128::from(golden.output_len)) * 4;
        let needed = vector * u128::from(golden.count);
        if (values.len() as u128) < needed {
            return Err(BundleError::at(Field::Golden, bytes.len(), Kind::Truncated));
        }
        if values.len() as u128 > needed {
            // It fits, since it is less than the length of a slice.
            let end = GOLDEN_HEADER_BYTES + needed as usize;
            return Err(BundleError::at(Field::Golden, end, Kind::Trailing));
        }
        if let Some(index) = Values(values).iter().position(|value| !value.is_finite()) {
            let at = GOLDEN_HEADER_BYTES + 4 * index;
            return Err(BundleError::at(Field::GoldenValue, at, Kind::NotFinite).index(index));
        }
        Ok(golden)
    }

    /// How many vectors there are; at least one.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Values of an input.
    #[must_use]
    pub fn input_len(&self) -> usize {
        self.input_len as usize
    }

    /// Values of an output.
    #[must_use]
    pub fn output_len(&self) -> usize {
        self.output_len as usize
    }

    /// How far an output may be from its golden value.
    #[must_use]
    pub fn tolerance(&self) -> f32 {
        self.tolerance
    }

    /// The vectors.
    pub fn iter(&self) -> impl Iterator<Item = GoldenVector<'a>> + use<'a> {
        let input = 4 * self.input_len();
        let vector = input + 4 * self.output_len();
        self.values.chunks_exact(vector).map(move |bytes| {
            let (input, output) = bytes.split_at(input);
            GoldenVector {
                input: Values(input),
                output: Values(output),
            }
        })
    }
}

impl GoldenVector<'_> {
    /// The largest distance between `output` and the golden one; none when the lengths differ or a
    /// value is NaN.
    #[must_use]
    pub fn distance(&self, output: &[f32]) -> Option<f32> {
        if output.len() != self.output.len() {
            return None;
        }
        let mut most = 0.0_f32;
        for (value, golden) in output.iter().zip(self.output.iter()) {
            let distance = libm::fabsf(value - golden);
            if distance.is_nan() {
                return None;
            }
            most = most.max(distance);
        }
        Some(most)
    }
}

impl<'a> Values<'a> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len() / 4
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values in order.
    pub fn iter(&self) -> impl Iterator<Item = f32> + use<'a> {
        let (words, _) = self.0.as_chunks::<4>();
        words.iter().map(|word| f32::from_le_bytes(*word))
    }
}

/// Writes the section. Each vector is its input and its output.
///
/// # Errors
/// What [`Golden::parse`] would object to, and vectors of unequal lengths.
#[cfg(any(test, feature = "std"))]
pub fn encode_golden(
    tolerance: f32,
    vectors: &[(Vec<f32>, Vec<f32>)],
) -> Result<Vec<u8>, BundleError> {
    let (input, output) = vectors
        .first()
        .map_or((0, 0), |(input, output)| (input.len(), output.len()));
    let mut bytes = Vec::new();
    for (field, value) in [
        (Field::GoldenCount, vectors.len()),
        (Field::GoldenInputLen, input),
        (Field::GoldenOutputLen, output),
    ] {
        let value = u32::try_from(value).map_err(|_| BundleError::value(field, Kind::TooMany))?;
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend(tolerance.to_le_bytes());
    for (index, vector) in vectors.iter().enumerate() {
        if vector.0.len() != input || vector.1.len() != output {
            return Err(BundleError::value(Field::Golden, Kind::OutOfRange).index(index));
        }
        for value in vector.0.iter().chain(&vector.1) {
            bytes.extend(value.to_le_bytes());
        }
    }
    Golden::parse(&bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors() -> Vec<(Vec<f32>, Vec<f32>)> {
        vec![
            (vec![1.0, -2.0, 3.5], vec![0.25, 0.75]),
            (vec![0.0, f32::MIN_POSITIVE, f32::MAX], vec![1.0, 0.0]),
        ]
    }

    fn says(at: usize, word: [u8; 4]) -> String {
        let mut bytes = encode_golden(0.01, &vectors()).unwrap();
        bytes[at..at + 4].copy_from_slice(&word);
        Golden::parse(&bytes).unwrap_err().to_string()
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = encode_golden(0.01, &vectors()).unwrap();
        assert_eq!(bytes.len(), GOLDEN_HEADER_BYTES + 2 * 5 * 4);
        let golden = Golden::parse(&bytes).unwrap();
        assert_eq!((golden.count(), golden.tolerance()), (2, 0.01));
        assert_eq!((golden.input_len(), golden.output_len()), (3, 2));
        let read: Vec<_> = golden
            .iter()
            .map(|vector| {
                (
                    vector.input.iter().collect(),
                    vector.output.iter().collect(),
                )
            })
            .collect();
        assert_eq!(read, vectors());
    }

    #[test]
    fn a_distance_needs_as_many_numbers() {
        let bytes = encode_golden(0.01, &vectors()).unwrap();
        let first = Golden::parse(&bytes).unwrap().iter().next().unwrap();
        assert_eq!(first.distance(&[0.25, 0.75]), Some(0.0));
        assert_eq!(first.distance(&[0.5, 0.5]), Some(0.25));
        assert_eq!(first.distance(&[0.25, f32::INFINITY]), Some(f32::INFINITY));
        assert_eq!(first.distance(&[f32::NAN, 0.75]), None);
        assert_eq!(first.distance(&[0.25]), None);
        assert_eq!(first.distance(&[0.25, 0.75, 0.0]), None);
    }

    #[test]
    fn errors_name_field_and_offset() {
        let zero = [0; 4];
        assert_eq!(says(0, zero), "golden.count at byte 0: empty");
        assert_eq!(says(4, zero), "golden.input_len at byte 4: empty");
        assert_eq!(says(8, zero), "golden.output_len at byte 8: empty");
        for value in [-1.0, f32::NAN, f32::INFINITY] {
            let expected = "golden.tolerance at byte 12: out of range";
            assert_eq!(says(12, value.to_le_bytes()), expected);
        }
        assert_eq!(
            says(24, f32::NAN.to_le_bytes()),
            "golden.values[2] at byte 24: not a finite number"
        );
        assert_eq!(
            says(0, [1, 0, 0, 0]),
            "golden at byte 36: bytes follow that belong to nothing"
        );
        for at in [0, 4, 8] {
            assert_eq!(says(at, [0xff; 4]), "golden at byte 56: the bytes end here");
        }
        let bytes = encode_golden(0.0, &vectors()).unwrap();
        for len in 0..bytes.len() {
            assert!(Golden::parse(&bytes[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn what_cannot_be_read_cannot_be_written() {
        assert!(encode_golden(0.0, &[]).is_err());
        assert!(encode_golden(-0.5, &vectors()).is_err());
        let mut uneven = vectors();
        uneven[1].0.pop();
        assert!(encode_golden(0.0, &uneven).is_err());
        uneven = vectors();
        uneven[1].1[0] = f32::NAN;
        assert!(encode_golden(0.0, &uneven).is_err());
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = Golden::parse(&bytes);
        }

        /// Whatever parses has as many finite vectors as it says, of the lengths it says.
        #[test]
        fn damaged_sections_are_errors_or_whole(
            edits in proptest::collection::vec((0..60_usize, proptest::prelude::any::<u8>()), 1..4),
        ) {
            let mut bytes = encode_golden(0.25, &vectors()).unwrap();
            proptest::prop_assert!(Golden::parse(&bytes).is_ok(), "whole before it is damaged");
            for (at, value) in edits {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            if let Ok(golden) = Golden::parse(&bytes) {
                proptest::prop_assert!(golden.tolerance() >= 0.0);
                proptest::prop_assert_eq!(golden.iter().count(), golden.count() as usize);
                for vector in golden.iter() {
                    proptest::prop_assert_eq!(vector.input.iter().count(), golden.input_len());
                    proptest::prop_assert!(vector.input.iter().all(f32::is_finite));
                }
            }
        }
    }
}
