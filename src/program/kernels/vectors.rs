//! What kernels of packed programs share: all but the instructions.
//!
//! A module of an instruction set names its instructions ([`kernels`] lists the names) and calls the
//! macro, which writes the loops around them into functions that may use these instructions. Traits
//! can't do that: a generic function has one set of target features for all types.

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

/// The kernels `conv`, `depthwise`, `sum` and `pool` of an instruction set.
///
/// After the target features: the strips of a convolution (vectors of channels, and numbers of pixels
/// for each), and the pieces of a depthwise convolution's vectors. The module brings along
///
/// - `VECTOR`, bytes of a vector; `BLOCKS`, vectors of numbers that a vector of elements becomes;
///   `CONSTANTS`, vectors of constants of one vector of channels; `COLUMNS`, vectors of weights of
///   `TAPS` taps of a depthwise convolution; `BIAS`, what elements lie above their value;
/// - `V`, a vector of 32-bit numbers, and `add`, `sub`, `xor`, `splat`,
///   `shift_right`, `divide`, `splat_float`, `to_floats`, `truncate`; `zeros` and `vector`, a vector of
///   the constants;
/// - `group`, four bytes in every lane, `begin`, accumulators that hold a bias, `dot`, which adds the
///   products of a group, and `end`, the sums;
/// - `Scale`, `scale` and `requantize`;
/// - `pairs` of elements of two tensors, in the order that `store` undoes, `coefficients` for both and
///   `multiply_pairs`, which adds the products; `shift_right_all`;
/// - `multiply_taps` of a depthwise convolution, and `scatter` for its outputs;
/// - `store`, and `store_four` for one vector each of four pixels;
/// - `Totals`, 16-bit sums or maxima of a vector of elements, with `totals`, `collect` and `spread`.
macro_rules! kernels {
    ($features:literal; $($blocks:literal: $($tile:literal)*;)* pieces: $($pieces:literal)*) => {
        /// A convolution.
        ///
        /// # Safety
        /// The processor has the instructions; the job was built for them and for `base`.
        #[target_feature(enable = $features)]
        pub(crate) unsafe fn conv(job: &Conv, base: Base) {
            for strip in &job.strips {
                // SAFETY: the caller's promise; `build` chose a tile of at most as many pixels as
                // there are.
                unsafe {
                    match (strip.blocks, strip.tile, strip.wide) {
                        $( $(
                            ($blocks, $tile, false) => {
                                conv_strip::<$blocks, $tile, false>(job, strip, base);
                            }
                            ($blocks, $tile, true) => {
                                conv_strip::<$blocks, $tile, true>(job, strip, base);
                            }
                        )* )*
                        _ => unreachable!("a strip that the instruction set's shape does not list"),
                    }
                }
            }
        }

        /// One strip of channels for all pixels; the last tile goes back over pixels of the one before.
        ///
        /// # Safety
        /// As [`conv`].
        #[target_feature(enable = $features)]
        unsafe fn conv_strip<const N: usize, const TILE: usize, const WIDE: bool>(
            job: &Conv,
            strip: &Strip,
            base: Base,
        ) {
            let Some(last) = job.pixels.len().checked_sub(TILE) else {
                return;
            };
            for at in (0..job.pixels.len()).step_by(TILE) {
                let pixels: &[[u32; 2]] = &job.pixels[at.min(last)..];
                if let Some(pixels) = pixels.first_chunk() {
                    // SAFETY: the caller's promise.
                    unsafe { tile::<N, TILE, WIDE>(job, strip, base, pixels) }
                }
            }
        }

        /// A few pixels of a strip of `N` vectors of channels.
        ///
        /// # Safety
        /// As [`conv`].
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn tile<const N: usize, const TILE: usize, const WIDE: bool>(
            job: &Conv,
            strip: &Strip,
            base: Base,
            pixels: &[[u32; 2]; TILE],
        ) {
            // SAFETY: windows, runs, weights and constants lie in their memory, a group's elements
            // behind the end of a run in the slack.
            unsafe {
                let mut from = [base.data.cast_const(); TILE];
                unroll!(pixels TILE, i, { from[i] = from[i].add(pixels[i][0] as usize * ELEMENT); });
                let lanes = base.constants.add(strip.lanes);
                let mut sums = [[begin(zeros()); N]; TILE];
                unroll!(blocks N, j, {
                    let bias = begin(vector(lanes.add(CONSTANTS * VECTOR * j)));
                    unroll!(pixels TILE, i, { sums[i][j] = bias; });
                });
                let mut weights = base.constants.add(strip.weights);
                for &run in &job.runs {
                    let mut at = run as usize * ELEMENT;
                    let end = at + 4 * job.groups;
                    while at < end {
                        let mut columns = [zeros(); N];
                        unroll!(blocks N, j, { columns[j] = vector(weights.add(VECTOR * j)); });
                        weights = weights.add(VECTOR * N);
                        unroll!(pixels TILE, i, {
                            let group = group(from[i].add(at));
                            unroll!(blocks N, j, { sums[i][j] = dot(sums[i][j], group, columns[j]); });
                        });
                        at += 4;
                    }
                }
                let mut values = [[zeros(); N]; TILE];
                unroll!(blocks N, j, {
                    let scale = scale(lanes.add(CONSTANTS * VECTOR * j));
                    unroll!(pixels TILE, i, {
                        values[i][j] = requantize::<WIDE>(end(sums[i][j]), &scale);
                    });
                });
                let to = base.data.add(strip.channel as usize * ELEMENT);
                let count = strip.count as usize;
                unroll!(pixels TILE, i, {
                    if N == 1 && TILE.is_multiple_of(4) {
                        if i.is_multiple_of(4) {
                            let four = [
                                values[i][0],
                                values[(i + 1) % TILE][0],
                                values[(i + 2) % TILE][0],
                                values[(i + 3) % TILE][0],
                            ];
                            let to = [0, 1, 2, 3].map(|it| to.add(pixels[(i + it) % TILE][1] as usize * ELEMENT));
                            store_four(four, to, count, job.clamp);
                        }
                    } else {
                        let to = to.add(pixels[i][1] as usize * ELEMENT);
                        store(values[i], to, count, job.clamp);
                    }
                });
            }
        }

        /// A depthwise convolution.
        ///
        /// # Safety
        /// The processor has the instructions; the job was built for them and for `base`.
        #[target_feature(enable = $features)]
        pub(crate) unsafe fn depthwise(job: &Depthwise, base: Base) {
            // SAFETY: the caller's promise.
            unsafe {
                match (job.pieces, job.wide) {
                    $(
                        ($pieces, false) => chunks::<$pieces, false>(job, base),
                        ($pieces, true) => chunks::<$pieces, true>(job, base),
                    )*
                    _ => unreachable!("pieces that the instruction set's shape does not allow"),
                }
            }
        }

        /// # Safety
        /// As [`depthwise`].
        #[target_feature(enable = $features)]
        unsafe fn chunks<const PIECES: usize, const WIDE: bool>(job: &Depthwise, base: Base) {
            let groups = job.taps.as_chunks::<TAPS>().0;
            for chunk in &job.chunks {
                // SAFETY: taps, weights and constants of the chunk's phase lie in their memory; what a
                // vector reads behind its elements lies in the slack.
                unsafe {
                    let from = base.data.cast_const().add(chunk.input as usize * ELEMENT);
                    let phase = chunk.phase as usize;
                    let lanes = base.constants.add(job.lanes + BLOCKS * CONSTANTS * VECTOR * phase);
                    let mut weights = base.constants;
                    weights = weights.add(job.weights + COLUMNS * VECTOR * groups.len() * phase);
                    let mut sums = [zeros(); BLOCKS];
                    unroll!(blocks BLOCKS, j, { sums[j] = vector(lanes.add(CONSTANTS * VECTOR * j)); });
                    for taps in groups {
                        sums = multiply_taps::<PIECES>(sums, from, taps, job.steps[0] as usize, weights);
                        weights = weights.add(COLUMNS * VECTOR);
                    }
                    unroll!(blocks BLOCKS, j, {
                        let scale = scale(lanes.add(CONSTANTS * VECTOR * j));
                        sums[j] = requantize::<WIDE>(sums[j], &scale);
                    });
                    let to = base.data.add(chunk.output as usize * ELEMENT);
                    scatter::<PIECES>(sums, to, job, usize::from(chunk.count));
                }
            }
        }

        /// A sum of two tensors.
        ///
        /// # Safety
        /// The processor has the instructions; the job was built for them and for `base`.
        #[target_feature(enable = $features)]
        pub(crate) unsafe fn sum(job: &Sum, base: Base) {
            let linear = &job.linear;
            let (high, low) = (coefficients(linear.high), coefficients(linear.low));
            let starts = [splat(linear.high_start), splat(linear.low_start)];
            // SAFETY: rows lie in memory, what a vector reads behind them in the slack.
            unsafe {
                for row in 0..job.rows.rows {
                    let at = [0, 1, 2].map(|it| {
                        let element = job.rows.first[it] + row * job.rows.pitch[it];
                        base.data.add(element * ELEMENT)
                    });
                    for column in (0..job.rows.len).step_by(VECTOR / ELEMENT) {
                        let both = pairs(at[0].add(column * ELEMENT), at[1].add(column * ELEMENT));
                        let mut values = [zeros(); BLOCKS];
                        unroll!(blocks BLOCKS, j, {
                            let lower = multiply_pairs(starts[1], both[j], low);
                            let start = add(starts[0], shift_right::<16>(lower));
                            let sum = multiply_pairs(start, both[j], high);
                            values[j] = shift_right_all(sum, linear.shift);
                        });
                        let count = (job.rows.len - column).min(VECTOR / ELEMENT);
                        store(values, at[2].add(column * ELEMENT), count, job.clamp);
                    }
                }
            }
        }

        /// Averages or maxima.
        ///
        /// # Safety
        /// The processor has the instructions; the job was built for them and for `base`.
        #[target_feature(enable = $features)]
        pub(crate) unsafe fn pool(job: &Pool, base: Base) {
            let clamp = Clamp {
                min: i32::from(job.min) + BIAS,
                max: i32::from(job.max) + BIAS,
            };
            for spot in &job.spots {
                let taps = i32::from(spot.rows) * i32::from(spot.columns);
                for channel in (0..job.channels).step_by(VECTOR / ELEMENT) {
                    // SAFETY: the part of the window that `build` worked out lies in the tensor, what
                    // a vector reads behind it in the slack.
                    unsafe {
                        let mut all = totals(job.maximum);
                        for row in 0..usize::from(spot.rows) {
                            let row = spot.input as usize + row * job.pitch + channel;
                            for column in 0..usize::from(spot.columns) {
                                let at = base.data.add((row + column * job.channels) * ELEMENT);
                                all = collect(all, at, job.maximum);
                            }
                        }
                        let mut values = spread(all);
                        if !job.maximum {
                            unroll!(blocks BLOCKS, j, { values[j] = average(values[j], taps); });
                        }
                        let to = base.data.add((spot.output as usize + channel) * ELEMENT);
                        let count = (job.channels - channel).min(VECTOR / ELEMENT);
                        store(values, to, count, clamp);
                    }
                }
            }
        }

        /// The average of `taps` elements whose sum is given, as an element; halves go away from zero.
        ///
        /// Sum and divisor are below 2^17, so that the quotient in single precision is the nearest
        /// number and never rounds up to an integer that it does not reach.
        #[inline]
        #[target_feature(enable = $features)]
        fn average(total: V, taps: i32) -> V {
            let total = sub(total, splat(BIAS * taps));
            let sign = shift_right::<31>(total);
            let half = sub(xor(splat(taps / 2), sign), sign);
            let quotient = divide(to_floats(add(total, half)), splat_float(taps as f32));
            add(truncate(quotient), splat(BIAS))
        }
    };
}
pub(crate) use kernels;
