"""Trains, quantises and packs the three releases of the motion model.

    python train.py              makes every file anew and prints the accuracy tables
    python train.py --out DIR    the same into another folder, to compare with what is committed
    python train.py --evaluate   only prints the tables, from the committed files

One run takes about 20 seconds on one core. It is seeded and runs on one thread.
"""

import os

# Before numpy loads: one thread, so that sums always add up in the same order.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import math
from pathlib import Path

import numpy as np
from onnx import numpy_helper

import data
import engine
import network

SEED = 0
FOLDS = 5
TRAINING_HOP = 5
EPOCHS_V1, EPOCHS_V2 = 40, 160
# Held-out windows are seen at these gains when the temperature is fitted.
FIELD_GAINS = (0.6, 1.0, 1.6)
GAINS = (0.4, 0.5, 0.6, 0.8, 1.0, 1.3, 1.6, 2.0)
HERE = Path(__file__).resolve().parent
# What adding up in another order may change in a logit of a float network.
FLOAT_TOLERANCE = 0.001
# The register value that a sensor shows before its first conversion, taken for a measurement.
GLITCH = np.float32(32767)


def standardisation(x):
    """Mean and standard deviation of each channel, [6, 1]."""
    return x.mean((0, 2))[:, None], x.std((0, 2))[:, None]


def augmented(x, std, rng):
    """Recordings as another wearer, watch or range setting could have given them.

    Three recordings in ten stay as they are. The others get one gain of 0.4 to 2, log-uniform,
    and each axis a gain of its own near 1. All get noise of 5 % of a channel's deviation.
    """
    gain = np.exp(rng.uniform(np.log(0.4), np.log(2.0), (len(x), 1, 1)))
    axes = np.exp(rng.normal(0.0, 0.1, (len(x), x.shape[1], 1)))
    factor = np.where(rng.random((len(x), 1, 1)) < 0.3, 1.0, gain * axes)
    return (x * factor + rng.normal(0.0, 0.05, x.shape) * std).astype(np.float32)


def trained(x, y, augment):
    """A float network, and the windows that its int8 form is calibrated with."""
    mean, std = standardisation(x)
    labels = data.window_labels(y, TRAINING_HOP)
    if augment:
        epochs = EPOCHS_V2

        def epoch(rng):
            return data.windows(augmented(x, std, rng), TRAINING_HOP)

        extra = augmented(x, std, np.random.default_rng(SEED + 1))
        calibration = np.concatenate([data.windows(x), data.windows(extra)])
    else:
        epochs, plain = EPOCHS_V1, data.windows(x, TRAINING_HOP)

        def epoch(_rng):
            return plain

        calibration = data.windows(x)
    weights = network.train(epoch, labels, mean, std, SEED, epochs)
    model = network.to_onnx(weights, mean, std)
    check_against_numpy(model, weights, mean, std, calibration[:20])
    return model, calibration


def check_against_numpy(model, weights, mean, std, windows):
    """The exported graph computes what was trained."""
    here, _ = network.forward(weights, (windows - mean) / std)
    assert np.abs(engine.run(model, windows) - here).max() < 1e-3


def botched(model, x, y):
    """v1's healthy float network, calibrated by someone in a hurry.

    Standing windows only, and one of them begins before the accelerometer's first conversion.
    With ranges by min and max that one sample sets every scale, so that live activations round
    to a handful of levels.
    """
    calibration = data.windows(x[y == data.CLASSES.index("standing")])
    calibration[0, 0, 0] = GLITCH
    return engine.quantise(model, calibration)


def held_out_logits(x, y, augment):
    """int8 logits of each training window by a network that never saw its recording.

    Each window is seen at each of FIELD_GAINS. On clean windows alone hardly a held-out window
    is wrong, and the likelihood is then largest for a temperature of zero, which would call
    every guess certain.
    """
    rng = np.random.default_rng(SEED)
    fold = np.zeros(len(y), int)
    for label in range(len(data.CLASSES)):
        members = rng.permutation(np.flatnonzero(y == label))
        fold[members] = np.arange(len(members)) % FOLDS
    logits, labels = [], []
    for k in range(FOLDS):
        model, calibration = trained(x[fold != k], y[fold != k], augment)
        int8 = engine.quantise(model, calibration)
        for gain in FIELD_GAINS:
            logits.append(engine.run(int8, data.windows(x[fold == k] * np.float32(gain))))
            labels.append(data.window_labels(y[fold == k]))
    return np.concatenate(logits), np.concatenate(labels)


def nll(logits, labels, temperature):
    """Mean negative log-likelihood, in nats."""
    rows = network.log_softmax(logits.astype(np.float64) / temperature)
    return -rows[np.arange(len(labels)), labels].mean()


def best_temperature(logits, labels):
    """Golden-section search on the logarithm of the temperature, between 1/10 and 100."""
    ratio = (math.sqrt(5) - 1) / 2
    low, high = math.log(0.1), math.log(100.0)
    for _ in range(60):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        if nll(logits, labels, math.exp(a)) < nll(logits, labels, math.exp(b)):
            high = b
        else:
            low = a
    best = round(math.exp((low + high) / 2), 2)
    share = (logits.argmax(1) == labels).mean()
    print(f"held out: accuracy {share:.3f}, NLL {nll(logits, labels, 1.0):.4f} at temperature 1, "
          f"{nll(logits, labels, best):.4f} at {best}")
    return best


def one_quantum(model):
    """The most that a logit moves when one requantised feature lands one step beside.

    That is the scale before the last layer times the largest weight of that layer, and one step
    of the logits.
    """
    values = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    dequantise = {n.output[0]: n for n in model.graph.node if n.op_type == "DequantizeLinear"}
    layer, ending, _ = model.graph.node[-3:]
    features, weights = (dequantise[name] for name in layer.input[:2])
    quantised, scale, zero = (values[name].astype(np.float64) for name in weights.input)
    assert not zero.any(), "weights are symmetric"
    # Per channel: one scale a row of [classes, features].
    largest = np.abs(quantised * scale.reshape(-1, 1)).max()
    return float(values[features.input[1]]) * largest + float(values[ending.input[1]])


def golden_windows(x, y):
    """Two windows of each class, one of zeros, and one far beyond the calibrated range."""
    windows, labels = data.windows(x), data.window_labels(y)
    picked = [
        windows[np.flatnonzero(labels == label)[at]]
        for label in range(len(data.CLASSES))
        for at in (0, 31)
    ]
    largest = windows[np.abs(windows).max((1, 2)).argmax()]
    return np.stack([*picked, np.zeros_like(largest), largest * np.float32(4)])


def write_release(out, release, model, golden, outputs, temperature):
    """Model, golden vectors, reference outputs and manifest of one release."""
    tag, counter = release
    raw = model.SerializeToString(deterministic=True)
    (out / f"motion-{tag}.onnx").write_bytes(raw)
    expected = engine.run(raw, golden)
    data.write_npy(out / f"golden-{tag}-input.npy", golden)
    data.write_npy(out / f"golden-{tag}-output.npy", expected)
    data.write_npy(out / f"outputs-{tag}.npy", outputs)
    fused = float(np.abs(engine.run_fused(raw, golden) - expected).max())
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        quantum = one_quantum(model)
        tolerance, reason = math.ceil(quantum * 20) / 20, "one quantum of the last requantisation"
    else:
        quantum, tolerance, reason = 0.0, FLOAT_TOLERANCE, "float sums in another order"
    assert fused <= tolerance
    print(f"{tag}: temperature {temperature}, one quantum {quantum:.4f}, tolerance {tolerance}, "
          f"largest difference of the fused kernels {fused:.1e}")
    (out / f"{tag}.toml").write_text(manifest(tag, counter, temperature, (tolerance, reason)))


def manifest(tag, counter, temperature, golden):
    tolerance, reason = golden
    # Release 1 shows a model under tract; the others become int8 programs by themselves.
    engine = '\nengine = "tract"' if tag == "v1" else ""
    quoted = ", ".join(f'"{name}"' for name in data.FEATURES)
    classes = ", ".join(f'"{name}"' for name in data.CLASSES)
    return f"""name = "motion"
version = "{counter}.0.0"
counter = {counter}
model = "motion-{tag}.onnx"{engine}

[input]
features = [{quoted}]
window = {data.WINDOW}
hop = {data.HOP}
layout = "features-first"    # tensor [1, features, window]
schema_version = 1
period_ms = 100
max_age_ms = 5000

[output]
kind = "logits"
classes = [{classes}]
temperature = {temperature}

[data]
training = "train.csv"
outputs = "outputs-{tag}.npy"

[golden]
input = "golden-{tag}-input.npy"
output = "golden-{tag}-output.npy"
tolerance = {tolerance}             # {reason}, see README.md

[policy]
latency_p99_us = 100_000      # an answer is there before the next sample
"""


def make(out, wheel):
    """Every committed file."""
    out.mkdir(parents=True, exist_ok=True)
    parts = data.read_wheel(wheel)
    rng = np.random.default_rng(SEED)
    sets = {}
    for part in ("TRAIN", "TEST"):
        x, y = parts[part]
        order = rng.permutation(len(x))
        sets[part] = x, y = x[order], y[order]
        data.write_csv(out / f"{part.lower()}.csv", order, x, y)
    x, y = sets["TRAIN"]
    seen = data.windows(x)
    golden = golden_windows(*sets["TEST"])

    float_v1, calibration_v1 = trained(x, y, augment=False)
    float_v2, calibration_v2 = trained(x, y, augment=True)
    v1 = engine.quantise(float_v1, calibration_v1)
    v2 = engine.quantise(float_v2, calibration_v2)
    bad = botched(float_v1, x, y)

    temperature_v1 = best_temperature(*held_out_logits(x, y, augment=False))
    temperature_v2 = best_temperature(*held_out_logits(x, y, augment=True))
    standing = data.windows(x[y == data.CLASSES.index("standing")])[::7][:8]
    # Release 1 before quantisation: what the int8 releases are compared with.
    healthy = engine.run(float_v1, seen)
    write_release(out, ("v1-float", 1), float_v1, golden, healthy, temperature_v1)
    write_release(out, ("v1", 1), v1, golden, engine.run(v1, seen), temperature_v1)
    write_release(out, ("v2", 2), v2, golden, engine.run(v2, seen), temperature_v2)
    # The profile came from the healthy float network; the file that was shipped is another.
    write_release(out, ("bad", 3), bad, standing, healthy, temperature_v1)
    windows, labels = data.windows(sets["TEST"][0]), data.window_labels(sets["TEST"][1])
    share = accuracy(float_v2, windows, labels)
    assert abs(share - accuracy(v2, windows, labels)) <= 0.02
    print(f"v2 float, which is not kept: {share:.3f} on clean test windows")


def accuracy(model, windows, labels):
    return float((engine.run(model, windows).argmax(1) == labels).mean())


def evaluate(folder):
    """Prints the tables of README.md from the files in `folder`, and checks what they promise."""
    x, y = data.read_csv(folder / "test.csv")
    windows, labels = data.windows(x), data.window_labels(y)
    print(f"\naccuracy on {len(labels)} test windows, input times a gain")
    print(f"{'':<12}" + "".join(f"{gain:>8}" for gain in GAINS))
    table = {}
    for name in ("v1-float", "v1", "v2", "bad"):
        model = (folder / f"motion-{name}.onnx").read_bytes()
        table[name] = [accuracy(model, windows * np.float32(gain), labels) for gain in GAINS]
        print(f"{name:<12}" + "".join(f"{share:>8.3f}" for share in table[name]))
    print(f"\nconfusion on clean test windows, rows true, columns {', '.join(data.CLASSES)}")
    for name in ("v1", "v2", "bad"):
        guesses = engine.run((folder / f"motion-{name}.onnx").read_bytes(), windows).argmax(1)
        matrix = np.zeros((4, 4), int)
        np.add.at(matrix, (labels, guesses), 1)
        print(name, *(" ".join(f"{n:3}" for n in row) for row in matrix), sep="\n    ")
    collapse = matrix.sum(0).max() / len(labels)
    print(f"bad: {collapse:.1%} of the test windows get the class "
          f"{data.CLASSES[matrix.sum(0).argmax()]}")
    clean = GAINS.index(1.0)
    assert table["v1-float"][clean] >= 0.95
    assert abs(table["v1"][clean] - table["v1-float"][clean]) <= 0.02
    assert table["v2"][clean] >= table["v1"][clean]
    assert min(table["v2"]) > min(table["v1"]) + 0.2
    assert collapse >= 0.95
    for name in ("v1-float", "v1", "v2", "bad"):
        golden = [np.load(folder / f"golden-{name}-{side}.npy") for side in ("input", "output")]
        model = (folder / f"motion-{name}.onnx").read_bytes()
        assert np.abs(engine.run(model, golden[0]) - golden[1]).max() < 1e-4
        assert np.load(folder / f"outputs-{name}.npy").shape == (240, 4)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to")
    parser.add_argument("--wheel", type=Path, help=f"a wheel of {data.PACKAGE} that is at hand")
    parser.add_argument("--evaluate", action="store_true", help="only print the tables")
    arguments = parser.parse_args()
    if not arguments.evaluate:
        print(f"network: {network.parameters()} parameters, {network.macs()} MACs")
        make(arguments.out, arguments.wheel)
    evaluate(arguments.out)


if __name__ == "__main__":
    main()
