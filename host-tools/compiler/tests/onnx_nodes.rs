//! The quantized node tests of the Python package `onnx`, and more of their kind that
//! `onnx_nodes.py` makes with its reference implementation, against the portable kernels.
//!
//! Everything but the first input becomes a constant, since a program's scales, zero points and
//! weights are constants; a batch goes through row by row. The results stand in
//! `docs/CONFORMANCE.md`; `EDGEWARD_BLESS=1` writes them there, and without it a difference fails.
//!
//! The test runner sets `EDGEWARD_PYTHON` to an interpreter that has `models/digits/requirements.txt`.

#[path = "../src/onnx/proto.rs"]
#[allow(
    dead_code,
    missing_docs,
    reason = "the messages as the importer declares them"
)]
mod proto;

use edgeward::program::{Aligned, Layout, Portable, Program};
use edgeward_compiler::{Options, compile};
use prost::Message;
use proto::{Dim, Model, Shape, Tensor};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The version whose tests the table is about.
const VERSION: &str = "1.20.0";
/// Tests whose names begin so.
const FAMILIES: [&str; 7] = [
    "test_qlinearconv",
    "test_qlinearmatmul",
    "test_convinteger",
    "test_matmulinteger",
    "test_quantizelinear",
    "test_dequantizelinear",
    "test_dynamicquantizelinear",
];

/// Python and the package's folder of node tests, or `None` with a line that says why there is none.
fn node_tests() -> Option<(OsString, PathBuf)> {
    let Some(python) = std::env::var_os("EDGEWARD_PYTHON") else {
        println!("skipped: EDGEWARD_PYTHON names no Python with models/digits/requirements.txt");
        return None;
    };
    let script = "import importlib.metadata as m, importlib.util as u\n\
        print(m.version('onnx'))\n\
        print(u.find_spec('onnx').submodule_search_locations[0])";
    let output = Command::new(&python).args(["-c", script]).output();
    let output = output.expect("EDGEWARD_PYTHON runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines = text.lines();
    let version = lines.next().unwrap_or("no onnx");
    if version != VERSION {
        println!("skipped: EDGEWARD_PYTHON has {version}, the table is about onnx {VERSION}");
        return None;
    }
    let package = lines.next().expect("the package's folder");
    Some((python, Path::new(package).join("backend/test/data/node")))
}

fn read<M: Message + Default>(path: &Path) -> M {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    M::decode(&bytes[..]).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A normal float16.
fn half(bits: u16) -> f32 {
    let size = f32::from(1024 + (bits & 1023)) * 2_f32.powi(i32::from(bits >> 10 & 31) - 25);
    if bits >> 15 == 0 { size } else { -size }
}

/// The elements of a tensor of float, uint8, int8, float16, or integers of four or two bits.
fn elements(tensor: &Tensor) -> Vec<f32> {
    let narrow = |int: i32| match tensor.data_type {
        2 => f32::from(int as u8),
        _ => f32::from(int as i8),
    };
    match (tensor.data_type, tensor.raw.is_empty()) {
        (1, true) => tensor.floats.clone(),
        (1, false) => {
            let float = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap());
            tensor.raw.chunks_exact(4).map(float).collect()
        }
        (10, false) => {
            let half = |bytes: &[u8]| half(u16::from_le_bytes(bytes.try_into().unwrap()));
            tensor.raw.chunks_exact(2).map(half).collect()
        }
        (2 | 3, true) => tensor.ints.iter().map(|&int| narrow(int)).collect(),
        (2 | 3, false) => tensor.raw.iter().map(|&it| narrow(i32::from(it))).collect(),
        (21 | 22 | 25 | 26, true) => {
            let (bits, signed) = (
                if tensor.data_type < 25 { 4 } else { 2 },
                tensor.data_type % 4 == 2,
            );
            let count: i64 = tensor.dims.iter().product();
            let element = |at: i64| {
                let (byte, place) = (at * bits / 8, at * bits % 8);
                let value = tensor.ints[byte as usize] >> place & ((1 << bits) - 1);
                let negative = signed && value >= 1 << (bits - 1);
                (if negative { value - (1 << bits) } else { value }) as f32
            };
            (0..count).map(element).collect()
        }
        (other, _) => panic!("{}: element type {other}", tensor.name),
    }
}

/// A program's output on one row of the input, each in the type that the file has.
fn run(program: &Program<'_>, input: &[f32], [from, to]: [i32; 2]) -> Vec<f32> {
    let header = *program.header();
    assert_eq!(input.len(), header.input_len as usize);
    let mut arena = Aligned::zeros(header.arena_bytes as usize);
    let arena = arena.as_mut();
    let place = &mut arena[header.input as usize..][..input.len()];
    // uint8 crosses the border of a program as int8, 128 less.
    let offset = |element| {
        if matches!(element, 2 | 21 | 25) {
            128.0
        } else {
            0.0
        }
    };
    if from == 1 {
        program.quantize(input, place);
    } else {
        let pairs = place.iter_mut().zip(input);
        pairs.for_each(|(place, x)| *place = (x - offset(from)) as i8);
    }
    let ran = program.run(&mut Portable, arena);
    ran.expect("the arena is as the program wants it");
    let bytes = &arena[header.output as usize..][..header.output_len as usize];
    let mut output = vec![0.0; bytes.len()];
    if to == 1 {
        program.dequantize(bytes, &mut output);
    } else {
        let pairs = output.iter_mut().zip(bytes);
        pairs.for_each(|(x, &byte)| *x = f32::from(byte) + offset(to));
    }
    output
}

/// What the standard says of the product of matrices of a test, computed in f64: each element as it
/// wraps around, and as it saturates.
fn product(folder: &Path, element: i32) -> Vec<(f32, f32)> {
    let tensor = |index: usize| -> Tensor {
        read(&folder.join(format!("test_data_set_0/input_{index}.pb")))
    };
    let number = |index: usize| f64::from(elements(&tensor(index))[0]);
    let distances = |index: usize| -> Vec<f64> {
        let zero = number(index + 2);
        let all = elements(&tensor(index));
        all.iter().map(|&it| f64::from(it) - zero).collect()
    };
    let (a, b) = (distances(0), distances(3));
    let [.., rows, inner] = tensor(0).dims[..] else {
        panic!("a matrix");
    };
    let outputs = tensor(3).dims.last().copied().expect("a matrix") as usize;
    let (rows, inner) = (rows as usize, inner as usize);
    let scale = number(1) * number(4) / number(6);
    let mut all = Vec::new();
    let batch = a
        .chunks_exact(rows * inner)
        .zip(b.chunks_exact(inner * outputs));
    for (a, b) in batch {
        for at in 0..rows * outputs {
            let (row, column) = (at / outputs, at % outputs);
            let sum: f64 = (0..inner)
                .map(|k| a[row * inner + k] * b[k * outputs + column])
                .sum();
            let value = (sum * scale).round_ties_even() + number(7);
            all.push(match element {
                2 => (f32::from(value as i64 as u8), f32::from(value as u8)),
                _ => (f32::from(value as i64 as i8), f32::from(value as i8)),
            });
        }
    }
    all
}

/// The weights of a product of matrices whose batch is more than one.
fn batched(graph: &proto::Graph) -> Option<Tensor> {
    let [node] = &graph.nodes[..] else {
        return None;
    };
    let name = node.inputs.get(3)?;
    let weights = graph.initializers.iter().find(|it| it.name == *name)?;
    (node.operator == "QLinearMatMul" && weights.dims.len() == 3).then(|| weights.clone())
}

/// The model with the weights of one row of the batch.
fn with_weights(model: &Model, weights: &Tensor, row: usize) -> Model {
    let len = (weights.dims[1] * weights.dims[2]) as usize;
    let mut model = model.clone();
    let initializers = model.graph.as_mut().map(|graph| &mut graph.initializers);
    let place = initializers.and_then(|all| all.iter_mut().find(|it| it.name == weights.name));
    let part = place.expect("the model holds its weights");
    part.dims[0] = 1;
    if weights.raw.is_empty() {
        part.ints = weights.ints[row * len..][..len].to_vec();
    } else {
        part.raw = weights.raw[row * len..][..len].to_vec();
    }
    model
}

/// What came of a test, as the table says it. A difference of more than a quantum fails here.
fn outcome(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let mut model: Model = read(&folder.join("model.onnx"));
    let graph = model.graph.as_mut().expect("a graph");
    let given = |index: usize| -> Tensor {
        read(&folder.join(format!("test_data_set_0/input_{index}.pb")))
    };
    for (index, info) in graph.inputs.iter().enumerate().skip(1) {
        let name = info.name.clone();
        graph.initializers.push(Tensor {
            name,
            ..given(index)
        });
    }
    let kind = |info: &proto::ValueInfo| {
        let tensor = info.kind.as_ref().and_then(|kind| kind.tensor.as_ref());
        tensor.map_or(0, |tensor| tensor.element)
    };
    let types = [kind(&graph.inputs[0]), kind(&graph.outputs[0])];
    let input = given(0);
    let dims = match &input.dims[..] {
        &[len] => vec![1, len],
        dims => [&[1], &dims[1..]].concat(),
    };
    let row: i64 = dims.iter().product();
    if let Some(tensor) = graph.inputs[0]
        .kind
        .as_mut()
        .and_then(|kind| kind.tensor.as_mut())
    {
        let dims = dims.iter().map(|&value| Dim { value }).collect();
        tensor.shape = Some(Shape { dims });
    }
    let rows = (input.dims.iter().product::<i64>() / row) as usize;
    // A row of a batch of products has weights of its own, and so a program of its own.
    let models: Vec<Vec<u8>> = match batched(graph) {
        Some(weights) => (0..rows)
            .map(|at| with_weights(&model, &weights, at).encode_to_vec())
            .collect(),
        None => vec![model.encode_to_vec()],
    };
    let mut outcomes = Vec::new();
    for options in [Options::linux(), Options::mcu(Layout::Natural)] {
        let compiled: Result<Vec<_>, _> = models
            .iter()
            .map(|bytes| compile(bytes, &options))
            .collect();
        let compiled = match compiled {
            Ok(compiled) => compiled,
            Err(error) => {
                outcomes.push(format!("refused: {error}"));
                continue;
            }
        };
        let expected = elements(&read(&folder.join("test_data_set_0/output_0.pb")));
        let (mut output, mut quantum) = (Vec::new(), 1.0);
        for (at, row) in elements(&input).chunks_exact(row as usize).enumerate() {
            let program = Aligned::copy_of(&compiled[at % compiled.len()].program);
            let program = Program::verify(program.as_ref()).expect("the compiler verified it");
            output.extend(run(&program, row, types));
            if types[1] == 1 {
                quantum = program.header().output_scale;
            }
        }
        assert_eq!(output.len(), expected.len(), "{name}");
        let differences: Vec<f32> = output
            .iter()
            .zip(&expected)
            .map(|(a, b)| (a - b).abs())
            .filter(|&difference| difference != 0.0)
            .collect();
        let largest = differences.iter().copied().fold(0.0, f32::max);
        outcomes.push(match differences.len() {
            0 => "passed".into(),
            count if largest <= quantum => {
                format!("within one: {count} of {} differ", expected.len())
            }
            count => {
                let exact = product(folder, types[1]);
                for ((ours, theirs), (wrapped, clamped)) in output.iter().zip(&expected).zip(&exact)
                {
                    assert!(
                        (ours - clamped).abs() <= 1.0,
                        "{name}: {ours}, not {clamped}"
                    );
                    assert!(
                        (theirs - wrapped).abs() <= 1.0,
                        "{name}: {theirs}, not {wrapped}"
                    );
                }
                let beyond = exact.iter().filter(|(wrapped, clamped)| wrapped != clamped);
                let beyond = beyond.count();
                let of = expected.len();
                match count - beyond {
                    0 => format!("saturated: {beyond} of {of}"),
                    more => format!("saturated: {beyond} of {of}; {more} within one"),
                }
            }
        });
    }
    outcomes.dedup();
    outcomes.join("; ")
}

/// A row of the table for each folder whose name `wanted` takes.
fn rows(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder of node tests");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("a folder").file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| wanted(name))
        .collect();
    names.sort();
    let row = |name: &String| {
        let outcome = outcome(&folder.join(name)).replace('|', "\\|");
        format!("| `{name}` | {outcome} |")
    };
    names.iter().map(row).collect()
}

/// Compares the rows of the document that begin with `prefix`, or writes them.
fn compare(prefix: &str, rows: &[String]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/CONFORMANCE.md");
    let text = std::fs::read_to_string(&path).expect("docs/CONFORMANCE.md");
    let start = format!("| `{prefix}");
    let is_row = |line: &&str| line.starts_with(&start);
    let committed: Vec<&str> = text.lines().filter(is_row).collect();
    if rows == committed {
        return;
    }
    assert!(
        std::env::var_os("EDGEWARD_BLESS").is_some(),
        "docs/CONFORMANCE.md says otherwise (EDGEWARD_BLESS=1 rewrites it):\n{committed:#?}\n{rows:#?}"
    );
    let before = text.lines().take_while(|line| !is_row(line));
    let after = text.lines().skip_while(|line| !is_row(line));
    let lines: Vec<&str> = before
        .chain(rows.iter().map(String::as_str))
        .chain(after.skip_while(is_row))
        .collect();
    std::fs::write(&path, lines.join("\n") + "\n").expect("docs/CONFORMANCE.md is writable");
}

#[test]
fn the_tables_say_what_happens() {
    let Some((python, package)) = node_tests() else {
        return;
    };
    let quantized = |name: &str| FAMILIES.iter().any(|family| name.starts_with(family));
    let rows_of_package = rows(&package, quantized);
    assert_eq!(rows_of_package.len(), 45, "the package holds them");
    compare("test_", &rows_of_package);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("onnx_nodes");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).expect("an earlier run's folder goes");
    }
    std::fs::create_dir_all(&folder).expect("a folder for made tests");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx_nodes.py");
    let made = Command::new(python).arg(script).arg(&folder).status();
    assert!(made.expect("EDGEWARD_PYTHON runs").success());
    let rows_made = rows(&folder, |_| true);
    assert_eq!(rows_made.len(), 34, "the script makes them");
    compare("made_", &rows_made);
}
