//! Convolutions and products of matrices, with their weights and biases.

use super::*;

impl Drawing {
    /// A window over `spatial`: attributes, and the extents that it leaves.
    pub(super) fn window(
        &mut self,
        kernel: &[usize],
        spatial: &[usize],
        dilates: bool,
    ) -> Option<(Vec<Attribute>, Vec<usize>)> {
        let rank = spatial.len();
        let strides: Vec<usize> = (0..rank).map(|_| self.chance.within(1..=2)).collect();
        let dilations: Vec<usize> = (0..rank)
            .map(|_| {
                if dilates && self.chance.once_in(3) {
                    2
                } else {
                    1
                }
            })
            .collect();
        let reach = |axis: usize| (kernel[axis] - 1) * dilations[axis] + 1;
        let mut attributes = vec![ints("strides", &longs(&strides))];
        if dilates {
            attributes.push(ints("dilations", &longs(&dilations)));
        }
        let mut extents = Vec::new();
        let mode =
            ["pads", "pads", "none", "SAME_UPPER", "SAME_LOWER", "VALID"][self.chance.below(6)];
        match mode {
            "SAME_UPPER" | "SAME_LOWER" => {
                extents.extend((0..rank).map(|axis| spatial[axis].div_ceil(strides[axis])));
            }
            _ => {
                let mut pads = vec![0; 2 * rank];
                if mode == "pads" {
                    for (at, pad) in pads.iter_mut().enumerate() {
                        *pad = self.chance.below(kernel[at % rank].min(3));
                    }
                    attributes.push(ints("pads", &longs(&pads)));
                }
                for axis in 0..rank {
                    let room = (spatial[axis] + pads[axis] + pads[rank + axis])
                        .checked_sub(reach(axis))?;
                    extents.push(room / strides[axis] + 1);
                }
            }
        }
        if !matches!(mode, "pads" | "none") {
            attributes.push(Attribute {
                name: "auto_pad".into(),
                string: mode.into(),
                kind: 3,
                ..Attribute::default()
            });
        }
        Some((attributes, extents))
    }

    /// Weights as reals, with a scale an index of `axis` or one for all.
    pub(super) fn weights(&mut self, dims: &[usize], axis: usize, taps: usize) -> String {
        let unsigned = self.chance.once_in(5);
        let count = match self.version >= 13 && self.chance.once_in(2) {
            true => dims[axis],
            false => 1,
        };
        let step = 1.0 / (127.0 * (taps as f32).sqrt());
        let scales = (0..count)
            .map(|_| step * (1.2 + self.chance.uniform()))
            .collect();
        let zero = if unsigned {
            self.chance.within(100..=150) as u8
        } else {
            0
        };
        let data = (0..product(dims))
            .map(|_| self.chance.below(256) as u8)
            .collect();
        let extents: &[usize] = if count == 1 { &[] } else { &[count] };
        let data = self.bytes(dims, unsigned, data);
        let scale = self.floats(extents, scales);
        let zeros = self.bytes(extents, unsigned, vec![zero; count]);
        let axis = [ints("axis", &[axis as i64])];
        let axis = if count == 1 { &[][..] } else { &axis };
        self.node("DequantizeLinear", &[&data, &scale, &zeros], axis.to_vec())
    }

    /// A bias, float or int32.
    pub(super) fn bias(&mut self, dims: &[usize], size: f32) -> String {
        let count = product(dims);
        let floats = self.chance.floats(count, size);
        if self.chance.once_in(2) {
            return self.floats(dims, floats);
        }
        let step = size / 100_000.0;
        let tensor = self.tensor(dims, INT32);
        tensor.ints = floats.iter().map(|x| (x / step) as i32).collect();
        let data = tensor.name.clone();
        let scale = self.floats(&[], vec![step]);
        let tensor = self.tensor(&[], INT32);
        tensor.ints = vec![0];
        let zero = tensor.name.clone();
        self.node("DequantizeLinear", &[&data, &scale, &zero], vec![])
    }

    pub(super) fn conv(&mut self, value: &Value) -> Option<String> {
        let &[1, channels, ref spatial @ ..] = &value.dims[..] else {
            return None;
        };
        if !matches!(spatial.len(), 1 | 2) {
            return None;
        }
        let depthwise = self.chance.once_in(3);
        let outputs = match depthwise {
            true => channels * self.chance.within(1..=2),
            false => [channels, self.chance.within(1..=5)][self.chance.below(2)],
        };
        let depth = if depthwise { 1 } else { channels };
        let kernel: Vec<usize> = spatial
            .iter()
            .map(|&it| self.chance.within(1..=it.min(3)))
            .collect();
        let (mut attributes, extents) = self.window(&kernel, spatial, true)?;
        attributes.push(ints(
            "group",
            &[if depthwise { channels as i64 } else { 1 }],
        ));
        let dims = [&[outputs, depth], &kernel[..]].concat();
        let taps = depth * product(&kernel);
        let weights = self.weights(&dims, 0, taps);
        let mut inputs = vec![value.reals.clone(), weights];
        if self.chance.once_in(2) {
            inputs.push(self.bias(&[outputs], value.size / 2.0));
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let reals = self.node("Conv", &inputs, attributes);
        self.finish(
            reals,
            [&[1, outputs], &extents[..]].concat(),
            value.size * 1.5,
        );
        Some(format!("Conv {dims:?}"))
    }

    pub(super) fn matrices(&mut self, value: &Value) -> Option<String> {
        let (&inputs, rows) = value.dims.split_last()?;
        let &height = rows.last()?;
        let outputs = [inputs, height, self.chance.within(1..=6)][self.chance.below(3)];
        if rows.len() == 1 && self.chance.once_in(2) {
            let transposed = self.chance.once_in(2);
            let dims = if transposed {
                [outputs, inputs]
            } else {
                [inputs, outputs]
            };
            let weights = self.weights(&dims, usize::from(!transposed), inputs);
            let shapes = [
                vec![outputs],
                vec![1, outputs],
                vec![height, 1],
                vec![1],
                vec![],
            ];
            let shape = shapes[self.chance.below(5)].clone();
            let bias = self.bias(&shape, value.size / 2.0);
            let attributes = vec![ints("transB", &[transposed.into()])];
            let reals = self.node("Gemm", &[&value.reals, &weights, &bias], attributes);
            self.finish(reals, vec![height, outputs], value.size * 1.5);
            return Some(format!("Gemm transB {transposed} and {shape:?}"));
        }
        let mut dims = vec![inputs, outputs];
        if self.chance.once_in(4) {
            dims.insert(0, 1);
        }
        let axis = dims.len() - 1;
        let weights = self.weights(&dims, axis, inputs);
        let mut reals = self.node("MatMul", &[&value.reals, &weights], vec![]);
        let mut shape = value.dims.clone();
        *shape.last_mut()? = outputs;
        while shape.len() < dims.len() {
            shape.insert(0, 1);
        }
        let mut what = format!("MatMul {dims:?}");
        if self.chance.once_in(2) {
            let shapes = [
                vec![outputs],
                vec![1, outputs],
                vec![height, 1],
                vec![1, 1, outputs],
                vec![],
            ];
            let added = shapes[self.chance.below(5)].clone();
            let bias = self.bias(&added, value.size / 2.0);
            reals = match self.chance.once_in(2) {
                true => self.node("Add", &[&reals, &bias], vec![]),
                false => self.node("Add", &[&bias, &reals], vec![]),
            };
            while shape.len() < added.len() {
                shape.insert(0, 1);
            }
            what += &format!(" and {added:?}");
        }
        self.finish(reals, shape, value.size * 1.5);
        Some(what)
    }
}
