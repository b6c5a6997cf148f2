"""Makes the ONNX files of this folder and their golden vectors, by ONNX and ONNX Runtime.

Run with onnx 1.19.1, onnxruntime 1.23.2 and numpy 2.3.5:  python make_fixtures.py
ONNX Runtime runs with its optimisations off, so that each node is computed as it stands.
"""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper

HERE = Path(__file__).parent
RNG = np.random.default_rng(11)


def const(name, value, dtype=np.float32):
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def save(name, nodes, inputs, outputs, consts, value_info=()):
    graph = h.make_graph(nodes, name, inputs, outputs, consts, value_info=list(value_info))
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=8)
    model.producer_name = "edgeward-fixtures"
    (HERE / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))
    return model


def golden(name, model, inputs, output):
    """Runs each row alone and stores inputs and outputs as f32."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = session.get_inputs()[0].name
    rows = [session.run([output], {feed: row[None]})[0] for row in inputs]
    np.save(HERE / f"{name}.input.npy", inputs.astype(np.float32))
    np.save(HERE / f"{name}.output.npy", np.concatenate(rows).astype(np.float32))


def q(x, y, scale, zero):
    return h.make_node("QuantizeLinear", [x, scale, zero], [y], name=f"q_{y}")


def dq(x, y, scale, zero):
    return h.make_node("DequantizeLinear", [x, scale, zero], [y], name=f"dq_{y}")


def scales():
    return [
        const("s", 0.1), const("z", 0, np.int8),
        const("sp", 1 / 256), const("zp", -128, np.int8),
        const("zu", 128, np.uint8),
    ]


def softmax_int8():
    """The least graph that is folded wrongly, int8 at both ends."""
    model = save(
        "softmax_int8",
        [dq("x", "f", "s", "z"), h.make_node("Softmax", ["f"], ["p"], name="softmax", axis=-1),
         q("p", "y", "sp", "zp")],
        [h.make_tensor_value_info("x", T.INT8, [1, 4])],
        [h.make_tensor_value_info("y", T.INT8, [1, 4])],
        scales(),
    )
    rows = np.array([[10, 20, 30, 40], [-128, 127, 0, 5], [1, 1, 1, 1]], np.int8)
    golden("softmax_int8", model, rows, "y")


def classifier(name, softmax_nodes):
    """A quantized layer, Softmax and a closing Q and DQ, float at both ends, batch left open."""
    weight = RNG.integers(-127, 128, (8, 4)).astype(np.int8)
    nodes = [
        q("x", "xq", "s", "z"), dq("xq", "xd", "s", "z"),
        dq("w", "wd", "sw", "z"),
        h.make_node("MatMul", ["xd", "wd"], ["l"], name="matmul"),
        q("l", "lq", "s", "z"), dq("lq", "ld", "s", "z"),
        *softmax_nodes,
        q("p", "pq", "sp", "zp"), dq("pq", "y", "sp", "zp"),
    ]
    model = save(
        name, nodes,
        [h.make_tensor_value_info("x", T.FLOAT, ["batch", 8])],
        [h.make_tensor_value_info("y", T.FLOAT, ["batch", 4])],
        [*scales(), const("w", weight, np.int8), const("sw", 0.02)],
        [h.make_tensor_value_info("l", T.FLOAT, ["batch", 4])],
    )
    golden(name, model, RNG.normal(0, 2, (16, 8)).astype(np.float32), "y")


def table(name, kind):
    """An operator that does work element by element, so that a table of it is right."""
    zero = "z" if kind == T.INT8 else "zu"
    model = save(
        name,
        [q("x", "xq", "s", zero), dq("xq", "f", "s", zero),
         h.make_node("Tanh", ["f"], ["t"], name="tanh"),
         q("t", "tq", "sp2", "z"), dq("tq", "y", "sp2", "z")],
        [h.make_tensor_value_info("x", T.FLOAT, [1, 64])],
        [h.make_tensor_value_info("y", T.FLOAT, [1, 64])],
        [*scales(), const("sp2", 1 / 127)],
    )
    rows = np.linspace(-15, 15, 4 * 64, dtype=np.float32).reshape(4, 64)
    golden(name, model, rows, "y")


def refused():
    f = h.make_tensor_value_info
    x = f("x", T.FLOAT, [1, 4])
    add = h.make_node("Add", ["x", "x2"], ["y"], name="add")
    save("two_inputs", [add], [x, f("x2", T.FLOAT, [1, 4])], [f("y", T.FLOAT, [1, 4])], [])
    save(
        "unknown_operator", [h.make_node("Frobnicate", ["x"], ["y"], name="middle")],
        [x], [f("y", T.FLOAT, [1, 4])], [],
    )
    save(
        "several_outputs",
        [h.make_node("ArgMax", ["x"], ["class"], name="argmax", axis=1, keepdims=0),
         h.make_node("Softmax", ["x"], ["shares"], name="softmax", axis=-1),
         h.make_node("Neg", ["x"], ["minus"], name="neg")],
        [x],
        [f("class", T.INT64, [1]), f("shares", T.FLOAT, [1, 4]), f("minus", T.FLOAT, [1, 4])],
        [],
    )
    save(
        "only_class", [h.make_node("ArgMax", ["x"], ["class"], name="argmax", axis=1, keepdims=0)],
        [x], [f("class", T.INT64, [1])], [],
    )
    save(
        "open_length", [h.make_node("Neg", ["x"], ["y"], name="neg")],
        [f("x", T.FLOAT, ["batch", "steps"])], [f("y", T.FLOAT, ["batch", "steps"])], [],
    )
    outside = const("w", np.ones(4))
    outside.ClearField("raw_data")
    outside.data_location = T.EXTERNAL
    outside.external_data.add(key="location", value="weights.bin")
    save(
        "external_data", [h.make_node("Add", ["x", "w"], ["y"], name="add")],
        [x], [f("y", T.FLOAT, [1, 4])], [outside],
    )


softmax_int8()
classifier("softmax_closed", [h.make_node("Softmax", ["ld"], ["p"], name="softmax", axis=-1)])
classifier("softmax_log", [
    h.make_node("LogSoftmax", ["ld"], ["n"], name="log_softmax", axis=-1),
    h.make_node("Exp", ["n"], ["p"], name="exp"),
])
table("table_int8", T.INT8)
table("table_uint8", T.UINT8)
refused()
print("made", *sorted(path.name for path in HERE.glob("*.onnx")))
