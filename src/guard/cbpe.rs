//! Accuracy without labels.

/// Confidence-based performance estimation for two classes: the expected confusion matrix.
///
/// With calibrated probabilities, a prediction with chance p of the positive class is right with p
/// if it says positive and with 1 - p if not; the sums over a window are the expected counts, and
/// the usual ratios of them estimate the metrics (NannyML's method). Good only as far as the
/// calibration still holds: under concept drift it does not. For more classes, the mean of the
/// calibrated confidences is the same estimate of accuracy, which is what [`Guard`](super::Guard)
/// sums.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Cbpe {
    /// Expected true positives.
    pub true_positive: f32,
    /// Expected false positives.
    pub false_positive: f32,
    /// Expected false negatives.
    pub false_negative: f32,
    /// Expected true negatives.
    pub true_negative: f32,
}

impl Cbpe {
    /// Adds one prediction by its calibrated chance of the positive class; positive is predicted
    /// from `threshold` on.
    pub fn push(&mut self, p: f32, threshold: f32) {
        if p >= threshold {
            self.true_positive += p;
            self.false_positive += 1.0 - p;
        } else {
            self.false_negative += p;
            self.true_negative += 1.0 - p;
        }
    }

    /// Expected share of right predictions; `None` without predictions.
    #[must_use]
    pub fn accuracy(&self) -> Option<f32> {
        let right = self.true_positive + self.true_negative;
        ratio(right, right + self.false_positive + self.false_negative)
    }

    /// Expected share of right ones among the positive predictions; `None` without any.
    #[must_use]
    pub fn precision(&self) -> Option<f32> {
        ratio(self.true_positive, self.true_positive + self.false_positive)
    }

    /// Expected share of the positives that are found; `None` when none are expected.
    #[must_use]
    pub fn recall(&self) -> Option<f32> {
        ratio(self.true_positive, self.true_positive + self.false_negative)
    }

    /// Expected F1: the harmonic mean of precision and recall.
    #[must_use]
    pub fn f1(&self) -> Option<f32> {
        let twice = 2.0 * self.true_positive;
        ratio(twice, twice + self.false_positive + self.false_negative)
    }
}

/// The share of `part` in `whole`, if there is any.
fn ratio(part: f32, whole: f32) -> Option<f32> {
    (whole > 0.0).then(|| part / whole)
}
