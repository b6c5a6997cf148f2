//! What programs of small files are run on.

/// Inputs of so many elements: extremes, a ramp of all values, and random ones.
pub fn inputs(elements: usize) -> Vec<Vec<i8>> {
    let mut seed = 0x9E37_79B9_u32;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        seed as i8
    };
    let ramp = (0..elements).map(|at| at as i8).collect();
    let mut all = vec![vec![i8::MIN; elements], vec![i8::MAX; elements], ramp];
    all.extend((0..100).map(|_| (0..elements).map(|_| random()).collect()));
    all
}
