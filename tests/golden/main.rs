//! The statistics against values computed by scipy, numpy and NannyML.
//!
//! The values lie in a corpus outside of the repository; `EDGEWARD_CORPUS` says where, and where
//! nothing is said and there is none, the tests say that they were skipped.

mod quality;

use edgeward::contract::FeatureState;
use edgeward::drift::{self, Moments, Window, exact, special, statistics};
use edgeward::guard::{Cbpe, Guard};
use edgeward::policy::Policy;
use edgeward::profile::{
    BINS, DriftLimits, EDGES, FeatureProfile, MissingPolicy, Name, OutputKind, OutputProfile,
};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The corpus, or `None` (said on stdout) where nobody said that there is one.
fn corpus() -> Option<PathBuf> {
    let said = std::env::var_os("EDGEWARD_CORPUS").map(PathBuf::from);
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus");
    let path = said.clone().unwrap_or_else(default);
    if path.join("golden").is_dir() {
        return Some(path);
    }
    assert_eq!(said, None, "EDGEWARD_CORPUS names a folder without golden/");
    println!("skipped: no corpus at {}", path.display());
    None
}

fn golden(name: &str) -> Option<Value> {
    let path = corpus()?.join("golden").join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    Some(serde_json::from_str(&text).unwrap())
}

/// A row of numbers; null is NaN.
fn row(value: &Value) -> Vec<f64> {
    let values = value.as_array().unwrap();
    values
        .iter()
        .map(|x| x.as_f64().unwrap_or(f64::NAN))
        .collect()
}

/// A row of numbers that were f32 from the start.
fn row_f32(value: &Value) -> Vec<f32> {
    row(value).into_iter().map(|x| x as f32).collect()
}

/// The cases of a file, at least `least` of them.
fn cases(golden: &Value, least: usize) -> &[Value] {
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= least, "only {} cases", cases.len());
    cases
}

fn counts(value: &Value) -> Vec<u32> {
    row(value).into_iter().map(|x| x as u32).collect()
}

fn number(value: &Value, key: &str) -> f64 {
    value[key]
        .as_f64()
        .unwrap_or_else(|| panic!("no number {key} in {value}"))
}

#[track_caller]
fn near(what: &str, seen: f64, expected: f64, relative: f64, absolute: f64) {
    let allowed = relative * expected.abs() + absolute;
    assert!(
        (seen - expected).abs() <= allowed,
        "{what}: {seen} instead of {expected} (allowed {allowed:e})"
    );
}

/// A feature whose limits of every kind are switched off.
fn feature() -> FeatureProfile {
    FeatureProfile {
        name: Name::try_from("x").unwrap(),
        missing: MissingPolicy::HoldLast,
        min: f32::MIN,
        max: f32::MAX,
        mean: 0.0,
        sd: 1.0,
        max_rate: f32::INFINITY,
        stuck_run: 0,
        edges: [0.0; EDGES],
        reference: [1; BINS],
        limits: DriftLimits {
            psi: f32::INFINITY,
            ks: f32::INFINITY,
            js: f32::INFINITY,
            wasserstein: f32::INFINITY,
        },
    }
}

#[test]
fn binned_statistics_equal_scipys() {
    let Some(golden) = golden("two_sample.json") else {
        return;
    };
    let tolerance = &golden["tolerance"];
    let (rtol, atol) = (number(tolerance, "rtol_f32"), number(tolerance, "atol_f32"));
    let p_rtol = number(tolerance, "p_f32_rtol");
    for case in cases(&golden, 20) {
        for (bins, binned) in case["bins"].as_object().unwrap() {
            let name = case["name"].as_str().unwrap();
            let what = |statistic: &str| format!("{name} {bins} {statistic}");
            let expected = &binned["expected"];
            let (a, b) = (counts(&binned["ref_counts"]), counts(&binned["cur_counts"]));
            let (psi, ks) = (statistics::psi(&a, &b), statistics::ks(&a, &b));
            for (statistic, seen) in [
                ("psi_add_half", psi),
                ("js_distance_base_2", statistics::js_distance(&a, &b)),
                ("ks_on_bins", ks),
            ] {
                near(
                    &what(statistic),
                    seen.into(),
                    number(expected, statistic),
                    rtol,
                    atol,
                );
            }
            let (chi2, degrees) = statistics::chi_square(&a, &b);
            near(
                &what("chi2"),
                chi2.into(),
                number(expected, "chi2_stat"),
                rtol,
                atol,
            );
            assert_eq!(
                f64::from(degrees),
                number(expected, "chi2_df"),
                "{name} {bins}"
            );

            let (n, m) = (number(case, "n"), number(case, "m"));
            let scaled = (n * m / (n + m)).sqrt() * f64::from(ks);
            // With a single bin there is no law of PSI to compare with.
            let psi_law = expected["psi_null_pvalue"].as_f64().unwrap_or(1.0);
            let chi2_law = number(expected, "chi2_pvalue");
            let ks_law = number(expected, "ks_on_bins_pvalue_kolmogorov");
            for (statistic, seen, law) in [
                (
                    "chi2 p",
                    statistics::chi_square_p_value(chi2, degrees),
                    chi2_law,
                ),
                ("psi p", statistics::psi_p_value(psi, &a, &b), psi_law),
                ("ks p", special::kolmogorov_sf(scaled), ks_law),
            ] {
                near(&what(statistic), seen, law, p_rtol, 1e-12);
            }
        }
    }
}

#[test]
fn a_window_of_sixteen_bins_equals_scipys() {
    let Some(golden) = golden("two_sample.json") else {
        return;
    };
    let tolerance = &golden["tolerance"];
    let (rtol, atol) = (number(tolerance, "rtol_f32"), number(tolerance, "atol_f32"));
    let mut checked = 0;
    for case in cases(&golden, 20) {
        let name = case["name"].as_str().unwrap();
        let binned = &case["bins"]["quantile_16"];
        // Ties have left some cases with fewer edges.
        let Ok(edges) = <[f32; EDGES]>::try_from(row_f32(&binned["edges"])) else {
            continue;
        };
        let (a, b) = (counts(&binned["ref_counts"]), counts(&binned["cur_counts"]));
        let feature = FeatureProfile {
            edges,
            reference: <[u32; BINS]>::try_from(a.as_slice()).unwrap(),
            ..feature()
        };
        let fill = |values: &Value| {
            let mut window = Window::EMPTY;
            row_f32(values)
                .iter()
                .for_each(|&x| window.push(&feature, x));
            window
        };
        assert_eq!(fill(&case["ref"]).counts().as_slice(), a, "{name}");
        let window = fill(&case["cur"]);
        assert_eq!(window.counts().as_slice(), b, "{name}");
        let (seen, expected) = (window.statistics(&feature).unwrap(), &binned["expected"]);
        near(
            name,
            seen.psi.into(),
            number(expected, "psi_add_half"),
            rtol,
            atol,
        );
        near(
            name,
            seen.ks.into(),
            number(expected, "ks_on_bins"),
            rtol,
            atol,
        );
        near(
            name,
            seen.js.into(),
            number(expected, "js_distance_base_2"),
            rtol,
            atol,
        );
        checked += 1;
    }
    assert!(checked >= 10, "{checked}");
}

#[test]
fn statistics_of_the_values_equal_scipys() {
    let Some(golden) = golden("two_sample.json") else {
        return;
    };
    let rtol = number(&golden["tolerance"], "rtol_f64");
    for case in cases(&golden, 20) {
        let name = case["name"].as_str().unwrap();
        let (mut reference, mut current) = (row_f32(&case["ref"]), row_f32(&case["cur"]));
        reference.sort_by(f32::total_cmp);
        current.sort_by(f32::total_cmp);
        let expected = &case["expected"];
        let ks = exact::ks_sorted(&reference, &current);
        near(name, ks, number(expected, "ks_stat"), rtol, 1e-12);
        let (n, m) = (number(case, "n"), number(case, "m"));
        let p = special::kolmogorov_sf((n * m / (n + m)).sqrt() * ks);
        near(
            name,
            p,
            number(expected, "ks_p_kolmogorov_limit"),
            1e-7,
            1e-12,
        );
        let wasserstein = exact::wasserstein_sorted(&reference, &current);
        near(
            name,
            wasserstein,
            number(expected, "wasserstein1"),
            rtol,
            1e-12,
        );
    }
}

#[test]
fn wasserstein_on_bins_follows_the_values() {
    let Some(golden) = golden("two_sample.json") else {
        return;
    };
    for case in cases(&golden, 20) {
        let name = case["name"].as_str().unwrap();
        let (mut reference, mut current) = (row_f32(&case["ref"]), row_f32(&case["cur"]));
        reference.sort_by(f32::total_cmp);
        current.sort_by(f32::total_cmp);
        let feature = FeatureProfile {
            edges: drift::edges_of_sorted(&reference).unwrap(),
            ..feature()
        };
        let (mut a, mut b) = (Window::EMPTY, Window::EMPTY);
        reference.iter().for_each(|&x| a.push(&feature, x));
        current.iter().for_each(|&x| b.push(&feature, x));
        assert_eq!(
            (a.counts()[0], a.counts()[BINS - 1]),
            (0, 0),
            "{name}: training is inside"
        );

        let binned = f64::from(statistics::wasserstein(
            &feature.edges,
            &a.counts(),
            &b.counts(),
        ));
        // Values outside of the training range are moved to its edges, which the exact distance
        // must see too; within a bin, a value moves by at most the bin's width on either side.
        let (least, greatest) = (feature.edges[0], feature.edges[EDGES - 1]);
        let clamped: Vec<f32> = current.iter().map(|x| x.clamp(least, greatest)).collect();
        let exact = exact::wasserstein_sorted(&reference, &clamped);
        let spread = |sample: &[f32]| {
            let width = |x: f32| {
                let bin = drift::bin_of(&feature.edges, x).clamp(1, BINS - 2);
                f64::from(feature.edges[bin] - feature.edges[bin - 1])
            };
            sample.iter().map(|&x| width(x)).sum::<f64>() / sample.len() as f64
        };
        let allowed = spread(&reference) + spread(&clamped) + 1e-6;
        assert!(
            (binned - exact).abs() <= allowed,
            "{name}: {binned} {exact} {allowed}"
        );
    }
}

#[test]
fn special_functions_equal_scipys() {
    let Some(golden) = golden("special.json") else {
        return;
    };
    let tolerance = &golden["tolerance"];
    let (rtol, atol) = (number(tolerance, "rtol_f64"), number(tolerance, "atol"));
    let mut checked = 0;
    for (name, rows) in golden["values"].as_object().unwrap() {
        for values in rows.as_array().unwrap() {
            let values = row(values);
            let seen = match (name.as_str(), values.as_slice()) {
                ("kolmogorov_sf", [x, _]) => special::kolmogorov_sf(*x),
                ("norm_sf", [x, _]) => special::normal_sf(*x),
                ("chi2_sf", [x, k, _]) => special::chi2_sf(*x, *k),
                ("chi2_isf", [p, k, _]) => special::chi2_isf(*p, *k),
                ("t_sf", [t, k, _]) => special::t_sf(*t, *k),
                ("gammaincc", [a, x, _]) => special::gamma_q(*a, *x),
                _ => panic!("unknown function {name}"),
            };
            near(
                &format!("{name} {values:?}"),
                seen,
                values[values.len() - 1],
                rtol,
                atol,
            );
            checked += 1;
        }
    }
    assert!(checked > 100, "{checked}");
}

#[test]
fn moments_equal_numpys_whole_and_merged() {
    let Some(golden) = golden("moments.json") else {
        return;
    };
    let tolerance = &golden["tolerance"];
    let mean_rtol = number(tolerance, "rtol_f32_mean");
    let var_rtol = number(tolerance, "rtol_f32_var");
    for case in cases(&golden, 10) {
        let name = case["name"].as_str().unwrap();
        let x = row_f32(&case["x"]);
        // The training mean is known before the window: here, that of the first part.
        let first = case["expected_parts"][0]["mean"].as_f64().unwrap_or(0.0);
        let feature = FeatureProfile {
            mean: first as f32,
            ..feature()
        };
        let fill = |part: &[f32]| {
            let mut window = Window::EMPTY;
            part.iter().for_each(|&x| window.push(&feature, x));
            window
        };
        let check = |what: &str, window: &Window, expected: &Value| {
            assert_eq!(
                f64::from(window.n()),
                number(expected, "n"),
                "{name} {what}"
            );
            if window.n() == 0 {
                return;
            }
            let summary = window.summary(&feature, &FeatureState::default());
            let (mean, m2) = (number(expected, "mean"), number(expected, "m2"));
            // Near zero, a mean is as exact as the spread around it allows.
            let sd = (m2 / number(expected, "n")).sqrt();
            near(
                &format!("{name} {what} mean"),
                summary.mean.into(),
                mean,
                mean_rtol,
                mean_rtol * sd,
            );
            near(
                &format!("{name} {what} m2"),
                summary.m2.into(),
                m2,
                var_rtol,
                1e-9,
            );
            assert_eq!(summary.min, number(expected, "min") as f32, "{name}");
            assert_eq!(summary.max, number(expected, "max") as f32, "{name}");
        };

        check("whole", &fill(&x), &case["expected"]);
        let mut merged = Window::EMPTY;
        let mut rest = x.as_slice();
        let parts = counts(&case["parts"]);
        let expected_parts = case["expected_parts"].as_array().unwrap();
        assert_eq!(parts.len(), expected_parts.len(), "{name}");
        for (len, expected) in parts.iter().zip(expected_parts) {
            let (part, after) = rest.split_at(*len as usize);
            rest = after;
            let part = fill(part);
            check("part", &part, expected);
            merged.merge(&part);
        }
        assert!(rest.is_empty(), "{name}");
        check("merged", &merged, &case["expected"]);
    }
}

/// A model that gives the probabilities of two classes, calibrated.
fn two_classes() -> OutputProfile<2> {
    OutputProfile {
        kind: OutputKind::Probabilities,
        names: ["no", "yes"]
            .iter()
            .map(|name| Name::try_from(*name).expect("a name"))
            .collect(),
        temperature: 1.0,
        class_counts: [1, 1].into_iter().collect(),
        score_mean: 0.75,
        score_sd: 0.1,
        score_p01: 0.5,
        score_p99: 1.0,
        entropy_mean: 0.5,
        class_psi_limit: 1.0,
        score_shift_limit: 1.0,
    }
}

#[test]
fn estimated_accuracy_equals_nannymls() {
    let Some(golden) = golden("cbpe.json") else {
        return;
    };
    let rtol = number(&golden["tolerance"], "rtol_f32");
    let threshold = number(&golden, "threshold") as f32;
    let mut cbpe = Cbpe::default();
    assert_eq!(threshold, 0.5, "the class is the likelier of the two");
    let mut confidence = Moments::EMPTY;
    // What boards report: the guard's own sum, for any number of classes.
    let (profile, policy) = (two_classes(), Policy::standard().guard);
    let mut guard = Guard::<2>::default();
    for p in row_f32(&golden["p"]) {
        cbpe.push(p, threshold);
        let judged = guard.judge(&profile, &policy, &[1.0 - p, p], false);
        judged.expect("a prediction");
        confidence.push(p.max(1.0 - p));
    }
    let summary = guard.summary(&profile);
    let estimate = summary.expected_right / summary.n as f32;
    let expected = &golden["expected"];
    for (what, seen) in [
        ("tp", Some(cbpe.true_positive)),
        ("fp", Some(cbpe.false_positive)),
        ("fn", Some(cbpe.false_negative)),
        ("tn", Some(cbpe.true_negative)),
        ("accuracy", cbpe.accuracy()),
        ("precision", cbpe.precision()),
        ("recall", cbpe.recall()),
        ("f1", cbpe.f1()),
        ("accuracy", Some(confidence.mean)),
        ("accuracy", Some(estimate)),
    ] {
        near(
            what,
            seen.unwrap().into(),
            number(expected, what),
            rtol,
            0.0,
        );
    }
}
