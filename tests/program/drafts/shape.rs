//! Operators that look at a plane, a row or an order of axes.

use super::*;

pub fn pool(size: u16, random: &mut Random) -> Draft {
    // Now and then the average of more than 255 elements.
    let large = random.below(12) == 0;
    let mut input = plane(size, random);
    if large {
        (input.height, input.width) = (15 + extent(4, random), 17 + extent(4, random));
        input.channels = extent(9, random);
    }
    let (mut window, mut height, mut width) = window(&input, Sweep::Pool, random);
    if large {
        window = Window {
            kernel_h: input.height,
            kernel_w: input.width,
            stride_h: 1 + random.below(2) as u8,
            stride_w: 1,
            pad_top: 2,
            pad_left: random.below(3) as u16,
            ..window
        };
        // Such as see a part of the input.
        (height, width) = (1 + extent(2, random), extent(3, random));
    }
    let output = Plane {
        height,
        width,
        ..input
    };
    let limits = quantizer(random);
    let maximum = if large { 0 } else { random.below(2) as u8 };
    let op = Pool {
        input,
        output,
        window,
        maximum,
        min: limits.min,
        max: limits.max,
    };
    let data = random.int8s(elements(&input));
    let field = Padded::new(&data, &input, &output, &window);
    let mut expected = Vec::new();
    for y in 0..usize::from(height) {
        for x in 0..usize::from(width) {
            for c in 0..usize::from(input.channels) {
                let seen: Vec<i8> = taps(&window, y, x)
                    .filter_map(|[.., y, x]| field.at(y, x, c))
                    .collect();
                let value = if maximum == 1 {
                    *seen.iter().max().expect("a window sees something")
                } else {
                    let total = seen.iter().map(|&value| i128::from(value)).sum();
                    nearest_away(total, seen.len() as i128) as i8
                };
                expected.push(value.clamp(limits.min, limits.max));
            }
        }
    }
    Draft::new(Op::Pool(op), Builder::default(), vec![data], expected)
}

pub fn mean(size: u16, random: &mut Random) -> Draft {
    let input = plane(size, random);
    let op = Mean {
        input,
        output: 0,
        input_zero_point: random.int8(),
        quantizer: quantizer(random),
        multiplier: random.between(1 << 29, i64::from(i32::MAX)) as i32,
        shift: random.between(-8, 1) as i8,
    };
    let data = random.int8s(elements(&input));
    let channels = usize::from(input.channels);
    let expected = (0..channels).map(|c| {
        let values = data.iter().skip(c).step_by(channels);
        let total = values
            .map(|&value| i64::from(value) - i64::from(op.input_zero_point))
            .sum();
        quantize(
            requantize(total, op.multiplier, i32::from(op.shift)),
            &op.quantizer,
        )
    });
    let expected = expected.collect();
    Draft::new(Op::Mean(op), Builder::default(), vec![data], expected)
}

/// A permutation of axes of a part of a tensor: what slices, transposes and concatenations need.
pub fn copy(size: u16, random: &mut Random) -> Draft {
    let shape = [(); 4].map(|()| extent(size.min(5), random));
    let steps = [(); 4].map(|()| 1 + random.below(2) as u32);
    let mut order = [0, 1, 2, 3];
    for index in (1..4).rev() {
        order.swap(index, random.below(index as u64 + 1) as usize);
    }
    let mut strides = [0; 4];
    let mut len = 1;
    for axis in order {
        strides[axis] = len * steps[axis];
        len *= u32::from(shape[axis]) * steps[axis];
    }
    let mut output_strides = [1; 4];
    for axis in (0..3).rev() {
        output_strides[axis] = output_strides[axis + 1] * u32::from(shape[axis + 1]);
    }
    let data = random.int8s(len as usize);
    let mut expected = Vec::new();
    let [a, b, c, d] = shape.map(u32::from);
    for index in 0..a * b * c * d {
        let at = [
            index / (b * c * d),
            index / (c * d) % b,
            index / d % c,
            index % d,
        ];
        let from: u32 = at
            .iter()
            .zip(strides)
            .map(|(index, stride)| index * stride)
            .sum();
        expected.push(data[from as usize]);
    }
    let op = Op::Copy(Copy {
        input: 0,
        output: 0,
        shape,
        input_strides: strides,
        output_strides,
    });
    Draft::new(op, Builder::default(), vec![data], expected)
}

pub fn fill(size: u16, random: &mut Random) -> Draft {
    let len = extent(size * size, random);
    let value = random.int8();
    let op = Op::Fill(Fill {
        output: 0,
        len: u32::from(len),
        value,
    });
    let expected = vec![value; usize::from(len)];
    Draft::new(op, Builder::default(), Vec::new(), expected)
}

pub fn softmax(size: u16, random: &mut Random) -> Draft {
    let (rows, columns) = (extent(size, random), extent(size * size, random));
    let scale = (random.between(-90, 10) as f64 / 10.0).exp2();
    let mut op = softmax_op(rows, columns, scale);
    if random.below(3) == 0 {
        // Whatever the verifier takes.
        op.multiplier = random.between(1 << 30, i64::from(i32::MAX)) as i32;
        op.shift = random.between(18, 23) as i8;
        op.difference_min = -(random.below(256) as i32);
    }
    let data = random.int8s(usize::from(rows) * usize::from(columns));
    let vectors = data.chunks_exact(usize::from(columns));
    let expected = vectors
        .flat_map(|values| reference::softmax(&op, values))
        .collect();
    Draft::new(Op::Softmax(op), Builder::default(), vec![data], expected)
}
