"""More node tests of convolutions and products, judged by ONNX's reference implementation.

    python onnx_nodes.py DIR

The package's own tests of QLinearConv and QLinearMatMul are few and small. These have weights that are
symmetric, and weights with a zero point near the middle, at the end of the range, and one a channel.
Writes folders of the package's form into DIR: model.onnx, test_data_set_0/{input,output}_N.pb.
"""

import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

TYPES = {np.dtype("int8"): TensorProto.INT8, np.dtype("uint8"): TensorProto.UINT8}


def write(folder, name, operator, names, inputs, attributes):
    """A model of one node, its inputs and what the reference makes of them."""
    kinds = {np.dtype("float32"): TensorProto.FLOAT, np.dtype("int32"): TensorProto.INT32, **TYPES}
    node = helper.make_node(operator, names, ["y"], **attributes)
    infos = [helper.make_tensor_value_info(n, kinds[x.dtype], x.shape) for n, x in zip(names, inputs)]
    result = helper.make_tensor_value_info("y", kinds[inputs[0].dtype], None)
    graph = helper.make_graph([node], name, infos, [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    output = ReferenceEvaluator(model).run(None, dict(zip(names, inputs)))[0]
    data = folder / name / "test_data_set_0"
    data.mkdir(parents=True)
    (folder / name / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
    for index, (n, x) in enumerate(zip(names, inputs)):
        (data / f"input_{index}.pb").write_bytes(numpy_helper.from_array(x, n).SerializeToString())
    (data / "output_0.pb").write_bytes(numpy_helper.from_array(output, "y").SerializeToString())


def activations(random, dtype, shape):
    """Elements over the whole range, and the zero point at a third of it."""
    limits = np.iinfo(dtype)
    x = random.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    return x, np.array(limits.min + 85, dtype)


def zero_points(random, dtype, kind, count):
    """Zero points of weights and the range of the weights: None for symmetric ones."""
    limits = np.iinfo(dtype)
    centre = 0 if dtype == np.int8 else 128
    low, high = limits.min, limits.max
    if kind is None:
        low, zeros = low + 1, np.full(count, centre)
    elif kind == "near":
        zeros = np.full(count, centre - 9)
    elif kind == "least":
        zeros = np.full(count, limits.min)
    else:
        zeros = random.integers(low, high, count, endpoint=True)
    return (low, high), zeros.astype(dtype)


def conv(folder, name, dtype, image, weights, bias=False, zeros=None, **attributes):
    random = np.random.default_rng(len(name))
    x, zero = activations(random, dtype, image)
    (low, high), w_zero = zero_points(random, dtype, zeros, weights[0])
    w = random.integers(low, high, weights, endpoint=True).astype(dtype)
    scales = random.uniform(0.002, 0.02, weights[0]).astype(np.float32)
    # About the spread of the sums, so that outputs fill their range and a few saturate.
    spread = 73 if zeros in (None, "near") else 147
    y_scale = np.float32(0.02 * 0.01 * 73 * spread * np.sqrt(np.prod(weights[1:])) / 40)
    names = "x x_scale x_zero w w_scale w_zero y_scale y_zero".split()
    inputs = [x, np.float32(0.02), zero, w, scales, w_zero, y_scale, zero]
    inputs = [np.asarray(it) for it in inputs]
    if bias:
        names.append("b")
        inputs.append(random.integers(-9000, 9000, weights[0], np.int32))
    write(folder, name, "QLinearConv", names, inputs, attributes)


def matmul(folder, name, dtype, rows, inner, outputs, zeros=None):
    random = np.random.default_rng(len(name))
    a, zero = activations(random, dtype, (rows, inner))
    (low, high), b_zero = zero_points(random, dtype, zeros, 1)
    b = random.integers(low, high, (inner, outputs), endpoint=True).astype(dtype)
    # The reference wraps here where the standard saturates, so outputs stay within their range.
    y_scale = np.float32(0.02 * 0.01 * 73 * (73 if zeros is None else 294) * np.sqrt(inner) / 20)
    names = "a a_scale a_zero b b_scale b_zero y_scale y_zero".split()
    inputs = [a, np.float32(0.02), zero, b, np.float32(0.01), b_zero[0], y_scale, zero]
    write(folder, name, "QLinearMatMul", names, [np.asarray(it) for it in inputs], {})


def main(folder):
    image = (1, 4, 7, 6)
    for dtype in (np.int8, np.uint8):
        kind = np.dtype(dtype).name
        conv(folder, f"made_qlinearconv_{kind}_1x1", dtype, image, (5, 4, 1, 1))
        conv(folder, f"made_qlinearconv_{kind}_bias", dtype, image, (5, 4, 3, 3), bias=True)
        conv(folder, f"made_qlinearconv_{kind}_pads", dtype, image, (8, 4, 3, 3), pads=[1, 1, 1, 1])
        conv(folder, f"made_qlinearconv_{kind}_strides", dtype, image, (8, 4, 3, 2), True,
             strides=[2, 2], pads=[1, 0, 0, 1])
        conv(folder, f"made_qlinearconv_{kind}_dilations", dtype, image, (3, 4, 2, 2), dilations=[2, 3])
        conv(folder, f"made_qlinearconv_{kind}_depthwise", dtype, image, (8, 1, 3, 3), True, group=4,
             pads=[1, 1, 1, 1])
        for zeros in ("near", "least", "each"):
            conv(folder, f"made_qlinearconv_{kind}_zero_{zeros}", dtype, image, (5, 4, 3, 3), True, zeros,
                 pads=[1, 1, 1, 1], strides=[2, 1])
            conv(folder, f"made_qlinearconv_{kind}_zero_{zeros}_depthwise", dtype, image, (8, 1, 3, 3),
                 True, zeros, group=4, pads=[1, 1, 1, 1], strides=[2, 2])
            matmul(folder, f"made_qlinearmatmul_{kind}_zero_{zeros}", dtype, 3, 32, 10, zeros)
        matmul(folder, f"made_qlinearmatmul_{kind}", dtype, 3, 32, 10)
        matmul(folder, f"made_qlinearmatmul_{kind}_long", dtype, 2, 512, 7)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
