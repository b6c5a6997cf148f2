//! Pooling, means and softmax.

use super::Importer;
use super::error::{EXPORT, Result, USE_TRACT};
use super::lower::Context;
use super::value::{Form, Pending, Value};
use crate::graph::{Activation, Kind, Quantization, TensorId, Window};

impl Importer {
    pub(super) fn max_pool(&mut self, context: &Context<'_>) -> Result<Value> {
        let (tensor, form) = self.activation(context, 0)?;
        let (tensor, form) = self.channels_last(tensor, &form, context.place)?;
        let window = if context.node.operator == "GlobalMaxPool" {
            whole(&form)
        } else {
            self.pool_window(context, &form)?
        };
        let mut dims = vec![1, form.dims[1]];
        dims.extend(context.slid(&window, &form.dims[2..])?);
        let form = Form::last(dims);
        let kind = Kind::MaxPool {
            window,
            activation: Activation::None,
        };
        let output = self.moved(context.place, kind, tensor, &form);
        Ok(self.like(context, 0, output, form))
    }

    pub(super) fn pool_window(&self, context: &Context<'_>, form: &Form) -> Result<Window> {
        let kernel: Option<Vec<usize>> = context
            .ints("kernel_shape")
            .and_then(|all| all.iter().map(|&it| usize::try_from(it).ok()).collect());
        let kernel = kernel.ok_or_else(|| context.error("it has no kernel_shape", EXPORT))?;
        let window = context.window(&kernel, &form.dims[2..])?;
        if window.dilation != [1, 1] {
            return Err(context.error("a dilated pooling is not supported", USE_TRACT));
        }
        Ok(window)
    }

    pub(super) fn average_pool(
        &mut self,
        context: &Context<'_>,
        tensor: TensorId,
        form: &Form,
    ) -> Result<Pending> {
        let (tensor, form) = self.channels_last(tensor, form, context.place)?;
        let window = self.pool_window(context, &form)?;
        if window.padding != [0; 4] && context.int("count_include_pad", 0) != 0 {
            return Err(context.error(
                "an average over padding is not supported",
                "pad explicitly with a Pad node",
            ));
        }
        let mut dims = vec![1, form.dims[1]];
        dims.extend(context.slid(&window, &form.dims[2..])?);
        Ok(Pending {
            name: context.place.into(),
            kind: Kind::AveragePool {
                window,
                activation: Activation::None,
            },
            inputs: vec![Some(tensor)],
            form: Form::last(dims),
            made: None,
            own: self.graph.tensor(tensor).quantization.clone(),
        })
    }

    /// The mean over all pixels, as `[n, c, 1, ..]` or `[n, c]`.
    pub(super) fn global_average(
        &mut self,
        context: &Context<'_>,
        tensor: TensorId,
        form: &Form,
        keep: bool,
    ) -> Result<Pending> {
        let (tensor, form) = self.channels_last(tensor, form, context.place)?;
        let mut dims = vec![1, form.dims[1]];
        let form = if keep {
            dims.resize(form.dims.len(), 1);
            Form::last(dims)
        } else {
            Form::plain(dims)
        };
        Ok(Pending {
            name: context.place.into(),
            kind: Kind::Mean { axes: vec![1, 2] },
            inputs: vec![Some(tensor)],
            form,
            made: None,
            own: None,
        })
    }

    pub(super) fn reduce_mean(&mut self, context: &Context<'_>) -> Result<Value> {
        let (tensor, form) = self.activation(context, 0)?;
        let rank = form.dims.len();
        let axes = match context.ints("axes") {
            Some(axes) => axes.to_vec(),
            None if self.given(context, 1) => self.integers(context, 1)?,
            None => Vec::new(),
        };
        let axes: Result<Vec<usize>> = axes.iter().map(|&axis| context.axis(axis, rank)).collect();
        let mut axes = axes?;
        axes.sort_unstable();
        if rank < 3 || axes != (2..rank).collect::<Vec<_>>() {
            return Err(context.error(
                format!("a mean over axes {axes:?} of {rank}; supported is one over all pixels"),
                USE_TRACT,
            ));
        }
        let keep = context.int("keepdims", 1) != 0;
        self.global_average(context, tensor, &form, keep)
            .map(Value::Pending)
    }

    /// Softmax of vectors, which programs take from the last axis.
    pub(super) fn softmax(
        &mut self,
        context: &Context<'_>,
        tensor: TensorId,
        form: &Form,
    ) -> Result<Pending> {
        let version = match &*context.node.operator {
            // It names the version whose Softmax it is.
            "QLinearSoftmax" => match context.int("opset", 0) {
                version @ 1.. => version,
                _ => return Err(context.error("it has no opset", EXPORT)),
            },
            _ => self.opset,
        };
        // Before version 13 everything from the axis on was one vector.
        let flat = version < 13;
        let axis = context.int("axis", if flat { 1 } else { -1 });
        let axis = context.axis(axis, form.dims.len())?;
        let (rows, inner) = form.dims.split_at(axis);
        if !flat && inner[1..].iter().any(|&extent| extent != 1) {
            return Err(context.error(
                "it goes along another axis than the last",
                "transpose before it",
            ));
        }
        let vectors: Vec<usize> = vec![rows.iter().product(), inner.iter().product()];
        let mut tensor = self.channels_first(tensor, form, context.place)?;
        let mut made = None;
        if form.dims.last() != vectors.last() {
            let vectors = Form::plain(vectors);
            tensor = self.reshaped(tensor, &vectors, context.place);
            made = Some(vectors);
        }
        Ok(Pending {
            name: context.place.into(),
            kind: Kind::Softmax { beta: 1.0 },
            inputs: vec![Some(tensor)],
            form: Form::plain(form.dims.clone()),
            made,
            own: Some(Quantization {
                scales: vec![1.0 / 256.0],
                zero_points: vec![-128],
                axis: 0,
            }),
        })
    }
}

/// The window over all pixels.
pub(super) fn whole(form: &Form) -> Window {
    let kernel = [form.dims[2], form.dims.get(3).copied().unwrap_or(1)];
    Window {
        kernel,
        stride: [1, 1],
        dilation: [1, 1],
        padding: [0; 4],
    }
}
