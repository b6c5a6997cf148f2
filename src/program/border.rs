//! Where a program meets floats: its input's quantization and its output's.

use super::codec::{Field as _, Reader, record};
use super::{Header, Program};

record! {
    /// What becomes of a feature before it is quantized: `(x - subtract) * multiply`.
    Feature {
        /// Taken off first, in the feature's unit; a standardised input's mean.
        subtract: f32,
        /// Factor; a standardised input's inverse standard deviation.
        multiply: f32,
    }
}

impl Program<'_> {
    /// Quantizes an input: element `i` is scaled as its feature (`i / inner % features`) says, where
    /// the program states features, then becomes `clamp(zero point + round(value / scale))`. Halves
    /// are rounded away from zero as TensorFlow Lite Micro's `Quantize` does, or to even as ONNX's
    /// `QuantizeLinear`, by the head's flag. A value that is not a number becomes the zero point.
    ///
    /// Where the head states planes, the input comes plane by plane, and its element of plane `p` and
    /// pixel `x` goes to `x * planes + p`.
    ///
    /// Elements beyond the shorter of the two slices stay as they are.
    pub fn quantize(&self, input: &[f32], elements: &mut [i8]) {
        let header = self.header();
        let mut places = Places::of(header);
        // Behind the last plane there are no places.
        let input = match header.input_planes {
            0 => input,
            _ => input.get(..header.input_len as usize).unwrap_or(input),
        };
        let inner = (header.feature_inner as usize).max(1);
        if header.feature_count == 0 {
            places.put(input, elements, |value| quantize(value, header));
            return;
        }
        let mut features = self.features();
        for values in input.chunks(inner) {
            let feature = features.next().or_else(|| {
                features = self.features();
                features.next()
            });
            // Verified programs state at least one.
            let Some(feature) = feature else { return };
            places.put(values, elements, |value| {
                quantize((value - feature.subtract) * feature.multiply, header)
            });
        }
    }

    /// The reals that an output stands for: `scale * (element - zero point)`.
    pub fn dequantize(&self, elements: &[i8], output: &mut [f32]) {
        let header = self.header();
        for (value, &element) in output.iter_mut().zip(elements) {
            let distance = i32::from(element) - i32::from(header.output_zero_point);
            *value = header.output_scale * distance as f32;
        }
    }

    /// How features are scaled before they are quantized; none where the input is quantized as it is.
    pub fn features(&self) -> impl Iterator<Item = Feature> + use<'_> {
        let header = self.header();
        let bytes = self.bytes().get(header.features as usize..);
        let mut reader = Reader::new(bytes.unwrap_or_default());
        (0..header.feature_count).map_while(move |_| Feature::read(&mut reader))
    }
}

/// Where the elements of an input go, one after the other.
struct Places {
    /// Where the next goes.
    next: usize,
    /// From one to the next of a plane.
    step: usize,
    /// Elements of the whole input.
    len: usize,
}

/// Elements that are quantized before they go to their places, so that the first becomes vector code.
const BLOCK: usize = 32;

impl Places {
    fn of(header: &Header) -> Self {
        Self {
            next: 0,
            step: usize::from(header.input_planes).max(1),
            len: header.input_len as usize,
        }
    }

    /// Puts further values into their places; what has none goes nowhere.
    fn put(&mut self, values: &[f32], elements: &mut [i8], of: impl Fn(f32) -> i8) {
        let side_by_side = self.step == 1;
        let most = if side_by_side { usize::MAX } else { BLOCK };
        for values in values.chunks(most) {
            let mut block = [0; BLOCK];
            let place = if side_by_side {
                elements.get_mut(self.next..).unwrap_or_default()
            } else {
                block.as_mut_slice()
            };
            let pairs = place.iter_mut().zip(values);
            pairs.for_each(|(element, &value)| *element = of(value));
            if side_by_side {
                self.next = self.next.saturating_add(values.len());
            } else {
                self.scatter(&block, values.len(), elements);
            }
        }
    }

    /// Puts the first `count` of quantized elements into their places.
    fn scatter(&mut self, block: &[i8; BLOCK], count: usize, elements: &mut [i8]) {
        for &quantized in block.iter().take(count) {
            if let Some(element) = elements.get_mut(self.next) {
                *element = quantized;
            }
            self.next = self.next.saturating_add(self.step);
            if self.next >= self.len {
                // The next plane begins an element after this one did.
                self.next = (self.next - self.len).saturating_add(1);
            }
        }
    }
}

/// `clamp(zero point + round(value / scale))`.
#[inline]
fn quantize(value: f32, header: &Header) -> i8 {
    // Written out so that it becomes vector code: what truncation takes off is exact.
    let scaled = (value / header.input_scale).clamp(-65536.0, 65536.0);
    let whole = scaled as i32;
    let rest = scaled - whole as f32;
    let to_even = header.flags & Header::HALF_TO_EVEN != 0;
    let stays = i32::from(to_even && whole & 1 == 0 && (rest == 0.5 || rest == -0.5));
    let away = i32::from(rest >= 0.5) - i32::from(rest <= -0.5);
    let nearest = whole + away * (1 - stays);
    (nearest + i32::from(header.input_zero_point)).clamp(-128, 127) as i8
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::super::codec::Writer;
    use super::super::{Aligned, HEADER_BYTES, MAGIC, ProgramError, VERSION};
    use super::*;

    /// A program without operators, whose output is its input.
    fn program(flags: u8, features: &[Feature], inner: u32) -> Aligned<u8> {
        let bytes = HEADER_BYTES + features.len() * Feature::BYTES;
        let header = Header {
            magic: MAGIC,
            version: VERSION,
            layout: 0,
            flags,
            bytes: bytes as u32,
            op_bytes: 0,
            op_count: 0,
            arena_bytes: 16,
            input: 0,
            input_len: 8,
            input_scale: 0.5,
            output: 0,
            output_len: 8,
            output_scale: 0.25,
            input_zero_point: 3,
            output_zero_point: -1,
            feature_count: features.len() as u16,
            features: if features.is_empty() {
                0
            } else {
                HEADER_BYTES as u32
            },
            feature_inner: inner,
            input_planes: 0,
            reserved: [0; 2],
        };
        let mut all = Aligned::zeros(bytes);
        let mut writer = Writer::new(all.as_mut());
        header.write(&mut writer).expect("there is room");
        for feature in features {
            feature.write(&mut writer).expect("there is room");
        }
        all
    }

    fn quantized(bytes: &Aligned<u8>, input: &[f32]) -> Vec<i8> {
        let mut elements = vec![0; input.len()];
        Program::verify(bytes.as_ref())
            .expect("it is well made")
            .quantize(input, &mut elements);
        elements
    }

    #[test]
    fn halves_go_where_the_flag_says() {
        let input = [
            0.25,
            -0.25,
            0.249_999_98,
            0.75,
            -0.75,
            1000.0,
            f32::NEG_INFINITY,
            f32::NAN,
        ];
        let away = quantized(&program(0, &[], 0), &input);
        assert_eq!(away, [4, 2, 3, 5, 1, 127, -128, 3]);
        let even = quantized(&program(Header::HALF_TO_EVEN, &[], 0), &input);
        assert_eq!(even, [3, 3, 3, 5, 1, 127, -128, 3]);
    }

    #[test]
    fn features_repeat_along_the_input() {
        let features = [
            Feature {
                subtract: 1.0,
                multiply: 0.5,
            },
            Feature {
                subtract: -2.0,
                multiply: 2.0,
            },
        ];
        let elements = quantized(&program(0, &features, 2), &[1.0, 3.0, 0.0, 1.0, 5.0, 1.0]);
        assert_eq!(elements, [3, 5, 11, 15, 7, 3]);
    }

    #[test]
    fn planes_become_pixels() {
        let mut bytes = program(0, &[], 0);
        let mut header = Header::read(&mut Reader::new(bytes.as_ref())).expect("it is there");
        (header.input_len, header.input_planes) = (105, 3);
        header.arena_bytes = 112;
        header
            .write(&mut Writer::new(bytes.as_mut()))
            .expect("there is room");
        // Three planes of 35 pixels.
        let input: Vec<f32> = (0..105).map(|at| 0.5 * at as f32).collect();
        let elements = quantized(&bytes, &input);
        let place = |at: usize| (at % 3 * 35 + at / 3 + 3) as i8;
        assert!((0..105).map(place).eq(elements.iter().copied()));
        // What is too long goes nowhere.
        let long: Vec<f32> = (0..200).map(|at| 0.5 * at as f32).collect();
        let elements = quantized(&bytes, &long);
        assert!((0..105).map(place).eq(elements.iter().take(105).copied()));
        assert_eq!(elements[105..], [0; 95]);
        header.input_planes = 2;
        header
            .write(&mut Writer::new(bytes.as_mut()))
            .expect("there is room");
        let refused = Program::verify(bytes.as_ref()).map(|_| ());
        let (field, value) = (super::super::verify::HeadField::InputPlanes, 2);
        assert_eq!(refused, Err(ProgramError::Head { field, value }));
    }

    #[test]
    fn outputs_are_reals_again() {
        let bytes = program(0, &[], 0);
        let mut output = [0.0; 3];
        let program = Program::verify(bytes.as_ref()).expect("it is well made");
        program.dequantize(&[-128, -1, 127], &mut output);
        assert_eq!(output, [-31.75, 0.0, 32.0]);
    }

    #[test]
    fn features_must_lie_in_the_program() {
        let feature = Feature {
            subtract: 0.0,
            multiply: 1.0,
        };
        let refused = |change: fn(&mut Header)| {
            let mut bytes = program(0, &[feature], 2);
            let mut header = Header::read(&mut Reader::new(bytes.as_ref())).expect("it is there");
            change(&mut header);
            header
                .write(&mut Writer::new(bytes.as_mut()))
                .expect("there is room");
            matches!(
                Program::verify(bytes.as_ref()),
                Err(ProgramError::Head { .. })
            )
        };
        assert!(!refused(|_| {}));
        assert!(refused(|header| header.feature_count = 2));
        assert!(refused(|header| header.features = 60));
        assert!(refused(|header| header.features = 66));
        assert!(refused(|header| header.feature_inner = 0));
        assert!(refused(|header| header.feature_count = 0));
    }
}
