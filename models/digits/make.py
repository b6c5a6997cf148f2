"""A stranger's model for the tutorial: scikit-learn digits, a small network, skl2onnx.

    python make.py --out DIR

Writes digits.onnx, train.csv, val.csv, test.csv, outputs.npy, golden-input.npy, golden-output.npy
and digits.toml into DIR. It is seeded and runs on one thread.
"""

import os

# Before numpy loads: one thread, so that sums always add up in the same order.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

SEED = 0
FEATURES = [f"p{i}" for i in range(64)]
CLASSES = [str(digit) for digit in range(10)]
TOLERANCE = 0.001


def train(x, y):
    """The pipeline as its author would keep it: standardisation and a network of one layer."""
    network = MLPClassifier((32,), alpha=0.1, max_iter=400, random_state=SEED)
    return make_pipeline(StandardScaler(), network).fit(x, y)


def export(pipeline):
    """One inference as ONNX: [1, 64] to the probabilities [1, 10], and nothing else.

    Scaler is an operator of ai.onnx.ml that few engines know; without it the converter writes
    Sub and Div.
    """
    model = convert_sklearn(
        pipeline,
        name="digits",
        initial_types=[("input", FloatTensorType([1, len(FEATURES)]))],
        options={id(pipeline): {"zipmap": False}},
        target_opset={"": 17, "ai.onnx.ml": 1},
        black_op={"Scaler"},
    )
    keep_only(model, "probabilities")
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def keep_only(model, output):
    """Removes the other outputs, and all that only they needed."""
    graph, wanted, nodes = model.graph, {output}, []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            nodes.append(node)
    outputs = [value for value in graph.output if value.name == output]
    initializers = [value for value in graph.initializer if value.name in wanted]
    nodes.reverse()
    domains = {node.domain for node in nodes}
    opsets = [opset for opset in model.opset_import if opset.domain in domains]
    for field, kept in (
        (graph.node, nodes),
        (graph.output, outputs),
        (graph.initializer, initializers),
        (model.opset_import, opsets),
    ):
        kept = [type(item).FromString(item.SerializeToString()) for item in kept]
        del field[:]
        field.extend(kept)


def run(raw, x):
    """Probabilities by ONNX Runtime, row by row, with its graph optimisations off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input": row[None]})[0] for row in x])


def write_csv(path, x, y):
    """A row an image; each is a recording of its own. Pixels are whole numbers from 0 to 16."""
    lines = ["recording,label," + ",".join(FEATURES)]
    for recording, (row, label) in enumerate(zip(x, y)):
        lines.append(f"{recording},{CLASSES[label]},{','.join(str(int(v)) for v in row)}")
    path.write_text("\n".join(lines) + "\n", encoding="ascii", newline="\n")


def write_npy(path, array):
    """NPY format 1.0, little-endian f32, C order."""
    with open(path, "wb") as file:
        array = np.ascontiguousarray(array, "<f4")
        np.lib.format.write_array(file, array, version=(1, 0), allow_pickle=False)


def manifest():
    def quoted(names):
        return ", ".join(f'"{name}"' for name in names)

    return f"""name = "digits"
version = "1.0.0"
counter = 1
model = "digits.onnx"

[input]
features = [{quoted(FEATURES)}]
window = 1
hop = 1
layout = "samples-first"     # tensor [1, features]: a window is one sample
schema_version = 1
drift_window = 50            # images that are judged together: here a second's

[output]
kind = "probabilities"
classes = [{quoted(CLASSES)}]

[data]
training = "train.csv"
validation = "val.csv"       # held out: what predictions look like on images not learned from
outputs = "outputs.npy"

[golden]
input = "golden-input.npy"
output = "golden-output.npy"
tolerance = {TOLERANCE}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    x, y = load_digits(return_X_y=True)
    x = x.astype(np.float32)
    x, x_test, y, y_test = train_test_split(x, y, test_size=450, stratify=y, random_state=SEED)
    x, x_val, y, y_val = train_test_split(x, y, test_size=300, stratify=y, random_state=SEED)
    pipeline = train(x, y)
    raw = export(pipeline)

    seen, unseen = run(raw, x), run(raw, x_test)
    difference = np.abs(unseen - pipeline.predict_proba(x_test)).max()
    assert difference < 1e-4, difference
    # The first test image of each digit, an empty one and a full one.
    first = [x_test[np.flatnonzero(y_test == digit)[0]] for digit in range(10)]
    golden = np.stack([*first, np.zeros_like(x[0]), np.full_like(x[0], 16)])

    (out / "digits.onnx").write_bytes(raw)
    write_csv(out / "train.csv", x, y)
    write_csv(out / "val.csv", x_val, y_val)
    write_csv(out / "test.csv", x_test, y_test)
    write_npy(out / "outputs.npy", seen)
    write_npy(out / "golden-input.npy", golden)
    write_npy(out / "golden-output.npy", run(raw, golden))
    (out / "digits.toml").write_text(manifest(), encoding="ascii", newline="\n")
    operators = [node.op_type for node in onnx.load_from_string(raw).graph.node]
    print(f"digits.onnx: {len(raw)} bytes, operators {' '.join(operators)}")
    print(f"accuracy {np.mean(unseen.argmax(1) == y_test):.3f} on {len(y_test)} test images")
    print(f"largest difference between ONNX Runtime and scikit-learn: {difference:.1e}")


if __name__ == "__main__":
    main()
