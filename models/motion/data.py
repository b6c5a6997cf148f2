"""BasicMotions: reading the recordings, cutting windows, writing CSV and NPY files."""

import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

PACKAGE = "aeon==1.6.0"
FOLDER = "aeon/datasets/data/BasicMotions/"
SHA256 = {
    "TRAIN": "8dc43cc6306cb679c888c01e26f91772ac4441a916da43bac8b79734a538b9d6",
    "TEST": "79213102bc6fca1a398ad98ce1185dff0208fa3d1465e687f48288946b0ff8dc",
}
FEATURES = ("ax", "ay", "az", "gx", "gy", "gz")
CLASSES = ("standing", "running", "walking", "badminton")
RECORDINGS, STEPS = 40, 100
WINDOW, HOP = 50, 10


def fetch_wheel(folder):
    """Downloads the package that carries the data set. It is only unzipped, never installed."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
    subprocess.run([*command, "--no-deps", "-d", folder, PACKAGE], check=True)
    return next(Path(folder).glob("aeon-*.whl"))


def read_wheel(path=None):
    """`{"TRAIN": (x, y), "TEST": (x, y)}` with x f32 [40, 6, 100] and y the class indices."""
    with tempfile.TemporaryDirectory() as folder:
        archive = zipfile.ZipFile(path or fetch_wheel(folder))
        return {part: _read_part(archive, part) for part in SHA256}


def _read_part(archive, part):
    raw = archive.read(f"{FOLDER}BasicMotions_{part}.ts")
    if hashlib.sha256(raw).hexdigest() != SHA256[part]:
        raise SystemExit(f"BasicMotions_{part}.ts is not the file that these models were made from")
    recordings, labels = [], []
    for line in raw.decode("ascii").splitlines():
        if not line.strip() or line[0] in "#@":
            continue
        *channels, label = line.strip().split(":")
        recordings.append([[float(value) for value in channel.split(",")] for channel in channels])
        labels.append(CLASSES.index(label.lower()))
    x = np.array(recordings, np.float32)
    assert x.shape == (RECORDINGS, len(FEATURES), STEPS)
    return x, np.array(labels)


def windows(x, hop=HOP):
    """Windows of WINDOW steps inside each recording, never across two: [n, 6, WINDOW]."""
    starts = range(0, x.shape[2] - WINDOW + 1, hop)
    return np.stack([one[:, at : at + WINDOW] for one in x for at in starts])


def window_labels(y, hop=HOP):
    return np.repeat(y, len(range(0, STEPS - WINDOW + 1, hop)))


def write_csv(path, ids, x, y):
    """A row a sample, recording after recording. `ids` are the places in the data set's file."""
    out = io.StringIO()
    out.write("recording,label," + ",".join(FEATURES) + "\n")
    for recording, samples, label in zip(ids, x, y):
        for sample in samples.T:
            out.write(f"{recording},{CLASSES[label]},{','.join(map(_short, sample))}\n")
    Path(path).write_text(out.getvalue(), encoding="ascii", newline="\n")


def _short(value):
    """The shortest decimal that reads back as the same f32."""
    text = np.format_float_positional(value, unique=True, trim="-")
    assert np.float32(text) == value
    return text


def read_csv(path):
    """What `write_csv` wrote."""
    lines = Path(path).read_text(encoding="ascii").splitlines()[1:]
    rows = [line.split(",") for line in lines]
    x = np.array([row[2:] for row in rows], np.float32).reshape(-1, STEPS, len(FEATURES))
    y = np.array([CLASSES.index(row[1]) for row in rows[::STEPS]])
    return np.ascontiguousarray(x.transpose(0, 2, 1)), y


def write_npy(path, array):
    """NPY format 1.0, little-endian f32, C order."""
    with open(path, "wb") as file:
        array = np.ascontiguousarray(array, "<f4")
        np.lib.format.write_array(file, array, version=(1, 0), allow_pickle=False)
