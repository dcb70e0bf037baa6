#!/usr/bin/env python3
"""Writes tests/fixtures/nifti/: small volumes of every kind that nibabel writes, and what nibabel reads from them.

    python scripts/fixtures_nifti.py            write the files and expected.json
    python scripts/fixtures_nifti.py --check    open tests/fixtures/nifti/written*.nii*, which the tests hold our writer
                                                to, with nibabel and SimpleITK

`expected.json` has, for each file, what nibabel makes of it (size, spacing, voxels as float32 in the file's order), or
a part of the error that we are to give instead. Where SimpleITK reads something else, the difference is printed; which
of the two is right is decided in src/data/nifti.rs. Needs nibabel, numpy and SimpleITK.
"""

import gzip
import io
import json
import struct
import sys
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

FOLDER = Path(__file__).parent.parent / "tests" / "fixtures" / "nifti"
SHAPE = (4, 3, 2)
AFFINE = np.array([[-1.5, 0, 0, 10], [0, 1.25, 0, -20], [0, 0, 8, 5], [0, 0, 0, 1]])
TYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]


def numbers(dtype, shape=SHAPE):
    """Values that use the range of `dtype`, and for real numbers fractions."""
    random = np.random.default_rng(7)
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return (100 * random.standard_normal(shape)).astype(dtype)
    low, high = max(np.iinfo(dtype).min, -(2**20)), min(np.iinfo(dtype).max, 2**20)
    return random.integers(low, high, size=shape, endpoint=True).astype(dtype)


def image(data, order="<", kind=nib.Nifti1Image):
    header = kind.header_class(endianness=order)
    header.set_data_dtype(data.dtype)
    return kind(data, AFFINE, header, dtype=data.dtype)


def content(made):
    return bytearray(made.to_bytes())


def put(raw, at, form, *values):
    struct.pack_into(form, raw, at, *values)
    return raw


def files():
    """Name → (bytes, part of the error, or none where the file is read)."""
    made = {}
    for dtype in TYPES:
        for order, ending in [("<", "le"), (">", "be")]:
            made[f"{dtype}_{ending}.nii"] = content(image(numbers(dtype), order)), None
    plain = content(image(numbers("i2")))
    made["gzip.nii.gz"] = gzip.compress(plain, mtime=0), None
    made["gzip_two_members.nii.gz"] = gzip.compress(plain[:360], mtime=0) + gzip.compress(plain[360:], mtime=0), None
    made["gzip_without_its_name.nii"] = gzip.compress(plain, mtime=0), None
    for name, slope, inter in [
        ("slope", 0.5, -3.25), ("slope_nan", np.nan, np.nan), ("slope_zero", 0, 7), ("slope_infinite", np.inf, 0),
        ("slope_negative", -2, 100), ("slope_one_inter", 1, 7),
    ]:
        made[f"{name}.nii"] = put(content(image(numbers("i2"))), 112, "<ff", slope, inter), None
    made["slope_of_floats.nii"] = put(content(image(numbers("f4"))), 112, "<ff", 0.1, 0.7), None
    made["four_axes.nii"] = content(image(numbers("u1", (3, 2, 2, 3)))), None
    made["trailing_one.nii"] = content(image(numbers("u1", (3, 2, 2, 1)))), None
    made["one_slice.nii"] = content(image(numbers("u1", (3, 2, 1)))), None
    made["two_axes.nii"] = content(image(numbers("u1", (3, 2)))), None
    made["far_voxels.nii"] = put(plain[:352] + bytes(range(48)) + plain[352:], 108, "<f", 400), None
    extended = image(numbers("i2"))
    extended.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"a comment of some length"))
    made["extension.nii"] = content(extended), None
    made["micrometres.nii"] = put(bytearray(plain), 123, "B", 3), None
    made["spacing_odd.nii"] = put(bytearray(plain), 80, "<fff", -1.5, 0.0, 8.0), None
    made["big_units.nii.gz"] = gzip.compress(put(content(image(numbers("f8"), ">")), 123, "B", 1), mtime=0), None
    pair = image(numbers("i2"), kind=nib.Nifti1Pair)
    holders = {key: nib.FileHolder(fileobj=io.BytesIO()) for key in ("header", "image")}
    pair.to_file_map(holders)
    made["pair.hdr"] = holders["header"].fileobj.getvalue(), None
    made["pair.img"] = holders["image"].fileobj.getvalue(), None
    sheared = AFFINE.copy()
    sheared[0, 1] = 0.4
    made["sheared.nii"] = content(nib.Nifti1Image(numbers("u1"), sheared)), None

    made["nifti2.nii"] = content(image(numbers("i2"), kind=nib.Nifti2Image)), "NIfTI-2"
    made["nifti2_be.nii"] = content(image(numbers("i2"), ">", kind=nib.Nifti2Image)), "NIfTI-2"
    made["analyze.nii"] = put(bytearray(plain), 344, "4s", b"\0\0\0\0"), "ANALYZE"
    made["complex.nii"] = put(bytearray(plain), 70, "<h", 32), "type 32 (complex numbers)"
    made["colours.nii"] = put(bytearray(plain), 70, "<h", 128), "type 128 (colours)"
    made["cut.nii"] = plain[:-1], "cut short"
    made["cut.nii.gz"] = gzip.compress(plain, mtime=0)[:-12], "ends inside"
    made["cut_header.nii"] = plain[:200], "ends inside its header"
    made["checksum.nii.gz"] = bytes(gzip.compress(plain, mtime=0)[:-8]) + b"\1\2\3\4" + struct.pack("<I", len(plain)), "compression is damaged"
    made["empty.nii"] = b"", "ends inside its header"
    made["text.nii"] = b"not a volume " * 40, "no NIfTI-1 file"
    made["billion.nii"] = put(bytearray(plain), 40, "<8h", 3, 1000, 1000, 1000, 1, 1, 1, 1), "1000×1000×1000"
    made["larger_than_file.nii"] = put(bytearray(plain), 40, "<8h", 3, 400, 300, 20, 1, 1, 1, 1), "cut short"
    made["bomb.nii.gz"] = gzip.compress(put(bytearray(plain), 40, "<8h", 3, 400, 300, 20, 1, 1, 1, 1), mtime=0), "cut short"
    made["negative_size.nii"] = put(bytearray(plain), 42, "<h", -4), "-4 voxels along axis 1"
    made["no_size.nii"] = put(bytearray(plain), 44, "<h", 0), "0 voxels along axis 2"
    made["five_axes.nii"] = put(bytearray(plain), 40, "<8h", 5, 2, 3, 2, 1, 2, 1, 1), "along axis 5"
    made["ninety_axes.nii"] = put(bytearray(plain), 40, "<h", 90), "90 axes"
    # nibabel reads from byte 0, SimpleITK from byte 348.
    made["offset_zero.nii"] = put(bytearray(plain), 108, "<f", 0), "vox_offset"
    made["offset_nan.nii"] = put(bytearray(plain), 108, "<f", np.nan), "vox_offset"
    made["offset_inside.nii"] = put(bytearray(plain), 108, "<f", 100), "vox_offset"
    made["inter_nan.nii"] = put(bytearray(plain), 112, "<ff", 2, np.nan), "scl_inter"
    made["lonely.hdr"] = holders["header"].fileobj.getvalue(), "no lonely.img"
    return made


def as_nibabel_reads(path):
    # A gzip file without .gz in its name: nibabel goes by the name, we by the content.
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b" and path.suffix != ".gz":
        read = nib.Nifti1Image.from_bytes(gzip.decompress(raw))
    else:
        read = nib.load(path)
    units = {"meter": 1e3, "micron": 1e-3}.get(read.header.get_xyzt_units()[0], 1.0)
    zooms = [float(np.float32(zoom) * np.float32(units)) for zoom in read.header.get_zooms()[:3]]
    voxels = read.get_fdata(dtype=np.float64).astype(np.float32)
    return {
        "dims": list(voxels.shape) + [1] * (4 - voxels.ndim),
        "spacing": zooms + [1.0] * (3 - len(zooms)),
        "voxels": [float(value) for value in voxels.ravel(order="F")],
    }, voxels


def compare_with_itk(path, voxels):
    try:
        itk = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    except RuntimeError as error:
        print(f"{path.name}: SimpleITK refuses: {str(error).splitlines()[-1][:100]}")
        return
    same = np.array_equal(itk.astype(np.float32).ravel(), voxels.ravel(order="F"))
    if not same:
        print(f"{path.name}: SimpleITK reads other voxels: {itk.ravel()[:3]}, nibabel {voxels.ravel(order='F')[:3]}")


def write():
    FOLDER.mkdir(parents=True, exist_ok=True)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    expected = {}
    for name, (raw, error) in files().items():
        (FOLDER / name).write_bytes(bytes(raw))
    for name, (raw, error) in files().items():
        if error is not None:
            expected[name] = {"error": error}
            continue
        if name == "pair.img":
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected[name], voxels = as_nibabel_reads(FOLDER / name)
        compare_with_itk(FOLDER / name, voxels)
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in expected.items())
    (FOLDER / "expected.json").write_text("{\n" + lines + "\n}\n")
    print(f"{len(expected)} files in {FOLDER}")


def check():
    """Our writer's files have the geometry of the files that they are made after, in both readers."""
    like = {"written_labels.nii": "far_voxels.nii", "written_labels.nii.gz": "far_voxels.nii",
            "written_big_endian.nii": "f8_be.nii", "written_image.nii": "slope.nii"}
    for name, source in like.items():
        ours, origin = nib.load(FOLDER / name), nib.load(FOLDER / source)
        assert np.array_equal(ours.affine, origin.affine), name
        assert ours.header.get_zooms() == origin.header.get_zooms(), name
        assert ours.header.get_slope_inter() in [(None, None), (1.0, 0.0)], name
        theirs, itk_origin = sitk.ReadImage(str(FOLDER / name)), sitk.ReadImage(str(FOLDER / source))
        for what in ("GetSpacing", "GetOrigin", "GetDirection", "GetSize"):
            assert getattr(theirs, what)() == getattr(itk_origin, what)(), (name, what)
        voxels = np.asanyarray(ours.dataobj)
        assert np.array_equal(sitk.GetArrayFromImage(theirs).ravel(), voxels.ravel(order="F")), name
        wanted = np.arange(voxels.size) % 4
        if name == "written_image.nii":
            wanted = wanted.astype(np.float32) / 4
        assert voxels.dtype == wanted.dtype or voxels.dtype.name == "uint8", (name, voxels.dtype)
        assert np.array_equal(voxels.ravel(order="F"), wanted), name
        print(f"{name}: {voxels.dtype.name} {voxels.shape}, geometry of {source} in nibabel and SimpleITK")
    fresh = nib.load(FOLDER / "written_fresh.nii")
    assert np.array_equal(fresh.affine, np.diag([1.5, 1.25, 8, 1])), fresh.affine
    assert sitk.ReadImage(str(FOLDER / "written_fresh.nii")).GetSpacing()[:3] == (1.5, 1.25, 8.0)
    print("written_fresh.nii: made without an original, opened by both")


if __name__ == "__main__":
    check() if "--check" in sys.argv else write()
