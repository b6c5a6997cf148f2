//! Operators that move bytes: reshapes, transposes, concatenations, paddings and slices.

use edgeward::program::op::{Copy, Fill, Op};

use super::{At, Emitter};
use crate::error::{CompileError, Reason};
use crate::graph::TensorId;

/// Whether `small`, ones in front aside, is the end of `large`.
pub(crate) fn is_suffix(small: &[usize], large: &[usize]) -> bool {
    let ones = small.iter().take_while(|&&extent| extent == 1).count();
    large.ends_with(&small[ones..])
}

/// Bytes from one element to the next along each axis.
fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// A copy of any number of axes.
struct Move {
    input: usize,
    output: usize,
    shape: Vec<usize>,
    input_strides: Vec<usize>,
    output_strides: Vec<usize>,
}

impl Move {
    /// Leaves axes of one out, and joins neighbours that one stride covers on both sides.
    fn simplified(mut self) -> Self {
        let mut axes: Vec<[usize; 3]> = Vec::new();
        for (axis, &extent) in self.shape.iter().enumerate() {
            let next = [extent, self.input_strides[axis], self.output_strides[axis]];
            match axes.last_mut() {
                _ if extent == 1 => {}
                Some(last) if last[1] == next[0] * next[1] && last[2] == next[0] * next[2] => {
                    *last = [last[0] * next[0], next[1], next[2]];
                }
                _ => axes.push(next),
            }
        }
        self.shape = axes.iter().map(|axis| axis[0]).collect();
        self.input_strides = axes.iter().map(|axis| axis[1]).collect();
        self.output_strides = axes.iter().map(|axis| axis[2]).collect();
        self
    }

    /// Splits an axis that is longer than a record's field holds.
    fn split(mut self) -> Self {
        const LONGEST: usize = u16::MAX as usize;
        let Some(axis) = self.shape.iter().position(|&extent| extent > LONGEST) else {
            return self;
        };
        let extent = self.shape[axis];
        let Some(inner) = (2..=LONGEST)
            .rev()
            .find(|inner| extent.is_multiple_of(*inner))
        else {
            return self;
        };
        for strides in [&mut self.input_strides, &mut self.output_strides] {
            let stride = strides[axis];
            strides[axis] = stride * inner;
            strides.insert(axis + 1, stride);
        }
        self.shape[axis] = extent / inner;
        self.shape.insert(axis + 1, inner);
        self
    }
}

impl Emitter<'_> {
    pub(super) fn reshape(&mut self, at: &At<'_>) -> Result<(), CompileError> {
        let (input, output) = (self.input(at, 0)?, self.output(at)?);
        self.same_quantization(at, input, output)?;
        let region = self.region(input);
        self.region_of[output.0] = Some(region);
        Ok(())
    }

    pub(super) fn transpose(&mut self, at: &At<'_>, axes: &[usize]) -> Result<(), CompileError> {
        let (input, output) = (self.input(at, 0)?, self.output(at)?);
        self.same_quantization(at, input, output)?;
        let from = strides(&self.graph.tensor(input).shape);
        let shape = self.graph.tensor(output).shape.clone();
        let it = Move {
            input: 0,
            output: 0,
            input_strides: axes.iter().map(|&axis| from[axis]).collect(),
            output_strides: strides(&shape),
            shape,
        };
        self.copy(at, it, input, output)
    }

    pub(super) fn concat(&mut self, at: &At<'_>, axis: usize) -> Result<(), CompileError> {
        let output = self.output(at)?;
        let to = strides(&self.graph.tensor(output).shape);
        let mut start = 0;
        for place in 0..at.node.inputs.len() {
            let input = self.input(at, place)?;
            self.same_quantization(at, input, output)?;
            let tensor = self.graph.tensor(input);
            let shape = tensor.shape.clone();
            let it = Move {
                input: 0,
                output: start * to[axis],
                input_strides: strides(&shape),
                output_strides: to.clone(),
                shape,
            };
            start += tensor.shape[axis];
            self.copy(at, it, input, output)?;
        }
        Ok(())
    }

    pub(super) fn pad(
        &mut self,
        at: &At<'_>,
        padding: &[[usize; 2]],
        value: i8,
    ) -> Result<(), CompileError> {
        let (input, output) = (self.input(at, 0)?, self.output(at)?);
        self.same_quantization(at, input, output)?;
        let shape = self.graph.tensor(input).shape.clone();
        let to = strides(&self.graph.tensor(output).shape);
        let len = at.fit(
            "the number of elements",
            self.graph.tensor(output).elements(),
        )?;
        self.push(
            at.index,
            Op::Fill(Fill {
                output: 0,
                len,
                value,
            }),
            &[],
            output,
            0,
        );
        let it = Move {
            input: 0,
            output: padding
                .iter()
                .zip(&to)
                .map(|([before, _], stride)| before * stride)
                .sum(),
            input_strides: strides(&shape),
            output_strides: to,
            shape,
        };
        self.copy(at, it, input, output)
    }

    pub(super) fn slice(
        &mut self,
        at: &At<'_>,
        begin: &[usize],
        stride: &[usize],
    ) -> Result<(), CompileError> {
        let (input, output) = (self.input(at, 0)?, self.output(at)?);
        self.same_quantization(at, input, output)?;
        let from = strides(&self.graph.tensor(input).shape);
        let shape = self.graph.tensor(output).shape.clone();
        let it = Move {
            input: begin
                .iter()
                .zip(&from)
                .map(|(begin, stride)| begin * stride)
                .sum(),
            output: 0,
            input_strides: from
                .iter()
                .zip(stride)
                // Of one element the step may be any.
                .map(|(from, step)| from.saturating_mul(*step))
                .collect(),
            output_strides: strides(&shape),
            shape,
        };
        self.copy(at, it, input, output)
    }

    fn copy(
        &mut self,
        at: &At<'_>,
        it: Move,
        input: TensorId,
        output: TensorId,
    ) -> Result<(), CompileError> {
        let tensor = self.graph.tensor(input);
        if tensor.data.is_some() {
            let why = "constants cannot be copied into the arena";
            let shape = tensor.shape.clone();
            return Err(at.refuse(Some(tensor), Reason::Shape { shape, why }));
        }
        let it = it.simplified().split();
        if it.shape.len() > 4 {
            let why = "programs move at most four axes at a time";
            return Err(at.refuse(
                Some(tensor),
                Reason::Shape {
                    shape: it.shape,
                    why,
                },
            ));
        }
        let mut op = Copy {
            input: at.fit("an offset", it.input)?,
            output: at.fit("an offset", it.output)?,
            shape: [1; 4],
            input_strides: [0; 4],
            output_strides: [0; 4],
        };
        let first = 4 - it.shape.len();
        for (axis, &extent) in it.shape.iter().enumerate() {
            op.shape[first + axis] = at.fit("an extent", extent)?;
            op.input_strides[first + axis] = at.fit("a stride", it.input_strides[axis])?;
            op.output_strides[first + axis] = at.fit("a stride", it.output_strides[axis])?;
        }
        self.push(at.index, Op::Copy(op), &[input], output, 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operand_may_be_the_end_of_the_other() {
        assert!(is_suffix(&[3], &[1, 4, 3]));
        assert!(is_suffix(&[1, 1, 3], &[1, 4, 3]));
        assert!(is_suffix(&[1], &[1, 4, 3]));
        assert!(!is_suffix(&[4, 1], &[1, 4, 3]));
    }

    #[test]
    fn copies_have_as_few_axes_as_they_can() {
        let it = Move {
            input: 0,
            output: 0,
            shape: vec![1, 4, 5, 6],
            input_strides: vec![120, 30, 6, 1],
            output_strides: vec![240, 60, 6, 1],
        };
        let it = it.simplified();
        assert_eq!((it.shape, it.output_strides), (vec![4, 30], vec![60, 1]));
    }
}
