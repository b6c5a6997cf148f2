//! Axes, broadcasting and shapes mean in a program what they mean in ONNX, where extents are such that
//! another axis would fit as well; and what means nothing is refused.

use super::Builder;
use super::import;
use crate::{Options, compile};
use edgeward::program::{Aligned, Portable, Program};

/// A model's output on a row of floats.
fn run(model: &[u8], input: &[f32]) -> Vec<f32> {
    let compiled = compile(model, &Options::linux()).unwrap_or_else(|error| panic!("{error}"));
    let bytes = Aligned::copy_of(&compiled.program);
    let program = Program::verify(bytes.as_ref()).expect("the compiler verified it");
    let header = *program.header();
    assert_eq!(input.len(), header.input_len as usize);
    let mut arena = Aligned::zeros(header.arena_bytes as usize);
    let arena = arena.as_mut();
    program.quantize(input, &mut arena[header.input as usize..][..input.len()]);
    let ran = program.run(&mut Portable, arena);
    ran.expect("the arena is as the program wants it");
    let mut output = vec![0.0; header.output_len as usize];
    program.dequantize(&arena[header.output as usize..], &mut output);
    output
}

/// Why a model is refused, by import or later.
fn refusal(model: &[u8]) -> String {
    let error = compile(model, &Options::linux()).map(|_| ());
    error.expect_err("it is refused").to_string()
}

/// Numbers that the scale of tests holds exactly, no two neighbours alike.
fn halves(count: usize) -> Vec<f32> {
    (0..count)
        .map(|at| (at * 37 % 101) as f32 * 0.5 - 25.0)
        .collect()
}

/// `from` quantized as a softmax and dequantized as `to`.
fn probabilities(builder: Builder, from: &str, to: &str) -> Builder {
    let between = format!("{from}_q");
    builder
        .scale("p", 1.0 / 256.0, -128)
        .node("QuantizeLinear", &[from, "p", "pz"], &between)
        .node("DequantizeLinear", &[&between, "p", "pz"], to)
}

fn is_softmax_of(output: &[f32], logits: &[f32]) {
    let sum: f32 = logits.iter().map(|x| x.exp()).sum();
    let wanted = logits.iter().map(|x| x.exp() / sum);
    assert_eq!(output.len(), logits.len());
    for (wanted, output) in wanted.zip(output) {
        assert!((wanted - output).abs() < 0.006, "{output:?} of {logits:?}");
    }
}

/// An axis with only axes of one behind it is where the vectors lie.
#[test]
fn a_softmax_of_channels_alone_is_one_of_vectors() {
    let logits = [1.0, 2.5, 0.0, -1.0];
    let image: Vec<f32> = logits.iter().flat_map(|&x| [x; 4]).collect();
    // Version, axis.
    let kinds = [
        (13, Some(1)),
        (13, Some(-3)),
        (12, Some(1)),
        (12, None),
        (11, Some(-3)),
    ];
    for (version, axis) in kinds {
        let softmax = |builder: Builder, rank: i64| {
            let builder = builder.node("Softmax", &["f"], "m");
            match axis {
                Some(axis @ 0..) => builder.ints("axis", &[axis]),
                Some(_) => builder.ints("axis", &[1 - rank]),
                None => builder,
            }
        };
        let image_model = Builder::new(&[1, 4, 2, 2])
            .edge("x", "a")
            .node("GlobalAveragePool", &["a"], "g")
            .edge("g", "f");
        let line_model = Builder::new(&[1, 4, 4])
            .edge("x", "a")
            .node("GlobalAveragePool", &["a"], "g")
            .edge("g", "f");
        for (model, rank) in [(image_model, 4), (line_model, 3)] {
            let model = probabilities(softmax(model, rank), "m", "y").of_version(version);
            is_softmax_of(&run(&model, &image), &logits);
            let graph = import(&model).expect("it is fully int8");
            let shape = [&[1, 4][..], &vec![1; rank as usize - 2]].concat();
            assert_eq!(graph.tensor(graph.outputs[0]).shape, shape);
        }
    }
    let plain = Builder::new(&[1, 4, 1, 1])
        .edge("x", "f")
        .node("Softmax", &["f"], "m");
    let plain = probabilities(plain.ints("axis", &[1]), "m", "y").bytes();
    is_softmax_of(&run(&plain, &logits), &logits);
    let other = Builder::new(&[1, 4, 2, 1])
        .edge("x", "f")
        .node("Softmax", &["f"], "m");
    let other = probabilities(other.ints("axis", &[1]), "m", "y").bytes();
    assert!(refusal(&other).contains("another axis"));
}

/// Before version 13 a softmax was one over everything from its axis on.
#[test]
fn a_softmax_of_old_is_over_all_that_is_behind_its_axis() {
    let logits = [1.0, 2.5, 0.0, -1.0];
    let old = Builder::new(&[1, 2, 2])
        .edge("x", "f")
        .node("Softmax", &["f"], "m");
    let old = probabilities(old, "m", "y");
    is_softmax_of(&run(&old.of_version(12), &logits), &logits);
    let new = Builder::new(&[1, 2, 2])
        .edge("x", "f")
        .node("Softmax", &["f"], "m");
    let output = run(&probabilities(new, "m", "y").bytes(), &logits);
    is_softmax_of(&output[..2], &logits[..2]);
    is_softmax_of(&output[2..], &logits[2..]);
    // ONNX Runtime's own names the version that it has the meaning of.
    let contributed = |shape: &[i64], opset| {
        Builder::new(shape)
            .scale("p", 1.0 / 256.0, -128)
            .node("QuantizeLinear", &["x", "s", "sz"], "q")
            .node("QLinearSoftmax", &["q", "s", "sz", "p", "pz"], "m")
            .contributed()
            .ints("axis", &[1])
            .ints("opset", &[opset])
            .node("DequantizeLinear", &["m", "p", "pz"], "y")
            .bytes()
    };
    is_softmax_of(&run(&contributed(&[1, 4, 1, 1], 13), &logits), &logits);
    is_softmax_of(&run(&contributed(&[1, 4, 1, 1], 12), &logits), &logits);
    is_softmax_of(&run(&contributed(&[1, 2, 2], 12), &logits), &logits);
    assert!(refusal(&contributed(&[1, 2, 2], 13)).contains("another axis"));
    assert!(refusal(&contributed(&[1, 4], 0)).contains("no opset"));
}

/// A convolution that leaves its input `[1, c, h, w]` as it is, with channels last in the graph.
fn kept(shape: [usize; 4]) -> Builder {
    let channels = shape[1];
    let identity = (0..channels * channels).map(|at| i8::from(at % (channels + 1) == 0));
    let identity: Vec<i8> = identity.collect();
    let dims = [channels as i64, channels as i64, 1, 1];
    Builder::new(&shape.map(|extent| extent as i64))
        .int8("w", &dims, &identity)
        .scale("one", 1.0, 0)
        .edge("x", "a")
        .node("DequantizeLinear", &["w", "one", "onez"], "wr")
        .node("Conv", &["a", "wr"], "c")
        .edge("c", "k")
}

/// Index along each of the four axes.
fn places([_, c, h, w]: [usize; 4]) -> impl Iterator<Item = [usize; 3]> {
    (0..c * h * w).map(move |at| [at / w / h, at / w % h, at % w])
}

/// An operand of fewer axes goes along the last ones, whatever lies last in the graph.
#[test]
fn an_operand_of_fewer_axes_goes_along_the_last() {
    for shape in [[1, 4, 4, 4], [1, 2, 3, 5]] {
        let [_, c, h, w] = shape;
        let input = halves(c * h * w);
        let at = |[i, j, k]: [usize; 3]| (i * h + j) * w + k;
        // A part of the input, and what it is reshaped to.
        let parts = [
            ([1, 1, 1, w], vec![1, w]),
            ([1, 1, 1, w], vec![w]),
            ([1, 1, h, w], vec![h, w]),
            ([1, c, h, w], vec![c, h, w]),
            ([1, c, 1, 1], vec![c, 1, 1]),
            ([1, c, 1, 1], vec![1, c, 1, 1]),
        ];
        for (part, reshaped) in parts {
            let longs = |dims: &[usize]| dims.iter().map(|&it| it as i64).collect::<Vec<_>>();
            let dims = longs(&reshaped);
            let model = |convolved: &str| {
                kept(shape)
                    .longs("from", &[0; 4])
                    .longs("to", &longs(&part))
                    .longs("dims", &dims)
                    .node("Slice", &["a", "from", "to"], "part")
                    .node("Reshape", &["part", "dims"], "few")
                    .node("Sub", &["few", convolved], "sum")
                    .edge("sum", "y")
                    .bytes()
            };
            // With the product of a convolution, which has its channels last, and with the input.
            for convolved in ["k", "a"] {
                let output = run(&model(convolved), &input);
                let wanted = places(shape).map(|it| {
                    let [i, j, k] = core::array::from_fn(|axis| it[axis] % part[axis + 1]);
                    (input[at([i, j, k])] - input[at(it)]).clamp(-65.5, 62.0)
                });
                let wanted: Vec<f32> = wanted.collect();
                assert_eq!(output, wanted, "{reshaped:?} from {convolved} {shape:?}");
            }
        }
    }
}

/// The same for constants, and for one with more axes than its other operand.
#[test]
fn a_constant_goes_along_the_axes_that_its_shape_has() {
    let shape = [1, 4, 4, 4];
    let input = halves(64);
    let steps = [-2.0, 0.0, 1.0, 127.0 / 64.0];
    let rounded: Vec<f32> = steps.iter().map(|x| (x * 2.0_f32).round() / 2.0).collect();
    for (dims, axis) in [
        (vec![4], 2),
        (vec![1, 4], 2),
        (vec![4, 1], 1),
        (vec![4, 1, 1], 0),
    ] {
        for of in ["k", "a"] {
            let longs: Vec<i64> = dims.clone();
            let model = kept(shape)
                .float("steps", &longs, &rounded)
                .node("Add", &[of, "steps"], "sum")
                .edge("sum", "y");
            let model = model.bytes();
            // Programs repeat what is the end of the other operand, in one order or the other.
            if axis == 1 {
                assert!(refusal(&model).contains("last axes"), "{dims:?}");
                continue;
            }
            let output = run(&model, &input);
            let wanted = places(shape)
                .zip(&input)
                .map(|(it, x)| x + rounded[it[axis]]);
            for (wanted, output) in wanted.zip(output) {
                assert!(
                    (wanted - output).abs() <= 0.5,
                    "{wanted} {output} {dims:?} {of}"
                );
            }
        }
    }
    let more = Builder::new(&[1, 3])
        .float("c", &[1, 1, 3], &[1.0, 2.0, 4.0])
        .edge("x", "a")
        .node("Sub", &["a", "c"], "m")
        .edge("m", "y");
    let graph = import(&more.bytes()).expect("it is fully int8");
    assert_eq!(graph.tensor(graph.outputs[0]).shape, [1, 1, 3]);
}

/// Integers are padded with integers, and reals with what stands for the number that is given.
#[test]
fn integers_are_padded_with_integers() {
    let model = |kind: &str, constant: &[&str]| {
        let (scale, zero) = (format!("{kind}s"), format!("{kind}z"));
        Builder::new(&[1, 2])
            .float("is", &[], &[0.5])
            .int8("iz", &[], &[3])
            .float("us", &[], &[0.5])
            .uint8("uz", &[], &[100])
            .longs("pads", &[0, 1, 0, 1])
            .int8("seven", &[], &[7])
            .uint8("many", &[], &[200])
            .node("QuantizeLinear", &["x", &scale, &zero], "q")
            .node("Pad", &[&["q", "pads"], constant].concat(), "p")
            .node("DequantizeLinear", &["p", &scale, &zero], "y")
            .bytes()
    };
    let cases = [
        ("i", &[][..], -1.5),
        ("i", &["seven"], 2.0),
        ("u", &[], -50.0),
        ("u", &["many"], 50.0),
    ];
    for (kind, constant, pad) in cases {
        let output = run(&model(kind, constant), &[1.0, -2.0]);
        assert_eq!(output, [pad, 1.0, -2.0, pad], "{kind} {constant:?}");
    }
    for (kind, constant) in [("u", "seven"), ("i", "many"), ("i", "is")] {
        assert!(
            refusal(&model(kind, &[constant])).contains("another type"),
            "{kind} {constant}"
        );
    }
    let real = |value: f32| {
        Builder::new(&[1, 2])
            .longs("pads", &[0, 1, 0, 1])
            .float("c", &[], &[value])
            .edge("x", "a")
            .node("Pad", &["a", "pads", "c"], "p")
            .edge("p", "y")
            .bytes()
    };
    assert_eq!(run(&real(4.5), &[1.0, -2.0]), [4.5, 1.0, -2.0, 4.5]);
    // The least of floats is below whatever a maximum is taken of.
    let least = run(&real(f32::MIN), &[1.0, -2.0]);
    assert_eq!(least, [-65.5, 1.0, -2.0, -65.5]);
    assert_eq!(run(&real(f32::NEG_INFINITY), &[1.0, -2.0]), least);
    assert!(refusal(&real(-70.0)).contains("beyond the range"));
    assert!(refusal(&real(f32::NAN)).contains("beyond the range"));
}

fn product(input: &[i64], weights: &[i64]) -> Builder {
    let count = weights.iter().product::<i64>();
    let ones = vec![1; count as usize];
    Builder::new(input)
        .int8("w", weights, &ones)
        .scale("ws", 1.0, 0)
        .edge("x", "a")
        .node("DequantizeLinear", &["w", "ws", "wsz"], "wr")
}

/// What is added to a product of matrices is a bias where it is one number an output, whatever its length.
#[test]
fn only_one_number_an_output_is_a_bias() {
    let added = |dims: &[i64]| {
        let count = dims.iter().product::<i64>() as usize;
        product(&[1, 3, 2], &[2, 3])
            .float("b", dims, &[1.0, 2.0, 4.0, 8.0][..count])
            .node("MatMul", &["a", "wr"], "m")
            .node("Add", &["m", "b"], "n")
            .edge("n", "y")
            .bytes()
    };
    let input = [1.0, 0.0, 2.0, 0.0, 3.0, 0.0];
    for dims in [&[3][..], &[1, 3], &[1, 1, 3]] {
        let wanted = [2.0, 3.0, 5.0, 3.0, 4.0, 6.0, 4.0, 5.0, 7.0];
        assert_eq!(run(&added(dims), &input), wanted, "{dims:?}");
    }
    assert_eq!(
        run(&added(&[]), &input),
        [2.0, 2.0, 2.0, 3.0, 3.0, 3.0, 4.0, 4.0, 4.0]
    );
    for dims in [&[3, 1][..], &[1, 3, 1], &[1, 1, 1, 3]] {
        let why = refusal(&added(dims));
        assert!(why.contains("to a product with 3 outputs"), "{why}");
    }
    let gemm = |dims: &[i64]| {
        product(&[1, 6], &[2, 3])
            .longs("rows", &[3, 2])
            .float("b", dims, &[1.0, 2.0, 4.0])
            .node("Reshape", &["a", "rows"], "r")
            .node("Gemm", &["r", "wr", "b"], "n")
            .edge("n", "y")
            .bytes()
    };
    assert_eq!(run(&gemm(&[1, 3]), &input), run(&added(&[3]), &input));
    let why = refusal(&gemm(&[3, 1]));
    assert!(why.contains("its bias b is [3, 1] for 3 outputs"), "{why}");
}

/// A batch of one before the weights is an axis of the product.
#[test]
fn weights_with_a_batch_of_one_give_a_product_with_one() {
    let model = product(&[1, 2], &[1, 2, 3])
        .node("MatMul", &["a", "wr"], "m")
        .edge("m", "y");
    let graph = import(&model.bytes()).expect("it is fully int8");
    assert_eq!(graph.tensor(graph.outputs[0]).shape, [1, 1, 3]);
}

/// Two convolutions in integer form with one bias: each has it at the scale of its own sums.
#[test]
fn a_bias_that_two_layers_share_has_the_scale_of_each() {
    let model = Builder::new(&[1, 1, 1, 1])
        .int8("w", &[1, 1, 1, 1], &[1])
        .scale("fine", 0.25, 0)
        .scale("coarse", 2.0, 0)
        .int32("b", &[1], &[8])
        .node("QuantizeLinear", &["x", "s", "sz"], "q")
        .node(
            "QLinearConv",
            &["q", "s", "sz", "w", "fine", "finez", "s", "sz", "b"],
            "f",
        )
        .node(
            "QLinearConv",
            &["q", "s", "sz", "w", "coarse", "coarsez", "s", "sz", "b"],
            "c",
        )
        .node("DequantizeLinear", &["f", "s", "sz"], "fr")
        .node("DequantizeLinear", &["c", "s", "sz"], "cr")
        .node("Sub", &["cr", "fr"], "d")
        .edge("d", "y");
    // 8 at 0.5 * 2 is 8, at 0.5 * 0.25 it is 1.
    assert_eq!(run(&model.bytes(), &[0.0]), [7.0]);
}

/// Extents whose product no integer holds, and what would be drawn from a shape of nothing.
#[test]
fn shapes_and_steps_without_end_are_no_arithmetic() {
    let conv = |dims: &[i64], dilation: i64| {
        Builder::new(&[1, 1, 9, 1])
            .int8("w", dims, &[])
            .scale("ws", 0.25, 0)
            .edge("x", "a")
            .node("DequantizeLinear", &["w", "ws", "wsz"], "wr")
            .node("Conv", &["a", "wr"], "c")
            .ints("dilations", &[dilation, 1])
            .edge("c", "y")
            .bytes()
    };
    let why = refusal(&conv(&[0, 1, 1 << 62, 1], 5));
    assert!(why.contains("too large"), "{why}");
    refusal(&conv(&[0, 1, 3, 1], 1));
    let pool = Builder::new(&[1, 1, 9, 1])
        .edge("x", "a")
        .node("MaxPool", &["a"], "y")
        .ints("kernel_shape", &[1 << 62, 1])
        .ints("dilations", &[5, 1]);
    let why = refusal(&pool.bytes());
    assert!(why.contains("do not fit its input"), "{why}");
    // A step from one element leads nowhere, however long it is.
    let slice = Builder::new(&[1, 9, 4])
        .longs("from", &[2])
        .longs("to", &[9])
        .longs("axes", &[1])
        .longs("steps", &[i64::MAX])
        .edge("x", "a")
        .node("Slice", &["a", "from", "to", "axes", "steps"], "y");
    let input = halves(36);
    assert_eq!(run(&slice.bytes(), &input), input[8..12]);
}

/// A convolution's bias has one axis, and an element an output.
#[test]
fn a_bias_of_another_shape_is_none_of_a_convolution() {
    let conv = |dims: &[i64]| {
        let count = dims.iter().product::<i64>() as usize;
        Builder::new(&[1, 1, 1, 1])
            .int8("w", &[2, 1, 1, 1], &[1, 2])
            .scale("ws", 0.25, 0)
            .float("b", dims, &[1.0, 2.0][..count])
            .edge("x", "a")
            .node("DequantizeLinear", &["w", "ws", "wsz"], "wr")
            .node("Conv", &["a", "wr", "b"], "c")
            .edge("c", "y")
            .bytes()
    };
    assert_eq!(run(&conv(&[2]), &[4.0]), [2.0, 4.0]);
    for dims in [&[1, 2][..], &[2, 1], &[1]] {
        let why = refusal(&conv(dims));
        assert!(
            why.contains(&format!("its bias b is {dims:?} for 2 outputs")),
            "{why}"
        );
    }
}

/// An int8 input that is moved before anything says its scale has the scale that it is read with.
#[test]
fn a_scale_reaches_an_integer_input_through_moves() {
    let moved = |other: &str| {
        let mut builder = Builder::new(&[1, 2, 3])
            .scale("t", 0.25, 0)
            .longs("to", &[1, 6])
            .node("Transpose", &["x"], "turned")
            .ints("perm", &[0, 2, 1])
            .node("Reshape", &["turned", "to"], "line")
            .node("Reshape", &["x", "to"], "other")
            .node("DequantizeLinear", &["line", "s", "sz"], "a")
            .node(
                "DequantizeLinear",
                &["other", other, &format!("{other}z")],
                "b",
            )
            .node("Add", &["a", "b"], "sum")
            .edge("sum", "y");
        let input = builder.0.inputs[0].kind.as_mut();
        input
            .and_then(|it| it.tensor.as_mut())
            .expect("a tensor")
            .element = 3;
        builder.bytes()
    };
    let graph = import(&moved("s")).expect("it says what scale its input has");
    for tensor in graph
        .tensors
        .iter()
        .filter(|it| it.data.is_none() && it.name != "y_q")
    {
        let quantization = tensor.quantization.as_ref().expect(&tensor.name);
        assert_eq!(
            (quantization.scales[0], quantization.zero_points[0]),
            (0.5, 3)
        );
    }
    // The sum of the input as it lies and turned.
    assert_eq!(
        run(&moved("s"), &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
        [0.0, 4.0, 3.0, 7.0, 6.0, 10.0]
    );
    let why = refusal(&moved("t"));
    assert!(why.contains("it reads it with 0.25 and 0"), "{why}");
}

#[test]
fn what_contradicts_onnx_is_refused() {
    let start = || Builder::new(&[1, 2, 3]).edge("x", "a");
    let cases = [
        (
            start()
                .longs("axes", &[1])
                .node("Squeeze", &["a", "axes"], "y"),
            "longer than one",
        ),
        (
            Builder::new(&[1, 1, 6])
                .edge("x", "a")
                .longs("axes", &[0, -3])
                .node("Squeeze", &["a", "axes"], "y"),
            "name axis 0 twice",
        ),
        (
            start()
                .longs("axes", &[0, 0])
                .node("Unsqueeze", &["a", "axes"], "y"),
            "name axis 0 twice",
        ),
        (
            start()
                .longs("from", &[0, 1])
                .longs("to", &[1, 2])
                .longs("axes", &[2, -1])
                .node("Slice", &["a", "from", "to", "axes"], "y"),
            "name axis 2 twice",
        ),
        (
            start()
                .longs("pads", &[1, 1, 0, 0])
                .longs("axes", &[1, 1])
                .node("Pad", &["a", "pads", "", "axes"], "y"),
            "name axis 1 twice",
        ),
        (
            start()
                .longs("to", &[1, 6, 1, 0])
                .node("Reshape", &["a", "to"], "y"),
            "keeps an axis 3 of [1, 2, 3]",
        ),
        (
            start()
                .longs("to", &[-1, -1, 6])
                .node("Reshape", &["a", "to"], "y"),
            "is no shape",
        ),
        (
            start()
                .longs("to", &[-2, 6])
                .node("Reshape", &["a", "to"], "y"),
            "is no shape",
        ),
        (
            start()
                .longs("to", &[2, 3])
                .node("Reshape", &["a", "to"], "r")
                .node("Concat", &["a", "r"], "c")
                .ints("axis", &[1])
                .edge("c", "y"),
            "does not fit beside",
        ),
        (
            start()
                .float("three", &[3], &[1.0; 3])
                .int8("zeros", &[3], &[0; 3])
                .float("w", &[2, 2], &[1.0; 4])
                .node("QuantizeLinear", &["w", "three", "zeros"], "q"),
            "another number of scales",
        ),
        (
            start()
                .float("c", &[3], &[1.0; 3])
                .node("Add", &["c", "c"], "d")
                .node("Add", &["a", "d"], "e")
                .edge("e", "y"),
            "both of its inputs are constants",
        ),
        (
            start().node("Add", &["x_q", "a"], "e").edge("e", "y"),
            "is float",
        ),
        (
            product(&[1, 2], &[2, 3])
                .node("DequantizeLinear", &["s", "s", "sz"], "b")
                .node("Gemm", &["a", "wr", "b"], "g")
                .edge("g", "y"),
            "its input is float, not quantized",
        ),
    ];
    for (builder, part) in cases {
        let why = refusal(&builder.bytes());
        assert!(why.contains(part), "{why} should say {part}");
    }
    let old = start()
        .node("Relu", &["a"], "r")
        .edge("r", "y")
        .of_version(6);
    assert!(refusal(&old).contains("version 6"));
}

/// What stands before a Clip.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Before {
    Nothing,
    /// A convolution, a sum or a pool that leaves elements as they are: each of these has a range of its own.
    Conv,
    Sum,
    Average,
    /// A pool that has none here.
    Maximum,
}

/// A Clip of `limits`, those that are given, from one scale with zero point 3 to another with 5; behind an
/// operator and perhaps a Relu, or behind another Clip.
fn clipped(
    limits: [Option<f32>; 2],
    scales: [f32; 2],
    before: Before,
    first: Option<[f32; 2]>,
) -> Vec<u8> {
    let width = if before == Before::Average { 32 } else { 16 };
    let mut builder = Builder::new(&[1, 1, 16, width])
        .scale("t", scales[0], 3)
        .scale("u", scales[1], 5)
        .node("QuantizeLinear", &["x", "t", "tz"], "q")
        .node("DequantizeLinear", &["q", "t", "tz"], "a");
    let mut from = "o";
    builder = match before {
        Before::Nothing => {
            from = "a";
            builder
        }
        Before::Conv => builder
            .int8("w", &[1, 1, 1, 1], &[1])
            .scale("ws", 1.0, 0)
            .node("DequantizeLinear", &["w", "ws", "wsz"], "wr")
            .node("Conv", &["a", "wr"], "o"),
        Before::Sum => builder
            .float("none", &[], &[0.0])
            .node("Add", &["a", "none"], "o"),
        Before::Average => builder
            .node("AveragePool", &["a"], "o")
            .ints("kernel_shape", &[1, 2])
            .ints("strides", &[1, 2]),
        Before::Maximum => builder
            .node("MaxPool", &["a"], "o")
            .ints("kernel_shape", &[1, 1]),
    };
    if let Some([low, high]) = first {
        builder = match high {
            f32::INFINITY => builder.node("Relu", &[from], "r"),
            _ => builder
                .float("least", &[], &[low])
                .float("most", &[], &[high])
                .node("Clip", &[from, "least", "most"], "r"),
        };
        from = "r";
    }
    let mut inputs = vec![from];
    for (limit, name) in limits.into_iter().zip(["low", "high"]) {
        inputs.push(match limit {
            Some(limit) => {
                builder = builder.float(name, &[], &[limit]);
                name
            }
            None => "",
        });
    }
    builder
        .node("Clip", &inputs, "l")
        .node("QuantizeLinear", &["l", "u", "uz"], "p")
        .node("DequantizeLinear", &["p", "u", "uz"], "y")
        .bytes()
}

/// Clamps to any constants are what ONNX says they are, element for element: QuantizeLinear of the
/// clamped number, halves to even. A number that no limit clamps may go to the other side of a half that it
/// is a quarter of a step from: programs round twice.
fn check_clips(
    limits: [Option<f32>; 2],
    scales: [f32; 2],
    before: Before,
    first: Option<[f32; 2]>,
) {
    let real = |q: i32| (q - 3) as f32 * scales[0];
    // Of a pair, the pool makes what lies between.
    let input: Vec<f32> = match before {
        Before::Average => (-128..128)
            .flat_map(|q| [(q - 1).max(-128), (q + 1).min(127)])
            .map(real)
            .collect(),
        _ => (-128..128).map(real).collect(),
    };
    let output = run(&clipped(limits, scales, before, first), &input);
    let [least, most] = first.unwrap_or([f32::MIN, f32::MAX]);
    let [low, high] = [limits[0].unwrap_or(f32::MIN), limits[1].unwrap_or(f32::MAX)];
    for (q, &output) in (-128..128).zip(&output) {
        if before == Before::Average && (q == -128 || q == 127) {
            continue;
        }
        let x = real(q);
        let clamped = x.max(least).min(most).max(low).min(high);
        let steps = clamped / scales[1];
        let wanted = (steps.round_ties_even() + 5.0).clamp(-128.0, 127.0) - 5.0;
        let near_half = ((steps - steps.floor()) - 0.5).abs() < 0.251;
        let off = (output / scales[1]).round() - wanted;
        let exact = off == 0.0 || (clamped == x && near_half && off.abs() == 1.0);
        let why = format!("{limits:?} {scales:?} {before:?} {first:?}");
        assert!(exact, "{x}: {output}, {wanted} steps: {why}");
    }
}

#[test]
fn a_clip_is_quantized_as_its_numbers_are() {
    let limits = [
        [Some(-1.0), Some(1.0)],
        [Some(0.0), Some(6.0)],
        [Some(-0.3), Some(0.9)],
        [Some(-7.25), None],
        [None, Some(2.5)],
        [None, None],
        [Some(2.0), Some(4.0)],
        // Its max is both.
        [Some(4.0), Some(-2.0)],
        [Some(-1e30), Some(1e30)],
        [Some(1e30), None],
        [Some(f32::NEG_INFINITY), Some(-1.5)],
    ];
    let relu = Some([0.0, f32::INFINITY]);
    let operators = [
        Before::Nothing,
        Before::Conv,
        Before::Sum,
        Before::Average,
        Before::Maximum,
    ];
    let scales = [0.5, 0.48, 0.1, 0.037, 7.0].map(|scale| [scale; 2]);
    let others = [[0.5, 0.01], [0.01, 0.5], [0.037, 0.1], [0.48, 0.02]];
    for scales in scales.into_iter().chain(others) {
        for limits in limits {
            for before in operators {
                for first in [None, relu, Some([-0.7, 0.25])] {
                    check_clips(limits, scales, before, first);
                }
            }
        }
    }
}

/// A pool averages in its input's steps, in which a limit may be none: it holds for the output.
#[test]
fn a_clip_behind_an_average_is_no_step_of_the_input() {
    let model = Builder::new(&[1, 1, 1, 4])
        .scale("t", 0.5, 0)
        .scale("u", 0.01, 0)
        .float("low", &[], &[-0.3])
        .float("high", &[], &[0.2])
        .node("QuantizeLinear", &["x", "t", "tz"], "q")
        .node("DequantizeLinear", &["q", "t", "tz"], "a")
        .node("AveragePool", &["a"], "p")
        .ints("kernel_shape", &[1, 2])
        .ints("strides", &[1, 2])
        .node("Clip", &["p", "low", "high"], "c")
        .node("QuantizeLinear", &["c", "u", "uz"], "z")
        .node("DequantizeLinear", &["z", "u", "uz"], "y");
    let output = run(&model.bytes(), &[0.5, 1.5, -1.5, -0.5]);
    assert_eq!(output, [20.0 * 0.01, -30.0 * 0.01]);
}

/// What a Clip would become part of has one reader; a Clip is part of another whoever else reads it.
#[test]
fn a_second_reader_is_named_where_it_is_what_hinders() {
    let start = || product(&[1, 2], &[2, 2]).float("h", &[], &[1.0]);
    let twice = start()
        .node("MatMul", &["a", "wr"], "m")
        .node("Clip", &["m", "", "h"], "c")
        .edge("c", "d")
        .edge("m", "e")
        .node("Add", &["d", "e"], "f")
        .edge("f", "y");
    let why = refusal(&twice.bytes());
    assert!(
        why.contains("its input m is float and read 2 times"),
        "{why}"
    );
    let added = start()
        .float("b", &[2], &[1.0, 2.0])
        .node("MatMul", &["a", "wr"], "m")
        .node("Add", &["m", "b"], "c")
        .edge("c", "d")
        .edge("m", "e")
        .node("Add", &["d", "e"], "f")
        .edge("f", "y");
    let why = refusal(&added.bytes());
    assert!(
        why.contains("its input m is float and read 2 times"),
        "{why}"
    );
    let clips = start()
        .node("Relu", &["a"], "r")
        .node("Clip", &["r", "", "h"], "c")
        .edge("c", "d")
        .edge("r", "e")
        .node("Add", &["d", "e"], "f")
        .edge("f", "y");
    assert_eq!(run(&clips.bytes(), &[4.0, -1.0]), [5.0, 0.0]);
}

#[test]
fn a_clip_of_no_number_is_refused() {
    let limits = [Some(f32::NAN), None];
    let nan = refusal(&clipped(limits, [0.5; 2], Before::Conv, None));
    assert!(
        nan.contains("Clip") && nan.contains("min is no number"),
        "{nan}"
    );
    let clip = |builder: Builder, high: &str| {
        let builder = builder.edge("x", "a").node("Clip", &["a", "", high], "c");
        refusal(&builder.edge("c", "y").bytes())
    };
    let several = clip(Builder::new(&[1, 4]).float("h", &[2], &[1.0, 2.0]), "h");
    assert!(several.contains("max has 2 elements"), "{several}");
    let found = clip(Builder::new(&[1, 4]), "x");
    assert!(
        found.contains("Clip") && found.contains("x must be a constant"),
        "{found}"
    );
    // Behind what has no clamp of its own, a number would be float.
    let float = Builder::new(&[1, 4])
        .edge("x", "a")
        .float("h", &[], &[1.0])
        .node("Sigmoid", &["a"], "g")
        .node("Clip", &["g", "", "h"], "c")
        .edge("c", "y");
    let float = refusal(&float.bytes());
    assert!(float.contains("its input g is float"), "{float}");
}
