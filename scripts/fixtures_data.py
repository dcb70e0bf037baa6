"""Small HDF5 files as h5py writes them, for the tests of the reader (generated numbers, no image of anybody).

    python scripts/fixtures_data.py        # writes tests/fixtures/data/*.h5
"""

from pathlib import Path

import h5py
import numpy as np

OUT = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "data"


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    shape = (3, 6, 5)
    image = np.arange(90).reshape(shape) / 89
    label = (np.arange(90).reshape(shape) % 4).astype(np.uint8)
    for name, options in {
        "earliest": {"libver": "earliest"},  # as the files of SSL4MIS: superblock 0, B-tree 1
        "v110": {"libver": ("v108", "v110")},
    }.items():
        for form, arguments in {
            "gzip": {"compression": "gzip", "chunks": (1, 6, 5)},
            "plain": {},
        }.items():
            with h5py.File(OUT / f"{name}_{form}.h5", "w", **options) as file:
                dtype = np.float64 if form == "gzip" else np.float32
                file.create_dataset("image", data=image.astype(dtype), **arguments)
                file.create_dataset("label", data=label, **arguments)
    # A thousand million voxels in a kilobyte: chunks that were never written.
    with h5py.File(OUT / "claims.h5", "w", libver="earliest") as file:
        file.create_dataset("image", (1000, 1000, 1000), np.float32, chunks=(1, 1000, 1000), compression="gzip")


if __name__ == "__main__":
    main()
