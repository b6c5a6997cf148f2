//! Every engine that the suite runs on, with its tolerance: the table in `docs/CONFORMANCE.md` and the
//! runs themselves are made of this list.

/// How far an engine's outputs may be from those of the portable kernels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Tolerance {
    /// Equal bit for bit.
    Exact,
    /// In steps of the output's scale.
    Steps {
        /// Of one operator, the largest.
        operator: f32,
        /// Of a network, the mean and the largest.
        network: [f32; 2],
        /// Of one with an average pool.
        averages: [f32; 2],
    },
}

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
pub const ENGINES: [Engine; 7] = [
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
        tolerance: Tolerance::Steps {
            operator: 1.0,
            network: [0.5, 8.0],
            averages: [2.5, 20.0],
        },
        covers: "operators that ONNX has, quantized networks",
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

/// The list as a table of Markdown.
pub fn table() -> String {
    let mut text = String::from("| engine | what it is | run by | tolerance | what it runs |\n");
    text.push_str("|---|---|---|---|---|\n");
    for engine in &ENGINES {
        let tolerance = match engine.tolerance {
            Tolerance::Exact => "0: bit for bit".to_owned(),
            Tolerance::Steps {
                operator,
                network: [mean, most],
                averages,
            } => format!(
                "{operator} step of an operator's output; of a network's {mean} in the mean and {most} at \
                 most, with averages {} and {}",
                averages[0], averages[1]
            ),
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
