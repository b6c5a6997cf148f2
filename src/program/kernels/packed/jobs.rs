//! What packed kernels are given: offsets that were worked out when the program was loaded.
//!
//! Offsets of data count elements from the start of the activations' memory, offsets of constants
//! bytes from the start of the packed constants.

/// Least and greatest output, as elements lie in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clamp {
    pub min: i32,
    pub max: i32,
}

/// Output channels that one pass of a convolution makes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Strip {
    /// Vectors of channels.
    pub blocks: u8,
    /// Pixels that are made together; at most as many as there are.
    pub tile: u8,
    /// Whether a channel's shift is not to the right.
    pub wide: bool,
    /// First channel.
    pub channel: u32,
    /// Channels that exist; the others are computed and dropped.
    pub count: u32,
    /// Where the weights lie.
    pub weights: usize,
    /// Where the constants of the channels lie.
    pub lanes: usize,
}

/// A convolution or fully connected layer: the window of a pixel is some runs of adjacent bytes.
#[derive(Debug)]
pub(crate) struct Conv {
    /// Where each run begins from the first element of the window on.
    pub runs: Vec<u32>,
    /// Groups of inputs in a run.
    pub groups: usize,
    /// Of each output pixel: first element of the window, first element of the output.
    pub pixels: Vec<[u32; 2]>,
    pub strips: Vec<Strip>,
    pub clamp: Clamp,
}

/// Adjacent outputs of a depthwise convolution.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chunk {
    /// First element of the window.
    pub input: u32,
    /// First output.
    pub output: u32,
    /// Which set of weights.
    pub phase: u16,
    /// Outputs of a piece that exist.
    pub count: u16,
}

/// A depthwise convolution.
#[derive(Debug)]
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "pieces are for wide vectors")
)]
pub(crate) struct Depthwise {
    /// Where each tap lies from the first element of the window on.
    pub taps: Vec<u32>,
    pub chunks: Vec<Chunk>,
    /// Pieces that a vector is made of: 1, or 2 or 4 pixels that lie apart.
    pub pieces: u8,
    /// Elements from one piece to the next of the input and of the output.
    pub steps: [u32; 2],
    pub wide: bool,
    pub weights: usize,
    pub lanes: usize,
    pub clamp: Clamp,
}

/// A walk over rows: of each operand the first element and the elements from row to row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<const N: usize> {
    pub first: [usize; N],
    pub pitch: [usize; N],
    pub rows: usize,
    pub len: usize,
}

/// A sum as `(a * high[0] + b * high[1] + high_start + (lower >> 16)) >> shift`, where `lower` is the
/// same of the lower halves of the coefficients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Linear {
    pub high: [i16; 2],
    pub low: [i16; 2],
    pub high_start: i32,
    pub low_start: i32,
    pub shift: i32,
}

/// A sum of two tensors: operands, then the output.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sum {
    pub rows: Rows<3>,
    pub linear: Linear,
    pub clamp: Clamp,
}

/// One pixel of a pool: the part of its window that lies inside the input.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spot {
    pub input: u32,
    pub output: u32,
    pub rows: u16,
    pub columns: u16,
}

/// Averages or maxima.
#[derive(Debug)]
pub(crate) struct Pool {
    pub spots: Vec<Spot>,
    pub pitch: usize,
    pub channels: usize,
    pub maximum: bool,
    pub min: i8,
    pub max: i8,
}

/// Softmax over `rows` vectors of `columns`, which lie one after the other.
#[derive(Debug)]
pub(crate) struct Softmax {
    pub input: usize,
    pub output: usize,
    pub rows: usize,
    pub columns: usize,
    /// `exp` of each difference to the greatest element, -0 to -255, in Q0.31; `None`: counts as zero.
    pub exponentials: Box<[Option<i32>; 256]>,
}
