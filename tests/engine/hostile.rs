//! Files that a lab never writes: every one is an error that says where, or a model that runs.
//!
//! The models are trees of protobuf fields, so that a change can keep the rest of the file well formed
//! and reach what lies deeper than a flipped byte would.

use edgeward::engine::Engine;
use edgeward::engine::onnx::Description;
use edgeward::engine::tract::{LoadError, MAX_PLAN_BYTES, ModelSpec, TractEngine};
use edgeward::engine::wire::{self, MAX_DEPTH, MAX_PARTS, WireFault};
use proptest::prelude::*;

/// A protobuf field.
#[derive(Debug, Clone)]
enum Field {
    Number(u32, u64),
    Bytes(u32, Vec<u8>),
    Message(u32, Vec<Field>),
    /// A field whose length is not that of its bytes.
    Lying(u32, u64, Vec<u8>),
    /// Four bytes under a field's number.
    Fixed(u32, u32),
}

use Field::{Bytes, Fixed, Lying, Message, Number};

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn encode(fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in fields {
        let key = |number: &u32, kind: u64, out: &mut Vec<u8>| {
            varint(u64::from(*number) << 3 | kind, out);
        };
        match field {
            Number(number, value) => {
                key(number, 0, &mut out);
                varint(*value, &mut out);
            }
            Bytes(number, bytes) => {
                key(number, 2, &mut out);
                varint(bytes.len() as u64, &mut out);
                out.extend(bytes);
            }
            Message(number, fields) => {
                key(number, 2, &mut out);
                let bytes = encode(fields);
                varint(bytes.len() as u64, &mut out);
                out.extend(bytes);
            }
            Lying(number, claimed, bytes) => {
                key(number, 2, &mut out);
                varint(*claimed, &mut out);
                out.extend(bytes);
            }
            Fixed(number, value) => {
                key(number, 5, &mut out);
                out.extend(value.to_le_bytes());
            }
        }
    }
    out
}

fn text(number: u32, text: &str) -> Field {
    Bytes(number, text.into())
}

fn tensor(name: &str, dims: &[u64], raw: Vec<u8>) -> Field {
    let mut fields: Vec<Field> = dims.iter().map(|&extent| Number(1, extent)).collect();
    fields.extend([Number(2, 1), text(8, name), Bytes(9, raw)]);
    Message(5, fields)
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn value(number: u32, name: &str, dims: &[u64]) -> Field {
    let dims = dims
        .iter()
        .map(|&extent| Message(1, vec![Number(1, extent)]));
    let kind = Message(1, vec![Number(1, 1), Message(2, dims.collect())]);
    Message(number, vec![text(1, name), Message(2, vec![kind])])
}

fn node(kind: &str, inputs: &[&str], outputs: &[&str]) -> Field {
    let mut fields: Vec<Field> = inputs.iter().map(|name| text(1, name)).collect();
    fields.extend(outputs.iter().map(|name| text(2, name)));
    fields.push(text(4, kind));
    Message(1, fields)
}

/// `out = Relu(x * w + b) + c`, with `c` a tensor inside a node.
fn graph() -> Vec<Field> {
    let weights = floats(&[1.0, -1.0, 0.5, 2.0, 0.25, -3.0]);
    let constant = vec![
        text(1, "value"),
        Message(
            5,
            vec![Number(1, 2), Number(2, 1), Bytes(9, floats(&[1.0, 2.0]))],
        ),
        Number(20, 4),
    ];
    vec![
        node("MatMul", &["x", "w"], &["xw"]),
        node("Add", &["xw", "b"], &["xwb"]),
        node("Relu", &["xwb"], &["positive"]),
        Message(
            1,
            vec![text(2, "c"), text(4, "Constant"), Message(5, constant)],
        ),
        node("Add", &["positive", "c"], &["out"]),
        text(2, "small"),
        tensor("w", &[3, 2], weights),
        tensor("b", &[2], floats(&[0.5, -0.5])),
        value(11, "x", &[1, 3]),
        value(12, "out", &[1, 2]),
    ]
}

fn model(graph: Vec<Field>) -> Vec<Field> {
    vec![
        Number(1, 8),
        text(2, "a test"),
        Message(7, graph),
        Message(8, vec![Number(2, 13)]),
    ]
}

fn load(bytes: &[u8]) -> Result<TractEngine, LoadError> {
    TractEngine::load(bytes, &ModelSpec::default())
}

/// The whole claim: described or refused, loaded or refused, and what is loaded runs.
fn hold(bytes: &[u8]) {
    let described = Description::read(bytes);
    if let Err(error) = &described {
        assert!(!error.to_string().is_empty());
    }
    match load(bytes) {
        Ok(mut engine) => {
            assert!(described.is_ok(), "what can't be described was loaded");
            let input = vec![1.0; engine.input_len()];
            let mut output = vec![0.0; engine.output_len()];
            engine
                .run(&input, &mut output)
                .expect("a loaded model runs");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn refusal(graph: Vec<Field>) -> LoadError {
    let bytes = encode(&model(graph));
    let error = Description::read(&bytes).expect_err("a refusal");
    assert_eq!(load(&bytes).expect_err("a refusal"), error);
    error
}

#[test]
fn the_model_that_the_others_are_made_of_runs() {
    let mut engine = load(&encode(&model(graph()))).expect("a model");
    let mut output = [0.0; 2];
    engine.run(&[1.0, 2.0, 4.0], &mut output).expect("a run");
    assert_eq!(output, [1.0 + 3.5, 2.0]);
}

#[test]
fn lengths_that_the_file_does_not_hold_are_named_with_their_offset() {
    for claimed in [2, 1 << 20, 1 << 31, 1 << 40, u64::MAX] {
        let mut fields = model(graph());
        fields[1] = Lying(2, claimed, vec![b'a']);
        fields.truncate(2);
        let error = wire::check(&encode(&fields)).expect_err("a length");
        assert_eq!((error.message, error.field), ("ModelProto", 2));
        assert_eq!(error.offset, 2, "behind the version");
        let fault = WireFault::Length {
            claimed,
            present: 1,
        };
        assert_eq!(error.fault, fault);
    }
    // Longer than its message, though not than the file.
    let mut inner = graph();
    inner.push(Lying(2, 40, vec![0; 3]));
    let LoadError::Wire(error) = refusal(inner) else {
        panic!("not the file's outside");
    };
    assert_eq!((error.message, error.field), ("GraphProto", 2));
}

#[test]
fn wire_types_that_do_not_belong_are_named() {
    for (at, field) in [
        (0, Number(1, 5)),
        (6, Number(5, 9)),
        (8, Fixed(11, 0x0101_0101)),
    ] {
        let mut wrong = graph();
        wrong[at] = field;
        let LoadError::Wire(error) = refusal(wrong) else {
            panic!("a wrong wire type at {at}");
        };
        assert_eq!(error.fault, WireFault::NotAMessage);
        assert_eq!(error.message, "GraphProto");
    }
    let error = wire::check(&[0x0B]).expect_err("a group");
    assert_eq!(error.fault, WireFault::WireType(3));
    let error = wire::check(&[0x00, 0x00]).expect_err("field 0");
    assert_eq!(error.fault, WireFault::FieldNumber);
    let error = wire::check(&[0x08, 0xFF]).expect_err("half a number");
    assert_eq!((error.fault, error.offset), (WireFault::Number, 0));
    let error = wire::check(&[[0x08].as_slice(), &[0xFF; 10]].concat()).expect_err("a number");
    assert_eq!(error.fault, WireFault::Number, "of more than 64 bits");
}

#[test]
fn graphs_inside_graphs_end_somewhere() {
    let mut inner = graph();
    for _ in 0..MAX_DEPTH / 3 + 1 {
        let attribute = vec![text(1, "body"), Message(6, inner), Number(20, 5)];
        inner = vec![Message(1, vec![text(4, "Loop"), Message(5, attribute)])];
    }
    let LoadError::Wire(error) = refusal(inner) else {
        panic!("too deep");
    };
    assert_eq!(error.fault, WireFault::Depth);
}

#[test]
fn a_small_file_cannot_become_a_large_graph() {
    // Two bytes a node: half a megabyte that would be a hundred when decoded.
    let bytes = encode(&[Message(7, vec![Message(1, Vec::new()); MAX_PARTS])]);
    let error = wire::check(&bytes).expect_err("too many parts");
    assert_eq!(error.fault, WireFault::Parts);
    assert!(bytes.len() < 3 * MAX_PARTS);
}

#[test]
fn tensors_in_other_files_are_found_wherever_they_hide() {
    let outside = |number| {
        let place = Message(13, vec![text(1, "location"), text(2, "/etc/hostname")]);
        let fields = vec![
            Number(1, 2),
            Number(2, 1),
            text(8, "hidden"),
            place,
            Number(14, 1),
        ];
        Message(number, fields)
    };
    let attribute = |field| Message(1, vec![text(4, "Constant"), Message(5, vec![field])]);
    let nested = Message(6, vec![attribute(outside(5))]);
    for place in [
        outside(5),
        Message(15, vec![outside(1)]),
        attribute(outside(5)),
        attribute(outside(10)),
        attribute(Message(22, vec![outside(2)])),
        attribute(nested),
    ] {
        let mut with = graph();
        with.push(place);
        let expected = LoadError::ExternalData {
            tensor: "hidden".into(),
        };
        assert_eq!(refusal(with), expected);
    }
}

#[test]
fn a_shape_that_is_not_that_of_its_bytes_is_named() {
    for dims in [
        &[1 << 40, 2][..],
        &[3, 3],
        &[1 << 32, 1 << 32],
        &[u64::MAX, 2],
        &[1 << 63],
        &[],
    ] {
        let mut wrong = graph();
        wrong[6] = tensor("w", dims, floats(&[0.0; 6]));
        let error = refusal(wrong);
        assert!(
            matches!(&error, LoadError::Tensor { tensor, .. } if tensor == "w"),
            "{dims:?}: {error}"
        );
    }
}

fn integers(name: &str, values: &[i64]) -> Field {
    let raw = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    Message(
        5,
        vec![
            Number(1, values.len() as u64),
            Number(2, 7),
            text(8, name),
            Bytes(9, raw),
        ],
    )
}

fn concat(inputs: &[&str], output: &str) -> Field {
    let axis = vec![text(1, "axis"), Number(3, 1), Number(20, 2)];
    let mut fields: Vec<Field> = inputs.iter().map(|name| text(1, name)).collect();
    fields.extend([text(2, output), text(4, "Concat"), Message(5, axis)]);
    Message(1, fields)
}

/// Zeros of the shape that `s` holds.
fn zeros(output: &str) -> Field {
    let zero = vec![Number(1, 1), Number(2, 1), Bytes(9, floats(&[0.0]))];
    let value = vec![text(1, "value"), Message(5, zero), Number(20, 4)];
    Message(
        1,
        vec![
            text(1, "s"),
            text(2, output),
            text(4, "ConstantOfShape"),
            Message(5, value),
        ],
    )
}

/// A tensor of one integer and no extents.
fn scalar(name: &str, value: i64) -> Field {
    let raw = value.to_le_bytes().to_vec();
    Message(5, vec![Number(2, 7), text(8, name), Bytes(9, raw)])
}

/// `out = ReduceMax(big) + x`, where some nodes make `big`.
fn inflated(makers: Vec<Field>) -> Vec<u8> {
    let mut graph = makers;
    graph.extend([
        node("ReduceMax", &["big"], &["most"]),
        node("Add", &["x", "most"], &["out"]),
        text(2, "inflated"),
        value(11, "x", &[1, 3]),
        value(12, "out", &[1, 3]),
    ]);
    encode(&model(graph))
}

/// Doubles a tensor so often.
fn doubled(start: &str, times: usize) -> Vec<Field> {
    let name = |at: usize| match at {
        0 => start.to_owned(),
        at if at == times => "big".to_owned(),
        at => format!("d{at}"),
    };
    (0..times)
        .map(|at| concat(&[&name(at), &name(at)], &name(at + 1)))
        .collect()
}

#[test]
fn small_files_that_ask_for_huge_tensors_are_refused_before_they_get_them() {
    type Maker = fn(i64) -> Vec<Field>;
    // Each makes a tensor of three columns and at least so many rows.
    let makers: [(&str, Maker); 4] = [
        ("ConstantOfShape", |rows| {
            vec![zeros("big"), integers("s", &[rows, 3])]
        }),
        ("Expand", |rows| {
            vec![
                node("Expand", &["x", "s"], &["big"]),
                integers("s", &[rows, 3]),
            ]
        }),
        ("Tile", |rows| {
            vec![
                node("Tile", &["x", "s"], &["big"]),
                integers("s", &[rows, 1]),
            ]
        }),
        ("Pad", |rows| {
            vec![
                node("Pad", &["x", "s"], &["big"]),
                integers("s", &[rows - 1, 0, 0, 0]),
            ]
        }),
    ];
    for (name, maker) in makers {
        for (rows, fits) in [(5, true), (1 << 28, false), (1 << 30, false)] {
            let bytes = inflated(maker(rows));
            assert!(bytes.len() < 400);
            match load(&bytes) {
                Ok(_) => assert!(fits, "{name} of {rows} rows was loaded"),
                Err(LoadError::Memory { bytes, .. }) => {
                    assert!(!fits && bytes > MAX_PLAN_BYTES, "{name} of {rows} rows");
                }
                Err(error) => panic!("{name} of {rows} rows: {error}"),
            }
        }
    }
    for start in ["x", "w"] {
        for (times, fits) in [(5, true), (32, false), (60, false)] {
            let mut graph = doubled(start, times);
            graph.push(tensor("w", &[1, 3], floats(&[1.0, 2.0, 3.0])));
            let found = load(&inflated(graph)).map(|_| ());
            assert_eq!(found.is_ok(), fits, "{start} {times} times: {found:?}");
            let memory = matches!(found, Err(LoadError::Memory { .. }));
            assert_eq!(memory, !fits, "{start} {times} times: {found:?}");
        }
    }
    // One that nothing depends on is worked out all the same.
    let mut aside = graph();
    aside.push(zeros("aside"));
    aside.push(integers("s", &[1 << 30]));
    let error = load(&encode(&model(aside))).map(|_| ());
    assert!(
        matches!(&error, Err(LoadError::Memory { node, .. }) if node.contains("ConstantOfShape")),
        "{error:?}"
    );
    // And so is one beside a cycle that nothing depends on, if tract gets at it.
    let mut beside = graph();
    beside.extend([zeros("aside"), integers("s", &[1 << 40])]);
    beside.extend([
        node("Relu", &["b0"], &["a0"]),
        node("Relu", &["a0"], &["b0"]),
    ]);
    let error = load(&encode(&model(beside))).map(|_| ());
    assert!(matches!(&error, Err(LoadError::Build { .. })), "{error:?}");
}

#[test]
fn a_range_is_as_long_as_its_ends_lie_apart_whatever_its_step() {
    for (start, end, step, fits) in [
        (0, 5, 1, true),
        (5, 0, -1, true),
        (0, 1 << 40, 1, false),
        (1 << 40, 0, -1, false),
        (0, 1 << 40, -1, false),
    ] {
        let mut graph = graph();
        graph.extend([
            scalar("from", start),
            scalar("to", end),
            scalar("by", step),
            node("Range", &["from", "to", "by"], &["aside"]),
        ]);
        let found = load(&encode(&model(graph))).map(|_| ());
        let memory = matches!(found, Err(LoadError::Memory { .. }));
        assert_eq!(memory, !fits, "{start} to {end} by {step}: {found:?}");
    }
}

#[test]
fn a_length_that_the_input_would_tell_is_refused() {
    let number = |name: &str, value: f32| tensor(name, &[], floats(&[value]));
    let bytes = inflated(vec![
        node("ReduceMax", &["x"], &["top"]),
        node("Squeeze", &["top"], &["to"]),
        number("from", 0.0),
        number("by", 1.0),
        node("Range", &["from", "to", "by"], &["big"]),
    ]);
    let error = load(&bytes).map(|_| ());
    assert!(matches!(&error, Err(LoadError::Length { .. })), "{error:?}");
}

#[test]
fn names_twice_cycles_and_loose_ends_are_refused_or_run() {
    let duplicate_node = [graph(), vec![node("Relu", &["x"], &["xw"])]].concat();
    let duplicate_tensor = [graph(), vec![tensor("w", &[1], floats(&[1.0]))]].concat();
    let duplicate_input = [graph(), vec![value(11, "x", &[1, 3])]].concat();
    let mut cycle = graph();
    cycle[0] = node("MatMul", &["out", "w"], &["xw"]);
    let mut itself = graph();
    itself[2] = node("Relu", &["positive"], &["positive"]);
    let mut loose = graph();
    loose[4] = node("Add", &["positive", "nowhere"], &["out"]);
    let mut no_output = graph();
    no_output[9] = value(12, "elsewhere", &[1, 2]);
    for graph in [
        duplicate_node,
        duplicate_tensor,
        duplicate_input,
        no_output,
        vec![],
    ] {
        hold(&encode(&model(graph)));
    }
    for graph in [cycle, itself, loose] {
        let bytes = encode(&model(graph));
        hold(&bytes);
        load(&bytes).expect_err("no order of its nodes computes it");
    }
}

#[test]
fn a_cycle_of_moving_nodes_in_a_quantized_graph_is_described() {
    let mut nodes: Vec<Field> = (0..2000)
        .map(|n| {
            let (from, to) = (format!("t{n}"), format!("t{}", (n + 1) % 2000));
            node("Relu", &[&from], &[&to])
        })
        .collect();
    // Each of these asks what made the cycle's tensors.
    nodes.extend((0..2000).map(|n| node("Conv", &[&format!("t{n}")], &[&format!("y{n}")])));
    nodes.push(node("QuantizeLinear", &["x"], &["q"]));
    let description = Description::read(&encode(&model(nodes))).expect("a description");
    assert_eq!(description.float_nodes.len(), 2000);
}

/// Every field of the tree, in order, as a path of places.
fn paths(fields: &[Field]) -> Vec<Vec<usize>> {
    let mut all = Vec::new();
    for (place, field) in fields.iter().enumerate() {
        all.push(vec![place]);
        if let Message(_, inner) = field {
            all.extend(paths(inner).into_iter().map(|mut path| {
                path.insert(0, place);
                path
            }));
        }
    }
    all
}

/// Changes the field at `path`: into another value, away, twice, moved, or into one that lies.
fn change(fields: &mut Vec<Field>, path: &[usize], how: u8, value: u64) {
    let [place, rest @ ..] = path else { return };
    if let ([_, ..], Some(Message(_, inner))) = (rest, fields.get_mut(*place)) {
        return change(inner, rest, how, value);
    }
    let Some(field) = fields.get_mut(*place) else {
        return;
    };
    let number = match field {
        Number(n, _) | Bytes(n, _) | Message(n, _) | Lying(n, ..) | Fixed(n, _) => *n,
    };
    match how {
        0 => *field = Number(number, value),
        1 => *field = Lying(number, value, vec![1; (value % 7) as usize]),
        2 => {
            fields.remove(*place);
        }
        3 => {
            let twin = field.clone();
            fields.push(twin);
        }
        4 => {
            let other = value as usize % fields.len();
            fields.swap(*place, other);
        }
        5 => *field = Bytes(number, value.to_le_bytes()[..(value % 9) as usize].into()),
        6 => *field = Fixed((value % 30) as u32 + 1, number),
        _ => {
            if let Bytes(_, bytes) = field
                && let Some(at) = bytes.len().checked_sub(1)
            {
                bytes[value as usize % (at + 1)] ^= 1 << (value % 8);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_refused_or_described(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        hold(&bytes);
    }

    #[test]
    fn any_cut_is_refused_or_runs(at in any::<prop::sample::Index>()) {
        let bytes = encode(&model(graph()));
        let cut = &bytes[..at.index(bytes.len())];
        hold(cut);
        // Behind the graph a cut may leave a whole model.
        if cut.len() + 20 < bytes.len() {
            prop_assert!(load(cut).is_err());
        }
    }

    #[test]
    fn any_flip_is_refused_or_runs(at in any::<prop::sample::Index>(), with in 1u8..) {
        let mut bytes = encode(&model(graph()));
        let at = at.index(bytes.len());
        bytes[at] ^= with;
        hold(&bytes);
    }

    #[test]
    fn any_changed_tree_is_refused_or_runs(
        changes in proptest::collection::vec(
            (
                any::<prop::sample::Index>(),
                0u8..8,
                prop_oneof![0u64..16, any::<u32>().prop_map(u64::from), any::<u64>()],
            ),
            1..4,
        )
    ) {
        let mut fields = model(graph());
        for (at, how, value) in changes {
            let paths = paths(&fields);
            if !paths.is_empty() {
                change(&mut fields, &paths[at.index(paths.len())], how, value);
            }
        }
        hold(&encode(&fields));
    }
}
