//! TFLite files to graphs.
//!
//! The file is read by its own schema (`schema`), table by table, each access checked. What comes
//! out has the operators of [`crate::graph`], with paddings made explicit and shapes taken from the
//! file; [`crate::check`] then compares the shapes with what the operators make of them.

mod names;
mod operators;
mod schema;
mod shapes;

use crate::error::{CompileError, Reason, Refusal};
use crate::graph::{DType, Graph, Quantization, Tensor, TensorId};

/// The name of the format in messages.
const FORMAT: &str = "TFLite";
/// Most elements of a tensor.
const ELEMENTS_MAX: usize = 1 << 30;
/// Most bytes of all constants together: buffers may be shared, so a small file can ask for a lot.
const CONSTANT_BYTES_MAX: usize = 1 << 28;
/// Most axes of a tensor.
const AXES_MAX: usize = 8;
/// Most operators of a model; tables may be shared too, and later passes compare each with each.
const OPERATORS_MAX: usize = 4096;
/// Most tensors of a model.
const TENSORS_MAX: usize = 1 << 15;
/// Most inputs and outputs of all operators together.
const OPERANDS_MAX: usize = 1 << 16;

impl From<planus::Error> for CompileError {
    fn from(error: planus::Error) -> Self {
        let place = error.source_location;
        Self::Malformed {
            format: FORMAT,
            table: place.type_,
            field: place.method,
            at: place.byte_offset,
            why: error.error_kind.to_string(),
        }
    }
}

/// An operator as it stands in the file, with the names that messages need.
struct Raw<'a> {
    table: schema::Operator<'a>,
    code: i32,
    name: String,
    index: usize,
    /// Name of the tensor that it makes; empty where it makes none.
    makes: &'a str,
    inputs: Vec<i32>,
    outputs: Vec<i32>,
}

impl Raw<'_> {
    fn refuse(&self, tensor: Option<&str>, reason: Reason) -> CompileError {
        CompileError::Refused(Box::new(Refusal {
            operator: self.name.clone(),
            index: self.index,
            tensor: Some(tensor.unwrap_or(self.makes).into()),
            reason,
        }))
    }

    fn broken(&self, why: impl Into<String>) -> CompileError {
        CompileError::Inconsistent {
            place: format!("{}, tensor \"{}\"", self.label(), self.makes),
            why: why.into(),
        }
    }

    fn label(&self) -> String {
        format!("operator {} {}", self.index, self.name)
    }
}

/// Reads a TFLite file.
///
/// # Errors
/// When the bytes are no TFLite file, contradict the schema or themselves, or ask for something
/// that [`crate::graph`] has no operator for; the error names operator, tensor and field.
pub fn read(bytes: &[u8]) -> Result<Graph, CompileError> {
    if bytes.get(4..8) != Some(b"TFL3") {
        return Err(CompileError::NotThisFormat {
            format: FORMAT,
            why: "the identifier TFL3 is missing at byte 4",
        });
    }
    let model = schema::root(bytes)?;
    let subgraph = match model.subgraphs()? {
        Some(all) => all.get(0)?,
        None => None,
    };
    let subgraph = subgraph.ok_or_else(|| model_broken("it has no subgraph"))?;
    let raw = raw_operators(&model, &subgraph)?;
    let tensors = read_tensors(&model, &subgraph, &raw)?;
    let mut graph = Graph {
        inputs: border(subgraph.inputs()?, "input", tensors.len())?,
        outputs: border(subgraph.outputs()?, "output", tensors.len())?,
        tensors,
        nodes: Vec::with_capacity(raw.len()),
        ..Graph::default()
    };
    let count = graph.tensors.len();
    for one in &raw {
        operators::read(&mut graph, one, count)?;
    }
    Ok(graph)
}

fn model_broken(why: impl Into<String>) -> CompileError {
    CompileError::Inconsistent {
        place: "the model".into(),
        why: why.into(),
    }
}

/// `value`, which is no larger than `limit`.
fn at_most(what: &'static str, value: usize, limit: usize) -> Result<(), CompileError> {
    if value <= limit {
        return Ok(());
    }
    Err(CompileError::TooLarge {
        place: "the model".into(),
        what,
        value: value as u64,
        limit: limit as u64,
    })
}

fn raw_operators<'a>(
    model: &schema::Model<'a>,
    subgraph: &schema::SubGraph<'a>,
) -> Result<Vec<Raw<'a>>, CompileError> {
    let codes = model
        .operator_codes()?
        .map(schema::List::all)
        .transpose()?
        .unwrap_or_default();
    let tables = subgraph
        .operators()?
        .map(schema::List::all)
        .transpose()?
        .unwrap_or_default();
    at_most("the number of its operators", tables.len(), OPERATORS_MAX)?;
    let tensors = subgraph.tensors()?;
    let mut operands = 0;
    let mut raw = Vec::with_capacity(tables.len());
    for (index, table) in tables.into_iter().enumerate() {
        let code = codes
            .get(table.opcode_index()? as usize)
            .ok_or_else(|| model_broken(format!("operator {index} has no code")))?;
        // Files of before 2020 have only the byte, later ones carry the larger of both.
        let number = code
            .builtin_code()?
            .max(i32::from(code.deprecated_builtin_code()?));
        let outputs = table.outputs()?;
        let outputs = outputs.map(schema::List::all).transpose()?;
        let outputs: Vec<i32> = outputs.unwrap_or_default();
        let first = outputs.first().and_then(|&at| usize::try_from(at).ok());
        let made = match (tensors, first) {
            (Some(tensors), Some(at)) => tensors.get(at)?,
            _ => None,
        };
        let one = Raw {
            table,
            makes: match made {
                Some(tensor) => tensor.name()?,
                None => "",
            },
            code: number,
            name: names::builtin_name(number),
            index,
            inputs: table
                .inputs()?
                .map(schema::List::all)
                .transpose()?
                .unwrap_or_default(),
            outputs,
        };
        operands += one.inputs.len() + one.outputs.len();
        at_most("the number of all operands", operands, OPERANDS_MAX)?;
        if number == operators::CUSTOM {
            let custom = code.custom_code()?.unwrap_or_default();
            return Err(one.refuse(None, Reason::Custom(custom.into())));
        }
        raw.push(one);
    }
    Ok(raw)
}

fn border(
    list: Option<schema::List<'_, i32>>,
    which: &str,
    tensors: usize,
) -> Result<Vec<TensorId>, CompileError> {
    let indices = list.map(schema::List::all).transpose()?.unwrap_or_default();
    let ids: Option<Vec<_>> = indices
        .iter()
        .map(|&index| {
            usize::try_from(index)
                .ok()
                .filter(|&index| index < tensors)
                .map(TensorId)
        })
        .collect();
    ids.ok_or_else(|| model_broken(format!("an {which} is no tensor")))
}

fn read_tensors(
    model: &schema::Model<'_>,
    subgraph: &schema::SubGraph<'_>,
    raw: &[Raw<'_>],
) -> Result<Vec<Tensor>, CompileError> {
    let buffers = model.buffers()?;
    let tables = subgraph
        .tensors()?
        .map(schema::List::all)
        .transpose()?
        .unwrap_or_default();
    at_most("the number of its tensors", tables.len(), TENSORS_MAX)?;
    let mut owners = vec![None; tables.len()];
    for one in raw.iter().rev() {
        for &tensor in one.inputs.iter().chain(&one.outputs) {
            let owner = usize::try_from(tensor)
                .ok()
                .and_then(|tensor| owners.get_mut(tensor));
            if let Some(owner) = owner {
                *owner = Some(one);
            }
        }
    }
    let mut tensors = Vec::with_capacity(tables.len());
    let mut bytes = 0;
    for (index, table) in tables.into_iter().enumerate() {
        let tensor = read_tensor(&table, buffers, index, owners[index])?;
        let scales = tensor.quantization.as_ref().map_or(0, |it| it.scales.len());
        bytes += tensor.data.as_ref().map_or(0, Vec::len) + 8 * scales + tensor.name.len();
        at_most(
            "the size of its constants in bytes",
            bytes,
            CONSTANT_BYTES_MAX,
        )?;
        tensors.push(tensor);
    }
    Ok(tensors)
}

fn read_tensor(
    table: &schema::Tensor<'_>,
    buffers: Option<schema::List<'_, schema::Buffer<'_>>>,
    index: usize,
    owner: Option<&Raw<'_>>,
) -> Result<Tensor, CompileError> {
    let name = match table.name()? {
        "" => format!("tensor {index}"),
        name => name.to_owned(),
    };
    let refuse = |reason| match owner {
        Some(owner) => owner.refuse(Some(&name), reason),
        None => CompileError::Refused(Box::new(Refusal {
            operator: "(none)".into(),
            index: 0,
            tensor: Some(name.clone()),
            reason,
        })),
    };
    if table.sparsity()?.is_some() {
        return Err(refuse(Reason::Sparse));
    }
    if table.is_variable()? {
        return Err(refuse(Reason::State));
    }
    let dtype = match (element_type(table.kind()?), owner) {
        (Ok(dtype), _) => dtype,
        // What no operator touches harms nobody.
        (Err(_), None) => DType::I8,
        (Err(found), Some(_)) => return Err(refuse(Reason::Type { found })),
    };
    let shape = read_shape(table, &name).and_then(|shape| shape.map_err(refuse))?;
    // Whoever multiplies some of the extents finds no more than this, even if others are 0.
    let most = shape
        .iter()
        .try_fold(1_usize, |all, &one| all.checked_mul(one.max(1)));
    if most.is_none_or(|most| most > ELEMENTS_MAX) {
        return Err(CompileError::TooLarge {
            place: format!("tensor \"{name}\""),
            what: "the number of its elements",
            value: most.map_or(u64::MAX, |most| most as u64),
            limit: ELEMENTS_MAX as u64,
        });
    }
    let elements = shape.iter().product::<usize>();
    let data = match read_data(table, buffers, &name)? {
        Some(Ok(data)) if data.len() != elements * dtype.bytes() => {
            return Err(CompileError::Inconsistent {
                place: format!("tensor \"{name}\""),
                why: format!(
                    "its data has {} bytes, and its shape {shape:?} of {} asks for {}",
                    data.len(),
                    dtype.name(),
                    elements * dtype.bytes()
                ),
            });
        }
        Some(Ok(data)) => Some(data.to_vec()),
        Some(Err(reason)) => return Err(refuse(reason)),
        None => None,
    };
    let quantization = read_quantization(table, &name, &shape)?;
    Ok(Tensor {
        name,
        shape,
        dtype,
        quantization,
        data,
    })
}

fn element_type(code: i8) -> Result<DType, String> {
    Ok(match code {
        0 => DType::F32,
        2 => DType::I32,
        3 => DType::U8,
        4 => DType::I64,
        7 => DType::I16,
        9 => DType::I8,
        1 => return Err("float16".into()),
        5 => return Err("string".into()),
        6 => return Err("bool".into()),
        10 => return Err("float64".into()),
        13 => return Err("resource".into()),
        17 => return Err("int4".into()),
        other => return Err(format!("type {other}")),
    })
}

/// The extents; the inner error is a refusal.
fn read_shape(
    table: &schema::Tensor<'_>,
    name: &str,
) -> Result<Result<Vec<usize>, Reason>, CompileError> {
    let list = |list: Option<schema::List<'_, i32>>| {
        list.map(schema::List::all)
            .transpose()
            .map(Option::unwrap_or_default)
    };
    let extents = list(table.shape()?)?;
    let signature = list(table.shape_signature()?)?;
    if extents.len() > AXES_MAX {
        return Err(CompileError::TooLarge {
            place: format!("tensor \"{name}\""),
            what: "the number of its axes",
            value: extents.len() as u64,
            limit: AXES_MAX as u64,
        });
    }
    // A batch that is left open is one; any other open axis would change what is computed.
    let open = |axis: usize| signature.get(axis).is_some_and(|&extent| extent < 0);
    if (0..extents.len()).any(|axis| open(axis) && (axis > 0 || extents[axis] != 1)) {
        return Ok(Err(Reason::DynamicShape));
    }
    let shape: Option<Vec<_>> = extents
        .iter()
        .map(|&extent| usize::try_from(extent).ok())
        .collect();
    Ok(shape.ok_or(Reason::DynamicShape))
}

/// A constant's bytes; the inner error is a refusal.
fn read_data<'a>(
    table: &schema::Tensor<'_>,
    buffers: Option<schema::List<'a, schema::Buffer<'a>>>,
    name: &str,
) -> Result<Option<Result<&'a [u8], Reason>>, CompileError> {
    let index = table.buffer()?;
    if index == 0 {
        return Ok(None);
    }
    let buffer = match buffers {
        Some(buffers) => buffers.get(index as usize)?,
        None => None,
    };
    let buffer = buffer.ok_or_else(|| CompileError::Inconsistent {
        place: format!("tensor \"{name}\""),
        why: format!("its data is buffer {index}, which the file does not have"),
    })?;
    if buffer.offset()? > 1 {
        return Ok(Some(Err(Reason::External)));
    }
    Ok(buffer.data()?.filter(|data| !data.is_empty()).map(Ok))
}

fn read_quantization(
    table: &schema::Tensor<'_>,
    name: &str,
    shape: &[usize],
) -> Result<Option<Quantization>, CompileError> {
    let Some(quantization) = table.quantization()? else {
        return Ok(None);
    };
    let scales = quantization
        .scale()?
        .map(schema::List::all)
        .transpose()?
        .unwrap_or_default();
    if scales.is_empty() {
        return Ok(None);
    }
    let broken = |why: String| CompileError::Inconsistent {
        place: format!("tensor \"{name}\""),
        why,
    };
    if let Some(scale) = scales
        .iter()
        .find(|scale| !scale.is_finite() || **scale < 0.0)
    {
        return Err(broken(format!("its scale is {scale}")));
    }
    let zeros = quantization
        .zero_point()?
        .map(schema::List::all)
        .transpose()?
        .unwrap_or_default();
    let zero_points: Option<Vec<i32>> = match zeros.len() {
        0 => Some(vec![0; scales.len()]),
        _ => zeros.iter().map(|&zero| i32::try_from(zero).ok()).collect(),
    };
    let zero_points =
        zero_points.ok_or_else(|| broken("a zero point does not fit 32 bits".into()))?;
    let zero_points = Some(zero_points)
        .filter(|zeros| zeros.len() == scales.len())
        .ok_or_else(|| {
            broken(format!(
                "{} scales and {} zero points",
                scales.len(),
                zeros.len()
            ))
        })?;
    let axis = usize::try_from(quantization.quantized_dimension()?).unwrap_or(usize::MAX);
    if scales.len() > 1 && shape.get(axis) != Some(&scales.len()) {
        return Err(broken(format!(
            "{} scales for an axis of its shape {shape:?}",
            scales.len()
        )));
    }
    let axis = if scales.len() > 1 { axis } else { 0 };
    Ok(Some(Quantization {
        scales,
        zero_points,
        axis,
    }))
}
