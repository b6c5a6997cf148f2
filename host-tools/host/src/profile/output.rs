//! The predictions' part of a profile.

use super::replay::Pieces;
use super::{Bound, Fit, Outputs, ProfileError, Recall, mean_and_sd};
use crate::MAX_OUTPUTS;
use crate::spec::Spec;
use edgeward::drift::{Limit, calibration_samples, statistics};
use edgeward::guard::Guard;
use edgeward::policy::{GuardPolicy, Policy};
use edgeward::profile::{Name, OutputKind, OutputProfile};

/// Least standard deviation of a score.
const MIN_SCORE_SD: f32 = 1e-3;

/// The guard's own policy does not matter for what is measured here.
fn guard_policy() -> GuardPolicy {
    Policy::standard().guard
}

/// The predictions' part of the profile.
pub(super) fn measure_all(
    spec: &Spec,
    outputs: &Outputs,
    labels: Option<&[usize]>,
    (drift_window, replayed): (u32, &[Pieces]),
) -> Result<(OutputProfile<MAX_OUTPUTS>, Fit), ProfileError> {
    let classes = &spec.output.classes;
    let names = classes
        .iter()
        .map(|name| Name::try_from(name.as_str()).unwrap_or_default());
    let mut profile = OutputProfile {
        kind: spec.output.kind.into(),
        names: names.collect(),
        temperature: 1.0,
        class_counts: classes.iter().map(|_| 1).collect(),
        score_mean: 0.0,
        score_sd: 1.0,
        score_p01: f32::MIN,
        score_p99: f32::MAX,
        entropy_mean: 0.0,
        class_psi_limit: f32::INFINITY,
        score_shift_limit: f32::INFINITY,
    };
    let fitted = match (spec.output.temperature, labels) {
        (Some(_), _) | (None, None) => None,
        (None, Some(labels)) => Some(fit_temperature(profile.kind, outputs, labels)),
    };
    let found = fitted.map(|(temperature, _)| temperature);
    profile.temperature = found.or(spec.output.temperature).unwrap_or(1.0);
    let measured = measure(&mut profile, outputs)?;
    calibrate_outputs(&mut profile, outputs, (drift_window, replayed))?;
    let accuracy = labels.map(|labels| {
        let right = labels
            .iter()
            .zip(&measured)
            .filter(|&(&label, &class)| label == class);
        right.count() as f32 / labels.len().max(1) as f32
    });
    let fit = Fit {
        temperature: profile.temperature,
        fitted: fitted.is_some(),
        bound: fitted.and_then(|(_, bound)| bound),
        accuracy,
        recall: labels.and_then(|labels| recall(labels, &measured, classes.len())),
    };
    Ok((profile, fit))
}

/// How well each labelled class is recognised on average; none where there is only one, since every
/// guess is then right.
fn recall(labels: &[usize], answers: &[usize], classes: usize) -> Option<Recall> {
    let mut found = vec![(0_u32, 0_u32); classes];
    for (&label, &answer) in labels.iter().zip(answers) {
        let (right, all) = found.get_mut(label)?;
        *right += u32::from(label == answer);
        *all += 1;
    }
    let shares: Vec<f32> = found
        .into_iter()
        .filter(|&(_, all)| all > 0)
        .map(|(right, all)| right as f32 / all as f32)
        .collect();
    let chance = 1.0 / shares.len() as f32;
    let mean = shares.iter().sum::<f32>() * chance;
    (shares.len() > 1).then_some(Recall { mean, chance })
}

/// Fills in the class counts and the moments and percentiles of the score, read by the guard's own
/// rules; returns the class of each output.
fn measure(
    profile: &mut OutputProfile<MAX_OUTPUTS>,
    outputs: &Outputs,
) -> Result<Vec<usize>, ProfileError> {
    let mut guard = Guard::<MAX_OUTPUTS>::default();
    let policy = guard_policy();
    let (mut classes, mut scores) = (Vec::new(), Vec::new());
    let mut counts = vec![0u32; profile.names.len()];
    for (row, output) in outputs.rows().enumerate() {
        let prediction = guard
            .judge(profile, &policy, output, false)
            .map_err(|_| ProfileError::Output { row })?;
        counts[usize::from(prediction.class)] += 1;
        classes.push(usize::from(prediction.class));
        scores.push(prediction.confidence);
    }
    let entropy = guard.summary(profile).entropy_sum / outputs.rows().len() as f32;
    let (mean, sd) = mean_and_sd(scores.iter().copied());
    scores.sort_by(f32::total_cmp);
    let percentile = |share: f64| scores[(share * (scores.len() - 1) as f64).round() as usize];
    profile.class_counts = counts.into_iter().collect();
    profile.score_mean = mean;
    profile.score_sd = sd.max(MIN_SCORE_SD);
    profile.score_p01 = percentile(0.01);
    profile.score_p99 = percentile(0.99);
    profile.entropy_mean = entropy;
    Ok(classes)
}

/// Replays the outputs in windows of as many as a drift window holds.
fn calibrate_outputs(
    profile: &mut OutputProfile<MAX_OUTPUTS>,
    outputs: &Outputs,
    (drift_window, replayed): (u32, &[Pieces]),
) -> Result<(), ProfileError> {
    let rows: Vec<_> = outputs.rows().collect();
    let (mut class_psi, mut score_shift) = (Limit::default(), Limit::default());
    let mut guard = Guard::<MAX_OUTPUTS>::default();
    let policy = guard_policy();
    let all = rows.len() as f32;
    let mut length = 0;
    for pieces in replayed {
        guard.start_window();
        for output in pieces.iter().flat_map(|piece| &rows[piece.clone()]) {
            let judged = guard.judge(profile, &policy, output, false);
            judged.map_err(|_| ProfileError::Output { row: 0 })?;
        }
        length = guard.predictions();
        let counts = guard.summary(profile).classes;
        let others = profile.class_counts.iter().zip(&counts);
        let others: Vec<_> = others.map(|(all, own)| all.saturating_sub(*own)).collect();
        class_psi.push(statistics::psi(&others, &counts));
        // As for the features, a window is compared with the rest; of the mean, all but the window's
        // share remains, so that a shift against the rest is greater by so much.
        let rest = (all - length as f32).max(1.0);
        score_shift.push(guard.score_shift(profile) * all / rest);
    }
    // The caller has counted them; this is the same error should it have miscounted.
    let too_little = |_| ProfileError::TooLittle {
        drift_window,
        unit: super::PREDICTIONS,
        windows: replayed.len() as u32,
        wanted: calibration_samples(length),
        found: rows.len() as u64,
    };
    if profile.kind != OutputKind::Values {
        profile.class_psi_limit = class_psi.finish(length).map_err(too_little)?;
    }
    profile.score_shift_limit = score_shift.finish(length).map_err(too_little)?;
    Ok(())
}

/// Ends of the search for the temperature.
const LOWEST: f64 = 0.05;
const HIGHEST: f64 = 20.0;

/// The temperature under which the labels are likeliest, found by golden-section search over its
/// logarithm between 1/20 and 20 (the likelihood has one maximum in it; Guo and others, 2017), and the
/// end that it ran into.
fn fit_temperature(kind: OutputKind, outputs: &Outputs, labels: &[usize]) -> (f32, Option<Bound>) {
    let logits: Vec<Vec<f64>> = outputs
        .rows()
        .map(|row| match kind {
            OutputKind::Probabilities => {
                row.iter().map(|&p| f64::from(p).max(1e-12).ln()).collect()
            }
            _ => row.iter().map(|&x| f64::from(x)).collect(),
        })
        .collect();
    let loss = |log_temperature: f64| -> f64 {
        let temperature = log_temperature.exp();
        let surprise = |row: &Vec<f64>, label: usize| {
            let greatest = row.iter().fold(f64::MIN, |a, &b| a.max(b));
            let sum: f64 = row
                .iter()
                .map(|x| ((x - greatest) / temperature).exp())
                .sum();
            sum.ln() - (row[label] - greatest) / temperature
        };
        logits
            .iter()
            .zip(labels)
            .map(|(row, &label)| surprise(row, label))
            .sum()
    };
    let ratio = (5f64.sqrt() - 1.0) / 2.0;
    let ends = [(LOWEST, Bound::Lowest), (HIGHEST, Bound::Highest)];
    let (mut low, mut high) = (LOWEST.ln(), HIGHEST.ln());
    for _ in 0..60 {
        let a = high - ratio * (high - low);
        let b = low + ratio * (high - low);
        if loss(a) < loss(b) {
            high = b;
        } else {
            low = a;
        }
    }
    let found = (low + high) / 2.0;
    // Where all labels are certain from some temperature on, the search ends at that one, and the end
    // of the search is as good.
    let reached = |&(end, _): &(f64, Bound)| {
        let end = end.ln();
        (found - end).abs() < 1e-6 || loss(end) <= loss(found)
    };
    let bound = ends.into_iter().find(reached).map(|(_, bound)| bound);
    (found.exp() as f32, bound)
}

#[cfg(test)]
mod tests {
    use super::super::tests::noise;
    use super::*;

    #[test]
    fn a_temperature_is_found_again() {
        // Labels drawn from softmax(x / 2.5), x being the logits.
        let draws = noise(40_000);
        let (mut values, mut labels) = (Vec::new(), Vec::new());
        for pair in draws.chunks(2) {
            let logit = 12.0 * (pair[0] - 0.5);
            let chance = 1.0 / (1.0 + (-logit / 2.5).exp());
            values.extend([0.0, logit]);
            labels.push(usize::from(pair[1] < chance));
        }
        let (found, bound) =
            fit_temperature(OutputKind::Logits, &Outputs { width: 2, values }, &labels);
        assert!((found - 2.5).abs() < 0.15, "{found}");
        assert_eq!(bound, None);
    }

    #[test]
    fn labels_that_fix_no_temperature_are_found() {
        // The logit of the class that the model leans to is the greater one, by the margin.
        let fit = |margin: f32, right: fn(usize) -> bool| {
            let labels: Vec<usize> = (0..200).map(|row| row % 2).collect();
            let logits = |(row, &label): (usize, &usize)| {
                let leans = label ^ usize::from(!right(row));
                [0, 1].map(|class| if class == leans { margin } else { 0.0 })
            };
            let values = labels.iter().enumerate().flat_map(logits).collect();
            fit_temperature(OutputKind::Logits, &Outputs { width: 2, values }, &labels).1
        };
        assert_eq!(fit(3.0, |row| row % 10 != 0), None);
        assert_eq!(fit(0.1, |_| true), Some(Bound::Lowest));
        // Certain long before the end of the search.
        assert_eq!(fit(20.0, |_| true), Some(Bound::Lowest));
        assert_eq!(fit(3.0, |row| row % 4 < 2), Some(Bound::Highest));
    }
}
