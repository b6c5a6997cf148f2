"""ONNX Runtime: int8 quantisation and reference outputs."""

import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

# The quantiser advises preprocessing passes that would do nothing to a graph this plain.
logging.getLogger().setLevel(logging.ERROR)


QUANTISED = ["Conv", "Relu", "MaxPool", "GlobalAveragePool", "Flatten", "Gemm"]


class _Reader(CalibrationDataReader):
    def __init__(self, windows):
        self.feeds = iter([{"input": window[None]} for window in windows])

    def get_next(self):
        return next(self.feeds, None)


def quantise(model, calibration):
    """int8 QDQ with weights per channel and ranges by min and max over `calibration`.

    The standardisation stays in float before the first QuantizeLinear, where it is part of how the
    input is quantised. All else is int8, the logits too, so that a board without an engine for
    float graphs runs the model.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(model.SerializeToString(deterministic=True))
        quantize_static(
            source,
            target,
            _Reader(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTISED,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        quantised = onnx.load(target)
    onnx.checker.check_model(quantised, full_check=True)
    ending = [node.op_type for node in quantised.graph.node[-3:]]
    assert ending == ["Gemm", "QuantizeLinear", "DequantizeLinear"], "the logits are int8, too"
    return quantised


def run(model, windows, level=ort.GraphOptimizationLevel.ORT_DISABLE_ALL):
    """Logits by ONNX Runtime on one thread, one window at a time as on a device.

    With all graph optimisations off, each Q and DQ node is computed as it stands in the file.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    data = model if isinstance(model, bytes) else model.SerializeToString(deterministic=True)
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input": window[None]})[0] for window in windows])


def run_fused(model, windows):
    """The same by ONNX Runtime's fused integer kernels: a second engine to compare with."""
    return run(model, windows, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
