"""Times one inference of each TFLite model of a folder with LiteRT (XNNPACK, one thread), and of each
ONNX model with ONNX Runtime (one thread).

Use: python3 peers.py RUNS FOLDER
Prints a line of JSON: {model: {engine: [median, least] in microseconds}}.
Needs: pip install ai-edge-litert onnxruntime numpy
"""

import json
import pathlib
import sys
import time

import numpy


def timed(call, runs):
    for _ in range(runs // 5 + 3):
        call()
    times = []
    for _ in range(runs):
        start = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - start) / 1e3)
    times.sort()
    return [round(times[len(times) // 2], 2), round(times[0], 2)]


def litert(path):
    from ai_edge_litert.interpreter import Interpreter

    model = Interpreter(str(path), num_threads=1)
    model.allocate_tensors()
    detail = model.get_input_details()[0]
    values = (numpy.arange(numpy.prod(detail["shape"])) * 37 % 256 - 128).reshape(detail["shape"])
    model.set_tensor(detail["index"], values.astype(detail["dtype"]))
    return model.invoke


def onnx(path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    first = session.get_inputs()[0]
    shape = [extent if isinstance(extent, int) else 1 for extent in first.shape]
    types = {"tensor(int8)": numpy.int8, "tensor(uint8)": numpy.uint8}
    binding = session.io_binding()
    binding.bind_cpu_input(first.name, numpy.zeros(shape, types.get(first.type, numpy.float32)))
    binding.bind_output(session.get_outputs()[0].name, "cpu")
    return lambda: session.run_with_iobinding(binding)


runs, folder = int(sys.argv[1]), pathlib.Path(sys.argv[2])
models = {}
for path in sorted(folder.iterdir()):
    if path.suffix == ".tflite":
        models.setdefault(path.stem, {})["litert xnnpack"] = timed(litert(path), runs)
    elif path.suffix == ".onnx":
        models.setdefault(path.stem, {})["onnxruntime"] = timed(onnx(path), runs)
print(json.dumps(models))
