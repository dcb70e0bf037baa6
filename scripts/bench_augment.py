#!/usr/bin/env python3
"""Times the augmentation of one unlabelled sample with two strong views: the reference's libraries, and ours in turn.

The reference loaders (SSL4MIS, UniMatch's ACDC variant) turn, flip or rotate the slice with NumPy and SciPy, zoom it with
SciPy (order 0), and jitter and blur two copies with torchvision and Pillow; written here from that description. They
do the same to the label, which an unlabelled sample does not need: both times are shown. Reading the file is left out.
Ours is `sweep bench augment`. Both run on one thread. Needs torch, torchvision, SciPy and Pillow, and the program
(`cargo build --release`).

    python scripts/bench_augment.py [--sweep PROGRAM] [--samples N] [--rounds N] [--json]
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from scipy import ndimage
from torchvision import transforms

ROOT = Path(__file__).resolve().parent.parent
HEIGHT, WIDTH, SIDE = 216, 256, 256


def weak(planes):
    """The same turn with a flip, rotation or nothing for all planes, then the zoom."""
    if random.random() < 0.5:
        turns, axis = random.randrange(4), random.randrange(2)
        planes = [np.flip(np.rot90(plane, turns), axis=axis).copy() for plane in planes]
    elif random.random() < 0.5:
        angle = random.randrange(-20, 20)
        planes = [ndimage.rotate(plane, angle, order=0, reshape=False) for plane in planes]
    zoom = lambda plane: ndimage.zoom(plane, (SIDE / plane.shape[0], SIDE / plane.shape[1]), order=0)
    return [zoom(plane) for plane in planes]


JITTER = transforms.ColorJitter(0.5, 0.5, 0.5, 0.25)


def strong(image):
    if random.random() < 0.8:
        image = JITTER(image)
    if random.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(radius=np.random.uniform(0.1, 2.0)))
    return image


def tensor(image):
    return torch.from_numpy(np.array(image)).unsqueeze(0).float() / 255.0


def box():
    """The mask of a CutMix box."""
    mask = torch.zeros(SIDE, SIDE)
    if random.random() > 0.5:
        return mask
    area = np.random.uniform(0.02, 0.4) * SIDE * SIDE
    while True:
        ratio = np.random.uniform(0.3, 1 / 0.3)
        width, height = int(np.sqrt(area / ratio)), int(np.sqrt(area * ratio))
        x, y = np.random.randint(0, SIDE), np.random.randint(0, SIDE)
        if x + width <= SIDE and y + height <= SIDE:
            mask[y : y + height, x : x + width] = 1
            return mask


def sample(planes):
    image = Image.fromarray((weak(planes)[0] * 255).astype(np.uint8))
    views = [strong(image.copy()) for _ in range(2)]
    return tensor(image), [tensor(view) for view in views], [box() for _ in range(2)]


def theirs(planes, samples):
    """Seconds per sample."""
    start = time.perf_counter()
    for _ in range(samples):
        sample(planes)
    return (time.perf_counter() - start) / samples


def ours(program, seconds):
    command = [program, "bench", "augment", "--size", str(SIDE), "--threads", "1", "--seconds", str(seconds), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)["cases"][0]["median"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--sweep", default=str(target / "release" / "sweep"), help="the program")
    parser.add_argument("--samples", type=int, default=200, help="samples of the reference in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    np.random.seed(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    noise = 0.1 * (np.random.rand(HEIGHT, WIDTH) - 0.5)
    image = (0.5 + 0.2 * np.sin(y / 17) + 0.2 * np.sin(x / 23) + noise).astype(np.float32)
    label = ((y // 60) % 4).astype(np.uint8)
    theirs([image], 20)
    rounds = [
        (theirs([image], args.samples), theirs([image, label], args.samples), ours(args.sweep, 1)) for _ in range(args.rounds)
    ]
    reference, with_label, own = (statistics.median(times) for times in zip(*rounds))
    found = {
        "reference": reference, "reference_with_label": with_label, "ours": own,
        "ratio": own / reference, "ratio_with_label": own / with_label,
    }
    if args.json:
        print(json.dumps(found))
        return
    print(f"one unlabelled {HEIGHT}x{WIDTH} slice, two strong views at {SIDE}x{SIDE}, one thread; medians of {args.rounds} rounds")
    print(f"SciPy, Pillow, torchvision  {reference * 1e3:7.3f} ms   {with_label * 1e3:7.3f} ms with its label")
    print(f"ours                        {own * 1e3:7.3f} ms   1/{reference / own:.1f}, 1/{with_label / own:.1f}")


if __name__ == "__main__":
    main()
