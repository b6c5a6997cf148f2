//! Attributes of a node, with their defaults.

use super::MAX_INPUT;
use super::error::{EXPORT, Result};
use super::lower::Context;
use super::proto;
use crate::graph::Window;

impl Context<'_> {
    fn attribute(&self, name: &str) -> Option<&proto::Attribute> {
        self.node
            .attributes
            .iter()
            .find(|attribute| attribute.name == name)
    }

    pub(super) fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name)
            .map_or(default, |attribute| attribute.int)
    }

    pub(super) fn float(&self, name: &str, default: f32) -> f32 {
        self.attribute(name)
            .map_or(default, |attribute| attribute.float)
    }

    pub(super) fn ints(&self, name: &str) -> Option<&[i64]> {
        self.attribute(name).map(|attribute| &*attribute.ints)
    }

    pub(super) fn text(&self, name: &str) -> Option<&[u8]> {
        self.attribute(name).map(|attribute| &*attribute.string)
    }

    pub(super) fn value(&self) -> Option<&proto::Tensor> {
        self.attribute("value")?.tensor.as_ref()
    }

    /// An axis counted from the end where negative.
    pub(super) fn axis(&self, axis: i64, rank: usize) -> Result<usize> {
        let wrapped = if axis < 0 {
            axis.checked_add_unsigned(rank as u64)
        } else {
            Some(axis)
        };
        wrapped
            .and_then(|axis| usize::try_from(axis).ok())
            .filter(|&axis| axis < rank)
            .ok_or_else(|| self.error(format!("axis {axis} is not one of {rank}"), EXPORT))
    }

    /// The window of a convolution or pooling over `spatial` (one or two axes), as two axes; the
    /// second has extent one where there is one.
    pub(super) fn window(&self, kernel: &[usize], spatial: &[usize]) -> Result<Window> {
        let rank = spatial.len();
        let per_axis = |name: &str, default: i64, count: usize| -> Result<Vec<usize>> {
            let given = match self.ints(name) {
                Some(given) if !given.is_empty() => given.to_vec(),
                _ => vec![default; count],
            };
            let all: Option<Vec<usize>> =
                given.iter().map(|&it| usize::try_from(it).ok()).collect();
            all.filter(|all| all.len() == count && all.iter().all(|&it| it < 1 << 16))
                .ok_or_else(|| {
                    self.error(
                        format!("its {name} {given:?} do not fit {rank} axes"),
                        EXPORT,
                    )
                })
        };
        let stride = per_axis("strides", 1, rank)?;
        let dilation = per_axis("dilations", 1, rank)?;
        if stride
            .iter()
            .chain(&dilation)
            .chain(kernel)
            .any(|&it| it == 0)
            || kernel.iter().any(|&it| it > MAX_INPUT)
            || kernel.len() != rank
        {
            return Err(self.error(
                "its kernel, strides or dilations do not fit its input",
                EXPORT,
            ));
        }
        if self.int("ceil_mode", 0) != 0 {
            return Err(self.error("ceil_mode is not supported", "pad explicitly"));
        }
        let padding = match self.text("auto_pad") {
            None | Some(b"" | b"NOTSET") => per_axis("pads", 0, 2 * rank)?,
            Some(b"VALID") => vec![0; 2 * rank],
            Some(mode @ (b"SAME_UPPER" | b"SAME_LOWER")) => {
                let mut pads = vec![0; 2 * rank];
                for axis in 0..rank {
                    let outputs = spatial[axis].div_ceil(stride[axis]);
                    let reach = (kernel[axis] - 1) * dilation[axis] + 1;
                    let total =
                        ((outputs - 1) * stride[axis] + reach).saturating_sub(spatial[axis]);
                    let before = if mode == b"SAME_UPPER" {
                        total / 2
                    } else {
                        total.div_ceil(2)
                    };
                    (pads[axis], pads[rank + axis]) = (before, total - before);
                }
                pads
            }
            Some(_) => return Err(self.error("its auto_pad is unknown", EXPORT)),
        };
        let two = |all: &[usize], fill: usize| [all[0], all.get(1).copied().unwrap_or(fill)];
        let (before, after) = (two(&padding[..rank], 0), two(&padding[rank..], 0));
        Ok(Window {
            kernel: two(kernel, 1),
            stride: two(&stride, 1),
            dilation: two(&dilation, 1),
            padding: [before[0], before[1], after[0], after[1]],
        })
    }

    /// Extent of the output along the window's two axes.
    pub(super) fn slid(&self, window: &Window, spatial: &[usize]) -> Result<Vec<usize>> {
        let mut extents = Vec::new();
        for (axis, &extent) in spatial.iter().enumerate() {
            let reach = (window.kernel[axis] - 1) * window.dilation[axis] + 1;
            let padded = extent + window.padding[axis] + window.padding[2 + axis];
            let Some(room) = padded.checked_sub(reach) else {
                let why = format!(
                    "its window of {reach} does not fit the {padded} elements of axis {}",
                    axis + 2
                );
                return Err(self.error(why, EXPORT));
            };
            extents.push(room / window.stride[axis] + 1);
        }
        Ok(extents)
    }
}
