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

/// The elements of a tensor of float, uint8 or int8.
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
        (2 | 3, true) => tensor.ints.iter().map(|&int| narrow(int)).collect(),
        (2 | 3, false) => tensor.raw.iter().map(|&it| narrow(i32::from(it))).collect(),
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
    let offset = |element| if element == 2 { 128.0 } else { 0.0 };
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
    let bytes = model.encode_to_vec();
    let mut outcomes = Vec::new();
    for options in [Options::linux(), Options::mcu(Layout::Natural)] {
        let compiled = match compile(&bytes, &options) {
            Ok(compiled) => compiled,
            Err(error) => {
                outcomes.push(format!("refused: {error}"));
                continue;
            }
        };
        let program = Aligned::copy_of(&compiled.program);
        let program = Program::verify(program.as_ref()).expect("the compiler verified it");
        let rows = elements(&input);
        let rows = rows.chunks_exact(row as usize);
        let output: Vec<f32> = rows.flat_map(|row| run(&program, row, types)).collect();
        let expected = elements(&read(&folder.join("test_data_set_0/output_0.pb")));
        assert_eq!(output.len(), expected.len(), "{name}");
        let quantum = match types[1] {
            1 => program.header().output_scale,
            _ => 1.0,
        };
        let differences: Vec<f32> = output
            .iter()
            .zip(&expected)
            .map(|(a, b)| (a - b).abs())
            .filter(|&difference| difference != 0.0)
            .collect();
        let largest = differences.iter().copied().fold(0.0, f32::max);
        assert!(
            largest <= quantum,
            "{name}: {output:?}, expected {expected:?}"
        );
        outcomes.push(match differences.len() {
            0 => "passed".into(),
            count => format!("within one: {count} of {} differ", expected.len()),
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
    assert_eq!(rows_made.len(), 16, "the script makes them");
    compare("made_", &rows_made);
}
