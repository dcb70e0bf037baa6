"""Writes tests/fixtures/metrics/medpy.json: generated label maps and what MedPy says of them.

    python scripts/fixtures_metrics.py          # rewrites the fixture (needs numpy, scipy, medpy==0.5.2)
    python scripts/fixtures_metrics.py --time   # MedPy's seconds for the large pair of the timing test

Every mask is drawn here from a seed; nothing comes from a data set. Label maps are run-length coded
[value, count, value, count, ...] in z, y, x order.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from medpy.metric import binary
from scipy import ndimage

OUT = Path(__file__).parent.parent / "tests" / "fixtures" / "metrics" / "medpy.json"
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


def runs(label):
    flat = label.ravel()
    starts = np.flatnonzero(np.r_[True, flat[1:] != flat[:-1]])
    counts = np.diff(np.r_[starts, flat.size])
    return [int(n) for pair in zip(flat[starts], counts) for n in pair]


def medpy(pred, label, spacing):
    """[dice, jaccard, hd95, asd]; null where MedPy raises (an empty mask) or divides by zero."""
    if not pred.any() and not label.any():
        return None
    overlap = [float(binary.dc(pred, label)), float(binary.jc(pred, label))]
    if not pred.any() or not label.any():
        return overlap + [None, None]
    distances = [binary.hd95(pred, label, spacing), binary.asd(pred, label, spacing)]
    return overlap + [float(d) for d in distances]


def fixture():
    cases = []
    for i, (pred, label) in enumerate(pairs()):
        spacing = SPACINGS[i % len(SPACINGS)]
        metrics = [medpy(pred == k, label == k, spacing) for k in (1, 2, 3)]
        cases.append(
            {"shape": pred.shape, "spacing": spacing, "pred": runs(pred), "label": runs(label), "medpy": metrics}
        )
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text("[\n" + ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases) + "\n]\n")
    print(f"{len(cases)} pairs of label maps, {OUT.stat().st_size} bytes")


def timing():
    """The pair of the Rust test `time_one_volume`: both sides draw it by the same formula."""
    z, y, x = np.meshgrid(np.arange(10), np.arange(256), np.arange(216), indexing="ij")

    def rings(cy, cx):
        r = np.hypot(y - cy, x - cx) + z
        label = np.zeros(r.shape, np.uint8)
        label[np.hypot(y - cy, x - cx + 38) + z < 36] = 1
        label[r < 40] = 2
        label[r < 26] = 3
        return label

    pred, label = rings(124.0, 112.0), rings(120.0, 110.0)
    start = time.perf_counter()
    for k in (1, 2, 3):
        p, g = pred == k, label == k
        print(k, binary.dc(p, g), binary.jc(p, g), binary.hd95(p, g), binary.asd(p, g))
    print(f"MedPy: {time.perf_counter() - start:.3f} s for three classes")


if __name__ == "__main__":
    timing() if "--time" in sys.argv else fixture()
