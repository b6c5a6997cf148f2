//! Which rows calibrate, and what the two models are compared on.

use super::QuantizeError;
use crate::npy::Array;
use serde::Serialize;

/// From so many rows of calibration data on, some are held out to compare the models on.
pub const HOLD_OUT_FROM: usize = 40;
/// One row in so many is held out.
pub const HOLD_OUT: usize = 5;

/// Names of the data.
const CALIBRATION: &str = "calibration";
const EVALUATION: &str = "evaluation";
/// What models are compared on, beside [`CALIBRATION`].
const EVAL: &str = "eval";
const HELD_OUT: &str = "held out";

/// Inputs to quantize a model with.
#[derive(Debug, Clone, PartialEq)]
pub struct Data<'a> {
    /// Rows that ranges come from: `[rows, ..input]`.
    pub calibration: Array,
    /// Rows to compare the two models on. Without them every fifth row of the calibration data is held
    /// out for that, where there are 40 or more, and calibrates nothing.
    pub eval: Option<Array>,
    /// Class indices: one a row of `eval`, or of the calibration data where there is no `eval`.
    pub labels: Option<&'a [i64]>,
}

/// How the quantized model does beside the float one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// `eval`: on rows given for it; `held out`: on rows of the calibration data that calibrated nothing;
    /// `calibration`: on the calibration data, which flatters.
    pub on: &'static str,
    /// How many rows.
    pub rows: usize,
    /// Share of right answers of the float model; none without labels.
    pub accuracy_float: Option<f64>,
    /// Share of right answers of the program; none without labels.
    pub accuracy_int8: Option<f64>,
    /// Share of rows on which both give the same class; none for a single output.
    pub agreement: Option<f64>,
    /// Largest difference of an output.
    pub largest_difference: f32,
    /// Mean difference of an output, without its sign.
    pub mean_difference: f32,
    /// What one step of the quantized output is worth.
    pub output_step: f32,
}

/// What calibrates, and what the models are compared on; row after row.
pub(super) struct Split {
    pub(super) calibration: Vec<f32>,
    pub(super) eval: Vec<f32>,
    labels: Option<Vec<i64>>,
    on: &'static str,
}

impl Split {
    /// Checks the data against the input's shape and divides it.
    pub(super) fn of(data: Data<'_>, shape: &[usize]) -> Result<Self, QuantizeError> {
        let width: usize = shape.iter().product();
        let calibration = checked(data.calibration, CALIBRATION, shape)?;
        let rows = calibration.len() / width;
        let given = data
            .eval
            .map(|eval| checked(eval, EVALUATION, shape))
            .transpose()?;
        let (judged, of) = match &given {
            Some(eval) => (eval.len() / width, EVALUATION),
            None => (rows, CALIBRATION),
        };
        if let Some(labels) = data.labels.filter(|labels| labels.len() != judged) {
            let what = format!("{} labels for {judged} rows of {of} data", labels.len());
            return Err(QuantizeError::Labels(what));
        }
        let labels = data.labels.map(<[i64]>::to_vec);
        if let Some(eval) = given {
            return Ok(Self {
                calibration,
                eval,
                labels,
                on: EVAL,
            });
        }
        if rows < HOLD_OUT_FROM {
            return Ok(Self {
                eval: calibration.clone(),
                calibration,
                labels,
                on: CALIBRATION,
            });
        }
        let held_out = |row: usize| row % HOLD_OUT == HOLD_OUT - 1;
        let part = |out: bool| -> Vec<f32> {
            let rows = calibration.chunks_exact(width).enumerate();
            let wanted = rows.filter(|&(row, _)| held_out(row) == out);
            wanted.flat_map(|(_, row)| row.iter().copied()).collect()
        };
        let judged = |labels: Vec<i64>| {
            let all = labels.into_iter().enumerate();
            all.filter(|&(row, _)| held_out(row))
                .map(|(_, it)| it)
                .collect()
        };
        Ok(Self {
            eval: part(true),
            calibration: part(false),
            labels: labels.map(judged),
            on: HELD_OUT,
        })
    }

    /// The row of the caller's data that row `at` of what calibrates is.
    pub(super) fn calibration_row(&self, at: usize) -> (&'static str, usize) {
        match self.on {
            HELD_OUT => (
                CALIBRATION,
                at / (HOLD_OUT - 1) * HOLD_OUT + at % (HOLD_OUT - 1),
            ),
            _ => (CALIBRATION, at),
        }
    }

    /// The row of the caller's data that row `at` of what the models are compared on is.
    pub(super) fn eval_row(&self, at: usize) -> (&'static str, usize) {
        match self.on {
            HELD_OUT => (CALIBRATION, at * HOLD_OUT + HOLD_OUT - 1),
            EVAL => (EVALUATION, at),
            _ => (CALIBRATION, at),
        }
    }
}

/// The data, row after row, when it fits the input and is finite.
fn checked(array: Array, of: &'static str, shape: &[usize]) -> Result<Vec<f32>, QuantizeError> {
    let wanted = &shape[1..];
    let width: usize = wanted.iter().product();
    let fits = match &array.shape[..] {
        [rows, row @ ..] => *rows > 0 && (row == wanted || row == [width]),
        [] => false,
    };
    if !fits {
        return Err(QuantizeError::Shape {
            of,
            found: array.shape,
            wanted: wanted.to_vec(),
        });
    }
    let data = array.into_f32();
    match data.iter().position(|x| !x.is_finite()) {
        None => Ok(data),
        Some(at) => Err(QuantizeError::Data {
            of,
            row: at / width,
            element: at % width,
            value: data[at],
        }),
    }
}

/// The two models' outputs beside each other.
pub(super) fn compare(
    float: &[f32],
    int8: &[f32],
    split: &Split,
    input: usize,
    output_step: f32,
) -> Result<Comparison, QuantizeError> {
    let rows = split.eval.len() / input;
    let labels = split.labels.as_deref();
    let width = int8.len() / rows;
    let classes = |all: &[f32]| all.chunks_exact(width).map(class).collect::<Vec<_>>();
    let (a, b) = (classes(float), classes(int8));
    let share = |hits: usize| hits as f64 / rows as f64;
    if let Some(wrong) = labels
        .into_iter()
        .flatten()
        .find(|&&it| !(0..width as i64).contains(&it))
    {
        let what = format!("the label {wrong} is none of the model's {width} outputs");
        return Err(QuantizeError::Labels(what));
    }
    let accuracy = |found: &[usize]| {
        labels.map(|labels| {
            let pairs = labels.iter().zip(found);
            share(
                pairs
                    .filter(|&(&label, &class)| label == class as i64)
                    .count(),
            )
        })
    };
    let differences = || float.iter().zip(int8).map(|(a, b)| (a - b).abs());
    let sum: f64 = differences().map(f64::from).sum();
    Ok(Comparison {
        on: split.on,
        rows,
        accuracy_float: accuracy(&a),
        accuracy_int8: accuracy(&b),
        agreement: (width > 1).then(|| share(a.iter().zip(&b).filter(|(a, b)| a == b).count())),
        largest_difference: differences().fold(0.0, f32::max),
        mean_difference: (sum / int8.len() as f64) as f32,
        output_step,
    })
}

/// The first of the largest outputs.
fn class(row: &[f32]) -> usize {
    let mut best = 0;
    for (at, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = at;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fifth_row_is_held_out_and_known_by_its_place() {
        let values: Vec<f32> = (0..42).map(|row| row as f32).collect();
        let labels: Vec<i64> = (0..42).collect();
        let data = Data {
            calibration: Array::f32(&[42, 1], values).expect("it fits"),
            eval: None,
            labels: Some(&labels),
        };
        let split = Split::of(data, &[1, 1]).expect("it is sound");
        assert_eq!(split.eval, [4.0, 9.0, 14.0, 19.0, 24.0, 29.0, 34.0, 39.0]);
        assert_eq!(split.calibration.len(), 34);
        let of_labels: Vec<f32> = split.labels.iter().flatten().map(|&it| it as f32).collect();
        assert_eq!(of_labels, split.eval);
        for (at, &row) in split.calibration.iter().enumerate() {
            assert_eq!(split.calibration_row(at), (CALIBRATION, row as usize));
        }
        for (at, &row) in split.eval.iter().enumerate() {
            assert_eq!(split.eval_row(at), (CALIBRATION, row as usize));
        }
    }
}
