//! Pools and means.

use super::*;

impl Drawing {
    pub(super) fn pool(&mut self, value: &Value) -> Option<String> {
        let &[1, channels, ref spatial @ ..] = &value.dims[..] else {
            return None;
        };
        if !matches!(spatial.len(), 1 | 2) {
            return None;
        }
        let ones = vec![1; spatial.len()];
        let all = [&[1, channels], &ones[..]].concat();
        match self.chance.below(4) {
            0 => {
                let reals = self.node("GlobalMaxPool", &[&value.reals], vec![]);
                self.by(&reals, all, value.scale.clone(), value.size);
                Some("GlobalMaxPool".into())
            }
            1 => {
                let reals = self.node("GlobalAveragePool", &[&value.reals], vec![]);
                self.quantized(&reals, all, -value.size, value.size);
                Some("GlobalAveragePool".into())
            }
            at => {
                let kernel: Vec<usize> = spatial
                    .iter()
                    .map(|&it| self.chance.within(1..=it.min(3)))
                    .collect();
                let (mut attributes, extents) = self.window(&kernel, spatial, false)?;
                attributes.push(ints("kernel_shape", &longs(&kernel)));
                let dims = [&[1, channels], &extents[..]].concat();
                let operator = ["MaxPool", "AveragePool"][at - 2];
                if at == 2 {
                    let node = |this: &mut Self, from: &str| {
                        this.node(operator, &[from], attributes.clone())
                    };
                    self.moving(value, node, dims);
                } else {
                    attributes.push(ints("count_include_pad", &[self.chance.below(2) as i64]));
                    let reals = self.node(operator, &[&value.reals], attributes);
                    self.by(&reals, dims, value.scale.clone(), value.size);
                }
                Some(format!("{operator} {kernel:?}"))
            }
        }
    }

    pub(super) fn mean(&mut self, value: &Value) -> Option<String> {
        let rank = value.dims.len();
        let all = rank > 2 && !self.chance.once_in(4);
        let axes: Vec<usize> = match all {
            true => (2..rank).collect(),
            false => vec![self.chance.below(rank)],
        };
        let keep = self.chance.once_in(2);
        let said: Vec<i64> = axes
            .iter()
            .map(|&axis| {
                axis as i64
                    - if self.chance.once_in(2) {
                        rank as i64
                    } else {
                        0
                    }
            })
            .collect();
        let mut attributes = vec![ints("keepdims", &[keep.into()])];
        let mut inputs = vec![value.reals.clone()];
        match self.version {
            18.. => inputs.push(self.longs(&said)),
            _ => attributes.push(ints("axes", &said)),
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let reals = self.node("ReduceMean", &inputs, attributes);
        let left = (0..rank).filter(|axis| keep || !axes.contains(axis));
        let dims = left
            .map(|axis| {
                if axes.contains(&axis) {
                    1
                } else {
                    value.dims[axis]
                }
            })
            .collect();
        self.quantized(&reals, dims, -value.size, value.size);
        Some(format!("ReduceMean {said:?} {keep}"))
    }
}
