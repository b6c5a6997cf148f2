//! What kernels of packed programs share: loops that are written out.

/// Repeats a block with a constant index, so that arrays of vectors stay in registers.
macro_rules! unroll {
    ($n:expr, $i:ident, $body:block; $($k:literal)*) => {
        $( if $k < $n { let $i: usize = $k; $body } )*
    };
    (pixels $n:expr, $i:ident, $body:block) => {
        unroll!($n, $i, $body; 0 1 2 3 4 5 6 7 8 9 10 11)
    };
    (blocks $n:expr, $i:ident, $body:block) => { unroll!($n, $i, $body; 0 1 2 3) };
}
pub(crate) use unroll;

/// Calls a convolution of the strip's number of vectors and pixels.
macro_rules! strips {
    ($strip:expr, $call:ident $arguments:tt; $($blocks:literal: $($tile:literal)*;)*) => {
        match ($strip.blocks, $strip.tile, $strip.wide) {
            $( $(
                ($blocks, $tile, false) => $call::<$blocks, $tile, false>$arguments,
                ($blocks, $tile, true) => $call::<$blocks, $tile, true>$arguments,
            )* )*
            _ => unreachable!("a strip that the instruction set's shape does not list"),
        }
    };
}
pub(crate) use strips;
