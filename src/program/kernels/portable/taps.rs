//! Where a window's taps fall along one axis.

use crate::program::op::{Plane, Window};

/// A window along one axis.
#[derive(Clone, Copy)]
pub(super) struct Axis {
    taps: u16,
    stride: u8,
    dilation: u8,
    pad: u16,
    extent: u16,
}

impl Axis {
    pub(super) const fn rows(window: &Window, input: &Plane) -> Self {
        Self {
            taps: window.kernel_h,
            stride: window.stride_h,
            dilation: window.dilation_h,
            pad: window.pad_top,
            extent: input.height,
        }
    }

    pub(super) const fn columns(window: &Window, input: &Plane) -> Self {
        Self {
            taps: window.kernel_w,
            stride: window.stride_w,
            dilation: window.dilation_w,
            pad: window.pad_left,
            extent: input.width,
        }
    }

    /// Number of taps, inside or not.
    pub(super) const fn taps(&self) -> usize {
        self.taps as usize
    }

    /// Index of the input that a tap of an output sees; `None` in the padding.
    pub(super) fn input(&self, output: usize, tap: usize) -> Option<usize> {
        let from_pad = output * usize::from(self.stride) + tap * usize::from(self.dilation);
        let index = from_pad.checked_sub(usize::from(self.pad))?;
        (index < usize::from(self.extent)).then_some(index)
    }

    /// How many taps from `tap` on see inputs side by side, or padding.
    pub(super) fn stretch(&self, output: usize, tap: usize) -> usize {
        if self.dilation != 1 {
            return 1;
        }
        // Where the tap lies, counted from the first column of padding.
        let at = output * usize::from(self.stride) + tap;
        let start = usize::from(self.pad);
        let end = start + usize::from(self.extent);
        let left = self.taps().saturating_sub(tap).max(1);
        let bound = if at < start {
            start - at
        } else if at < end {
            end - at
        } else {
            left
        };
        bound.min(left)
    }
}
