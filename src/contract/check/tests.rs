use super::*;
use crate::contract::MISSING;
use crate::profile::MissingPolicy;
use crate::testing::profile;
use proptest::prelude::*;
use std::collections::HashSet;

const F: usize = 2;

/// A contract, and what it last said.
struct Bench {
    contract: Contract<F>,
    profile: Profile<F, 2>,
    policy: Policy,
    values: [f32; F],
    reports: Vec<(ViolationKind, Option<u16>, f32, bool)>,
}

impl Bench {
    fn new() -> Self {
        Self {
            contract: Contract::default(),
            profile: profile(1, 1),
            policy: Policy::standard(),
            values: [0.0; F],
            reports: Vec::new(),
        }
    }

    /// A sample that is taken and seen at `sequence` hundredths of a second.
    fn check(&mut self, sequence: u32, values: &[f32]) -> SampleCheck {
        let time_ms = u64::from(sequence) * 10;
        self.check_at(sequence, time_ms, time_ms, values)
    }

    fn check_at(
        &mut self,
        sequence: u32,
        time_ms: u64,
        now_ms: u64,
        values: &[f32],
    ) -> SampleCheck {
        self.reports.clear();
        let sample = Sample {
            sequence,
            time_ms,
            values,
        };
        self.contract.check(
            &self.profile,
            &self.policy,
            &sample,
            now_ms,
            &mut self.values,
            &mut |v| self.reports.push((v.kind, v.feature, v.value, v.first)),
        )
    }

    #[track_caller]
    fn expect(&mut self, sequence: u32, values: &[f32], kinds: &[ViolationKind], outcome: Outcome) {
        let check = self.check(sequence, values);
        let found: Vec<_> = check.violations.iter().collect();
        assert_eq!(found, kinds);
        assert_eq!(check.outcome, outcome);
    }
}

use ViolationKind as Kind;

#[test]
fn good_samples_pass_unchanged() {
    let mut bench = Bench::new();
    for i in 0..10 {
        bench.expect(i, &[i as f32 * 0.5, -1.0], &[], Outcome::Accepted);
        assert_eq!(bench.values, [i as f32 * 0.5, -1.0]);
    }
    assert!(bench.reports.is_empty());
}

#[test]
fn values_outside_are_named_with_the_feature() {
    let mut bench = Bench::new();
    bench.expect(0, &[0.0, 10.0], &[], Outcome::Accepted);
    bench.expect(1, &[0.0, 10.5], &[Kind::AboveRange], Outcome::Flagged);
    assert_eq!(bench.reports, [(Kind::AboveRange, Some(1), 10.5, true)]);
    bench.expect(
        2,
        &[-11.0, 10.5],
        &[Kind::BelowRange, Kind::AboveRange],
        Outcome::Flagged,
    );
    assert!(
        bench
            .reports
            .contains(&(Kind::AboveRange, Some(1), 10.5, false)),
        "not the first"
    );
    assert_eq!(
        bench.values,
        [-11.0, 10.5],
        "flagged values reach the model as they are"
    );
    assert_eq!(
        bench.contract.stream().counts()[Kind::AboveRange as usize],
        2
    );
    assert_eq!(
        bench.contract.feature(1).unwrap().counts()[Kind::AboveRange as usize],
        2
    );

    bench.contract.start_window();
    assert_eq!(bench.contract.stream().counts(), &[0; ViolationKind::COUNT]);
    bench.expect(3, &[0.0, 11.0], &[Kind::AboveRange], Outcome::Flagged);
    assert_eq!(
        bench.reports,
        [(Kind::AboveRange, Some(1), 11.0, true)],
        "first in its window"
    );
}

#[test]
fn large_z_is_counted_and_not_reported() {
    let mut bench = Bench::new();
    bench.profile.features[0].sd = 1.0;
    bench.expect(0, &[3.0, 0.0], &[], Outcome::Accepted);
    bench.expect(1, &[3.01, 0.0], &[Kind::ZScore], Outcome::Accepted);
    assert!(bench.reports.is_empty());
    assert_eq!(
        bench.contract.feature(0).unwrap().counts()[Kind::ZScore as usize],
        1
    );
}

#[test]
fn infinities_and_stray_nans_are_not_missing() {
    let mut bench = Bench::new();
    for (i, bad) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY]
        .into_iter()
        .enumerate()
    {
        bench.expect(i as u32, &[bad, 0.0], &[Kind::NotFinite], Outcome::Rejected);
    }
    let check = bench.check(3, &[f32::NAN, 0.0]);
    assert_eq!(check.action, Action::Fallback);
    bench.expect(4, &[MISSING, 0.0], &[Kind::Missing], Outcome::Flagged);
}

#[test]
fn missing_values_are_held_imputed_or_rejected() {
    let mut bench = Bench::new();
    bench.profile.features[0].mean = 0.25;
    bench.profile.features[1].mean = 0.75;
    bench.profile.features[1].missing = MissingPolicy::Impute;
    assert_eq!(bench.check(0, &[MISSING, MISSING]).filled, 2);
    assert_eq!(bench.values, [0.25, 0.75], "nothing to hold yet");
    bench.check(1, &[2.0, 3.0]);
    bench.check(2, &[99.0, 3.0]);
    bench.check(3, &[MISSING, MISSING]);
    assert_eq!(bench.values, [2.0, 0.75], "held is the last value in range");

    bench.profile.features[1].missing = MissingPolicy::Reject;
    bench.expect(4, &[1.0, MISSING], &[Kind::Missing], Outcome::Rejected);
    bench.expect(5, &[MISSING, 1.0], &[Kind::Missing], Outcome::Flagged);
}

#[test]
fn rates_are_between_neighbours_only() {
    let mut bench = Bench::new();
    bench.profile.features[0].max_rate = 1.0;
    bench.expect(0, &[0.0, 0.0], &[], Outcome::Accepted);
    bench.expect(1, &[1.0, 0.0], &[], Outcome::Accepted);
    bench.expect(2, &[2.5, 0.0], &[Kind::Rate], Outcome::Flagged);
    bench.expect(3, &[MISSING, 0.0], &[Kind::Missing], Outcome::Flagged);
    bench.expect(4, &[9.0, 0.0], &[], Outcome::Accepted);
    bench.expect(6, &[0.0, 0.0], &[Kind::Gap], Outcome::Flagged);
    bench.contract.start_stream();
    bench.expect(0, &[9.0, 0.0], &[], Outcome::Accepted);
}

#[test]
fn a_run_of_equal_values_is_stuck_until_it_ends() {
    let mut bench = Bench::new();
    bench.profile.features[0].stuck_run = 3;
    bench.expect(0, &[1.0, 0.0], &[], Outcome::Accepted);
    bench.expect(1, &[1.0, 0.0], &[], Outcome::Accepted);
    bench.expect(2, &[MISSING, 0.0], &[Kind::Missing], Outcome::Flagged);
    bench.expect(3, &[1.0, 0.0], &[Kind::Stuck], Outcome::Flagged);
    bench.expect(4, &[1.0, 0.0], &[Kind::Stuck], Outcome::Flagged);
    bench.expect(5, &[1.5, 0.0], &[], Outcome::Accepted);
    bench.contract.start_stream();
    assert_eq!(bench.contract.feature(0).unwrap().run(), 0);
}

#[test]
fn gaps_say_how_many_samples_are_missing() {
    let mut bench = Bench::new();
    bench.expect(u32::MAX, &[0.0, 0.0], &[], Outcome::Accepted);
    let time_ms = u64::from(u32::MAX) * 10;
    let check = bench.check_at(0, time_ms + 10, time_ms + 10, &[0.5, 0.0]);
    assert!(check.violations.is_empty(), "numbers wrap");
    bench.check_at(5, time_ms + 60, time_ms + 60, &[0.7, 0.0]);
    assert_eq!(bench.reports, [(Kind::Gap, None, 4.0, true)]);
}

#[test]
fn repeated_samples_change_nothing() {
    let mut bench = Bench::new();
    bench.profile.features[0].stuck_run = 3;
    bench.expect(0, &[1.0, MISSING], &[Kind::Missing], Outcome::Flagged);
    for _ in 0..5 {
        bench.expect(0, &[1.0, MISSING], &[Kind::Duplicate], Outcome::Rejected);
    }
    let check = bench.check_at(1, 0, 0, &[1.0, MISSING]);
    assert!(
        check.violations.contains(Kind::Duplicate),
        "same time, same values, new number"
    );
    let check = bench.check_at(2, 0, 0, &[1.25, MISSING]);
    assert!(
        !check.violations.contains(Kind::Duplicate),
        "same time, other values"
    );
    assert_eq!(bench.contract.feature(0).unwrap().run(), 1);

    let mut clockless = Bench::new();
    clockless.profile.schema.period_ms = 0;
    clockless.check_at(0, 0, 0, &[1.0, 1.0]);
    let check = clockless.check_at(1, 0, 0, &[1.0, 1.0]);
    assert!(
        check.violations.is_empty(),
        "without a clock equal times mean nothing"
    );
}

#[test]
fn old_samples_are_stale_by_the_clock() {
    let mut bench = Bench::new();
    let check = bench.check_at(0, 500, 1500, &[0.0, 0.0]);
    assert!(check.violations.is_empty(), "exactly as old as allowed");
    let check = bench.check_at(1, 510, 1511, &[0.0, 0.1]);
    assert_eq!(bench.reports, [(Kind::Stale, None, 1001.0, true)]);
    assert_eq!(check.outcome, Outcome::Rejected);
    let check = bench.check_at(2, 2000, 1511, &[0.0, 0.2]);
    assert!(
        check.violations.is_empty(),
        "a sample from the future is fresh"
    );
    bench.profile.schema.max_age_ms = 0;
    let check = bench.check_at(3, 2000, u64::MAX, &[0.0, 0.3]);
    assert!(check.violations.is_empty(), "switched off");
}

#[test]
fn late_samples_are_rejected_and_the_stream_goes_on() {
    let mut bench = Bench::new();
    bench.expect(10, &[0.0, 0.0], &[], Outcome::Accepted);
    bench.expect(8, &[0.1, 0.0], &[Kind::OutOfOrder], Outcome::Rejected);
    assert_eq!(bench.reports, [(Kind::OutOfOrder, None, 2.0, true)]);
    bench.expect(11, &[0.2, 0.0], &[], Outcome::Accepted);
    let check = bench.check_at(12, 109, 120, &[0.3, 0.0]);
    assert!(
        check.violations.contains(Kind::OutOfOrder),
        "its clock is behind"
    );
}

#[test]
fn a_source_that_restarts_is_believed_after_eight_samples() {
    let mut bench = Bench::new();
    bench.expect(100_000, &[0.0, 0.0], &[], Outcome::Accepted);
    for i in 0..8 {
        bench.expect(i, &[0.1, i as f32], &[Kind::OutOfOrder], Outcome::Rejected);
    }
    bench.expect(8, &[0.2, 0.0], &[], Outcome::Accepted);
    bench.expect(9, &[0.3, 0.0], &[], Outcome::Accepted);
}

#[test]
fn a_wrong_number_of_values_is_always_rejected() {
    let mut bench = Bench::new();
    for rule in &mut bench.policy.rules {
        rule.action = Action::Count;
    }
    bench.expect(0, &[0.0], &[Kind::Shape], Outcome::Rejected);
    bench.expect(1, &[0.0; 3], &[Kind::Shape], Outcome::Rejected);
    bench.expect(2, &[], &[Kind::Shape], Outcome::Rejected);
    bench.expect(3, &[0.0; 2], &[], Outcome::Accepted);
}

#[test]
fn the_strongest_action_wins() {
    let mut bench = Bench::new();
    bench.policy.rules[Kind::AboveRange as usize].action = Action::Reject;
    let check = bench.check(0, &[11.0, MISSING]);
    assert_eq!(
        (check.action, check.outcome),
        (Action::Reject, Outcome::Rejected)
    );
    let check = bench.check(1, &[11.0, f32::NAN]);
    assert_eq!(check.action, Action::Fallback);
    assert_eq!(check.violations.len(), 2);
}

/// What a sensor delivers, good and bad; few values, so that they repeat.
fn reading() -> impl Strategy<Value = f32> {
    prop_oneof![
        12 => prop::sample::select(vec![-9.5f32, -1.0, -0.0, 0.0, 1.0, 2.0, 9.5]),
        1 => -20.0f32..20.0,
        1 => any::<f32>(),
        1 => prop::sample::select(vec![MISSING, f32::NAN, f32::INFINITY, f32::MAX]),
    ]
}

/// Six features, each with limits of its own; the value beside a mean by more than three of its standard
/// deviations may well be plausible.
fn unlike<const F: usize>(stuck_run: u16, max_rate: f32) -> Profile<F, 2> {
    let mut profile = profile::<F, 2>(1, 1);
    profile.features.truncate(6);
    for (index, feature) in profile.features.iter_mut().enumerate() {
        let own = index as f32;
        (feature.min, feature.max) = (-10.0 + own, 10.0 - own / 2.0);
        // Of the last two, only the range decides.
        let sd = if index < 4 { 1.0 + own / 4.0 } else { 20.0 };
        (feature.mean, feature.sd) = (own / 3.0, sd);
        feature.max_rate = max_rate - own / 4.0;
        feature.stuck_run = stuck_run + u16::from(stuck_run > 0) * (2 - index as u16 % 3);
    }
    profile
}

proptest! {
    /// A contract that was told of the profile, and may look at several features at once, says and
    /// remembers what one says that looks at each alone. Six features of eight, so that one group of
    /// four is full and the other is not; or of seven, where the last have no group.
    #[test]
    fn several_features_at_once_are_judged_as_each_alone(
        samples in prop::collection::vec(
            (prop::array::uniform8(reading()), 0u32..40, 0usize..40),
            1..60,
        ),
        stuck_run in prop::sample::select(vec![0u16, 1, 2, 3]),
        max_rate in prop::sample::select(vec![f32::INFINITY, 3.0]),
        stays in any::<bool>(),
        period_ms in prop::sample::select(vec![0u32, 10]),
    ) {
        alike::<8>(&samples, stuck_run, max_rate, stays, period_ms)?;
        alike::<7>(&samples, stuck_run, max_rate, stays, period_ms)?;
    }
}

fn alike<const F: usize>(
    samples: &[([f32; 8], u32, usize)],
    stuck_run: u16,
    max_rate: f32,
    stays: bool,
    period_ms: u32,
) -> Result<(), TestCaseError> {
    let mut profile = unlike::<F>(stuck_run, max_rate);
    profile.schema.period_ms = period_ms;
    let policy = Policy::standard();
    let mut contracts = [Contract::new(&profile, &policy), Contract::default()];
    let (mut sequence, mut time_ms) = (0u32, 0);
    let mut values = [0.0; 8];
    let mut sequences = HashSet::new();
    for (number, (fresh, jump, len)) in samples.iter().enumerate() {
        // Most follow each other; some come again, are late, leave a gap, or have the time of the last one.
        let (step, duration_ms) = match jump {
            0 => (0, 0),
            1 => (3, 30),
            2 => (u32::MAX, 10),
            3 | 4 => (1, 0),
            _ => (1, 10),
        };
        (sequence, time_ms) = (sequence.wrapping_add(step), time_ms + duration_ms);
        let now_ms = time_ms + if *jump == 5 { 2000 } else { 0 };
        if !(stays && number % 3 == 1 || *jump == 4) {
            values = *fresh;
        }
        let len = if *len <= 8 { *len } else { 6 };
        let new = sequences.insert(sequence);
        let mut said = contracts.iter_mut().map(|contract| {
            if number == 30 && stays {
                contract.start_stream();
            }
            let mut seen = [0.5; F];
            let mut reports = Vec::new();
            let sample = Sample {
                sequence,
                time_ms,
                values: &values[..len],
            };
            let check = contract.check(&profile, &policy, &sample, now_ms, &mut seen, &mut |v| {
                reports.push((v.kind, v.feature, v.value.to_bits(), v.first));
            });
            let seen = (check.outcome != Outcome::Rejected).then(|| {
                let seen = seen.iter().take(6).map(|value| value.to_bits());
                seen.collect::<Vec<_>>()
            });
            let states: Vec<_> = (0..6).map(|index| contract.feature(index)).collect();
            (check, seen, reports, states, *contract.stream().counts())
        });
        let first = said.next();
        prop_assert_eq!(&first, &said.next());
        // Under a new number only a copy is a duplicate: a copy has all values, and a time to tell it by.
        let copy = first.is_some_and(|(check, ..)| check.violations.contains(Kind::Duplicate));
        let told = len == 6 && period_ms > 0;
        prop_assert!(!(new && copy) || told, "{} values", len);
    }
    Ok(())
}

/// Gives samples of six values to a contract that knows the profile and to one that does not.
fn both_ways(script: impl Fn(&mut dyn FnMut(u32, u64, &[f32]) -> Vec<Kind>)) {
    let (profile, policy) = (unlike::<8>(0, 3.0), Policy::standard());
    for mut contract in [Contract::new(&profile, &policy), Contract::default()] {
        script(&mut |sequence, time_ms, values| {
            let sample = Sample {
                sequence,
                time_ms,
                values,
            };
            let check = contract.check(
                &profile,
                &policy,
                &sample,
                time_ms,
                &mut [0.0; 8],
                &mut |_| {},
            );
            check.violations.iter().collect()
        });
    }
}

/// A feature that the profile does not have has no value that could come again.
#[test]
fn a_copy_with_a_value_too_many_is_no_duplicate() {
    both_ways(|check| {
        assert_eq!(check(1, 0, &[0.5; 6]), []);
        for (sequence, beyond) in (1..).zip([0.0, 1.0, f32::NAN, MISSING, f32::INFINITY]) {
            let time_ms = u64::from(sequence) * 20;
            let copy = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, beyond];
            assert_eq!(check(2 * sequence, time_ms, &copy[..6]), []);
            assert_eq!(check(2 * sequence + 1, time_ms, &copy), [Kind::Shape]);
        }
        assert_eq!(check(12, 120, &[1.0; 6]), []);
        assert_eq!(check(13, 120, &[1.0; 6]), [Kind::Duplicate]);
    });
}

/// Nor is what lacks values, even all of them, though what is there came before.
#[test]
fn a_copy_with_a_value_too_few_is_no_duplicate() {
    both_ways(|check| {
        for len in 0..6u32 {
            let time_ms = u64::from(len) * 20;
            assert_eq!(check(2 * len, time_ms, &[1.0; 6]), []);
            let few = &[1.0; 6][..len as usize];
            assert_eq!(check(2 * len + 1, time_ms, few), [Kind::Shape]);
        }
    });
}

/// The previous sample's values are not those of the one before it, where that one has not a value of each
/// feature: what follows repeats nothing and has no rate.
#[test]
fn a_sample_of_another_shape_has_no_values() {
    both_ways(|check| {
        assert_eq!(check(0, 0, &[1.0; 6]), []);
        assert_eq!(check(1, 10, &[1.0; 5]), [Kind::Shape]);
        assert_eq!(check(2, 10, &[1.0; 6]), [], "no copy");
        assert_eq!(check(3, 20, &[1.0; 7]), [Kind::Shape]);
        assert_eq!(
            check(4, 30, &[5.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
            [Kind::ZScore]
        );
        assert_eq!(check(5, 40, &[1.0; 6]), [Kind::Rate]);
        assert_eq!(check(6, 50, &[]), [Kind::Shape]);
        assert_eq!(
            check(7, 50, &[MISSING; 6]),
            [Kind::Missing],
            "no copy either"
        );
        assert_eq!(check(8, 50, &[MISSING; 6]), [Kind::Duplicate]);
    });
}

/// Where that is so, nothing is said of it: the property above would hold without.
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
#[test]
fn a_sample_that_is_all_right_passes_at_once() {
    let profile = unlike::<8>(3, 3.0);
    let mut contract = Contract::new(&profile, &Policy::standard());
    let mut seen = [0.0; 8];
    let good = [0.5, 0.0, 1.0, 0.25, 2.0, 2.5];
    let mut pass = |sequence, values: &[f32]| {
        let time_ms = u64::from(sequence) * 10;
        let sample = Sample {
            sequence,
            time_ms,
            values,
        };
        let passed = contract.pass(&profile, &Policy::standard(), &sample, time_ms, &mut seen);
        if passed.is_none() {
            contract.check(
                &profile,
                &Policy::standard(),
                &sample,
                time_ms,
                &mut seen,
                &mut |_| {},
            );
        }
        passed
    };
    assert_eq!(pass(0, &good), None, "the first");
    assert_eq!(pass(1, &good.map(|value| value + 0.5)), Some(6));
    assert_eq!(pass(2, &[0.5, 0.0, 1.0, 0.25, 2.0, 9.0]), Some(4));
    assert_eq!(pass(3, &[0.5, 0.0, 9.0, 0.25, 2.0, 2.5]), Some(0));
    assert_eq!(pass(5, &good), None, "one is missing");
}

/// The same: of several samples a millisecond without a clock, all but with one, which tells copies.
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
#[test]
fn a_sample_of_the_same_millisecond_passes_at_once_without_a_clock() {
    let mut profile = unlike::<8>(3, 3.0);
    for (period_ms, expected) in [(0, Some(6)), (1, None)] {
        profile.schema.period_ms = period_ms;
        let mut contract = Contract::new(&profile, &Policy::standard());
        let mut passed = Vec::new();
        for (sequence, time_ms) in [(0, 7), (1, 7), (2, 8), (3, 7)] {
            let sample = Sample {
                sequence,
                time_ms,
                values: &[sequence as f32 / 2.0; 6],
            };
            let policy = Policy::standard();
            passed.push(contract.pass(&profile, &policy, &sample, 8, &mut [0.0; 8]));
            if passed.last() == Some(&None) {
                let mut seen = [0.0; 8];
                contract.check(
                    &profile,
                    &Policy::standard(),
                    &sample,
                    8,
                    &mut seen,
                    &mut |_| {},
                );
            }
        }
        assert_eq!(passed, [None, expected, Some(6), None]);
    }
}

/// The same: one value that is missing does not slow down all behind it.
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
#[test]
fn a_four_with_something_to_say_is_looked_at_alone_and_no_other() {
    let (policy, good) = (Policy::standard(), profile::<12, 2>(1, 1));
    // What is looked at alone is held to this, of which every value is too small.
    let mut strict = good.clone();
    strict.features.iter_mut().for_each(|feature| {
        (feature.min, feature.mean) = (9.0, 9.0);
    });
    for (missing, expected) in [(0, 0..4), (3, 0..4), (6, 4..8), (11, 8..12)] {
        let mut contract = Contract::<12>::new(&good, &policy);
        let mut values: [f32; 12] = core::array::from_fn(|index| index as f32 / 2.0);
        let first = Sample {
            sequence: 0,
            time_ms: 0,
            values: &values,
        };
        let mut seen = [0.0; 12];
        contract.check(&good, &policy, &first, 0, &mut seen, &mut |_| {});
        values[missing] = MISSING;
        let second = Sample {
            sequence: 1,
            time_ms: 10,
            values: &values,
        };
        seen = [0.0; 12];
        let passed = contract.pass(&good, &policy, &second, 10, &mut seen);
        assert_eq!(passed, Some(usize::from(expected.start)));
        let mut alone = Vec::new();
        let judge = Judge {
            policy: &policy,
            report: &mut |violation: Violation| alone.extend(violation.feature),
            verdict: SampleCheck::FINE,
        };
        contract.check_closely(&strict, &second, 10, &mut seen, passed, judge);
        assert_eq!(alone, expected.collect::<Vec<u16>>());
        values[missing] = missing as f32 / 2.0;
        assert_eq!(seen, values, "what is missing is held, the rest is copied");
    }
}

/// A limit that differs would be that of the contract for some values and the given one for others, and a
/// feature more would have none at all.
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
#[test]
fn a_contract_is_for_the_profile_and_policy_that_it_was_made_for() {
    let (policy, eight) = (Policy::standard(), profile::<8, 2>(1, 1));
    let mut five = eight.clone();
    five.features.truncate(5);
    let is_for = |made_for: &Profile<8, 2>, given: &Profile<8, 2>, z_limit| {
        let contract = Contract::new(made_for, &policy);
        contract.memory.is_for(&given.features, z_limit)
    };
    for profile in [&five, &eight] {
        assert!(is_for(profile, profile, policy.z_limit));
        assert!(!is_for(profile, profile, policy.z_limit + 1.0));
        let knows_none = Contract::<8>::default();
        assert!(knows_none.memory.is_for(&profile.features, policy.z_limit));
    }
    assert!(!is_for(&five, &eight, policy.z_limit));
    assert!(!is_for(&eight, &five, policy.z_limit));
    let changes: [fn(&mut crate::profile::FeatureProfile); 6] = [
        |feature| feature.min -= 1.0,
        |feature| feature.max += 1.0,
        |feature| feature.mean += 1.0,
        |feature| feature.sd += 1.0,
        |feature| feature.max_rate = 1.0,
        |feature| feature.stuck_run = 3,
    ];
    for change in changes {
        let mut other = five.clone();
        change(&mut other.features[4]);
        assert!(!is_for(&five, &other, policy.z_limit));
    }
}

/// Made for five features, it would let any value of the sixth to eighth pass.
#[cfg(all(target_arch = "x86_64", target_feature = "sse2", debug_assertions))]
#[test]
#[should_panic(expected = "another profile or policy")]
fn a_contract_for_five_features_checks_no_eight() {
    let (policy, eight) = (Policy::standard(), profile::<8, 2>(1, 1));
    let mut five = eight.clone();
    five.features.truncate(5);
    let mut contract = Contract::new(&five, &policy);
    let sample = Sample {
        sequence: 0,
        time_ms: 0,
        values: &[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1e9],
    };
    contract.check(&eight, &policy, &sample, 0, &mut [0.0; 8], &mut |_| {});
}
