"""What ONNX Runtime's quantizer makes of the float example models.

    python quantizers.py DIR

Writes for each model NAME into DIR: NAME-float.onnx, NAME-calibration.npy, NAME-eval.npy (rows that
nothing was calibrated with), NAME-labels.npy (theirs), and for each way to find ranges NAME-min-max.npy
and NAME-percentile.npy: what ONNX Runtime gives on the rows to evaluate with the int8 model that its own
quantizer made so. Needs models/digits/requirements.txt.
"""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import logging
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

MODELS = Path(__file__).resolve().parents[3] / "models"
sys.path[:0] = [str(MODELS / "motion"), str(MODELS / "digits")]

import data as motion_data
import engine
import make as digits
import train as motion_train

logging.getLogger().setLevel(logging.ERROR)
# Held-out windows are seen at these gains: without them every one is right.
GAINS = (0.4, 0.5, 0.6, 0.8, 1.0, 1.3, 1.6, 2.0)
# How ranges come about: what is cut lies half at either end, as in Edgeward.
METHODS = {
    "min-max": (CalibrationMethod.MinMax, {}),
    "percentile": (
        CalibrationMethod.Percentile,
        {"CalibPercentile": 99.99, "CalibTensorRangeSymmetric": False},
    ),
}


class Rows(CalibrationDataReader):
    def __init__(self, name, rows):
        self.feeds = iter([{name: row[None]} for row in rows])

    def get_next(self):
        return next(self.feeds, None)


def quantised(raw, rows, operators, method):
    """int8 QDQ by ONNX Runtime: weights symmetric and a scale a channel."""
    method, options = METHODS[method]
    name = onnx.load_from_string(raw).graph.input[0].name
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(raw)
        quantize_static(
            source,
            target,
            Rows(name, rows),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=operators,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=method,
            extra_options=options,
        )
        return target.read_bytes()


def write(folder, name, raw, calibration, rows, labels, operators, run):
    (folder / f"{name}-float.onnx").write_bytes(raw)
    motion_data.write_npy(folder / f"{name}-calibration.npy", calibration)
    motion_data.write_npy(folder / f"{name}-eval.npy", rows)
    motion_data.write_npy(folder / f"{name}-labels.npy", labels)
    for method in METHODS:
        int8 = quantised(raw, calibration, operators, method)
        motion_data.write_npy(folder / f"{name}-{method}.npy", run(int8, rows))


def motion(folder):
    raw = (MODELS / "motion" / "motion-v1-float.onnx").read_bytes()
    x, y = motion_data.read_csv(MODELS / "motion" / "train.csv")
    calibration = motion_data.windows(x)
    # The second release has no float form in the repository: it is trained anew.
    second, its_calibration = motion_train.trained(x, y, augment=True)
    x, y = motion_data.read_csv(MODELS / "motion" / "test.csv")
    rows = np.concatenate([motion_data.windows(x) * np.float32(gain) for gain in GAINS])
    labels = np.tile(motion_data.window_labels(y), len(GAINS))
    write(folder, "motion-1", raw, calibration, rows, labels, engine.QUANTISED, engine.run)
    raw = second.SerializeToString()
    write(folder, "motion-2", raw, its_calibration, rows, labels, engine.QUANTISED, engine.run)


def of_digits(folder):
    x, y = load_digits(return_X_y=True)
    x = x.astype(np.float32)
    x, rows, y, labels = train_test_split(
        x, y, test_size=450, stratify=y, random_state=digits.SEED
    )
    raw = digits.export(digits.train(x, y))
    operators = ["MatMul", "Gemm", "Add", "Relu", "Softmax"]
    write(folder, "digits", raw, x, rows, labels, operators, digits.run)


if __name__ == "__main__":
    motion(Path(sys.argv[1]))
    of_digits(Path(sys.argv[1]))
