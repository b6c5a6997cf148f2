//! How well does a device's drift summary detect? Seeded streams, 10,000 samples each, with the
//! change in the middle; limits calibrated on 5,000 samples of the same process, which make fifty windows of 100.
//!
//! The streams are those of the comparison that chose the method: independent normal, heavy tails,
//! autocorrelation, season and a coarse converter for false alarms; shifts, spreads and a stuck
//! sensor for delays. The table is printed with `--nocapture`.

use edgeward::drift::{self, CalibrationError, Window, WindowStatistics};
use edgeward::profile::{BINS, DriftLimits, EDGES, FeatureProfile, MissingPolicy, Name};
use edgeward::telemetry::Statistic;

const SAMPLES: usize = 10_000;
const CHANGE: usize = 5_000;
const REFERENCE: usize = 5_000;
const WINDOW: usize = 100;
const SEEDS: u64 = 40;
/// Not the seeds on which the rule was chosen.
const FIRST_SEED: u64 = 4000;

/// SplitMix64 (Steele, Lea, Flood 2014) and what is drawn from it.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in (0, 1].
    fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal, by Box and Muller.
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

/// A process with mean 0 and standard deviation 1.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Base {
    Gauss,
    /// Student's t with three degrees of freedom.
    HeavyTail,
    /// First-order autoregression with 0.9.
    Autocorrelated,
    /// A sine of period 500 and noise.
    Season,
    /// Normal, rounded to a quarter.
    CoarseAdc,
}

impl Base {
    fn draw(self, random: &mut Random, n: usize, start: i64) -> Vec<f64> {
        match self {
            Self::Gauss => (0..n).map(|_| random.normal()).collect(),
            Self::HeavyTail => (0..n)
                .map(|_| {
                    let normal = random.normal();
                    let square: f64 = (0..3).map(|_| random.normal().powi(2)).sum();
                    // t3 has variance 3.
                    normal / (square / 3.0).sqrt() / 3f64.sqrt()
                })
                .collect(),
            Self::Autocorrelated => {
                let mut x = random.normal();
                let mut step = || {
                    x = 0.9 * x + (1.0 - 0.81f64).sqrt() * random.normal();
                    x
                };
                (0..n).map(|_| step()).collect()
            }
            Self::Season => (start..start + n as i64)
                .map(|t| {
                    let phase = std::f64::consts::TAU * t as f64 / 500.0;
                    (phase.sin() + 0.5 * random.normal()) / 0.75f64.sqrt()
                })
                .collect(),
            Self::CoarseAdc => (0..n)
                .map(|_| (random.normal() * 4.0).round() / 4.0)
                .collect(),
        }
    }
}

/// What happens in the middle.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Change {
    None,
    Shift(f64),
    Scale(f64),
    Stuck,
}

fn stream(base: Base, change: Change, seed: u64) -> Vec<f32> {
    let mut random = Random(seed ^ 0x5eed_0000_0000_0001);
    let mut x = base.draw(&mut random, SAMPLES, 0);
    let last = x[CHANGE - 1];
    for value in &mut x[CHANGE..] {
        *value = match change {
            Change::None => *value,
            Change::Shift(by) => *value + by,
            Change::Scale(by) => *value * by,
            Change::Stuck => last,
        };
    }
    x.into_iter().map(|x| x as f32).collect()
}

fn window(feature: &FeatureProfile, x: &[f32]) -> WindowStatistics {
    let mut window = Window::EMPTY;
    x.iter().for_each(|&x| window.push(feature, x));
    window.statistics(feature).unwrap()
}

/// The profile of a feature as a host measures it.
fn profile(reference: &[f32]) -> FeatureProfile {
    let mut sorted = reference.to_vec();
    sorted.sort_by(f32::total_cmp);
    let edges: [f32; EDGES] = drift::edges_of_sorted(&sorted).unwrap();
    let mut counts = [0; BINS];
    reference
        .iter()
        .for_each(|&x| counts[drift::bin_of(&edges, x)] += 1);
    let off = f32::INFINITY;
    let mut feature = FeatureProfile {
        name: Name::try_from("x").unwrap(),
        missing: MissingPolicy::HoldLast,
        min: f32::MIN,
        max: f32::MAX,
        mean: 0.0,
        sd: 1.0,
        max_rate: off,
        stuck_run: 0,
        edges,
        reference: counts,
        limits: DriftLimits {
            psi: off,
            ks: off,
            js: off,
            wasserstein: off,
        },
    };
    let windows: Vec<_> = reference
        .chunks_exact(WINDOW)
        .map(|x| window(&feature, x))
        .collect();
    feature.limits = drift::calibrate(windows, WINDOW as u32).unwrap();
    feature
}

/// Ends of the windows that count as drift: by the rule of the device, and by PSI alone.
fn alarms(base: Base, change: Change, seed: u64) -> [Vec<usize>; 2] {
    let mut random = Random(seed ^ 0x0afe_7e9c_e000_0000);
    let reference = base.draw(&mut random, REFERENCE, -(REFERENCE as i64));
    let reference: Vec<f32> = reference.into_iter().map(|x| x as f32).collect();
    let feature = profile(&reference);
    let [mut by_rule, mut by_psi] = [Vec::new(), Vec::new()];
    for (i, chunk) in stream(base, change, seed).chunks_exact(WINDOW).enumerate() {
        let found = window(&feature, chunk);
        let (limits, n) = (&feature.limits, WINDOW as u32);
        let end = (i + 1) * WINDOW;
        if drift::drifted(&found, limits, n, n).is_some() {
            by_rule.push(end);
        }
        if drift::exceeded(&found, limits, n, n).any(|e| e.statistic == Statistic::Psi) {
            by_psi.push(end);
        }
    }
    [by_rule, by_psi]
}

#[test]
fn false_alarms_stay_below_one_in_ten_thousand_samples() {
    println!("false alarms per 10,000 samples on {SEEDS} streams: the device's rule, PSI alone");
    for base in [
        Base::Gauss,
        Base::HeavyTail,
        Base::Autocorrelated,
        Base::Season,
        Base::CoarseAdc,
    ] {
        let mut totals = [0; 2];
        for seed in FIRST_SEED..FIRST_SEED + SEEDS {
            for (total, ends) in totals.iter_mut().zip(alarms(base, Change::None, seed)) {
                *total += ends.len();
            }
        }
        let [rule, psi] = totals.map(|total| total as f64 / SEEDS as f64);
        println!("{base:?}: {rule:.2}, {psi:.2}");
        assert!(
            rule <= 1.0,
            "{base:?}: {rule} false alarms per 10,000 samples"
        );
    }
}

/// Delay of the first alarm after the change, in samples, at most `most` in the median; and how many
/// of the streams may go without an alarm.
#[track_caller]
fn detects(base: Base, change: Change, most: usize, may_miss: usize) {
    let mut delays = [const { Vec::new() }; 2];
    for seed in FIRST_SEED..FIRST_SEED + SEEDS {
        for (delays, ends) in delays.iter_mut().zip(alarms(base, change, seed)) {
            let first = ends.iter().find(|&&end| end > CHANGE);
            delays.push(first.map_or(usize::MAX, |end| end - CHANGE));
        }
    }
    let [rule, psi] = delays.map(|mut delays| {
        delays.sort_unstable();
        let missed = delays.iter().filter(|&&delay| delay == usize::MAX).count();
        (delays[delays.len() / 2], missed)
    });
    println!(
        "{base:?} {change:?}: delay {} missed {}; PSI alone {} {}",
        rule.0, rule.1, psi.0, psi.1
    );
    assert!(
        rule.0 <= most,
        "{base:?} {change:?}: median delay {}",
        rule.0
    );
    assert!(rule.1 <= may_miss, "{base:?} {change:?}: missed {}", rule.1);
}

#[test]
fn changes_are_found_within_a_window() {
    detects(Base::Gauss, Change::Shift(0.5), WINDOW, 0);
    detects(Base::Gauss, Change::Shift(1.0), WINDOW, 0);
    detects(Base::Gauss, Change::Scale(2.0), WINDOW, 0);
    detects(Base::Gauss, Change::Scale(0.5), WINDOW, 0);
    detects(Base::Gauss, Change::Stuck, WINDOW, 0);
    detects(Base::HeavyTail, Change::Shift(1.0), WINDOW, 0);
    detects(Base::CoarseAdc, Change::Shift(0.5), WINDOW, 0);
}

#[test]
fn harder_changes_take_longer() {
    detects(Base::Gauss, Change::Shift(0.25), 10 * WINDOW, 1);
    detects(Base::Autocorrelated, Change::Shift(1.0), 5 * WINDOW, 0);
    // The season itself moves the distance of whole windows further than the shift does.
    detects(Base::Season, Change::Shift(1.0), 5 * WINDOW, 2);
}

#[test]
fn too_few_windows_are_refused_with_the_samples_that_are_wanted() {
    let found = WindowStatistics {
        psi: 0.1,
        ks: 0.1,
        js: 0.1,
        wasserstein: 0.1,
    };
    let refused = drift::calibrate([found; 29], 200).unwrap_err();
    assert_eq!(
        refused,
        CalibrationError::TooFewWindows {
            windows: 29,
            wanted: 30,
            wanted_samples: 6000
        }
    );
    let text = refused.to_string();
    assert!(text.contains("29") && text.contains("6000"), "{text}");

    let limits = drift::calibrate([found; 30], 200).unwrap();
    assert_eq!(limits.psi, 0.1, "windows that are all alike leave no room");
    assert!(drift::drifted(&found, &limits, 200, 200).is_none());
}

#[test]
fn limits_lie_four_standard_deviations_above_the_mean() {
    // Half of them 1, half 3: mean 2, standard deviation sqrt(40 / 39).
    let windows = (0..40).map(|i| {
        let psi = if i % 2 == 0 { 1.0 } else { 3.0 };
        WindowStatistics {
            psi,
            ks: 0.0,
            js: 0.0,
            wasserstein: 0.0,
        }
    });
    let limits = drift::calibrate(windows, 100).unwrap();
    let expected = 2.0 + 4.0 * (40f32 / 39.0).sqrt();
    assert!((limits.psi - expected).abs() < 1e-5, "{}", limits.psi);
    assert_eq!(limits.ks, 0.0);
}
