//! Operators of a TFLite file to those of a graph.

use super::{Raw, shapes};
use crate::error::{CompileError, Reason};
use crate::graph::{Activation, DType, Graph, Kind, Node, Tensor, TensorId, Unary, Window};

/// Code of operators that the model's author wrote.
pub(super) const CUSTOM: i32 = 32;

/// Code of a slice with steps, which may drop axes.
const STRIDED_SLICE: i32 = 45;

/// Axes of a transpose's or slice's parameter at most; more than any file needs.
const LIST_MAX: usize = 64;

/// Reads one operator; `graph` has the file's `tensors` first of all and gets the operator's nodes.
pub(super) fn read(graph: &mut Graph, raw: &Raw<'_>, tensors: usize) -> Result<(), CompileError> {
    let node = Reading {
        graph,
        raw,
        tensors,
    };
    let (kind, inputs) = node.kind()?;
    let dropped = match kind {
        Kind::Slice { .. } if raw.code == STRIDED_SLICE => node.dropped()?,
        _ => Vec::new(),
    };
    let inputs = node.inputs(inputs)?;
    let outputs: Option<Vec<_>> = raw.outputs.iter().map(|&index| node.id(index)).collect();
    let outputs = outputs.ok_or_else(|| raw.broken("an output is no tensor"))?;
    if outputs.len() != 1 {
        return Err(raw.broken(format!("it has {} outputs instead of one", outputs.len())));
    }
    let node = Node {
        name: raw.label(),
        kind,
        inputs,
        outputs,
    };
    match node.kind {
        Kind::Mean { .. } => shapes::mean(graph, node),
        _ if dropped.is_empty() => graph.nodes.push(node),
        _ => shapes::drop_axes(graph, node, &dropped).map_err(|why| raw.broken(why))?,
    }
    Ok(())
}

struct Reading<'a, 'b> {
    graph: &'a Graph,
    raw: &'a Raw<'b>,
    /// How many tensors the file has: those that reading added lie behind them.
    tensors: usize,
}

/// How many of an operator's inputs stay inputs of the node: those that are data.
#[derive(Clone, Copy)]
enum Inputs {
    First(usize),
    All,
}

type Understood = Result<(Kind, Inputs), CompileError>;

/// Window and activation of a convolution by its options, a table of the schema for each kind, and by
/// its weights, whose second and third axes are the kernel.
macro_rules! swept {
    ($self:ident, $options:ident) => {{
        let options = $self.options($self.raw.table.$options())?;
        let weights = $self.input(1)?;
        let &[_, h, w, _] = weights.shape.as_slice() else {
            return Err($self.four_axes(weights));
        };
        let window = $self.window(
            [h, w],
            [options.stride_h()?, options.stride_w()?],
            [options.dilation_h()?, options.dilation_w()?],
            options.padding()?,
        )?;
        (window, $self.activation(options.activation()?)?)
    }};
}

impl<'a> Reading<'a, '_> {
    fn id(&self, index: i32) -> Option<TensorId> {
        usize::try_from(index)
            .ok()
            .filter(|&index| index < self.tensors)
            .map(TensorId)
    }

    fn inputs(&self, which: Inputs) -> Result<Vec<Option<TensorId>>, CompileError> {
        let count = match which {
            Inputs::First(count) => count.min(self.raw.inputs.len()),
            Inputs::All => self.raw.inputs.len(),
        };
        let read = |&index: &i32| match (index, self.id(index)) {
            (-1, _) => Ok(None),
            (_, Some(id)) => Ok(Some(id)),
            (_, None) => Err(self.raw.broken(format!("input {index} is no tensor"))),
        };
        self.raw.inputs[..count].iter().map(read).collect()
    }

    fn tensor(&self, list: &[i32], place: usize, what: &str) -> Result<&'a Tensor, CompileError> {
        let id = list.get(place).and_then(|&index| self.id(index));
        let id = id.ok_or_else(|| self.raw.broken(format!("{what} {place} is no tensor")))?;
        Ok(self.graph.tensor(id))
    }

    fn input(&self, place: usize) -> Result<&'a Tensor, CompileError> {
        self.tensor(&self.raw.inputs, place, "input")
    }

    fn output(&self) -> Result<&'a Tensor, CompileError> {
        self.tensor(&self.raw.outputs, 0, "output")
    }

    fn setting(&self, setting: &'static str, value: impl ToString) -> CompileError {
        self.raw.refuse(
            None,
            Reason::Setting {
                setting,
                value: value.to_string(),
            },
        )
    }

    fn kind(&self) -> Understood {
        let unary = |function| Ok((Kind::Unary(function), Inputs::First(1)));
        match self.raw.code {
            0 => Ok((
                Kind::Add {
                    activation: self.elementwise()?,
                },
                Inputs::First(2),
            )),
            41 => Ok((
                Kind::Sub {
                    activation: self.elementwise()?,
                },
                Inputs::First(2),
            )),
            18 => Ok((
                Kind::Mul {
                    activation: self.elementwise()?,
                },
                Inputs::First(2),
            )),
            3 => self.conv(),
            4 => self.depthwise(),
            9 => self.dense(),
            1 | 17 => self.pool(),
            40 => self.mean(),
            25 => self.softmax(),
            2 => self.concat(),
            34 | 60 => self.pad(),
            65 => self.slice(),
            STRIDED_SLICE => self.strided_slice(),
            39 => self.transpose(),
            22 | 43 | 70 => Ok((Kind::Reshape, Inputs::First(1))),
            114 => self.quantize(),
            6 => Ok((Kind::Dequantize, Inputs::First(1))),
            14 => unary(Unary::Logistic),
            28 => unary(Unary::Tanh),
            19 => unary(Unary::Relu),
            21 => unary(Unary::Relu6),
            98 => unary(Unary::LeakyRelu {
                alpha: self.alpha()?,
            }),
            117 => unary(Unary::HardSwish),
            129 | 142..=144 => Err(self.raw.refuse(None, Reason::State)),
            _ => Err(self.raw.refuse(None, Reason::Operator)),
        }
    }

    /// A table of options, or the error that it is missing.
    fn options<T>(&self, table: super::schema::Read<Option<T>>) -> Result<T, CompileError> {
        table?.ok_or_else(|| self.raw.broken("its options are missing"))
    }

    fn activation(&self, code: i8) -> Result<Activation, CompileError> {
        match code {
            0 => Ok(Activation::None),
            1 => Ok(Activation::Relu),
            2 => Ok(Activation::ReluN1To1),
            3 => Ok(Activation::Relu6),
            4 => Err(self.setting("the fused activation", "TANH")),
            5 => Err(self.setting("the fused activation", "SIGN_BIT")),
            other => Err(self.raw.broken(format!("its fused activation is {other}"))),
        }
    }

    fn elementwise(&self) -> Result<Activation, CompileError> {
        // Add, Sub and Mul hold their activation in the same field; without options there is none.
        match self.raw.table.elementwise()? {
            Some(options) if self.raw.table.options_kind()? != 0 => {
                self.activation(options.activation()?)
            }
            _ => Ok(Activation::None),
        }
    }

    fn alpha(&self) -> Result<f32, CompileError> {
        let alpha = self.options(self.raw.table.leaky_relu())?.alpha()?;
        if alpha.is_finite() {
            Ok(alpha)
        } else {
            Err(self.setting("alpha", alpha))
        }
    }

    fn conv(&self) -> Understood {
        let (window, activation) = swept!(self, conv);
        Ok((Kind::Conv { window, activation }, Inputs::First(3)))
    }

    fn depthwise(&self) -> Understood {
        let (window, activation) = swept!(self, depthwise);
        let (data, weights) = (self.input(0)?, self.input(1)?);
        let out = weights.shape.last().copied().unwrap_or(0);
        // The option `depth_multiplier` is redundant, and TFLite itself takes it from the shapes.
        let channels = data.shape.last().copied().unwrap_or(0);
        let multiplier = out.checked_div(channels).unwrap_or(0);
        if multiplier == 0 || multiplier * channels != out {
            let why = format!("{out} output channels are no multiple of {channels} input channels");
            return Err(self.raw.broken(why));
        }
        Ok((
            Kind::Depthwise {
                window,
                multiplier,
                activation,
            },
            Inputs::First(3),
        ))
    }

    fn four_axes(&self, tensor: &Tensor) -> CompileError {
        let reason = Reason::Shape {
            shape: tensor.shape.clone(),
            why: "four axes are needed",
        };
        self.raw.refuse(Some(&tensor.name), reason)
    }

    fn window(
        &self,
        kernel: [usize; 2],
        stride: [i32; 2],
        dilation: [i32; 2],
        padding: i8,
    ) -> Result<Window, CompileError> {
        let data = self.input(0)?;
        let &[_, height, width, _] = data.shape.as_slice() else {
            return Err(self.four_axes(data));
        };
        let positive = |value: [i32; 2], what: &str| match value {
            [h @ 1..=i32::MAX, w @ 1..=i32::MAX] => Ok([h as usize, w as usize]),
            _ => Err(self.raw.broken(format!("its {what} is {value:?}"))),
        };
        let stride = positive(stride, "stride")?;
        let dilation = positive(dilation, "dilation")?;
        if kernel.contains(&0) {
            return Err(self.raw.broken("its window is empty"));
        }
        // As TFLite's ComputePadding: what an odd total leaves over goes below and to the right.
        let pad = |axis: usize, extent: usize| match padding {
            0 => {
                let reach = (kernel[axis] - 1)
                    .saturating_mul(dilation[axis])
                    .saturating_add(1);
                let steps = extent.div_ceil(stride[axis]).saturating_sub(1);
                let total = (steps * stride[axis] + reach).saturating_sub(extent);
                (total / 2, total - total / 2)
            }
            _ => (0, 0),
        };
        if !matches!(padding, 0 | 1) {
            return Err(self.raw.broken(format!("its padding is {padding}")));
        }
        let ((top, bottom), (left, right)) = (pad(0, height), pad(1, width));
        Ok(Window {
            kernel,
            stride,
            dilation,
            padding: [top, left, bottom, right],
        })
    }

    fn dense(&self) -> Understood {
        let options = self.options(self.raw.table.dense())?;
        if options.weights_format()? != 0 {
            return Err(self.setting("the weights' format", options.weights_format()?));
        }
        let activation = self.activation(options.activation()?)?;
        Ok((Kind::Dense { activation }, Inputs::First(3)))
    }

    fn pool(&self) -> Understood {
        let options = self.options(self.raw.table.pool())?;
        let kernel = [options.filter_h()?, options.filter_w()?];
        let [h @ 1..=i32::MAX, w @ 1..=i32::MAX] = kernel else {
            return Err(self.raw.broken(format!("its window is {kernel:?}")));
        };
        let stride = [options.stride_h()?, options.stride_w()?];
        let window = self.window([h as usize, w as usize], stride, [1, 1], options.padding()?)?;
        let activation = self.activation(options.activation()?)?;
        let kind = match self.raw.code {
            1 => Kind::AveragePool { window, activation },
            _ => Kind::MaxPool { window, activation },
        };
        Ok((kind, Inputs::First(1)))
    }

    fn softmax(&self) -> Understood {
        let beta = self.options(self.raw.table.softmax())?.beta()?;
        if !beta.is_finite() || beta <= 0.0 {
            return Err(self.setting("beta", beta));
        }
        Ok((Kind::Softmax { beta }, Inputs::First(1)))
    }

    fn concat(&self) -> Understood {
        let options = self.options(self.raw.table.concat())?;
        if options.activation()? != 0 {
            return Err(self.setting("the fused activation", options.activation()?));
        }
        let axis = self.axis(i64::from(options.axis()?), self.output()?.shape.len())?;
        Ok((Kind::Concat { axis }, Inputs::All))
    }

    fn quantize(&self) -> Understood {
        let kind = match self.input(0)?.dtype {
            DType::F32 => Kind::Quantize,
            _ => Kind::Unary(Unary::Requantize),
        };
        Ok((kind, Inputs::First(1)))
    }

    fn axis(&self, axis: i64, axes: usize) -> Result<usize, CompileError> {
        let from_start = if axis < 0 { axis + axes as i64 } else { axis };
        usize::try_from(from_start)
            .ok()
            .filter(|&axis| axis < axes)
            .ok_or_else(|| self.raw.broken(format!("axis {axis} of {axes}")))
    }

    /// A constant list of integers among the inputs.
    fn integers(&self, place: usize) -> Result<Vec<i64>, CompileError> {
        let tensor = self.input(place)?;
        let data = tensor.data.as_ref();
        let data = data.ok_or_else(|| self.raw.refuse(Some(&tensor.name), Reason::NotConstant))?;
        let list: Vec<i64> = match tensor.dtype {
            DType::I32 => data
                .as_chunks()
                .0
                .iter()
                .map(|&bytes| i32::from_le_bytes(bytes).into())
                .collect(),
            DType::I64 => data
                .as_chunks()
                .0
                .iter()
                .map(|&bytes| i64::from_le_bytes(bytes))
                .collect(),
            other => {
                return Err(self
                    .raw
                    .broken(format!("input {place} is a list of {}", other.name())));
            }
        };
        if list.len() > LIST_MAX {
            return Err(self
                .raw
                .broken(format!("input {place} has {} entries", list.len())));
        }
        Ok(list)
    }

    fn mean(&self) -> Understood {
        let axes = self.input(0)?.shape.len();
        let mut found = self
            .integers(1)?
            .iter()
            .map(|&axis| self.axis(axis, axes))
            .collect::<Result<Vec<_>, _>>()?;
        found.sort_unstable();
        found.dedup();
        Ok((Kind::Mean { axes: found }, Inputs::First(1)))
    }

    fn transpose(&self) -> Understood {
        let axes = self.input(0)?.shape.len();
        let permutation = self
            .integers(1)?
            .iter()
            .map(|&axis| self.axis(axis, axes))
            .collect::<Result<_, _>>()?;
        Ok((Kind::Transpose { permutation }, Inputs::First(1)))
    }

    fn pad(&self) -> Understood {
        let data = self.input(0)?;
        let list = self.integers(1)?;
        let (pairs, rest) = list.as_chunks::<2>();
        let padding: Option<Vec<[usize; 2]>> = pairs
            .iter()
            .map(|&[before, after]| Some([before.try_into().ok()?, after.try_into().ok()?]))
            .collect();
        let padding = padding
            .filter(|padding| padding.len() == data.shape.len() && rest.is_empty())
            .ok_or_else(|| {
                self.raw
                    .broken(format!("paddings {list:?} of {:?}", data.shape))
            })?;
        let value = match self.raw.inputs.get(2) {
            Some(0..) if self.raw.code == 60 => self.pad_value()?,
            _ => self.zero_point(self.output()?)?,
        };
        Ok((Kind::Pad { padding, value }, Inputs::First(1)))
    }

    /// The value of PADV2, in the input's quantization.
    fn pad_value(&self) -> Result<i8, CompileError> {
        let (tensor, output) = (self.input(2)?, self.output()?);
        match tensor.data.as_deref() {
            Some(&[value])
                if tensor.dtype == DType::I8 && tensor.quantization == output.quantization =>
            {
                Ok(value.cast_signed())
            }
            _ => Err(self.raw.refuse(Some(&tensor.name), Reason::NotConstant)),
        }
    }

    fn zero_point(&self, tensor: &Tensor) -> Result<i8, CompileError> {
        let zero = tensor
            .quantization
            .as_ref()
            .and_then(|q| q.zero_points.first());
        zero.and_then(|&zero| i8::try_from(zero).ok())
            .ok_or_else(|| {
                let why = "it has no zero point from -128 to 127".into();
                self.raw
                    .refuse(Some(&tensor.name), Reason::Quantization(why))
            })
    }

    fn slice(&self) -> Understood {
        let shape = &self.input(0)?.shape;
        let (begins, sizes) = (self.integers(1)?, self.integers(2)?);
        let begin: Option<Vec<usize>> = begins.iter().map(|&begin| begin.try_into().ok()).collect();
        let begin = begin
            .filter(|begin| [begin.len(), sizes.len()] == [shape.len(); 2])
            .ok_or_else(|| {
                self.raw.broken(format!(
                    "it begins at {begins:?} of {shape:?} and has {sizes:?}"
                ))
            })?;
        let taken = shape.iter().zip(&begins).zip(&sizes);
        let taken = taken.map(|((&extent, begin), &size)| match size {
            // All that is left.
            -1 => extent as i64 - begin,
            size => size,
        });
        self.takes(&taken.collect::<Vec<_>>())?;
        let stride = vec![1; begin.len()];
        Ok((Kind::Slice { begin, stride }, Inputs::First(1)))
    }

    /// Fails when the output has other extents than those that a slice takes of its input.
    fn takes(&self, taken: &[i64]) -> Result<(), CompileError> {
        let shape = &self.output()?.shape;
        let same = shape
            .iter()
            .map(|&extent| extent as i64)
            .eq(taken.iter().copied());
        if same {
            return Ok(());
        }
        let of = &self.input(0)?.shape;
        Err(self.raw.broken(format!(
            "it takes {taken:?} of {of:?}, and its output has shape {shape:?}"
        )))
    }

    fn strided_slice(&self) -> Understood {
        let options = self.options(self.raw.table.strided_slice())?;
        for (setting, mask) in [
            ("ellipsis_mask", options.ellipsis_mask()?),
            ("new_axis_mask", options.new_axis_mask()?),
        ] {
            if mask != 0 {
                return Err(self.setting(setting, mask));
            }
        }
        let shape = &self.input(0)?.shape;
        let (begins, ends, strides) = (self.integers(1)?, self.integers(2)?, self.integers(3)?);
        if [begins.len(), ends.len(), strides.len()] != [shape.len(); 3] {
            return Err(self.raw.broken(format!(
                "it goes from {begins:?} to {ends:?} of {shape:?} in steps of {strides:?}"
            )));
        }
        let [first, last] = [options.begin_mask()?, options.end_mask()?];
        let (counted, dropped) = (options.offset()? != 0, self.dropped()?);
        let (mut begin, mut stride, mut taken) = (Vec::new(), Vec::new(), Vec::new());
        for (axis, &extent) in shape.iter().enumerate() {
            let Some(step) = usize::try_from(strides[axis]).ok().filter(|&step| step > 0) else {
                return Err(self.setting("the stride", strides[axis]));
            };
            let whole = extent as i64;
            // Negative ones count from the axis's end.
            let place = |index: i64| if index < 0 { index + whole } else { index };
            let from = match masked(axis, first) {
                true => 0,
                false => place(begins[axis]).max(0),
            };
            begin.push(usize::try_from(from).unwrap_or(usize::MAX));
            stride.push(step);
            if dropped.contains(&axis) {
                continue;
            }
            let to = match masked(axis, last) {
                true => whole,
                false if counted => place(ends[axis].saturating_add(from)),
                false => place(ends[axis]),
            };
            let length = (to.clamp(0, whole) - from.min(whole)).max(0);
            taken.push((length - 1).div_euclid(strides[axis]) + 1);
        }
        self.takes(&taken)?;
        Ok((Kind::Slice { begin, stride }, Inputs::First(1)))
    }

    /// Axes of which a slice takes one index and that its output does not have.
    fn dropped(&self) -> Result<Vec<usize>, CompileError> {
        let mask = self
            .options(self.raw.table.strided_slice())?
            .shrink_axis_mask()?;
        let axes = 0..self.input(0)?.shape.len();
        Ok(axes.filter(|&axis| masked(axis, mask)).collect())
    }
}

/// Whether a mask has an axis.
fn masked(axis: usize, mask: i32) -> bool {
    u32::try_from(axis).is_ok_and(|axis| mask >> axis & 1 != 0)
}
