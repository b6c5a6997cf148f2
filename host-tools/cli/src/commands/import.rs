//! `edgeward import`.

use super::pack::print_program;
use super::release;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::output::Table;
use edgeward_host::import::{Import, TensorReport};
use std::io::{self, Write};
use std::path::PathBuf;

/// Arguments of `import`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  edgeward import model.onnx\n\nExit code 3: no board runs the model; the reason and what to do are printed. Changes nothing."
)]
pub struct Args {
    /// The ONNX or TFLite file.
    model: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let model = release::read(&args.model)?;
    let import = edgeward_host::import::import(&model).map_err(|error| {
        Failure::new(Exit::Error, format!("{}: {error}", args.model.display())).next(error.next())
    })?;
    context.out.emit(&import, print)?;
    Ok(if import.runs() {
        Exit::Ok
    } else {
        Exit::Refused
    })
}

fn print(import: &Import, w: &mut dyn Write) -> io::Result<()> {
    let tensor = |tensor: &TensorReport| {
        format!(
            "{}  {} [{}]",
            tensor.name,
            tensor.element,
            tensor.shape.join(", ")
        )
    };
    for input in &import.inputs {
        writeln!(w, "input         {}", tensor(input))?;
    }
    for output in &import.outputs {
        writeln!(w, "output        {}", tensor(output))?;
    }
    let operators = import.operators.iter();
    let operators: Vec<_> = operators
        .map(|op| format!("{} {}", op.count, op.name))
        .collect();
    writeln!(w, "operators     {}", operators.join(", "))?;
    writeln!(w, "quantization  {}", import.quantization)?;
    if !import.float_nodes.is_empty() {
        writeln!(w, "in float      {}", import.float_nodes.join(", "))?;
    }
    writeln!(w, "weights       {} bytes", import.weight_bytes)?;
    match import.format {
        "onnx" => writeln!(
            w,
            "made by       {}, operator set {}",
            import.producer, import.opset
        )?,
        format => writeln!(w, "format        {format}")?,
    }
    writeln!(w)?;
    let mut table = Table::new(["board", "engine", "runs", "why"]);
    for board in &import.boards {
        let runs = if board.runs { "yes" } else { "no" };
        table.row([
            board.class.into(),
            board.engine.into(),
            runs.into(),
            board.why.clone(),
        ]);
    }
    table.write(w)?;
    for board in &import.boards {
        if let Some(next) = &board.next {
            writeln!(w, "{}: {next}", board.class)?;
        }
    }
    for board in &import.boards {
        let Some(program) = &board.program else {
            continue;
        };
        writeln!(w, "\nprogram for {} boards", board.class)?;
        print_program(&program.report, w)?;
        for line in &program.listing {
            writeln!(w, "  {line}")?;
        }
    }
    Ok(())
}
