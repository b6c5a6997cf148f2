//! Rewrites and planning keep every bit: random graphs give the same outputs before and after,
//! in overlapping and in disjoint arenas, through the portable kernels.

#[allow(dead_code, reason = "other tests run single operators")]
mod growing;

use edgeward::program::Layout;
use edgeward_compiler::rewrite::Rewrite;
use edgeward_compiler::{Options, compile_graph};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn outputs_stay_the_same(seed: u64) {
        let graph = growing::network(seed);
        let inputs = growing::inputs(&graph, seed);
        let expected = growing::definition(&graph, &inputs);
        for rewrites in [&[][..], &Rewrite::ALL] {
            for options in [Options::linux(), Options::mcu(Layout::Natural)] {
                let options = Options { rewrites, ..options };
                prop_assert_eq!(&growing::outputs(&graph, &options, &inputs), &expected, "{:?}", options);
            }
        }
    }
}

#[test]
fn every_rewrite_applies_to_some_graph() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 1..300_u64 {
        let graph = growing::network(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let report = compile_graph(graph, &Options::linux()).unwrap().report;
        seen.extend(report.rewrites.iter().map(|effect| effect.rewrite));
    }
    assert_eq!(seen.len(), 5, "{seen:?}");
}
