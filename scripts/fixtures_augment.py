"""Writes tests/fixtures/augment.json: what SciPy and NumPy make of small images under the weak augmentation.

Pixels are 1, 2, 3, ... (modulo 251), so that a 0 in a result is a pixel from outside. Run from the repository's root
with NumPy and SciPy: python scripts/fixtures_augment.py
"""

import json

import numpy as np
import scipy
from scipy import ndimage

SIZES = [(5, 5), (7, 9), (12, 8), (13, 17), (16, 11), (20, 20)]
SIDES = [8, 16, 21]
# SciPy's last coordinate rounds past the edge in these, and its last row is 0.
EDGES = [((24, 6), (22, 6)), ((15, 6), (26, 9)), ((8, 7), (26, 7)), ((28, 5), (22, 8))]
ANGLES = [-20, -13, -7, -1, 0, 1, 5, 11, 19]


def image(height, width):
    """Distinct non-zero pixels."""
    return (np.arange(height * width) % 251 + 1).astype(np.uint8).reshape(height, width)


def zoom(source, height, width):
    """The resize of SSL4MIS dataloaders/dataset.py."""
    factors = (height / source.shape[0], width / source.shape[1])
    return ndimage.zoom(source, factors, order=0)


def flat(array):
    return {"shape": list(array.shape), "pixels": array.ravel().tolist()}


def main():
    zooms, rotations, flips = [], [], []
    for size in SIZES:
        source = image(*size)
        targets = [(side, side) for side in SIDES] + [other for other in SIZES if other != size]
        for target in targets:
            zooms.append({"from": size, "to": flat(zoom(source, *target))})
        for angle in ANGLES:
            rotated = ndimage.rotate(source, angle, order=0, reshape=False)
            rotations.append({"from": size, "degrees": angle, "to": flat(rotated)})
        if size[0] <= 13:
            for turns in range(4):
                for axis in range(2):
                    flipped = np.flip(np.rot90(source, turns), axis=axis)
                    flips.append({"from": size, "turns": turns, "axis": axis, "to": flat(flipped)})
    for size, target in EDGES:
        zooms.append({"from": size, "to": flat(zoom(image(*size), *target))})
    made_with = f"SciPy {scipy.__version__}, NumPy {np.__version__}"
    text = {"made_with": made_with, "zooms": zooms, "rotations": rotations, "flips": flips}
    with open("tests/fixtures/augment.json", "w", encoding="utf-8") as file:
        json.dump(text, file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
