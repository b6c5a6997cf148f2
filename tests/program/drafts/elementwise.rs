//! Operators of element on element: sums, products and lookups.

use super::*;

/// Two operands of a length, of which one may be shorter or constant.
fn pair(
    len: usize,
    builder: &mut Builder,
    random: &mut Random,
) -> ([Operand; 2], Vec<Vec<i8>>, [Vec<i8>; 2]) {
    let mut operands = [Operand {
        offset: 0,
        len: len as u32,
        constant: 0,
    }; 2];
    let mut values = [random.int8s(len), random.int8s(len)];
    let odd = random.below(2) as usize;
    match random.below(4) {
        0 => values[odd].truncate(1),
        1 => values[odd].truncate(1 + random.below(len as u64) as usize),
        2 => values[odd].truncate(len.min(1 + random.below(40) as usize)),
        _ => {}
    }
    operands[odd].len = values[odd].len() as u32;
    if random.below(3) == 0 {
        let bytes: Vec<u8> = values[odd].iter().map(|&value| value as u8).collect();
        builder.constant(&[0; 3], 1);
        (operands[odd].offset, operands[odd].constant) = (builder.constant(&bytes, 1), 1);
    }
    let arena = operands
        .iter()
        .zip(&values)
        .filter(|(operand, _)| operand.constant == 0);
    let inputs = arena.map(|(_, values)| values.clone()).collect();
    (operands, inputs, values)
}

fn repeated([a, b]: &[Vec<i8>; 2], len: usize) -> impl Iterator<Item = (i8, i8)> {
    (0..len).map(|index| (a[index % a.len()], b[index % b.len()]))
}

pub fn add(size: u16, random: &mut Random) -> Draft {
    let len = usize::from(extent(size * size, random));
    let mut builder = Builder::default();
    let ([a, b], inputs, values) = pair(len, &mut builder, random);
    let scale = add_scale(random);
    let expected = repeated(&values, len)
        .map(|(a, b)| sum(&scale, a, b))
        .collect();
    let op = Op::Add(Add {
        a,
        b,
        output: 0,
        len: len as u32,
        scale,
    });
    Draft::new(op, builder, inputs, expected)
}

pub fn mul(size: u16, random: &mut Random) -> Draft {
    let len = usize::from(extent(size * size, random));
    let mut builder = Builder::default();
    let ([a, b], inputs, values) = pair(len, &mut builder, random);
    let op = Mul {
        a,
        b,
        output: 0,
        len: len as u32,
        zero_a: random.int8(),
        zero_b: random.int8(),
        quantizer: quantizer(random),
        multiplier: random.between(1 << 30, i64::from(i32::MAX)) as i32,
        shift: random.between(-14, 1) as i8,
    };
    let expected = repeated(&values, len).map(|(a, b)| {
        let (a, b) = (
            i64::from(a) - i64::from(op.zero_a),
            i64::from(b) - i64::from(op.zero_b),
        );
        quantize(
            requantize(a * b, op.multiplier, i32::from(op.shift)),
            &op.quantizer,
        )
    });
    let expected = expected.collect();
    Draft::new(Op::Mul(op), builder, inputs, expected)
}

pub fn lookup(size: u16, random: &mut Random) -> Draft {
    let len = usize::from(extent(size * size, random));
    let data = random.int8s(len);
    let table: Vec<u8> = (0..256).map(|_| random.next() as u8).collect();
    let mut builder = Builder::default();
    builder.constant(&[7], 1);
    let table_at = builder.constant(&table, 1);
    let expected = data
        .iter()
        .map(|&value| table[(i32::from(value) + 128) as usize] as i8);
    let expected = expected.collect();
    let op = Lookup {
        input: 0,
        output: 0,
        len: data.len() as u32,
        table: table_at,
    };
    Draft::new(Op::Lookup(op), builder, vec![data], expected)
}
