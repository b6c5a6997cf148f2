//! Instruction sets, and what each wants its data to look like.

/// An instruction set that programs are packed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Isa {
    /// AVX-512 with its dot product of bytes (F, BW, VL, VNNI).
    Avx512,
    /// AVX2.
    Avx2,
    /// NEON with its dot product of bytes (`asimddp`).
    NeonDot,
    /// NEON as every AArch64 processor has it.
    Neon,
}

impl Isa {
    /// Those of this processor, the fastest first.
    pub fn available() -> impl Iterator<Item = Self> {
        [Self::Avx512, Self::Avx2, Self::NeonDot, Self::Neon]
            .into_iter()
            .filter(|isa| isa.present())
    }

    #[cfg(target_arch = "x86_64")]
    fn present(self) -> bool {
        match self {
            Self::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            Self::NeonDot | Self::Neon => false,
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn present(self) -> bool {
        match self {
            Self::NeonDot => std::arch::is_aarch64_feature_detected!("dotprod"),
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            Self::Avx512 | Self::Avx2 => false,
        }
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn present(self) -> bool {
        false
    }

    /// A name for reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "avx512-vnni",
            Self::Avx2 => "avx2",
            Self::NeonDot => "neon-dot",
            Self::Neon => "neon",
        }
    }

    pub(super) const fn shape(self) -> &'static Shape {
        match self {
            Self::Avx512 => &AVX512,
            Self::Avx2 => &AVX2,
            Self::NeonDot => &NEON_DOT,
            Self::Neon => &NEON,
        }
    }
}

/// How activations lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    /// A byte, 128 above the value: the unsigned operand of a dot product.
    Biased,
    /// 16 bits, since AVX2 multiplies those exactly.
    Wide,
    /// The byte itself.
    Plain,
}

/// What an instruction set wants its data to look like.
#[derive(Debug)]
pub(super) struct Shape {
    pub element: Element,
    /// 32-bit lanes of a vector.
    pub lanes: usize,
    /// Inputs that a step of a convolution takes of each run.
    pub group: usize,
    /// Taps that a step of a depthwise convolution takes.
    pub taps: usize,
    /// Vectors of accumulators of a chunk of a depthwise convolution.
    pub depthwise_blocks: usize,
    /// Whether such a chunk may be made of pixels that lie apart.
    pub pieces: bool,
    /// Vectors of channels and numbers of pixels that there are convolutions for, the widest first.
    pub strips: &'static [(usize, &'static [u8])],
}

impl Shape {
    /// Bytes of an element.
    pub const fn bytes(&self) -> usize {
        match self.element {
            Element::Wide => 2,
            Element::Biased | Element::Plain => 1,
        }
    }

    /// A value as it lies in memory.
    pub fn stored(&self, value: i8) -> i32 {
        match self.element {
            Element::Biased => i32::from(value) + 128,
            Element::Wide | Element::Plain => i32::from(value),
        }
    }

    /// The channel of each lane of some vectors, so that packing them, 128 bits by 128 bits as x86
    /// does it, brings the channels into their order.
    pub fn order(&self, blocks: usize) -> impl Iterator<Item = usize> {
        (0..blocks * self.lanes).map(move |index| {
            let (block, lane) = (index / self.lanes, index % self.lanes);
            4 * blocks * (lane / 4) + 4 * block + lane % 4
        })
    }
}

static AVX512: Shape = Shape {
    element: Element::Biased,
    lanes: 16,
    group: 4,
    taps: 4,
    depthwise_blocks: 4,
    pieces: true,
    strips: &[
        (4, &[1, 2, 3, 4, 5, 6]),
        (2, &[1, 2, 3, 4, 6, 8]),
        (1, &[1, 2, 4, 8, 12]),
    ],
};

static AVX2: Shape = Shape {
    element: Element::Wide,
    lanes: 8,
    group: 2,
    taps: 2,
    depthwise_blocks: 2,
    pieces: false,
    strips: &[(2, &[1, 2, 4, 5]), (1, &[1, 4, 8])],
};

static NEON_DOT: Shape = Shape {
    element: Element::Plain,
    lanes: 4,
    group: 4,
    taps: 1,
    depthwise_blocks: 4,
    pieces: false,
    strips: &[(4, &[1, 2, 4, 5]), (1, &[1, 4, 8])],
};

static NEON: Shape = Shape {
    strips: &[(4, &[1, 2, 3]), (1, &[1, 4, 8])],
    ..NEON_DOT
};
