"""Writes tests/fixtures/metrics/medpy.json: generated label maps and what MedPy says of them.

    python scripts/fixtures_metrics.py               # rewrites the fixture (needs numpy, scipy, medpy==0.5.2)
    python scripts/fixtures_metrics.py --time        # times MedPy and the program on one volume, in turn
    python scripts/fixtures_metrics.py --time FILE   # on the labels of an ACDC volume (HDF5, needs h5py)

Every mask of the fixture is drawn here from a seed; nothing comes from a data set. Label maps are run-length coded
[value, count, value, count, ...] in z, y, x order. Maps of one image ("flat") are given to MedPy in two dimensions.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from medpy.metric import binary
from scipy import ndimage

ROOT = Path(__file__).parent.parent
OUT = ROOT / "tests" / "fixtures" / "metrics" / "medpy.json"
SPACINGS = [[1.0, 1.0, 1.0], [10.0, 1.5625, 1.5625], [5.0, 1.25, 0.7]]


def heart(rng, shape, shift=0.0, rough=0.0):
    """Blood pool, muscle ring and crescent, of labels 3, 2, 1, with a smooth random boundary."""
    z, y, x = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), (0.5, 2, 2))
    noise *= rough / max(noise.std(), 1e-9)
    cy, cx = shape[1] * 0.5 + shift, shape[2] * 0.55 - shift
    scale = min(shape[1:]) / 32 * (1 - 0.35 * np.abs(z / max(shape[0] - 1, 1) - 0.4))
    r = np.hypot(y - cy, x - cx) / scale + noise
    crescent = np.hypot(y - cy, x - cx + 9 * scale) / scale + noise
    label = np.zeros(shape, np.uint8)
    label[crescent < 8.5] = 1
    label[r < 8] = 2
    label[r < 5] = 3
    return label


def blobs(rng, shape, density):
    """Independent voxels: many small components, borders everywhere."""
    return (rng.random(shape) < density).astype(np.uint8) * rng.integers(1, 4, shape).astype(np.uint8)


def boxes(rng, shape):
    """Boxes that touch the edges of the volume."""
    label = np.zeros(shape, np.uint8)
    for value in (1, 2, 3):
        low = [rng.integers(0, n) for n in shape]
        high = [rng.integers(a + 1, n + 1) for a, n in zip(low, shape)]
        label[tuple(slice(a, b) for a, b in zip(low, high))] = value
    return label


def pairs():
    rng = np.random.default_rng(20240611)
    for i in range(12):
        shape = (int(rng.integers(4, 9)), int(rng.integers(28, 44)), int(rng.integers(28, 44)))
        yield heart(rng, shape, rng.normal() * 2, 0.8), heart(rng, shape)
    for i in range(40):
        shape = tuple(int(n) for n in rng.integers(1, 9, 3))
        yield blobs(rng, shape, rng.choice([0.05, 0.3, 0.8])), blobs(rng, shape, rng.choice([0.05, 0.3, 0.8]))
    for i in range(60):
        shape = tuple(int(n) for n in rng.integers(1, 14, 3))
        yield boxes(rng, shape), boxes(rng, shape)
    shape = (3, 10, 10)
    yield np.zeros(shape, np.uint8), boxes(rng, shape)
    yield boxes(rng, shape), np.zeros(shape, np.uint8)
    yield np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    yield np.full(shape, 2, np.uint8), np.full(shape, 2, np.uint8)


def flat_pairs():
    """Images: pairs in two dimensions."""
    rng = np.random.default_rng(20250302)
    for i in range(16):
        shape = (1, int(rng.integers(28, 44)), int(rng.integers(28, 44)))
        yield heart(rng, shape, rng.normal() * 2, 0.8), heart(rng, shape)
    for i in range(40):
        shape = (1, *(int(n) for n in rng.integers(1, 16, 2)))
        yield blobs(rng, shape, rng.choice([0.05, 0.3, 0.8])), blobs(rng, shape, rng.choice([0.05, 0.3, 0.8]))
    for i in range(40):
        shape = (1, *(int(n) for n in rng.integers(1, 20, 2)))
        yield boxes(rng, shape), boxes(rng, shape)
    yield np.zeros((1, 9, 9), np.uint8), boxes(rng, (1, 9, 9))


def runs(label):
    flat = label.ravel()
    starts = np.flatnonzero(np.r_[True, flat[1:] != flat[:-1]])
    counts = np.diff(np.r_[starts, flat.size])
    return [int(n) for pair in zip(flat[starts], counts) for n in pair]


def medpy(pred, label, spacing):
    """[dice, jaccard, hd95, asd, larger directed hd95, assd]; null where MedPy raises (an empty mask) or divides by 0."""
    if not pred.any() and not label.any():
        return None
    overlap = [float(binary.dc(pred, label)), float(binary.jc(pred, label))]
    if not pred.any() or not label.any():
        return overlap + [None] * 4
    directed = [getattr(binary, "__surface_distances")(*masks, spacing) for masks in ((pred, label), (label, pred))]
    distances = [
        binary.hd95(pred, label, spacing),
        binary.asd(pred, label, spacing),
        max(np.percentile(one, 95) for one in directed),
        binary.assd(pred, label, spacing),
    ]
    return overlap + [float(d) for d in distances]


def fixture():
    cases, masks = [], 0
    every = [(pair, False) for pair in pairs()] + [(pair, True) for pair in flat_pairs()]
    for i, ((pred, label), flat) in enumerate(every):
        spacing = SPACINGS[i % len(SPACINGS)]
        if flat:
            metrics = [medpy(pred[0] == k, label[0] == k, spacing[1:]) for k in (1, 2, 3)]
        else:
            metrics = [medpy(pred == k, label == k, spacing) for k in (1, 2, 3)]
        masks += 3
        cases.append(
            {
                "shape": pred.shape,
                "flat": flat,
                "spacing": spacing,
                "pred": runs(pred),
                "label": runs(label),
                "medpy": metrics,
            }
        )
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text("[\n" + ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases) + "\n]\n")
    print(f"{len(cases)} pairs of label maps, {masks} pairs of masks, {OUT.stat().st_size} bytes")


def rings():
    """A pair of the size of an ACDC volume."""
    z, y, x = np.meshgrid(np.arange(10), np.arange(256), np.arange(216), indexing="ij")

    def one(cy, cx):
        r = np.hypot(y - cy, x - cx) + z
        label = np.zeros(r.shape, np.uint8)
        label[np.hypot(y - cy, x - cx + 38) + z < 36] = 1
        label[r < 40] = 2
        label[r < 26] = 3
        return label

    return one(124.0, 112.0), one(120.0, 110.0)


def moved(path):
    """The labels of a volume, and the same moved and rotated a little: a prediction as good as a trained network's."""
    import h5py

    with h5py.File(path) as file:
        label = file["label"][:].astype(np.uint8)
    pred = ndimage.rotate(label, 4, axes=(1, 2), reshape=False, order=0)
    return np.roll(pred, (2, -1), axis=(1, 2)), label


def timing(pred, label, rounds=5):
    """95HD, ASD and overlap of three classes: both programs in turn, in this run."""

    def theirs():
        start = time.perf_counter()
        found = []
        for k in (1, 2, 3):
            p, g = pred == k, label == k
            found.append((binary.dc(p, g), binary.jc(p, g), binary.hd95(p, g), binary.asd(p, g)))
        return time.perf_counter() - start, found

    with tempfile.TemporaryDirectory() as folder:
        np.concatenate([pred.ravel(), label.ravel()]).tofile(Path(folder) / "maps")
        env = os.environ | {"SWEEP_METRICS_PAIR": f"{folder}/maps", "SWEEP_METRICS_SHAPE": str(pred.shape)}
        command = "cargo test --release --locked --lib metrics::tests::time_given_volume -- --ignored --nocapture".split()
        times = []
        for _ in range(rounds):
            seconds, found = theirs()
            out = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout
            ours = float(re.search(r"([0-9.e-]+) s for three classes", out)[1])
            numbers = np.array(json.loads(re.search(r"metrics (\[.*\])", out)[1]))
            times.append((ours, seconds))
            assert np.abs(numbers - np.array(found)).max() < 1e-9, (numbers, found)
    ours, seconds = np.median(np.array(times), axis=0)
    print(f"shape {pred.shape}: {1e3 * ours:.2f} ms against MedPy's {1e3 * seconds:.1f} ms, 1/{seconds / ours:.1f}")


if __name__ == "__main__":
    if "--time" in sys.argv:
        timing(*(moved(sys.argv[-1]) if sys.argv[-1] != "--time" else rings()))
    else:
        fixture()
