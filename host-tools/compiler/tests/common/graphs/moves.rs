//! Operators that only move elements: reshapes, transposes, slices, concatenations, padding.

use super::*;

impl Drawing {
    /// What only moves elements, on integers or on reals.
    pub(super) fn moving(
        &mut self,
        value: &Value,
        node: impl Fn(&mut Self, &str) -> String,
        dims: Vec<usize>,
    ) {
        // The meaning on integers came with version 13 for most of them.
        if self.version >= 13 && self.chance.once_in(3) {
            let ints = node(self, &value.ints);
            self.integers(ints, dims, value.scale.clone(), value.size);
            return;
        }
        let reals = node(self, &value.reals);
        match self.chance.once_in(4) {
            true => self.quantized(&reals, dims, -value.size, value.size),
            false => self.by(&reals, dims, value.scale.clone(), value.size),
        }
    }

    pub(super) fn moved(&mut self, value: &Value) -> Option<String> {
        let rank = value.dims.len();
        let dims = value.dims.clone();
        match self.chance.below(6) {
            0 => {
                let mut perm: Vec<usize> = (0..rank).collect();
                for at in (1..rank).rev() {
                    perm.swap(at, self.chance.below(at + 1));
                }
                let turned: Vec<usize> = perm.iter().map(|&axis| dims[axis]).collect();
                let attributes = match perm.iter().rev().copied().eq(0..rank) {
                    true => vec![],
                    false => vec![ints("perm", &longs(&perm))],
                };
                let node = |this: &mut Self, from: &str| {
                    this.node("Transpose", &[from], attributes.clone())
                };
                self.moving(value, node, turned);
                Some(format!("Transpose {perm:?}"))
            }
            1 => {
                let axis = self.chance.below(rank + 1);
                let flat = vec![product(&dims[..axis]), product(&dims[axis..])];
                let said = if axis < rank && self.chance.once_in(2) {
                    axis as i64 - rank as i64
                } else {
                    axis as i64
                };
                let node = |this: &mut Self, from: &str| {
                    this.node("Flatten", &[from], vec![ints("axis", &[said])])
                };
                self.moving(value, node, flat);
                Some(format!("Flatten {said}"))
            }
            2 => {
                let ones: Vec<usize> = (0..rank).filter(|&axis| dims[axis] == 1).collect();
                let gone: Vec<usize> = ones
                    .into_iter()
                    .filter(|_| self.chance.once_in(2))
                    .collect();
                if gone.is_empty() || gone.len() + 2 > rank {
                    return None;
                }
                let left = (0..rank)
                    .filter(|axis| !gone.contains(axis))
                    .map(|axis| dims[axis])
                    .collect();
                self.axes(value, "Squeeze", &longs(&gone), left);
                Some(format!("Squeeze {gone:?}"))
            }
            3 => {
                let axis = self.chance.below(rank + 1);
                let mut more = dims;
                more.insert(axis, 1);
                let said = if self.chance.once_in(2) {
                    axis as i64 - rank as i64 - 1
                } else {
                    axis as i64
                };
                self.axes(value, "Unsqueeze", &[said], more);
                Some(format!("Unsqueeze {said}"))
            }
            4 => {
                let (mut starts, mut ends, mut steps, mut left) =
                    (vec![], vec![], vec![], dims.clone());
                let axes: Vec<i64> = (0..rank as i64)
                    .filter(|_| self.chance.once_in(2))
                    .collect();
                for &axis in &axes {
                    let extent = dims[axis as usize];
                    let start = self.chance.below(extent);
                    let end = self.chance.within(start + 1..=extent);
                    let step = self.chance.within(1..=2);
                    left[axis as usize] = (end - start).div_ceil(step);
                    let back = self.chance.once_in(3);
                    starts.push(if back {
                        start as i64 - extent as i64
                    } else {
                        start as i64
                    });
                    ends.push(if end == extent { i64::MAX } else { end as i64 });
                    steps.push(step as i64);
                }
                let lists = [&starts, &ends, &axes, &steps].map(|list| self.longs(list));
                let node = |this: &mut Self, from: &str| {
                    let inputs = [from, &lists[0], &lists[1], &lists[2], &lists[3]];
                    this.node("Slice", &inputs, vec![])
                };
                self.moving(value, node, left);
                Some(format!("Slice {starts:?} {ends:?} {axes:?} {steps:?}"))
            }
            _ => {
                let shape = self.reshaped(&dims)?;
                let mut said = longs(&shape);
                let axis = self.chance.below(said.len());
                match self.chance.below(3) {
                    0 => said[axis] = -1,
                    1 if dims.get(axis) == Some(&shape[axis]) => said[axis] = 0,
                    _ => {}
                }
                let to = self.longs(&said);
                let node = |this: &mut Self, from: &str| this.node("Reshape", &[from, &to], vec![]);
                self.moving(value, node, shape);
                Some(format!("Reshape {said:?}"))
            }
        }
    }

    /// Another shape for as many elements.
    pub(super) fn reshaped(&mut self, dims: &[usize]) -> Option<Vec<usize>> {
        let mut left = product(dims);
        let rank = self.chance.within(2..=4);
        let mut shape = Vec::new();
        for _ in 1..rank {
            let factors: Vec<usize> = (1..=left.min(12))
                .filter(|it| left.is_multiple_of(*it))
                .collect();
            let factor = factors[self.chance.below(factors.len())];
            shape.push(factor);
            left /= factor;
        }
        shape.push(left);
        if self.chance.once_in(2) {
            shape[1..].reverse();
        }
        Some(shape)
    }

    /// Axes that come or go: an attribute once, an input today.
    pub(super) fn axes(&mut self, value: &Value, operator: &str, axes: &[i64], dims: Vec<usize>) {
        let list = if self.version >= 13 {
            Some(self.longs(axes))
        } else {
            None
        };
        let node = |this: &mut Self, from: &str| match &list {
            Some(list) => this.node(operator, &[from, list], vec![]),
            None => this.node(operator, &[from], vec![ints("axes", axes)]),
        };
        self.moving(value, node, dims);
    }

    pub(super) fn concat(&mut self, value: &Value) -> Option<String> {
        let rank = value.dims.len();
        let axis = self.chance.below(rank);
        let mut inputs = vec![value.reals.clone()];
        let (mut dims, mut size) = (value.dims.clone(), value.size);
        for _ in 0..self.chance.within(1..=2) {
            let fits = |it: &&Value| {
                it.dims.len() == rank
                    && (0..rank).all(|at| at == axis || it.dims[at] == value.dims[at])
            };
            let others: Vec<Value> = self.values.iter().filter(fits).cloned().collect();
            let other = others[self.chance.below(others.len())].clone();
            dims[axis] += other.dims[axis];
            size = size.max(other.size);
            let at = self.chance.below(inputs.len() + 1);
            inputs.insert(at, other.reals);
        }
        let said = if self.chance.once_in(2) {
            axis as i64 - rank as i64
        } else {
            axis as i64
        };
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let reals = self.node("Concat", &inputs, vec![ints("axis", &[said])]);
        self.quantized(&reals, dims, -size, size);
        Some(format!("Concat of {} along {said}", inputs.len()))
    }

    pub(super) fn padded(&mut self, value: &Value) -> Option<String> {
        let rank = value.dims.len();
        let pads: Vec<usize> = (0..2 * rank)
            .map(|_| {
                if self.chance.once_in(2) {
                    self.chance.below(3)
                } else {
                    0
                }
            })
            .collect();
        let dims = (0..rank)
            .map(|axis| value.dims[axis] + pads[axis] + pads[rank + axis])
            .collect();
        let list = self.longs(&longs(&pads));
        let integers = self.version >= 13 && self.chance.once_in(2);
        let from = if integers { &value.ints } else { &value.reals };
        let mut inputs = vec![from.clone(), list];
        let given = self.chance.once_in(2);
        if given {
            let zero = self.chance.once_in(2);
            let real = self.chance.uniform() * value.size / 2.0;
            let real = if zero { 0.0 } else { real };
            let byte = self.chance.below(256) as u8;
            inputs.push(match integers {
                true => self.bytes(&[], value.scale.unsigned, vec![byte]),
                false => self.floats(&[], vec![real]),
            });
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let made = self.node("Pad", &inputs, vec![]);
        match integers {
            true => self.integers(made, dims, value.scale.clone(), value.size),
            false => self.by(&made, dims, value.scale.clone(), value.size),
        }
        Some(format!("Pad {pads:?}, integers {integers}, given {given}"))
    }
}
