//! Sums, products, pools, means, softmax and functions of one element.

use edgeward::program::op::{
    Add, AddScale, Lookup, Mean, Mul, Op, Operand, Pool, Quantizer, Softmax,
};

use super::rearrange::is_suffix;
use super::scale::{self, add_scales, mul_scale};
use super::{At, Emitter, tables};
use crate::error::{CompileError, Reason};
use crate::graph::{Activation, Kind, TensorId, Unary};

impl Emitter<'_> {
    pub(super) fn add(&mut self, at: &At<'_>) -> Result<(), CompileError> {
        let (a, b, output) = (self.input(at, 0)?, self.input(at, 1)?, self.output(at)?);
        let (activation, subtract) = match at.node.kind {
            Kind::Sub { activation } => (activation, true),
            Kind::Add { activation } => (activation, false),
            _ => return Ok(()),
        };
        let mut scale = self.add_scale(at, a, b, output, activation)?;
        if subtract {
            scale.multiplier_b = -scale.multiplier_b;
        }
        let len = at.fit(
            "the number of elements",
            self.graph.tensor(output).elements(),
        )?;
        let (first, second) = (self.operand(at, a, output)?, self.operand(at, b, output)?);
        let op = Op::Add(Add {
            a: first,
            b: second,
            output: 0,
            len,
            scale,
        });
        let data = self.not_constant(&[a, b]);
        self.push(at.index, op, &data, output, 0);
        Ok(())
    }

    pub(super) fn add_scale(
        &self,
        at: &At<'_>,
        a: TensorId,
        b: TensorId,
        output: TensorId,
        activation: Activation,
    ) -> Result<AddScale, CompileError> {
        let [a, b, out] = [a, b, output].map(|id| self.graph.tensor(id));
        let ((scale_a, zero_a), (scale_b, zero_b)) = (at.activation(a)?, at.activation(b)?);
        let (scale_out, _) = at.activation(out)?;
        let [real_a, real_b, real_out] = add_scales(scale_a, scale_b, scale_out);
        let [down_a, down_b, down] = [
            at.scale(a, real_a, 0)?,
            at.scale(b, real_b, 0)?,
            at.scale(out, real_out, 0)?,
        ];
        Ok(AddScale {
            zero_a,
            zero_b,
            quantizer: self.quantizer(at, output, activation)?,
            multiplier_a: down_a.multiplier,
            shift_a: down_a.shift as i8,
            multiplier_b: down_b.multiplier,
            shift_b: down_b.shift as i8,
            multiplier: down.multiplier,
            shift: down.shift as i8,
        })
    }

    pub(super) fn mul(&mut self, at: &At<'_>) -> Result<(), CompileError> {
        let Kind::Mul { activation } = at.node.kind else {
            return Ok(());
        };
        let (a, b, output) = (self.input(at, 0)?, self.input(at, 1)?, self.output(at)?);
        let [first, second, out] = [a, b, output].map(|id| self.graph.tensor(id));
        let ((scale_a, zero_a), (scale_b, zero_b)) =
            (at.activation(first)?, at.activation(second)?);
        let value = mul_scale(scale_a, scale_b, at.activation(out)?.0);
        let scale = at.scale(out, value, 30)?;
        let op = Op::Mul(Mul {
            a: self.operand(at, a, output)?,
            b: self.operand(at, b, output)?,
            output: 0,
            len: at.fit("the number of elements", out.elements())?,
            zero_a,
            zero_b,
            quantizer: self.quantizer(at, output, activation)?,
            multiplier: scale.multiplier,
            shift: scale.shift as i8,
        });
        let data = self.not_constant(&[a, b]);
        self.push(
            at.index,
            op,
            &data,
            output,
            self.graph.tensor(output).elements() as u64,
        );
        Ok(())
    }

    fn not_constant(&self, ids: &[TensorId]) -> Vec<TensorId> {
        ids.iter()
            .copied()
            .filter(|&id| self.graph.tensor(id).data.is_none())
            .collect()
    }

    /// An operand of a sum or product, repeated when its shape is the end of the output's.
    fn operand(
        &mut self,
        at: &At<'_>,
        id: TensorId,
        output: TensorId,
    ) -> Result<Operand, CompileError> {
        let (tensor, out) = (self.graph.tensor(id), self.graph.tensor(output));
        if !is_suffix(&tensor.shape, &out.shape) {
            let why = "an operand that is repeated must have the last axes of the result";
            return Err(at.refuse(
                Some(tensor),
                Reason::Shape {
                    shape: tensor.shape.clone(),
                    why,
                },
            ));
        }
        let len = at.fit("the number of elements", tensor.elements())?;
        Ok(match &tensor.data {
            Some(data) => Operand {
                offset: self.store(data, 4),
                len,
                constant: 1,
            },
            None => Operand {
                offset: 0,
                len,
                constant: 0,
            },
        })
    }

    pub(super) fn pool(&mut self, at: &At<'_>) -> Result<(), CompileError> {
        let (window, activation, maximum) = match at.node.kind {
            Kind::AveragePool { window, activation } => (window, activation, 0),
            Kind::MaxPool { window, activation } => (window, activation, 1),
            _ => return Ok(()),
        };
        let (input, output) = (self.input(at, 0)?, self.output(at)?);
        self.same_quantization(at, input, output)?;
        let Quantizer { min, max, .. } = self.quantizer(at, output, activation)?;
        let it = Pool {
            input: self.plane(at, input)?,
            output: self.plane(at, output)?,
            window: self.window(at, &window)?,
            maximum,
            min,
            max,
        };
        self.push(at.index, Op::Pool(it), &[input], output, 0);
        Ok(())
    }

    /// Operators that move bytes keep the scale.
    pub(super) fn same_quantization(
        &self,
        at: &At<'_>,
        input: TensorId,
        output: TensorId,
    ) -> Result<(), CompileError> {
        let (input, output) = (self.graph.tensor(input), self.graph.tensor(output));
        if at.activation(input)? == at.activation(output)? {
            return Ok(());
        }
        Err(at.quantization(
            output,
            "it differs from the input's, and the operator does not scale",
        ))
    }

    pub(super) fn mean(&mut self, at: &At<'_>) -> Result<(), CompileError> {
        let (input, output) = (self.input(at, 0)?, self.output(at)?);
        let (from, to) = (self.graph.tensor(input), self.graph.tensor(output));
        let ((input_scale, input_zero_point), (output_scale, _)) =
            (at.activation(from)?, at.activation(to)?);
        let plane = self.plane(at, input)?;
        let pixels = i64::from(plane.height) * i64::from(plane.width);
        let real = f64::from(input_scale) / f64::from(output_scale);
        let scale = at.scale(to, real, 30)?;
        // QuantizedMeanOrSum of reference/reduce.h divides by the number of pixels in the multiplier.
        let shift = (63 - pixels.leading_zeros() as i32)
            .min(32)
            .min(31 + scale.shift);
        let multiplier = (i64::from(scale.multiplier) << shift) / pixels;
        let it = Mean {
            input: plane,
            output: 0,
            input_zero_point,
            quantizer: self.quantizer(at, output, Activation::None)?,
            multiplier: multiplier as i32,
            shift: (scale.shift - shift) as i8,
        };
        self.push(at.index, Op::Mean(it), &[input], output, 0);
        Ok(())
    }

    pub(super) fn softmax(&mut self, at: &At<'_>) -> Result<(), CompileError> {
        let Kind::Softmax { beta } = at.node.kind else {
            return Ok(());
        };
        let (input, output) = (self.input(at, 0)?, self.output(at)?);
        let (from, to) = (self.graph.tensor(input), self.graph.tensor(output));
        if at.activation(to)? != (1.0 / 256.0, -128) {
            return Err(at.quantization(to, "a softmax has scale 1/256 and zero point -128"));
        }
        let (scale, difference_min) = scale::softmax_scale(beta, at.activation(from)?.0);
        if !(0..=31).contains(&scale.shift) || scale.multiplier == 0 {
            return Err(at.quantization(from, "its scale is too small for a softmax"));
        }
        let columns = from.shape.last().copied().unwrap_or(1);
        let it = Softmax {
            input: 0,
            output: 0,
            rows: at.fit("the number of vectors", from.elements() / columns.max(1))?,
            columns: at.fit("the number of classes", columns)?,
            multiplier: scale.multiplier,
            shift: scale.shift as i8,
            difference_min,
        };
        self.push(at.index, Op::Softmax(it), &[input], output, 0);
        Ok(())
    }

    pub(super) fn unary(&mut self, at: &At<'_>, function: Unary) -> Result<(), CompileError> {
        let (input, output) = (self.input(at, 0)?, self.output(at)?);
        let (from, to) = (self.graph.tensor(input), self.graph.tensor(output));
        let (before, after) = (at.activation(from)?, at.activation(to)?);
        let table = tables::table(function, before, after)
            .map_err(|why| at.quantization(to, why))?
            .map(i8::cast_unsigned);
        let len = at.fit("the number of elements", from.elements())?;
        let table = self.store(&table, 4);
        let it = Lookup {
            input: 0,
            output: 0,
            len,
            table,
        };
        self.push(at.index, Op::Lookup(it), &[input], output, 0);
        Ok(())
    }
}
