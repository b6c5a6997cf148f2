//! Operators on single elements and on two tensors.

use super::Importer;
use super::constant::{Constant, Elements};
use super::error::{EXPORT, QUANTIZE, Result, SHARED, USE_TRACT};
use super::layers::{bytes, permuted};
use super::lower::Context;
use super::value::{Affine, Form, Pending, Value};
use crate::emit::is_suffix;
use crate::graph::{Activation, DType, Kind, Quantization, Tensor, TensorId, Unary};

impl Importer {
    pub(super) fn clamp(&mut self, context: &Context<'_>) -> Result<Value> {
        let (low, high) = match &*context.node.operator {
            "Relu" => (0.0, f32::INFINITY),
            _ => (
                self.limit(context, 1, "min", f32::MIN)?,
                self.limit(context, 2, "max", f32::MAX)?,
            ),
        };
        let Value::Pending(pending) = self.value(context, 0)? else {
            return self.unary(context, clamp_of(low, high));
        };
        let mut pending = pending.clone();
        if !clamped(&mut pending.kind, low, high) {
            let why = format!("its input {} is float", context.name(0));
            return Err(context.error(why, QUANTIZE));
        }
        // A table is made for each of its readers anyway; what computes is not, for the sake of a clamp.
        if !matches!(pending.kind, Kind::Unary(_)) {
            self.read_once(context, 0)?;
        }
        Ok(Value::Pending(pending))
    }

    /// Whether nothing else reads an input: what is read in between can't become one with its reader.
    pub(super) fn read_once(&self, context: &Context<'_>, index: usize) -> Result<()> {
        let name = context.name(index);
        match self.uses.get(name) {
            Some(..=1) | None => Ok(()),
            Some(count) => {
                let why = format!("its input {name} is float and read {count} times");
                Err(context.error(why, SHARED))
            }
        }
    }

    /// A limit of a Clip: a constant, an attribute before version 11, or what there is without.
    fn limit(&self, context: &Context<'_>, index: usize, name: &str, default: f32) -> Result<f32> {
        let limit = match self.given(context, index) {
            true => match self.reals(context, index)?.as_slice() {
                &[limit] => limit as f32,
                all => {
                    let why = format!("{name} has {} elements", all.len());
                    return Err(context.error(why, EXPORT));
                }
            },
            false => context.float(name, default),
        };
        if limit.is_nan() {
            return Err(context.error(format!("{name} is no number"), EXPORT));
        }
        Ok(limit)
    }

    pub(super) fn unary(&mut self, context: &Context<'_>, function: Unary) -> Result<Value> {
        let (tensor, form) = self.activation(context, 0)?;
        Ok(Value::Pending(Pending {
            name: context.place.into(),
            kind: Kind::Unary(function),
            inputs: vec![Some(tensor)],
            form,
            made: None,
            own: None,
        }))
    }

    pub(super) fn elementwise(&mut self, context: &Context<'_>) -> Result<Value> {
        let (a, b) = (
            self.value(context, 0)?.clone(),
            self.value(context, 1)?.clone(),
        );
        let operator = &*context.node.operator;
        match (&a, &b) {
            (Value::Input(affine), Value::Constant(constant)) => {
                return scaled(context, affine, constant).map(Value::Input);
            }
            (Value::Constant(constant), Value::Input(affine))
                if matches!(operator, "Add" | "Mul") =>
            {
                return scaled(context, affine, constant).map(Value::Input);
            }
            // A product of matrices and its bias as a node of its own.
            (Value::Pending(pending), Value::Constant(_) | Value::RealConstant(..))
                if operator == "Add" =>
            {
                return self.biased(context, pending.clone(), 1, 0);
            }
            (Value::Constant(_) | Value::RealConstant(..), Value::Pending(pending))
                if operator == "Add" =>
            {
                return self.biased(context, pending.clone(), 0, 1);
            }
            _ => {}
        }
        let reciprocal = operator == "Div";
        if reciprocal && !matches!(b, Value::Constant(_)) {
            return Err(context.error("only division by a float constant is supported", USE_TRACT));
        }
        let activation = Activation::None;
        let kind = match operator {
            "Add" => Kind::Add { activation },
            "Sub" => Kind::Sub { activation },
            _ => Kind::Mul { activation },
        };
        let b = match &b {
            Value::Constant(constant) if reciprocal => Value::Constant(constant.reciprocal()),
            _ => b,
        };
        self.pair(context, &a, &b, kind).map(Value::Pending)
    }

    /// An operator of two operands, with ONNX's broadcasting.
    pub(super) fn pair(
        &mut self,
        context: &Context<'_>,
        a: &Value,
        b: &Value,
        kind: Kind,
    ) -> Result<Pending> {
        let form_of = |value: &Value| match value {
            Value::Real { form, .. } => Some(form.clone()),
            Value::Constant(it) | Value::RealConstant(it, _) => Some(Form::plain(it.shape.clone())),
            _ => None,
        };
        let (Some(a_form), Some(b_form)) = (form_of(a), form_of(b)) else {
            return Err(context.error("one of its inputs is float", QUANTIZE));
        };
        if ![a, b].iter().any(|it| matches!(it, Value::Real { .. })) {
            let next = "fold constants (onnxsim) before importing";
            return Err(context.error("both of its inputs are constants", next));
        }
        let rank = a_form.dims.len().max(b_form.dims.len());
        let (a_dims, b_dims) = (padded(&a_form.dims, rank), padded(&b_form.dims, rank));
        let mut dims = Vec::with_capacity(rank);
        for (&a, &b) in a_dims.iter().zip(&b_dims) {
            if a != b && a != 1 && b != 1 {
                let why = format!("{a_dims:?} and {b_dims:?} do not go together");
                return Err(context.error(why, EXPORT));
            }
            dims.push(if a == 1 { b } else { a });
        }
        let comes_last = |form: &Form| form.last && form.dims.len() == rank;
        let mut last = comes_last(&a_form) || comes_last(&b_form);
        // Programs repeat an operand that is the end of the result: channels first it may be one where
        // it is none with channels last, and the other way round.
        let fits = |last| {
            let shape = |dims: &[usize]| {
                Form {
                    dims: dims.to_vec(),
                    last,
                }
                .shape()
            };
            [&a_dims, &b_dims]
                .iter()
                .all(|it| is_suffix(&shape(it), &shape(&dims)))
        };
        if matches!(rank, 3 | 4) && !fits(last) && fits(!last) {
            last = !last;
        }
        let a = self.operand(context, a, rank, last)?.0;
        let b = self.operand(context, b, rank, last)?.0;
        Ok(Pending {
            name: context.place.into(),
            kind,
            inputs: vec![Some(a), Some(b)],
            form: Form { dims, last },
            made: None,
            own: None,
        })
    }

    fn real_operand(
        &mut self,
        context: &Context<'_>,
        mut tensor: TensorId,
        mut form: Form,
        rank: usize,
        last: bool,
    ) -> Result<(TensorId, Vec<usize>)> {
        if form.dims.len() < rank {
            tensor = self.channels_first(tensor, &form, context.place)?;
            form = Form::plain(padded(&form.dims, rank));
            tensor = self.reshaped(tensor, &form, context.place);
        }
        let tensor = match last {
            true => self.channels_last(tensor, &form, context.place)?.0,
            false => self.channels_first(tensor, &form, context.place)?,
        };
        Ok((tensor, form.dims))
    }

    /// An operand with `rank` axes, ones in front where it has fewer, in the wanted order, and its
    /// extents in ONNX's.
    pub(super) fn operand(
        &mut self,
        context: &Context<'_>,
        value: &Value,
        rank: usize,
        last: bool,
    ) -> Result<(TensorId, Vec<usize>)> {
        let (ints, dims, quantization, name) = match value {
            Value::Real { tensor, form } => {
                return self.real_operand(context, *tensor, form.clone(), rank, last);
            }
            Value::RealConstant(constant, quantization) => {
                let (ints, zero) = eight_bits(context, constant, quantization)?;
                let quantization = Quantization {
                    zero_points: vec![zero],
                    scales: quantization.scales.clone(),
                    axis: 0,
                };
                (
                    ints,
                    padded(&constant.shape, rank),
                    quantization,
                    "constant",
                )
            }
            Value::Constant(constant) => {
                let (ints, quantization) = quantized(context, constant)?;
                (
                    ints,
                    padded(&constant.shape, rank),
                    quantization,
                    "constant",
                )
            }
            _ => return Err(context.error("one of its inputs is float", QUANTIZE)),
        };
        if quantization.scales.len() != 1 {
            return Err(context.error(
                "a constant operand has a scale a channel",
                "give it one scale",
            ));
        }
        let form = Form {
            dims: dims.clone(),
            last: last && rank >= 3,
        };
        let ints: Vec<i8> = if form.last {
            let (channels, pixels) = (dims[1], dims[2..].iter().product());
            permuted(&ints, &[dims[0], channels, pixels, 1], &[0, 2, 1, 3])
        } else {
            ints
        };
        let tensor = self.constant_tensor(Tensor {
            name: format!("{} {name}", context.place),
            shape: form.shape(),
            dtype: DType::I8,
            quantization: Some(quantization),
            data: Some(bytes(&ints)),
        });
        Ok((tensor, dims))
    }
}

/// Extents with ones in front, for `rank` axes.
fn padded(dims: &[usize], rank: usize) -> Vec<usize> {
    let ones = std::iter::repeat_n(1, rank.saturating_sub(dims.len()));
    ones.chain(dims.iter().copied()).collect()
}

/// A float constant as symmetric int8.
fn quantized(context: &Context<'_>, constant: &Constant) -> Result<(Vec<i8>, Quantization)> {
    let floats = constant
        .floats()
        .ok_or_else(|| context.error("a constant operand is not float", EXPORT))?;
    let largest = floats.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    if !largest.is_finite() {
        return Err(context.error("a constant operand is not finite", EXPORT));
    }
    let scale = if largest > 0.0 { largest / 127.0 } else { 1.0 };
    let ints = floats.iter().map(|x| (x / scale).round() as i8).collect();
    let quantization = Quantization {
        scales: vec![scale],
        zero_points: vec![0],
        axis: 0,
    };
    Ok((ints, quantization))
}

/// A clamp as a function by itself.
fn clamp_of(low: f32, high: f32) -> Unary {
    if low <= f32::MIN && high >= f32::MAX {
        Unary::Requantize
    } else if low == 0.0 && high >= f32::MAX {
        Unary::Relu
    } else {
        Unary::Clamp { low, high }
    }
}

/// A clamp behind an operator that may have one: a clamp of a clamp is a clamp.
fn both(fused: Activation, low: f32, high: f32) -> Activation {
    let (least, greatest) = match fused {
        Activation::None => (f32::MIN, f32::MAX),
        Activation::Relu => (0.0, f32::MAX),
        Activation::Relu6 => (0.0, 6.0),
        Activation::ReluN1To1 => (-1.0, 1.0),
        Activation::Clamp { low, high } => (low, high),
    };
    // The ends of what comes out; of a clamp whose limits are turned round its max is both.
    let clamp = |x: f32| x.max(low).min(high);
    let [low, high] = [least.min(greatest), greatest].map(clamp);
    match clamp_of(low, high) {
        Unary::Requantize => Activation::None,
        Unary::Relu => Activation::Relu,
        _ => Activation::Clamp { low, high },
    }
}

/// Takes a clamp into an operator, or into a table that is nothing but a clamp; `false` where it has no
/// place there.
fn clamped(kind: &mut Kind, low: f32, high: f32) -> bool {
    if let Kind::Unary(function) = kind {
        let before = match *function {
            Unary::Requantize => Activation::None,
            Unary::Relu => Activation::Relu,
            Unary::Relu6 => Activation::Relu6,
            Unary::Clamp { low, high } => Activation::Clamp { low, high },
            _ => return false,
        };
        *function = function_of(both(before, low, high));
        return true;
    }
    let Some(fused) = slot(kind) else {
        return false;
    };
    *fused = both(*fused, low, high);
    true
}

/// A fused activation as a function by itself.
pub(super) const fn function_of(activation: Activation) -> Unary {
    match activation {
        Activation::None => Unary::Requantize,
        Activation::Relu => Unary::Relu,
        Activation::Relu6 => Unary::Relu6,
        Activation::ReluN1To1 => Unary::Clamp {
            low: -1.0,
            high: 1.0,
        },
        Activation::Clamp { low, high } => Unary::Clamp { low, high },
    }
}

pub(super) fn slot(kind: &mut Kind) -> Option<&mut Activation> {
    match kind {
        Kind::Conv { activation, .. }
        | Kind::Depthwise { activation, .. }
        | Kind::Dense { activation }
        | Kind::Add { activation }
        | Kind::Sub { activation }
        | Kind::Mul { activation }
        | Kind::AveragePool { activation, .. } => Some(activation),
        _ => None,
    }
}

/// One more shift or factor on the way of a float input.
pub(super) fn scaled(
    context: &Context<'_>,
    affine: &Affine,
    constant: &Constant,
) -> Result<Affine> {
    let floats = constant
        .floats()
        .ok_or_else(|| context.error("its constant is not float", EXPORT))?;
    let rank = affine.dims.len();
    // The axis along which the constant differs, counted in the input's axes.
    let lead = rank.checked_sub(constant.shape.len());
    let long: Vec<usize> = (0..constant.shape.len())
        .filter(|&axis| constant.shape[axis] != 1)
        .collect();
    let (axis, count) = match (lead, &long[..]) {
        (Some(_), []) => (affine.axis, 1),
        (Some(lead), &[axis]) if affine.dims[lead + axis] == constant.shape[axis] => {
            (lead + axis, constant.shape[axis])
        }
        _ => {
            let why = format!(
                "a constant {:?} over an input {:?}: not one number a feature",
                constant.shape, affine.dims
            );
            return Err(context.error(why, QUANTIZE));
        }
    };
    if count > 1 && affine.features.len() > 1 && affine.axis != axis {
        return Err(context.error(
            "it scales another axis than the operator before it",
            QUANTIZE,
        ));
    }
    let (axis, width) = if count > 1 {
        (axis, count)
    } else {
        (affine.axis, affine.features.len())
    };
    let operator = &*context.node.operator;
    let features = (0..width).map(|at| {
        let (subtract, multiply) = affine.features[if affine.features.len() == 1 { 0 } else { at }];
        let by = floats[if count == 1 { 0 } else { at }];
        // (x - s) * m + a = (x - (s - a / m)) * m.
        match operator {
            "Add" => (subtract - by / multiply, multiply),
            "Sub" => (subtract + by / multiply, multiply),
            "Mul" => (subtract, multiply * by),
            _ => (subtract, multiply / by),
        }
    });
    let features: Vec<(f32, f32)> = features.collect();
    if features.iter().any(|(subtract, multiply)| {
        !subtract.is_finite() || !multiply.is_finite() || *multiply == 0.0
    }) {
        return Err(context.error(
            "it scales the input by zero or by a number that is not finite",
            EXPORT,
        ));
    }
    Ok(Affine {
        dims: affine.dims.clone(),
        features,
        axis,
    })
}

/// Elements and zero point of a constant as int8.
pub(super) fn eight_bits(
    context: &Context<'_>,
    constant: &Constant,
    quantization: &Quantization,
) -> Result<(Vec<i8>, i32)> {
    let lower = match &constant.elements {
        Elements::Int(_, DType::I8) => 0,
        Elements::Int(_, DType::U8) => 128,
        _ => return Err(context.error("a constant operand is neither int8 nor uint8", QUANTIZE)),
    };
    let ints = constant.ints().unwrap_or_default();
    let ints = ints
        .iter()
        .map(|&int| (int - i64::from(lower)) as i8)
        .collect();
    Ok((
        ints,
        quantization.zero_points.first().copied().unwrap_or(0) - lower,
    ))
}
