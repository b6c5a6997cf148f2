"""The motion network: its layers, its gradients and its ONNX graph, in plain numpy.

A network this small (2,540 parameters) needs no framework, and without one a run has a
single thread, one random generator and no hidden state, so that it repeats byte for byte.

    [N, 6, 50]  (x - mean) / std      one mean and one std a channel, from the training set
                Conv 6 -> 16, 5 wide  valid, stride 1   [N, 16, 46]   Relu   MaxPool 2  [N, 16, 23]
                Conv 16 -> 24, 5 wide valid, stride 1   [N, 24, 19]   Relu   mean over time  [N, 24]
                Gemm 24 -> 4          logits
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS, WINDOW, CLASSES = 6, 50, 4
FILTERS_1, FILTERS_2, WIDTH = 16, 24, 5
OPSET, IR_VERSION = 13, 8
WEIGHTS = ("w1", "b1", "w2", "b2", "w3", "b3")


def initial(rng):
    """He initialisation of every weight; biases are zero."""

    def he(*shape):
        fan_in = int(np.prod(shape[1:]))
        return (rng.standard_normal(shape) * np.sqrt(2.0 / fan_in)).astype(np.float32)

    return {
        "w1": he(FILTERS_1, CHANNELS, WIDTH),
        "b1": np.zeros(FILTERS_1, np.float32),
        "w2": he(FILTERS_2, FILTERS_1, WIDTH),
        "b2": np.zeros(FILTERS_2, np.float32),
        "w3": he(CLASSES, FILTERS_2),
        "b3": np.zeros(CLASSES, np.float32),
    }


def _columns(x):
    """Each position's receptive field as a row: [N, C, L] -> [N, L - WIDTH + 1, C * WIDTH]."""
    view = np.lib.stride_tricks.sliding_window_view(x, WIDTH, axis=2)
    n, c, steps, width = view.shape
    return np.ascontiguousarray(view.transpose(0, 2, 1, 3)).reshape(n, steps, c * width)


def _conv(x, w, b):
    columns = _columns(x)
    return columns, (columns @ w.reshape(len(w), -1).T + b).transpose(0, 2, 1)


def forward(p, x):
    """Logits of standardised windows, and what the backward pass needs."""
    columns_1, a1 = _conv(x, p["w1"], p["b1"])
    h1 = np.maximum(a1, 0)
    pairs = h1.reshape(len(x), FILTERS_1, -1, 2)
    pooled = pairs.max(axis=3)
    columns_2, a2 = _conv(pooled, p["w2"], p["b2"])
    mean = np.maximum(a2, 0).mean(axis=2)
    return mean @ p["w3"].T + p["b3"], (columns_1, a1, pairs, columns_2, a2, mean)


def backward(p, saved, d_logits):
    """Gradients of all weights, given the gradient of the logits."""
    columns_1, a1, pairs, columns_2, a2, mean = saved
    n, steps = len(a2), a2.shape[2]
    g = {"w3": d_logits.T @ mean, "b3": d_logits.sum(0)}
    d_a2 = np.where(a2 > 0, (d_logits @ p["w3"])[:, :, None] / np.float32(steps), np.float32(0))
    flat = d_a2.transpose(0, 2, 1).reshape(-1, FILTERS_2)
    g["w2"] = (flat.T @ columns_2.reshape(len(flat), -1)).reshape(p["w2"].shape)
    g["b2"] = flat.sum(0)
    # Back through the columns: each one lies WIDTH times over its input.
    d_columns = (flat @ p["w2"].reshape(FILTERS_2, -1)).reshape(n, steps, FILTERS_1, WIDTH)
    d_pooled = np.zeros((n, FILTERS_1, steps + WIDTH - 1), np.float32)
    for k in range(WIDTH):
        d_pooled[:, :, k : k + steps] += d_columns[:, :, :, k].transpose(0, 2, 1)
    # A pair's gradient goes to its first largest element.
    first = pairs.argmax(axis=3)[..., None] == np.arange(2)
    d_a1 = np.where((a1 > 0), (d_pooled[..., None] * first).reshape(a1.shape), np.float32(0))
    flat = d_a1.transpose(0, 2, 1).reshape(-1, FILTERS_1)
    g["w1"] = (flat.T @ columns_1.reshape(len(flat), -1)).reshape(p["w1"].shape)
    g["b1"] = flat.sum(0)
    return g


def log_softmax(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def train(windows_of_epoch, labels, mean, std, seed, epochs, batch=64, rate=3e-3, decay=1e-3):
    """Adam with decoupled weight decay and a cosine schedule, on cross-entropy.

    `windows_of_epoch(rng)` gives all raw windows for one epoch, augmented or not.
    """
    rng = np.random.default_rng(seed)
    p = initial(rng)
    m = {k: np.zeros_like(v) for k, v in p.items()}
    v = {k: np.zeros_like(w) for k, w in p.items()}
    one_hot = np.eye(CLASSES, dtype=np.float32)[labels]
    batches = len(labels) // batch
    step, steps = 0, epochs * batches
    for _ in range(epochs):
        x = (windows_of_epoch(rng) - mean) / std
        order = rng.permutation(len(labels))
        for at in range(batches):
            index = order[at * batch : (at + 1) * batch]
            logits, saved = forward(p, x[index])
            d_logits = (np.exp(log_softmax(logits)) - one_hot[index]) / np.float32(batch)
            grads = backward(p, saved, d_logits)
            step += 1
            now = np.float32(rate * 0.5 * (1 + np.cos(np.pi * step / steps)))
            for k in WEIGHTS:
                m[k] = np.float32(0.9) * m[k] + np.float32(0.1) * grads[k]
                v[k] = np.float32(0.999) * v[k] + np.float32(0.001) * grads[k] ** 2
                m_hat, v_hat = m[k] / np.float32(1 - 0.9**step), v[k] / np.float32(1 - 0.999**step)
                shrink = np.float32(decay) * p[k] if k[0] == "w" else np.float32(0)
                p[k] = p[k] - now * (m_hat / (np.sqrt(v_hat) + np.float32(1e-8)) + shrink)
    return p


def parameters():
    """Number of weights and biases."""
    return sum(v.size for v in initial(np.random.default_rng(0)).values())


def macs():
    """Multiply-accumulates of one inference."""
    steps_1 = WINDOW - WIDTH + 1
    steps_2 = steps_1 // 2 - WIDTH + 1
    conv_1 = steps_1 * FILTERS_1 * CHANNELS * WIDTH
    conv_2 = steps_2 * FILTERS_2 * FILTERS_1 * WIDTH
    return conv_1 + conv_2 + CLASSES * FILTERS_2


def to_onnx(p, mean, std):
    """The graph of one inference, from raw sensor units to logits, batch 1."""

    def tensor(name, value):
        return numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name)

    initializers = [tensor("mean", mean[None]), tensor("inverse_std", 1 / std[None])]
    initializers += [tensor(k, p[k]) for k in WEIGHTS]
    conv = {"kernel_shape": [WIDTH], "strides": [1], "pads": [0, 0], "dilations": [1], "group": 1}
    node = helper.make_node
    nodes = [
        node("Sub", ["input", "mean"], ["centred"], "centre"),
        node("Mul", ["centred", "inverse_std"], ["standardised"], "scale"),
        node("Conv", ["standardised", "w1", "b1"], ["conv1"], "conv1", **conv),
        node("Relu", ["conv1"], ["relu1"], "relu1"),
        node("MaxPool", ["relu1"], ["pool1"], "pool1", kernel_shape=[2], strides=[2]),
        node("Conv", ["pool1", "w2", "b2"], ["conv2"], "conv2", **conv),
        node("Relu", ["conv2"], ["relu2"], "relu2"),
        node("GlobalAveragePool", ["relu2"], ["pool2"], "pool2"),
        node("Flatten", ["pool2"], ["features"], "flatten", axis=1),
        node("Gemm", ["features", "w3", "b3"], ["logits"], "logits", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "motion",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, CHANNELS, WINDOW])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CLASSES])],
        initializers,
    )
    model = helper.make_model(
        graph,
        producer_name="edgeward-models",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model, full_check=True)
    return model
