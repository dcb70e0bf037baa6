#!/usr/bin/env python3
"""Holds `sweep import`, `export`, `predict` and `evaluate` to PyTorch, nibabel, SimpleITK and MedPy, from end to end.

    python scripts/check_interop.py [--sweep target/release/sweep] [--large]

Builds networks of full size (scripts/fixtures_nn.py), saves them as SSL4MIS, UniMatch, BCP and guided-diffusion do, makes
volumes of several kinds, runs the program on them, and compares: label maps with the same steps in PyTorch, geometry in
both readers, exported checkpoints with the original bit for bit, metrics with MedPy. `--large` takes the 552.8 M
diffusion model through import and export too (2.2 GB a file). Needs torch, safetensors, nibabel, SimpleITK, h5py, MedPy,
and numpy.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
from collections import OrderedDict
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch
from medpy.metric import binary

sys.path.insert(0, str(Path(__file__).parent))
from fixtures_nn import DiffusionUNet, UNet  # noqa: E402

SIZE = 128
ROOT = Path(__file__).parent.parent


def sweep(*args, code=0):
    done = subprocess.run([str(PROGRAM), *map(str, args)], capture_output=True, text=True)
    assert done.returncode == code, (args, done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def network():
    """A U-Net whose output varies: PyTorch's start, batch norms with statistics of their own, larger last weights."""
    torch.manual_seed(1)
    net = UNet(1, 4).eval()
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.05, 0.2)
            elif name.endswith("running_mean"):
                tensor.normal_(0, 0.1)
        net.decoder.out_conv.weight *= 8
    return net


def checkpoints(net, folder):
    state = net.state_dict()
    wrapped = OrderedDict((f"module.{name}", tensor) for name, tensor in state.items())
    optimiser = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)
    sum(p.sum() for p in net.parameters()).backward()
    before = {name: tensor.clone() for name, tensor in state.items()}
    optimiser.step()  # so that it has momentum buffers
    net.load_state_dict(before)
    state = net.state_dict()
    wrapped = OrderedDict((f"module.{name}", tensor) for name, tensor in state.items())
    forms = {
        "ssl4mis.pth": state,
        "unimatch.pth": {"model": wrapped, "optimizer": optimiser.state_dict(), "epoch": 3, "previous_best": np.float64(88.9)},
        "bcp.pth": {"net": state, "opt": optimiser.state_dict()},
    }
    for name, content in forms.items():
        torch.save(content, folder / name)
    torch.save(state, folder / "old_form.pth", _use_new_zipfile_serialization=False)
    return [*forms, "old_form.pth"]


def volumes(folder):
    """Volumes of several kinds, by name: (slices, rows, columns) or a list of those."""
    random = np.random.default_rng(3)

    def heart(shape):
        z, y, x = np.indices(shape)
        middle = [n / 2 for n in shape]
        r = np.hypot(y - middle[1], x - middle[2]) / min(shape[1:])
        noise = random.normal(0, 30, shape)
        return 300 * np.exp(-60 * (r - 0.15) ** 2) + 200 * (r < 0.1) + 40 * np.sin(z + y / 9) + noise

    affine = np.array([[-1.4, 0.1, 0, 30], [0.1, 1.4, 0, -50], [0, 0, 9, 5], [0, 0, 0, 1.0]])
    affine[:3, 0] *= 1.4 / np.linalg.norm(affine[:3, 0])
    affine[:3, 1] *= 1.4 / np.linalg.norm(affine[:3, 1])
    found = {}

    def nifti(name, frames, dtype, order="<", slope=None):
        data = np.stack(frames, -1) if len(frames) > 1 else frames[0]
        data = np.moveaxis(data, [0, 1, 2], [2, 1, 0]).astype(dtype)
        header = nib.Nifti1Header(endianness=order)
        header.set_data_dtype(dtype)
        header.set_xyzt_units("mm", "sec")
        image = nib.Nifti1Image(data, affine, header)
        raw = bytearray(image.to_bytes())
        if slope:
            raw[112:120] = np.array(slope, order + "f4").tobytes()
        path = folder / name
        if name.endswith(".gz"):
            import gzip
            path.write_bytes(gzip.compress(bytes(raw)))
        else:
            path.write_bytes(bytes(raw))
        read = nib.load(path).get_fdata()
        read = read if read.ndim == 4 else read[..., None]
        found[path.name.split(".")[0]] = [np.moveaxis(read[..., t], [0, 1, 2], [2, 1, 0]) for t in range(read.shape[3])]

    nifti("short.nii.gz", [heart((5, 120, 96))], np.int16)
    nifti("scaled.nii", [heart((4, 97, 131))], np.int16, slope=(0.5, -7))
    nifti("double_big_endian.nii.gz", [heart((3, 128, 128))], np.float64, order=">")
    nifti("series.nii.gz", [heart((3, 80, 100)), 3 * heart((3, 80, 100))], np.float32)
    slices = heart((6, 110, 90))
    with h5py.File(folder / "ssl4mis_form.h5", "w") as file:
        low, high = slices.min(), slices.max()
        file.create_dataset("image", data=((slices - low) / (high - low)).astype(np.float32), compression="gzip")
        found["ssl4mis_form"] = [file["image"][:].astype(np.float64)]
    return found


def zoom(image, rows, columns):
    """Order 0, corners aligned, as scipy.ndimage.zoom has it (without its lost last row)."""
    def places(to, size):
        if to == 1:
            return np.zeros(1, int)
        return np.floor(np.arange(to) * (size - 1) / (to - 1) + 0.5).astype(int)
    return image[..., places(rows, image.shape[-2]), :][..., places(columns, image.shape[-1])]


@torch.no_grad()
def predict(net, volume):
    volume = ((volume - volume.min()) / (volume.max() - volume.min())).astype(np.float32)
    small = torch.from_numpy(zoom(volume, SIZE, SIZE)[:, None])
    labels = net(small).argmax(1).numpy().astype(np.uint8)
    return zoom(labels, *volume.shape[1:])


def read_labels(path):
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            return [file["label"][:]]
    data = np.asanyarray(nib.load(path).dataobj)
    data = data if data.ndim == 4 else data[..., None]
    return [np.moveaxis(data[..., t], [0, 1, 2], [2, 1, 0]) for t in range(data.shape[3])]


def check_geometry(one, other):
    a, b = nib.load(one), nib.load(other)
    assert np.array_equal(a.affine, b.affine) and a.header.get_zooms() == b.header.get_zooms(), other
    assert a.shape == b.shape and b.get_data_dtype() == np.uint8, other
    a, b = sitk.ReadImage(str(one)), sitk.ReadImage(str(other))
    for what in ("GetSpacing", "GetOrigin", "GetDirection", "GetSize"):
        assert getattr(a, what)() == getattr(b, what)(), (what, other)


def same_states(path, state):
    found = torch.load(path, weights_only=True)
    assert set(found) == set(state), set(found) ^ set(state)
    for name, tensor in state.items():
        assert name.endswith("num_batches_tracked") or torch.equal(found[name], tensor), name
    return found


def segmentation(folder):
    net = network()
    originals = folder / "images"
    originals.mkdir()
    images = volumes(originals)
    for name in checkpoints(net, folder):
        ours, back = folder / f"{name}.safetensors", folder / f"back_{name}"
        sweep("import", folder / name, ours, "--size", SIZE)
        sweep("export", "--weights", ours, back)
        state = same_states(back, net.state_dict())
        again = UNet(1, 4).eval()
        again.load_state_dict(state)
        x = torch.rand(1, 1, SIZE, SIZE)
        with torch.no_grad():
            assert torch.equal(again(x), net(x)), name
        print(f"{name}: imported, exported, equal bit for bit")
    out = folder / "predictions"
    print(sweep("predict", "--weights", folder / "unimatch.pth.safetensors", "--input", originals, "--output", out).strip())
    total = differ = 0
    for name, frames in images.items():
        path = next(p for p in out.iterdir() if p.name.split(".")[0] == name)
        labels = read_labels(path)
        assert len(labels) == len(frames), name
        for frame, found in zip(frames, labels):
            wanted = predict(net, frame)
            assert found.shape == wanted.shape and len(np.unique(wanted)) > 1, (name, np.unique(wanted))
            total, differ = total + wanted.size, differ + int((found != wanted).sum())
        if path.suffix != ".h5":
            check_geometry(next(p for p in originals.iterdir() if p.name.split(".")[0] == name), path)
    print(f"label maps: {differ} of {total} voxels differ from PyTorch's; geometry equal in nibabel and SimpleITK")
    assert differ <= total * 1e-4
    return out, images


def metrics(folder, out, images):
    truth = folder / "truth"
    truth.mkdir()
    random = np.random.default_rng(5)
    pairs = {}  # concentric classes, and the same moved and with holes
    for name in images:
        path = next(p for p in out.iterdir() if p.name.split(".")[0] == name)
        if path.suffix == ".h5" or name == "series":
            path.unlink()
            continue
        image = nib.load(path)
        x, y, _ = np.indices(image.shape)
        r = np.hypot(x - image.shape[0] / 2, y - image.shape[1] / 2) / min(image.shape[:2])
        data = np.select([r < 0.12, r < 0.18, (r < 0.4) & (x < image.shape[0] / 2.5)], [3, 2, 1], 0).astype(np.uint8)
        nib.save(nib.Nifti1Image(data, image.affine, image.header), path)
        other = np.roll(data, 2, 0)
        other[random.random(other.shape) < 0.01] = 0
        nib.save(nib.Nifti1Image(other, image.affine, image.header), truth / f"{name}_gt.nii.gz")
        pairs[name] = (data, other, image.header.get_zooms()[:3])
    sweep("evaluate", "--pred", out, "--label", truth, "--output", folder / "scores")
    worst = 0.0
    rows = list(csv.DictReader(open(folder / "scores" / "cases.csv")))
    for row in rows:
        pred, true, zooms = pairs[row["case"]]
        p, t = pred == int(row["label"]), true == int(row["label"])
        if not p.any() or not t.any():
            continue
        wanted = {"dice": binary.dc(p, t), "jaccard": binary.jc(p, t), "hd95": binary.hd95(p, t), "asd": binary.asd(p, t),
                  "hd95_mm": binary.hd95(p, t, zooms), "asd_mm": binary.asd(p, t, zooms)}
        for what, value in wanted.items():
            worst = max(worst, abs(float(row[what]) - value) / max(1.0, abs(value)))
    print(f"evaluate: {len(rows)} rows, worst difference from MedPy {worst:.1e}")
    assert rows and worst < 1e-6


def diffusion(folder, channels):
    torch.manual_seed(2)
    net = DiffusionUNet(channels, (1, 1, 2, 2, 4, 4), 2, (8, 16, 32), 64)
    path, ours, back = folder / "ema.pt", folder / "ema.safetensors", folder / "ema_back.pt"
    torch.save(net.state_dict(), path)
    print(sweep("import", path, ours).splitlines()[0])
    sweep("export", "--weights", ours, back)
    same_states(back, net.state_dict())
    print(f"diffusion model of {channels} channels: imported, exported, equal bit for bit")
    for file in (path, ours, back):
        file.unlink()


def refused(folder):
    class Runs:
        def __reduce__(self):
            return print, ("code of a checkpoint ran",)

    torch.save({"state_dict": UNet(1, 4).state_dict(), "hook": Runs()}, folder / "evil.pth")
    said = sweep("import", folder / "evil.pth", folder / "evil.safetensors", code=2)
    assert ".print`" in said and "evil.pth" in said and not (folder / "evil.safetensors").exists(), said
    print("a pickle with code in it: refused")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--sweep", type=Path, default=ROOT / "target" / "release" / "sweep")
    parser.add_argument("--large", action="store_true")
    args = parser.parse_args()
    PROGRAM = args.sweep.resolve()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        metrics(scratch, *segmentation(scratch))
        diffusion(scratch, 64)
        if args.large:
            diffusion(scratch, 256)
        refused(scratch)
