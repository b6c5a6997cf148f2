"""What ONNX Runtime gives for graphs, each operator by itself.

    python graphs.py DIR

For each NAME.onnx in DIR, NAME.in holds rows of floats; their outputs become NAME.out. Where ONNX Runtime
refuses a graph, NAME.out is not written, and why goes to NAME.why. Needs models/digits/requirements.txt.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

ort.set_default_logger_severity(4)
options = ort.SessionOptions()
options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
options.intra_op_num_threads = 1
options.inter_op_num_threads = 1

for path in sorted(Path(sys.argv[1]).glob("*.onnx")):
    try:
        session = ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        given = session.get_inputs()[0]
        rows = np.fromfile(path.with_suffix(".in"), "<f4").reshape(-1, *given.shape[1:])
        outputs = [session.run(None, {given.name: row[None]})[0] for row in rows]
    except Exception as error:  # noqa: BLE001: whatever it is, the test decides
        path.with_suffix(".why").write_text(str(error))
        continue
    np.stack(outputs).astype("<f4").tofile(path.with_suffix(".out"))
