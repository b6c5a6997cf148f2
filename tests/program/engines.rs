//! Every engine that the suite runs on, with its tolerance: the table in `docs/CONFORMANCE.md` and the
//! runs themselves are made of this list.

/// How far an engine's outputs may be from those of the portable kernels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Tolerance {
    /// Equal bit for bit.
    Exact,
    /// In steps of the output's scale, by what is run.
    Steps(&'static [Apart]),
}

/// How far outputs may be apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Apart {
    /// What is run.
    pub of: &'static str,
    /// In the mean over the outputs of one.
    pub mean: f32,
    /// Of one element.
    pub most: f32,
}

/// A single operator.
pub const OPERATOR: &str = "an operator";
/// A network of the suite.
pub const NETWORK: &str = "a network";
/// One with an average pool.
pub const AVERAGE_NETWORK: &str = "a network with averages";
/// A random graph of mixed rank.
pub const GRAPH: &str = "a graph";
/// A random float network that `edgeward quantize` made int8.
pub const QUANTIZED: &str = "a quantized network";
/// One with an average pool.
pub const AVERAGES: &str = "a quantized network with averages";

/// An engine.
#[derive(Debug, Clone, Copy)]
pub struct Engine {
    pub name: &'static str,
    pub what: &'static str,
    /// What runs the suite on it.
    pub run: &'static str,
    /// Processor that qemu-user emulates for it.
    pub cpu: Option<&'static str>,
    pub tolerance: Tolerance,
    /// What of the suite it runs.
    pub covers: &'static str,
}

const OPERATORS: &str = "operators, chains, networks, spoilt constants";

/// All of them; the first is the definition.
pub const ENGINES: [Engine; 8] = [
    Engine {
        name: "portable",
        what: "the portable kernels, on either layout: the definition in code",
        run: "`cargo test`, each processor below",
        cpu: None,
        tolerance: Tolerance::Exact,
        covers: "operators by a second writing of their arithmetic; chains and networks by operators",
    },
    Engine {
        name: "avx2",
        what: "packed for AVX2",
        run: "`cargo test` on x86-64",
        cpu: None,
        tolerance: Tolerance::Exact,
        covers: OPERATORS,
    },
    Engine {
        name: "avx512-vnni",
        what: "packed for AVX-512 with its dot product",
        run: "`cargo test` on x86-64",
        cpu: None,
        tolerance: Tolerance::Exact,
        covers: OPERATORS,
    },
    Engine {
        name: "neon-dot",
        what: "packed for NEON with its dot product",
        run: "`cargo xtask test-aarch64`, qemu-user",
        cpu: Some("cortex-a76"),
        tolerance: Tolerance::Exact,
        covers: OPERATORS,
    },
    Engine {
        name: "neon",
        what: "packed for NEON as every AArch64 processor has it",
        run: "`cargo xtask test-aarch64`, qemu-user",
        cpu: Some("cortex-a72"),
        tolerance: Tolerance::Exact,
        covers: OPERATORS,
    },
    Engine {
        name: "cortex-m-dsp",
        what: "the kernels for the DSP extension of Cortex-M, and the portable ones there",
        run: "`cargo xtask bench-mcu`, QEMU's mps2-an386",
        cpu: None,
        tolerance: Tolerance::Exact,
        covers: OPERATORS,
    },
    Engine {
        name: "tract",
        what: "tract on the network's ONNX form, in floats",
        run: "`cargo test`",
        cpu: None,
        tolerance: Tolerance::Steps(&[
            Apart {
                of: OPERATOR,
                mean: 1.0,
                most: 1.0,
            },
            Apart {
                of: NETWORK,
                mean: 2.5,
                most: 16.0,
            },
            Apart {
                of: AVERAGE_NETWORK,
                mean: 2.5,
                most: 20.0,
            },
            Apart {
                of: GRAPH,
                mean: 1.5,
                most: 16.0,
            },
            Apart {
                of: QUANTIZED,
                mean: 0.5,
                most: 8.0,
            },
            Apart {
                of: AVERAGES,
                mean: 2.5,
                most: 20.0,
            },
        ]),
        covers: "operators and networks that have an ONNX form, graphs, quantized networks",
    },
    Engine {
        name: "onnx-runtime",
        what: "ONNX Runtime on the graph's ONNX form, each operator by itself",
        run: "`cargo xtask test`, which has its Python",
        cpu: None,
        tolerance: Tolerance::Steps(&[Apart {
            of: GRAPH,
            mean: 1.5,
            most: 16.0,
        }]),
        covers: "graphs",
    },
];

/// The engine of that name.
///
/// # Panics
/// When it is not in the list: an engine that nobody holds to anything.
pub fn engine(name: &str) -> &'static Engine {
    let found = ENGINES.iter().find(|engine| engine.name == name);
    found.unwrap_or_else(|| panic!("no engine {name} in tests/program/engines.rs"))
}

impl Engine {
    /// How far its outputs may be apart.
    ///
    /// # Panics
    /// When the list does not say.
    pub fn apart(&self, of: &str) -> Apart {
        let Tolerance::Steps(all) = self.tolerance else {
            panic!("{} is exact", self.name);
        };
        let found = all.iter().find(|apart| apart.of == of);
        *found.unwrap_or_else(|| panic!("{}: no tolerance of {of}", self.name))
    }
}

impl Apart {
    /// The mean and the largest difference of outputs in such steps; an error says that they are too far apart.
    pub fn check(&self, ours: &[f32], theirs: &[f32], step: f32) -> Result<[f32; 2], String> {
        if ours.len() != theirs.len() {
            return Err(format!("{} elements and {}", ours.len(), theirs.len()));
        }
        let steps = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs() / step);
        // NaN is no number of steps.
        let all = steps.clone().all(|it| it <= self.most);
        let mean = steps.clone().sum::<f32>() / ours.len().max(1) as f32;
        let most = steps.fold(0.0, f32::max);
        match all && mean <= self.mean {
            true => Ok([mean, most]),
            false => Err(format!("steps of the output: mean {mean}, largest {most}")),
        }
    }
}

/// The list as a table of Markdown.
pub fn table() -> String {
    let mut text = String::from("| engine | what it is | run by | tolerance | what it runs |\n");
    text.push_str("|---|---|---|---|---|\n");
    for engine in &ENGINES {
        let tolerance = match engine.tolerance {
            Tolerance::Exact => "0: bit for bit".to_owned(),
            Tolerance::Steps(all) => {
                let each = |it: &Apart| format!("{} {} and {}", it.of, it.mean, it.most);
                let all: Vec<String> = all.iter().map(each).collect();
                format!(
                    "in steps of the output, in the mean and at most: {}",
                    all.join("; ")
                )
            }
        };
        let Engine {
            name,
            what,
            run,
            covers,
            ..
        } = engine;
        text += &format!("| {name} | {what} | {run} | {tolerance} | {covers} |\n");
    }
    text
}
