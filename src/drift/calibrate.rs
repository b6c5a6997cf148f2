//! Limits from the training data itself.

use super::{Moments, WindowStatistics};
use crate::profile::DriftLimits;

/// Least number of windows that a limit may rest on; no two of them share a sample.
pub const CALIBRATION_WINDOWS: u32 = 30;
/// Standard deviations above the mean at which a limit lies.
pub const LIMIT_SDS: f32 = 4.0;

/// Why there is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CalibrationError {
    /// The training data makes too few windows.
    TooFewWindows {
        /// Windows that there were.
        windows: u32,
        /// Windows that are wanted.
        wanted: u32,
        /// Samples in a row that would make so many.
        wanted_samples: u64,
    },
}

impl core::fmt::Display for CalibrationError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooFewWindows {
                windows,
                wanted,
                wanted_samples,
            } => write!(
                f,
                "drift limits need at least {wanted} training windows and there are {windows}: \
                 give {wanted_samples} samples or more, or shorten the drift window"
            ),
        }
    }
}

impl core::error::Error for CalibrationError {}

/// Samples in a row that make [`CALIBRATION_WINDOWS`] windows, none of which overlap.
#[must_use]
pub fn calibration_samples(drift_window: u32) -> u64 {
    u64::from(CALIBRATION_WINDOWS) * u64::from(drift_window)
}

/// Collects one statistic over the training windows.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Limit(Moments);

impl Limit {
    /// Adds one window's statistic.
    pub fn push(&mut self, value: f32) {
        self.0.push(value);
    }

    /// Mean plus [`LIMIT_SDS`] standard deviations.
    ///
    /// # Errors
    /// [`CalibrationError::TooFewWindows`] below [`CALIBRATION_WINDOWS`] windows.
    pub fn finish(&self, drift_window: u32) -> Result<f32, CalibrationError> {
        match self.0.sd() {
            Some(sd) if self.0.n >= CALIBRATION_WINDOWS => Ok(self.0.mean + LIMIT_SDS * sd),
            _ => Err(CalibrationError::TooFewWindows {
                windows: self.0.n,
                wanted: CALIBRATION_WINDOWS,
                wanted_samples: calibration_samples(drift_window),
            }),
        }
    }
}

/// The limits of one feature from the statistics of its training windows, each as long as
/// `drift_window`.
///
/// The caller answers for their independence: windows that overlap are counted one by one here, and
/// thirty of them may be worth eight.
///
/// # Errors
/// [`CalibrationError::TooFewWindows`] below [`CALIBRATION_WINDOWS`] windows.
pub fn calibrate(
    windows: impl IntoIterator<Item = WindowStatistics>,
    drift_window: u32,
) -> Result<DriftLimits, CalibrationError> {
    let mut limits = [Limit::default(); 4];
    for found in windows {
        let values = [found.psi, found.ks, found.js, found.wasserstein];
        for (limit, value) in limits.iter_mut().zip(values) {
            limit.push(value);
        }
    }
    let [psi, ks, js, wasserstein] = limits;
    Ok(DriftLimits {
        psi: psi.finish(drift_window)?,
        ks: ks.finish(drift_window)?,
        js: js.finish(drift_window)?,
        wasserstein: wasserstein.finish(drift_window)?,
    })
}
