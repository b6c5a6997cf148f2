//! What a graph must keep to before it is rewritten and emitted.
//!
//! Importers copy shapes from files. Here each is compared with what the operator makes of its
//! inputs, so that everything behind it may index by them.

use crate::error::{CompileError, Reason, Refusal};
use crate::graph::{DType, Graph, Kind, Node, Tensor, TensorId, Window};

/// Checks order, types and shapes.
///
/// # Errors
/// When a node reads what nobody has written, writes twice, has other shapes than its operator
/// gives, or elements that programs do not compute with.
pub fn check(graph: &Graph) -> Result<(), CompileError> {
    let mut written: Vec<bool> = graph
        .tensors
        .iter()
        .map(|tensor| tensor.data.is_some())
        .collect();
    for (ids, what) in [(&graph.inputs, "input"), (&graph.outputs, "output")] {
        let &[id] = ids.as_slice() else {
            return Err(refuse(
                &format!("(model {what})"),
                0,
                None,
                Reason::Border(ids.len()),
            ));
        };
        let tensor = graph.tensor(id);
        if tensor.data.is_some() {
            return Err(broken(&format!("the model's {what}"), "it is a constant"));
        }
        activation(graph, id, &format!("(model {what})"), 0)?;
    }
    for &input in &graph.inputs {
        written[input.0] = true;
    }
    for (index, node) in graph.nodes.iter().enumerate() {
        for &input in node.inputs.iter().flatten() {
            if !written[input.0] {
                let why = format!(
                    "it reads \"{}\" before it is written",
                    graph.tensor(input).name
                );
                return Err(broken(&place_of(graph, node), why));
            }
        }
        let &[output] = node.outputs.as_slice() else {
            return Err(broken(
                &place_of(graph, node),
                format!("it has {} outputs", node.outputs.len()),
            ));
        };
        if core::mem::replace(&mut written[output.0], true) {
            let why = format!("it writes \"{}\" a second time", graph.tensor(output).name);
            return Err(broken(&place_of(graph, node), why));
        }
        Checking { graph, node, index }.check(output)?;
    }
    for &output in &graph.outputs {
        if !written[output.0] {
            return Err(broken("the model's output", "no operator writes it"));
        }
    }
    Ok(())
}

/// A node and the tensor that it makes.
fn place_of(graph: &Graph, node: &Node) -> String {
    match node.outputs.first() {
        Some(&output) => format!("{}, tensor \"{}\"", node.name, graph.tensor(output).name),
        None => node.name.clone(),
    }
}

fn broken(place: &str, why: impl Into<String>) -> CompileError {
    CompileError::Inconsistent {
        place: place.into(),
        why: why.into(),
    }
}

fn refuse(operator: &str, index: usize, tensor: Option<&Tensor>, reason: Reason) -> CompileError {
    CompileError::Refused(Box::new(Refusal {
        operator: operator.into(),
        index,
        tensor: tensor.map(|tensor| tensor.name.clone()),
        reason,
    }))
}

/// Data is int8 with one scale and zero point.
fn activation(
    graph: &Graph,
    id: TensorId,
    operator: &str,
    index: usize,
) -> Result<(), CompileError> {
    let tensor = graph.tensor(id);
    if tensor.dtype != DType::I8 {
        let found = tensor.dtype.name().into();
        return Err(refuse(
            operator,
            index,
            Some(tensor),
            Reason::Type { found },
        ));
    }
    if tensor.per_tensor().is_none() {
        let why = "activations have one positive scale and one zero point from -128 to 127".into();
        return Err(refuse(
            operator,
            index,
            Some(tensor),
            Reason::Quantization(why),
        ));
    }
    if tensor.shape.contains(&0) {
        let shape = tensor.shape.clone();
        let why = "it has no elements";
        return Err(refuse(
            operator,
            index,
            Some(tensor),
            Reason::Shape { shape, why },
        ));
    }
    Ok(())
}

struct Checking<'a> {
    graph: &'a Graph,
    node: &'a Node,
    index: usize,
}

impl<'a> Checking<'a> {
    fn refuse(&self, tensor: &Tensor, reason: Reason) -> CompileError {
        refuse(self.node.kind.name(), self.index, Some(tensor), reason)
    }

    fn broken(&self, why: impl Into<String>) -> CompileError {
        broken(&place_of(self.graph, self.node), why)
    }

    fn input(&self, place: usize) -> Result<&'a Tensor, CompileError> {
        let id = self.node.inputs.get(place).copied().flatten();
        let id = id.ok_or_else(|| self.broken(format!("input {place} is missing")))?;
        Ok(self.graph.tensor(id))
    }

    /// How many of the inputs are data.
    fn data_inputs(&self) -> usize {
        match self.node.kind {
            Kind::Add { .. } | Kind::Sub { .. } | Kind::Mul { .. } => 2,
            Kind::Concat { .. } => self.node.inputs.len().max(1),
            _ => 1,
        }
    }

    fn check(&self, output: TensorId) -> Result<(), CompileError> {
        let name = self.node.kind.name();
        let addend = matches!(self.node.kind, Kind::ConvAdd { .. }).then_some(3);
        for place in (0..self.data_inputs()).chain(addend) {
            self.input(place)?;
            if let Some(Some(id)) = self.node.inputs.get(place) {
                activation(self.graph, *id, name, self.index)?;
            }
        }
        activation(self.graph, output, name, self.index)?;
        let shape = self.shape()?;
        let found = &self.graph.tensor(output).shape;
        let same = match self.node.kind {
            // Axes of one may go or stay.
            Kind::Mean { .. } | Kind::Dense { .. } => {
                shape.iter().product::<usize>() == found.iter().product::<usize>()
            }
            _ => shape == *found,
        };
        if same {
            return Ok(());
        }
        Err(self.broken(format!(
            "its output has shape {found:?}, and the operator gives {shape:?}"
        )))
    }

    /// The shape that the operator gives.
    fn shape(&self) -> Result<Vec<usize>, CompileError> {
        let data = self.input(0)?;
        match &self.node.kind {
            Kind::Conv { window, .. } => self.conv(data, window),
            Kind::ConvAdd {
                window, between, ..
            } => {
                let shape = self.conv(data, window)?;
                let other = self.input(3)?;
                if other.shape != shape || self.graph.tensor(*between).shape != shape {
                    return Err(self.broken(format!("its addend has shape {:?}", other.shape)));
                }
                Ok(shape)
            }
            Kind::Depthwise {
                window, multiplier, ..
            } => self.depthwise(data, window, *multiplier),
            Kind::Dense { .. } => self.dense(data),
            Kind::Add { .. } | Kind::Sub { .. } | Kind::Mul { .. } => self.broadcast(data),
            Kind::AveragePool { window, .. } | Kind::MaxPool { window, .. } => {
                let [h, w, c] = self.image(data)?;
                let [h, w] = self.slid(window, [h, w])?;
                Ok(vec![1, h, w, c])
            }
            Kind::Mean { axes } => {
                let [_, _, c] = self.image(data)?;
                if axes.as_slice() != [1, 2] {
                    let value = format!("{axes:?}");
                    return Err(self.refuse(
                        data,
                        Reason::Setting {
                            setting: "the axes",
                            value,
                        },
                    ));
                }
                Ok(vec![1, 1, 1, c])
            }
            Kind::Softmax { .. } | Kind::Unary(_) | Kind::Quantize | Kind::Dequantize => {
                Ok(data.shape.clone())
            }
            Kind::Reshape => self.reshape(data),
            Kind::Transpose { permutation } => self.transpose(data, permutation),
            Kind::Concat { axis } => self.concat(data, *axis),
            Kind::Pad { padding, .. } => self.pad(data, padding),
            Kind::Slice { begin, stride } => self.slice(data, begin, stride),
        }
    }

    fn output(&self) -> &'a Tensor {
        self.graph.tensor(self.node.outputs[0])
    }

    /// Height, width and channels of one image.
    fn image(&self, tensor: &Tensor) -> Result<[usize; 3], CompileError> {
        match tensor.shape.as_slice() {
            &[1, h, w, c] => Ok([h, w, c]),
            shape => {
                let why = "one image of height, width and channels is needed";
                Err(self.refuse(
                    tensor,
                    Reason::Shape {
                        shape: shape.to_vec(),
                        why,
                    },
                ))
            }
        }
    }

    /// Extents after a window has slid over an image.
    fn slid(&self, window: &Window, image: [usize; 2]) -> Result<[usize; 2], CompileError> {
        let mut extents = [0; 2];
        for axis in 0..2 {
            let (before, after) = (window.padding[axis], window.padding[axis + 2]);
            let padded = image[axis]
                .checked_add(before)
                .and_then(|sum| sum.checked_add(after));
            let reach = window.kernel[axis]
                .checked_sub(1)
                .and_then(|taps| taps.checked_mul(window.dilation[axis]));
            let room = padded
                .zip(reach)
                .and_then(|(padded, reach)| padded.checked_sub(reach + 1));
            let (Some(room), Some(reach)) = (room, reach) else {
                return Err(self.broken("its window is larger than its input"));
            };
            if before > reach || after > reach.max(window.stride[axis]) || window.stride[axis] == 0
            {
                return Err(self.broken("its window lies in the padding alone"));
            }
            extents[axis] = room / window.stride[axis] + 1;
        }
        Ok(extents)
    }

    /// Constant int8 weights without zero points.
    fn weights(&self) -> Result<&'a Tensor, CompileError> {
        let weights = self.input(1)?;
        if weights.dtype != DType::I8 {
            let found = weights.dtype.name().into();
            return Err(self.refuse(weights, Reason::Type { found }));
        }
        if weights.data.is_none() {
            return Err(self.refuse(weights, Reason::NotConstant));
        }
        let zeros = weights
            .quantization
            .as_ref()
            .map_or(&[][..], |it| it.zero_points.as_slice());
        if zeros.iter().any(|&zero| zero != 0) {
            let why = "its zero points are not 0".into();
            return Err(self.refuse(weights, Reason::Quantization(why)));
        }
        Ok(weights)
    }

    fn conv(&self, data: &Tensor, window: &Window) -> Result<Vec<usize>, CompileError> {
        let [h, w, c] = self.image(data)?;
        let weights = self.weights()?;
        let &[out, kh, kw, depth] = weights.shape.as_slice() else {
            return Err(self.broken(format!("its weights have shape {:?}", weights.shape)));
        };
        if [kh, kw] != window.kernel || out == 0 || depth == 0 {
            return Err(self.broken(format!("its weights have shape {:?}", weights.shape)));
        }
        if depth != c {
            if c.is_multiple_of(depth) {
                let value = (c / depth).to_string();
                return Err(self.refuse(
                    weights,
                    Reason::Setting {
                        setting: "the group count",
                        value,
                    },
                ));
            }
            return Err(self.broken(format!("its weights see {depth} channels of {c}")));
        }
        self.axis_of_scales(weights, 0)?;
        let [h, w] = self.slid(window, [h, w])?;
        Ok(vec![1, h, w, out])
    }

    fn depthwise(
        &self,
        data: &Tensor,
        window: &Window,
        multiplier: usize,
    ) -> Result<Vec<usize>, CompileError> {
        let [h, w, c] = self.image(data)?;
        let weights = self.weights()?;
        let out = c.saturating_mul(multiplier);
        if weights.shape != [1, window.kernel[0], window.kernel[1], out] || out == 0 {
            return Err(self.broken(format!("its weights have shape {:?}", weights.shape)));
        }
        self.axis_of_scales(weights, 3)?;
        let [h, w] = self.slid(window, [h, w])?;
        Ok(vec![1, h, w, out])
    }

    fn dense(&self, data: &Tensor) -> Result<Vec<usize>, CompileError> {
        let weights = self.weights()?;
        let &[out, inputs] = weights.shape.as_slice() else {
            return Err(self.broken(format!("its weights have shape {:?}", weights.shape)));
        };
        let elements = data.elements();
        if inputs == 0 || out == 0 || !elements.is_multiple_of(inputs) {
            return Err(self.broken(format!("{elements} elements are no vectors of {inputs}")));
        }
        self.axis_of_scales(weights, 0)?;
        Ok(vec![elements / inputs, out])
    }

    fn axis_of_scales(&self, weights: &Tensor, axis: usize) -> Result<(), CompileError> {
        let Some(quantization) = &weights.quantization else {
            return Err(self.refuse(weights, Reason::Quantization("it has no scale".into())));
        };
        if quantization.scales.len() > 1 && quantization.axis != axis {
            let why = format!(
                "its scales lie along axis {}, not {axis}",
                quantization.axis
            );
            return Err(self.refuse(weights, Reason::Quantization(why)));
        }
        Ok(())
    }

    fn broadcast(&self, a: &Tensor) -> Result<Vec<usize>, CompileError> {
        let b = self.input(1)?;
        let axes = a.shape.len().max(b.shape.len());
        let extent = |shape: &[usize], axis: usize| {
            (axis + shape.len())
                .checked_sub(axes)
                .map_or(1, |axis| shape[axis])
        };
        let mut shape = Vec::with_capacity(axes);
        for axis in 0..axes {
            match (extent(&a.shape, axis), extent(&b.shape, axis)) {
                (x, y) if x == y || y == 1 => shape.push(x),
                (1, y) => shape.push(y),
                _ => {
                    return Err(
                        self.broken(format!("{:?} and {:?} do not match", a.shape, b.shape))
                    );
                }
            }
        }
        Ok(shape)
    }

    fn reshape(&self, data: &Tensor) -> Result<Vec<usize>, CompileError> {
        let output = self.output();
        if output.elements() != data.elements() {
            return Err(self.broken(format!(
                "{:?} does not become {:?}",
                data.shape, output.shape
            )));
        }
        Ok(output.shape.clone())
    }

    fn transpose(&self, data: &Tensor, permutation: &[usize]) -> Result<Vec<usize>, CompileError> {
        let mut sorted = permutation.to_vec();
        sorted.sort_unstable();
        if !sorted.iter().copied().eq(0..data.shape.len()) {
            return Err(self.broken(format!("{permutation:?} is no order of its axes")));
        }
        Ok(permutation.iter().map(|&axis| data.shape[axis]).collect())
    }

    fn concat(&self, data: &Tensor, axis: usize) -> Result<Vec<usize>, CompileError> {
        let mut shape = data.shape.clone();
        if axis >= shape.len() {
            return Err(self.broken(format!("it has no axis {axis}")));
        }
        for place in 1..self.node.inputs.len() {
            let other = &self.input(place)?.shape;
            let fits = other.len() == shape.len()
                && (0..shape.len()).all(|at| at == axis || other[at] == shape[at]);
            if !fits {
                return Err(self.broken(format!("{other:?} does not lie beside {shape:?}")));
            }
            shape[axis] = shape[axis].saturating_add(other[axis]);
        }
        Ok(shape)
    }

    fn pad(&self, data: &Tensor, padding: &[[usize; 2]]) -> Result<Vec<usize>, CompileError> {
        if padding.len() != data.shape.len() {
            return Err(self.broken(format!("{} paddings for {:?}", padding.len(), data.shape)));
        }
        let padded = |(&extent, &[before, after]): (&usize, &[usize; 2])| {
            extent.saturating_add(before).saturating_add(after)
        };
        Ok(data.shape.iter().zip(padding).map(padded).collect())
    }

    fn slice(
        &self,
        data: &Tensor,
        begin: &[usize],
        stride: &[usize],
    ) -> Result<Vec<usize>, CompileError> {
        let shape = &self.output().shape;
        let axes = data.shape.len();
        if [begin.len(), stride.len(), shape.len()] != [axes; 3] {
            return Err(self.broken(format!("a slice of {:?} has shape {shape:?}", data.shape)));
        }
        for axis in 0..axes {
            let last = (shape[axis].saturating_sub(1))
                .saturating_mul(stride[axis])
                .saturating_add(begin[axis]);
            if stride[axis] == 0 || last >= data.shape[axis] {
                return Err(
                    self.broken(format!("it reaches beyond axis {axis} of {:?}", data.shape))
                );
            }
        }
        Ok(shape.clone())
    }
}
