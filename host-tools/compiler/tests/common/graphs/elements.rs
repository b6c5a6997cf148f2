//! Operators of element on element, and softmax.

use super::*;

impl Drawing {
    /// A part of a value with extents of one by chance, and fewer axes by chance.
    pub(super) fn part(&mut self, value: &Value) -> (Value, String) {
        let mut dims = value.dims.clone();
        for extent in &mut dims {
            if self.chance.once_in(2) {
                *extent = 1;
            }
        }
        let (starts, ends) = (vec![0; dims.len()], longs(&dims));
        let (starts, ends) = (self.longs(&starts), self.longs(&ends));
        let reals = self.node("Slice", &[&value.reals, &starts, &ends], vec![]);
        let [step, zero] = value.scale.names.clone();
        let ints = self.node("QuantizeLinear", &[&reals, &step, &zero], vec![]);
        let mut reals = self.node("DequantizeLinear", &[&ints, &step, &zero], vec![]);
        let ones = dims.iter().take_while(|&&extent| extent == 1).count();
        let drop = self.chance.below(ones + 1);
        if drop > 0 {
            dims.drain(..drop);
            let to = self.longs(&longs(&dims));
            reals = self.node("Reshape", &[&reals, &to], vec![]);
        }
        let what = format!("part {dims:?}");
        (
            Value {
                reals,
                dims,
                ..value.clone()
            },
            what,
        )
    }

    pub(super) fn pair(&mut self, value: &Value) -> Option<String> {
        let operator = ["Add", "Sub", "Mul"][self.chance.below(3)];
        let (other, dims, size, what) = match self.chance.below(3) {
            0 => {
                let at = self.chance.below(self.values.len());
                let other = self.values[at].clone();
                (
                    other.reals,
                    other.dims.clone(),
                    other.size,
                    format!("{:?}", other.dims),
                )
            }
            1 => {
                let at = self.chance.below(self.values.len());
                let other = self.values[at].clone();
                let (part, what) = self.part(&other);
                (part.reals, part.dims, part.size, what)
            }
            _ => {
                let mut dims = value.dims.clone();
                for extent in &mut dims {
                    if self.chance.once_in(2) {
                        *extent = 1;
                    }
                }
                let ones = dims.iter().take_while(|&&extent| extent == 1).count();
                dims.drain(..self.chance.below(ones + 1));
                if self.chance.once_in(8) {
                    dims.insert(0, 1);
                }
                let floats = self.chance.floats(product(&dims), 2.0);
                (
                    self.floats(&dims, floats),
                    dims.clone(),
                    2.0,
                    format!("constant {dims:?}"),
                )
            }
        };
        let rank = dims.len().max(value.dims.len());
        let padded = |dims: &[usize]| [&vec![1; rank - dims.len()], dims].concat();
        let mut shape = Vec::new();
        for (a, b) in padded(&dims).into_iter().zip(padded(&value.dims)) {
            if a != b && a != 1 && b != 1 {
                return None;
            }
            shape.push(a.max(b));
        }
        let mut inputs = [&*value.reals, &*other];
        let swapped = self.chance.once_in(2);
        if swapped {
            inputs.swap(0, 1);
        }
        let reals = self.node(operator, &inputs, vec![]);
        let size = if operator == "Mul" {
            size * value.size
        } else {
            size + value.size
        };
        self.finish(reals, shape, size);
        Some(format!(
            "{operator} with {what}{}",
            if swapped { " before it" } else { "" }
        ))
    }

    /// The scale of what lies between 0 and 1.
    pub(super) fn share(&mut self) -> Scale {
        let unsigned = self.chance.once_in(4);
        self.scale(1.0 / 256.0, if unsigned { 0 } else { -128 }, unsigned)
    }

    pub(super) fn softmax(&mut self, value: &Value) -> Option<String> {
        let rank = value.dims.len();
        let axis = self.chance.below(rank);
        let said = if self.chance.once_in(2) {
            axis as i64 - rank as i64
        } else {
            axis as i64
        };
        let attributes = match self.chance.once_in(3) {
            true => vec![],
            false => vec![ints("axis", &[said])],
        };
        let what = format!("Softmax {:?}", attributes.first().map(|it| it.int));
        let reals = self.node("Softmax", &[&value.reals], attributes);
        let scale = self.share();
        self.by(&reals, value.dims.clone(), scale, 1.0);
        Some(what)
    }

    pub(super) fn function(&mut self, value: &Value) -> Option<String> {
        let operator =
            ["Sigmoid", "Tanh", "LeakyRelu", "Relu", "Clip", "HardSwish"][self.chance.below(6)];
        let from = &*value.reals;
        let dims = value.dims.clone();
        match operator {
            "HardSwish" if self.version < 14 => return None,
            "Clip" => {
                let (reals, low) = self.clip(from);
                self.quantized(&reals, dims, low.max(-value.size), value.size);
            }
            "LeakyRelu" => {
                let alpha = Attribute {
                    name: "alpha".into(),
                    float: 0.25,
                    kind: 1,
                    ..Attribute::default()
                };
                let reals = self.node(operator, &[from], vec![alpha]);
                self.quantized(&reals, dims, -value.size / 4.0, value.size);
            }
            _ => {
                let reals = self.node(operator, &[from], vec![]);
                match operator {
                    "Sigmoid" => {
                        let scale = self.share();
                        self.by(&reals, dims, scale, 1.0);
                    }
                    "Tanh" => {
                        let scale = self.scale(1.0 / 128.0, 0, false);
                        self.by(&reals, dims, scale, 1.0);
                    }
                    "Relu" => self.quantized(&reals, dims, 0.0, value.size),
                    _ => self.quantized(&reals, dims, -0.375, value.size),
                }
            }
        }
        Some(operator.into())
    }
}
