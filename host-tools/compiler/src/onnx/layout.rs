//! Operators that only move elements, and the order of axes.

use super::Importer;
use super::constant::Elements;
use super::error::{EXPORT, OnnxError, QUANTIZE, Result, USE_TRACT};
use super::lower::Context;
use super::value::{Form, Pending, Value};
use crate::graph::{DType, Kind, Node, TensorId};

impl Importer {
    /// Brings a tensor of three or four axes to channels last.
    pub(super) fn channels_last(
        &mut self,
        tensor: TensorId,
        form: &Form,
        place: &str,
    ) -> Result<(TensorId, Form)> {
        let last = Form::last(form.dims.clone());
        if form.last {
            return Ok((tensor, last));
        }
        let (channels, pixels, permutation) = match form.dims[..] {
            [_, c, l] => (c, l, vec![0, 2, 1]),
            [_, c, h, w] => (c, h * w, vec![0, 2, 3, 1]),
            _ => {
                let why = format!("it wants [n, c, l] or [n, c, h, w], not {:?}", form.dims);
                return Err(OnnxError::new(
                    place,
                    &self.graph.tensor(tensor).name,
                    why,
                    USE_TRACT,
                ));
            }
        };
        let mut moved = tensor;
        if channels > 1 && pixels > 1 {
            moved = self.transposed(tensor, permutation, place);
        }
        Ok((self.reshaped(moved, &last, place), last))
    }

    /// Brings a tensor to ONNX's order.
    pub(super) fn channels_first(
        &mut self,
        tensor: TensorId,
        form: &Form,
        place: &str,
    ) -> Result<TensorId> {
        if !form.last {
            return Ok(tensor);
        }
        let plain = Form::plain(form.dims.clone());
        let (channels, pixels) = (form.dims[1], form.dims[2..].iter().product::<usize>());
        if channels == 1 || pixels == 1 {
            return Ok(self.reshaped(tensor, &plain, place));
        }
        let moved = self.transposed(tensor, vec![0, 3, 1, 2], place);
        Ok(self.reshaped(moved, &plain, place))
    }

    /// The same bytes under another shape; of two reshapes in a row the second stays.
    pub(super) fn reshaped(&mut self, tensor: TensorId, form: &Form, place: &str) -> TensorId {
        let mut source = tensor;
        while let Some(Node {
            kind: Kind::Reshape,
            inputs,
            ..
        }) = self.maker(source)
            && let Some(Some(before)) = inputs.first()
        {
            source = *before;
        }
        if self.graph.tensor(source).shape == form.shape() {
            return source;
        }
        self.moved(&format!("{place} reshape"), Kind::Reshape, source, form)
    }

    pub(super) fn maker(&self, tensor: TensorId) -> Option<&Node> {
        self.graph
            .nodes
            .iter()
            .rfind(|node| node.outputs.contains(&tensor))
    }

    /// A transpose; two in a row that undo each other vanish.
    pub(super) fn transposed(
        &mut self,
        tensor: TensorId,
        permutation: Vec<usize>,
        place: &str,
    ) -> TensorId {
        let maker = self
            .graph
            .nodes
            .iter()
            .rfind(|node| node.outputs.contains(&tensor));
        if let Some(Node {
            kind: Kind::Transpose { permutation: first },
            inputs,
            ..
        }) = maker
            && permutation
                .iter()
                .enumerate()
                .all(|(axis, &from)| first[from] == axis)
            && let Some(Some(source)) = inputs.first()
        {
            return *source;
        }
        let shape = &self.graph.tensor(tensor).shape;
        let form = Form::plain(permutation.iter().map(|&axis| shape[axis]).collect());
        self.moved(
            &format!("{place} transpose"),
            Kind::Transpose { permutation },
            tensor,
            &form,
        )
    }

    pub(super) fn reshape(&mut self, context: &Context<'_>) -> Result<Value> {
        let (tensor, form) = self.activation(context, 0)?;
        let dims = self.new_shape(context, &form)?;
        let tensor = self.channels_first(tensor, &form, context.place)?;
        let form = Form::plain(dims);
        let output = self.reshaped(tensor, &form, context.place);
        Ok(self.like(context, 0, output, form))
    }

    pub(super) fn new_shape(&self, context: &Context<'_>, form: &Form) -> Result<Vec<usize>> {
        let old = &form.dims;
        let axes = |importer: &Self, rank: usize| -> Result<Vec<usize>> {
            let axes = match context.ints("axes") {
                Some(axes) => axes.to_vec(),
                None if importer.given(context, 1) => importer.integers(context, 1)?,
                None => return Ok(Vec::new()),
            };
            distinct_axes(context, &axes, rank)
        };
        let dims = match &*context.node.operator {
            "Flatten" => {
                let axis = context.int("axis", 1);
                let axis = if axis == old.len() as i64 {
                    old.len()
                } else {
                    context.axis(axis, old.len())?
                };
                vec![old[..axis].iter().product(), old[axis..].iter().product()]
            }
            "Squeeze" => {
                let axes = axes(self, old.len())?;
                if let Some(&axis) = axes.iter().find(|&&axis| old[axis] != 1) {
                    let why = format!("axis {axis} of {old:?} is longer than one");
                    return Err(context.error(why, EXPORT));
                }
                let goes =
                    |&axis: &usize| old[axis] == 1 && (axes.is_empty() || axes.contains(&axis));
                (0..old.len())
                    .filter(|axis| !goes(axis))
                    .map(|axis| old[axis])
                    .collect()
            }
            "Unsqueeze" => {
                let count = context.ints("axes").map_or_else(
                    || self.integers(context, 1).map_or(0, |it| it.len()),
                    <[i64]>::len,
                );
                let axes = axes(self, old.len() + count)?;
                let mut left = old.iter();
                let mut dims = Vec::new();
                for axis in 0..old.len() + count {
                    dims.push(if axes.contains(&axis) {
                        1
                    } else {
                        left.next().copied().unwrap_or(1)
                    });
                }
                dims
            }
            _ => self.asked_shape(context, form)?,
        };
        let elements = dims
            .iter()
            .try_fold(1_usize, |all, &extent| all.checked_mul(extent));
        if elements != Some(form.elements()) {
            return Err(context.error(format!("{old:?} does not become {dims:?}"), EXPORT));
        }
        Ok(dims)
    }

    /// The shape that a Reshape asks for: 0 keeps an extent, a negative one is what is left.
    fn asked_shape(&self, context: &Context<'_>, form: &Form) -> Result<Vec<usize>> {
        let wanted = self.integers(context, 1)?;
        let keeps_zero = context.int("allowzero", 0) != 0;
        let mut dims = Vec::new();
        let mut open = None;
        for (axis, &extent) in wanted.iter().enumerate() {
            dims.push(match usize::try_from(extent) {
                Ok(0) if !keeps_zero => *form.dims.get(axis).ok_or_else(|| {
                    let why = format!("{wanted:?} keeps an axis {axis} of {:?}", form.dims);
                    context.error(why, EXPORT)
                })?,
                Ok(extent) => extent,
                Err(_) if extent == -1 && open.is_none() => {
                    open = Some(axis);
                    1
                }
                Err(_) => {
                    let why = format!("{wanted:?} is no shape");
                    return Err(context.error(why, EXPORT));
                }
            });
        }
        if let Some(axis) = open {
            let known = dims
                .iter()
                .try_fold(1_usize, |all, &extent| all.checked_mul(extent))
                .unwrap_or(0);
            dims[axis] = form.elements().checked_div(known).unwrap_or(0);
        }
        Ok(dims)
    }

    pub(super) fn transpose(&mut self, context: &Context<'_>) -> Result<Value> {
        let (tensor, form) = self.activation(context, 0)?;
        let rank = form.dims.len();
        let permutation: Vec<usize> = match context.ints("perm") {
            Some(perm) => perm
                .iter()
                .map(|&axis| context.axis(axis, rank))
                .collect::<Result<_>>()?,
            None => (0..rank).rev().collect(),
        };
        let mut sorted = permutation.clone();
        sorted.sort_unstable();
        if sorted != (0..rank).collect::<Vec<_>>() {
            return Err(context.error(
                format!("{permutation:?} is not an order of {rank} axes"),
                EXPORT,
            ));
        }
        let tensor = self.channels_first(tensor, &form, context.place)?;
        let form = Form::plain(permutation.iter().map(|&axis| form.dims[axis]).collect());
        let output = self.transposed(tensor, permutation, context.place);
        Ok(self.like(context, 0, output, form))
    }

    pub(super) fn concat(&mut self, context: &Context<'_>) -> Result<Value> {
        let values: Vec<Value> = (0..context.node.inputs.len())
            .map(|index| self.value(context, index).cloned())
            .collect::<Result<_>>()?;
        let axis = context.int("axis", 1);
        self.side_by_side(context, &values, axis)
            .map(Value::Pending)
    }

    /// Values side by side along an axis of ONNX's order.
    pub(super) fn side_by_side(
        &mut self,
        context: &Context<'_>,
        values: &[Value],
        axis: i64,
    ) -> Result<Pending> {
        let form_of = |value: &Value| match value {
            Value::Real { form, .. } => Some(form.clone()),
            _ => None,
        };
        let forms: Vec<Form> = values.iter().filter_map(form_of).collect();
        let first = forms
            .first()
            .ok_or_else(|| context.error("none of its inputs depends on the input", QUANTIZE))?;
        let rank = first.dims.len();
        let axis = context.axis(axis, rank)?;
        let last = forms.iter().any(|form| form.last);
        let mut dims = first.dims.clone();
        dims[axis] = 0;
        let mut inputs = Vec::new();
        for value in values {
            let axes = match value {
                Value::Constant(it) | Value::RealConstant(it, _) => it.shape.len(),
                _ => value.form().map_or(rank, |form| form.dims.len()),
            };
            let (tensor, its) = self.operand(context, value, rank, last)?;
            let fits = axes == rank && (0..rank).all(|at| at == axis || its[at] == dims[at]);
            if !fits {
                return Err(context.error(format!("{its:?} does not fit beside {dims:?}"), EXPORT));
            }
            dims[axis] += its[axis];
            inputs.push(Some(tensor));
        }
        Ok(Pending {
            name: context.place.into(),
            kind: Kind::Concat {
                axis: if last { last_axis(axis, rank) } else { axis },
            },
            inputs,
            form: Form { dims, last },
            made: None,
            own: None,
        })
    }

    pub(super) fn pad(&mut self, context: &Context<'_>) -> Result<Value> {
        let (tensor, form) = self.activation(context, 0)?;
        let rank = form.dims.len();
        if !matches!(context.text("mode"), None | Some(b"constant")) {
            return Err(context.error("only padding with a constant is supported", USE_TRACT));
        }
        let pads = match context.ints("pads") {
            Some(pads) => pads.to_vec(),
            None => self.integers(context, 1)?,
        };
        let axes: Vec<usize> = if self.given(context, 3) {
            distinct_axes(context, &self.integers(context, 3)?, rank)?
        } else {
            (0..rank).collect()
        };
        let value = self.padding(context, tensor)?;
        if pads.len() != 2 * axes.len() || pads.iter().any(|&pad| !(0..1 << 16).contains(&pad)) {
            return Err(context.error(
                format!("its pads {pads:?} are not two non-negative numbers an axis"),
                "crop with Slice",
            ));
        }
        let mut padding = vec![[0, 0]; form.shape().len()];
        let mut dims = form.dims.clone();
        for (index, &axis) in axes.iter().enumerate() {
            let both = [pads[index] as usize, pads[axes.len() + index] as usize];
            dims[axis] += both[0] + both[1];
            padding[if form.last {
                last_axis(axis, rank)
            } else {
                axis
            }] = both;
        }
        let form = Form {
            dims,
            last: form.last,
        };
        let output = self.moved(context.place, Kind::Pad { padding, value }, tensor, &form);
        Ok(self.like(context, 0, output, form))
    }

    /// What a Pad writes, as the graph holds it.
    fn padding(&self, context: &Context<'_>, tensor: TensorId) -> Result<i8> {
        let given = self.given(context, 2);
        if let Value::Int { unsigned, .. } = *self.value(context, 0)? {
            // Integers are padded with an integer; 0 where none is given.
            let (dtype, lower) = match unsigned {
                true => (DType::U8, 128),
                false => (DType::I8, 0),
            };
            let int = match given.then(|| self.constant(context, 2)).transpose()? {
                None => 0,
                Some(constant) => match (&constant.elements, constant.narrow) {
                    (Elements::Int(ints, found), None) if *found == dtype => {
                        let int = ints.first().copied();
                        int.ok_or_else(|| context.error("its constant is empty", EXPORT))?
                    }
                    _ => {
                        let why = "its constant has another type than its input";
                        return Err(context.error(why, EXPORT));
                    }
                },
            };
            return Ok((int - lower) as i8);
        }
        let real = match given {
            true => self.reals(context, 2)?.first().copied(),
            false => Some(f64::from(context.float("value", 0.0))),
        };
        let real = real.ok_or_else(|| context.error("its constant is empty", EXPORT))?;
        let quantization = self.graph.tensor(tensor).quantization.clone();
        let quantization =
            quantization.ok_or_else(|| context.error("its input has no scale", QUANTIZE))?;
        let exact =
            real / f64::from(quantization.scales[0]) + f64::from(quantization.zero_points[0]);
        let value = exact.round_ties_even();
        // The least and greatest of floats stand for whatever a maximum passes over.
        if !(-128.0..=127.0).contains(&value) && exact.abs() < 1e30 || value.is_nan() {
            let why = format!("its constant {real} lies beyond the range of its input");
            return Err(context.error(why, "quantize its input so that the range holds it"));
        }
        Ok(value.clamp(-128.0, 127.0) as i8)
    }

    pub(super) fn slice(&mut self, context: &Context<'_>) -> Result<Value> {
        let (tensor, form) = self.activation(context, 0)?;
        let rank = form.dims.len();
        let (starts, ends) = match (context.ints("starts"), context.ints("ends")) {
            (Some(starts), Some(ends)) => (starts.to_vec(), ends.to_vec()),
            _ => (self.integers(context, 1)?, self.integers(context, 2)?),
        };
        let axes: Vec<i64> = match context.ints("axes") {
            Some(axes) => axes.to_vec(),
            None if self.given(context, 3) => self.integers(context, 3)?,
            None => (0..starts.len() as i64).collect(),
        };
        let steps = if self.given(context, 4) {
            self.integers(context, 4)?
        } else {
            vec![1; starts.len()]
        };
        if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
            return Err(context.error("starts, ends, axes and steps differ in number", EXPORT));
        }
        let (mut begin, mut stride) = (vec![0; form.shape().len()], vec![1; form.shape().len()]);
        let mut dims = form.dims.clone();
        for (index, axis) in distinct_axes(context, &axes, rank)?.into_iter().enumerate() {
            let extent = form.dims[axis] as i64;
            let place = |at: i64| {
                (if at < 0 {
                    at.saturating_add(extent)
                } else {
                    at
                })
                .clamp(0, extent)
            };
            let (first, end, step) = (place(starts[index]), place(ends[index]), steps[index]);
            if step < 1 || end <= first {
                return Err(context.error(
                    format!("it keeps nothing of axis {axis}, or goes backwards"),
                    USE_TRACT,
                ));
            }
            dims[axis] = (end - first).unsigned_abs().div_ceil(step.unsigned_abs()) as usize;
            let at = if form.last {
                last_axis(axis, rank)
            } else {
                axis
            };
            (begin[at], stride[at]) = (first as usize, step as usize);
        }
        let form = Form {
            dims,
            last: form.last,
        };
        let output = self.moved(context.place, Kind::Slice { begin, stride }, tensor, &form);
        Ok(self.like(context, 0, output, form))
    }
}

/// Axes of a tensor, none of them twice.
fn distinct_axes(context: &Context<'_>, axes: &[i64], rank: usize) -> Result<Vec<usize>> {
    let found = axes.iter().map(|&axis| context.axis(axis, rank));
    let found: Vec<usize> = found.collect::<Result<_>>()?;
    let mut seen = vec![false; rank];
    for &axis in &found {
        if core::mem::replace(&mut seen[axis], true) {
            let why = format!("its axes {axes:?} name axis {axis} twice");
            return Err(context.error(why, EXPORT));
        }
    }
    Ok(found)
}

/// Where an axis of `[n, c, l]` or `[n, c, h, w]` lies in `[n, h, w, c]`.
pub(super) fn last_axis(axis: usize, rank: usize) -> usize {
    match (axis, rank) {
        (0, _) => 0,
        (1, _) => 3,
        (axis, _) => axis - 1,
    }
}
