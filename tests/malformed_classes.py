"""Malformed inputs by class; each function makes the subject ``bad``, or one of an odd name, in a folder."""

from __future__ import annotations

import gzip
import os
import socket
from collections.abc import Callable
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
from monai.transforms import Orientationd
from PIL import Image
from synthetic_study import new_study, write_series

from scripts.data.datalists import find_images, find_prepared_slices, find_studies, find_volumes
from scripts.transforms import FitPlaned, LoadGreyImaged, LoadPreparedSliced, LoadSubjectd, ScaleForegroundd
from scripts.transforms.dicom import LoadDicomSubjectd

SHAPE = (14, 12, 6)
AFFINE = np.diag([-1.5, -2.0, 3.0, 1.0])
VOXELS = np.random.default_rng(0).integers(1, 1000, SHAPE).astype(np.int16)
REST = [Orientationd("image", "LPS", labels=None), ScaleForegroundd("image"), FitPlaned("image", 16)]
Read = tuple[Callable[[str], list[dict]], list[Callable]]
VOLUMES: Read = (
    lambda folder: find_volumes(folder, ["t1"], {"t1": ["t1"]}),
    [LoadSubjectd(["t1"], max_voxels=10**7), *REST],
)
PICTURES: Read = (find_images, [LoadGreyImaged(max_pixels=10**7)])
SLICES: Read = (find_prepared_slices, [LoadPreparedSliced(["t1"]), FitPlaned("image", 16)])
STUDIES: Read = (find_studies, [LoadDicomSubjectd(["t1"], {"t1": ["t1"]}, {"t1": []}, max_voxels=10**7), *REST])


def subject(folder: Path, name: str, ending: str) -> Path:
    (folder / name).mkdir(exist_ok=True)
    return folder / name / f"{name}_t1{ending}"


def write_volume(path: Path) -> Path:
    if path.name.endswith((".nii", ".nii.gz")):
        nib.save(nib.Nifti1Image(VOXELS, AFFINE), path)
    else:
        itk.imwrite(itk.image_from_array(np.ascontiguousarray(VOXELS.T)), str(path), compression="z" in path.stem)
    return path


def flip(rng, path: Path, start: int = 0, end: int | None = None, count: int = 1) -> None:
    data = bytearray(path.read_bytes())
    for place in rng.integers(start, min(end or len(data), len(data)), count):
        data[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)


def scramble(rng, path: Path, start: int, end: int) -> None:
    data = bytearray(path.read_bytes())
    for place in rng.integers(start, min(end, len(data)), int(rng.integers(1, 6))):
        data[place] = int(rng.integers(256))
    path.write_bytes(data)


def gzip_flip(rng, folder):
    flip(rng, write_volume(subject(folder, "bad", ".nii.gz")))


def gzip_cut(rng, folder):
    path = write_volume(subject(folder, "bad", ".nii.gz"))
    path.write_bytes(path.read_bytes()[: int(rng.integers(path.stat().st_size))])


def gzip_appended(rng, folder):
    path = write_volume(subject(folder, "bad", ".nii.gz"))
    path.write_bytes(path.read_bytes() + rng.bytes(int(rng.integers(1, 200))))


def nifti_length(rng, folder):
    path = write_volume(subject(folder, "bad", ".nii"))
    data, change = path.read_bytes(), int(rng.integers(1, 300))
    path.write_bytes(data[:-change] if rng.random() < 0.5 else data + rng.bytes(change))


def nifti_header(rng, folder):
    scramble(rng, write_volume(subject(folder, "bad", ".nii")), 0, 352)


def nifti_claims(rng, folder):
    path = write_volume(subject(folder, "bad", rng.choice([".nii", ".nii.gz"])))
    header = nib.load(path).header.copy()
    header["dim"][1:5] = rng.integers(200, 32767, 4)
    header["dim"][0] = rng.integers(3, 5)
    body = header.binaryblock + bytes(4) + bytes(int(rng.integers(10**6)))
    path.write_bytes(body if path.suffix == ".nii" else gzip.compress(body))


def nifti_affine(rng, folder):
    path = write_volume(subject(folder, "bad", ".nii"))
    image = nib.load(path)
    header = image.header.copy()
    header["sform_code"], header["qform_code"] = rng.integers(0, 5, 2)
    header["srow_x"] = rng.choice([0, 1, np.nan, np.inf, -1.5, 1e30], 4)
    header["pixdim"][1:4] = rng.choice([1, 2, 0, -1, 1e-30, np.nan], 3)
    path.write_bytes(header.binaryblock + path.read_bytes()[348:])


def text_header(rng, folder):
    path = write_volume(subject(folder, "bad", rng.choice([".nrrd", ".mha"])))
    data = path.read_bytes()
    scramble(rng, path, 0, max(data.find(b"\n\n"), data.find(b"LOCAL")) + 2)


def text_numbers(rng, folder):
    path = write_volume(subject(folder, "bad", rng.choice([".nrrd", ".mha"])))
    sizes = " ".join(map(str, SHAPE)).encode()
    wrong = rng.choice(["0 0 0", "-1 2 3", "999999 999999 9", "14 12", "14 12 7", "14 12 5", "1e3 2 2", "9" * 40])
    path.write_bytes(path.read_bytes().replace(b"izes: " + sizes, b"izes: " + wrong.encode(), 1))
    path.write_bytes(path.read_bytes().replace(b"Size = " + sizes, b"Size = " + wrong.encode(), 1))
    if rng.random() < 0.3:
        path.write_bytes(path.read_bytes().replace(b"NDims = 3", b"NDims = 1000000").replace(b"ion: 3", b"ion: 200"))


def text_data(rng, folder):
    path = write_volume(subject(folder, "badz", rng.choice([".nrrd", ".mha"])))
    start = path.read_bytes().find(b"\n\n" if path.suffix == ".nrrd" else b"LOCAL\n") + 6
    flip(rng, path, start + 6)


def detached(rng, folder):
    path = write_volume(subject(folder, "bad", rng.choice([".nhdr", ".mhd"])))
    raw = path.with_suffix(".raw")
    raw.unlink()
    target = rng.choice(["/dev/zero", "/etc/passwd", "../good/good_t1.nii", "LIST", "x%03d.raw", "", raw.name])
    if target == raw.name:
        odd_kind(rng, folder, raw)
    path.write_bytes(path.read_bytes().replace(raw.name.encode(), target.encode()))


def odd_kind(rng, folder, path: Path | None = None):
    path = path or subject(folder, "bad", ".nii.gz")
    kind = int(rng.integers(6))
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.mkdir()
    elif kind == 2:
        path.symlink_to("/nowhere/at/all")
    elif kind == 3:
        path.symlink_to(rng.choice(["/dev/zero", "/dev/random", "/dev/stdin"]))
    elif kind == 4:
        path.symlink_to(path.name)
    else:
        with socket.socket(socket.AF_UNIX) as server:
            here = os.getcwd()
            os.chdir(path.parent)
            server.bind(path.name)
            os.chdir(here)


def odd_name(rng, folder):
    names = [b"a\nb", b"\xff\xfe", b"n" * 240, b"scores.csv", b"Settings.json", b"search", b"\x07", b"a\xe2\x80\xa8b"]
    place = os.path.join(os.fsencode(folder), names[int(rng.integers(len(names)))])
    os.mkdir(place)
    write_volume(folder / "x_t1.nii").rename(os.fsdecode(os.path.join(place, b"x_t1.nii")))


def picture(rng, folder):
    path = folder / f"bad{rng.choice(['.png', '.jpg', '.tif', '.bmp'])}"
    Image.fromarray((VOXELS[..., 0] % 256).astype(np.uint8)).save(path)
    scramble(rng, path, 0, path.stat().st_size)
    if rng.random() < 0.3:
        path.write_bytes(path.read_bytes()[: int(rng.integers(path.stat().st_size))])


def prepared(rng, folder):
    path = folder / "bad.nii.gz"
    array = rng.random((2, 14, 12)).astype(np.float32)
    nib.save(nib.Nifti1Image(array * rng.choice([1, 2]), np.eye(4)), path)
    flip(rng, path, 12)


def study(rng, folder):
    write_series(folder / "bad", VOXELS, AFFINE, description="t1", study=new_study())
    files = sorted(p for p in (folder / "bad").rglob("*") if p.is_file())
    path = files[int(rng.integers(len(files)))]
    if rng.random() < 0.3:
        path.write_bytes(path.read_bytes()[: int(rng.integers(path.stat().st_size))])
    else:
        scramble(rng, path, 0, 1200)


CLASSES: dict[str, tuple[Callable, Read, bool]] = {
    make.__name__: (make, read, exact)
    for make, read, exact in [
        (gzip_flip, VOLUMES, True),
        (gzip_cut, VOLUMES, True),
        (gzip_appended, VOLUMES, True),
        (nifti_length, VOLUMES, True),
        (nifti_header, VOLUMES, False),
        (nifti_claims, VOLUMES, True),
        (nifti_affine, VOLUMES, False),
        (text_header, VOLUMES, False),
        (text_numbers, VOLUMES, True),
        (text_data, VOLUMES, True),
        (detached, VOLUMES, True),
        (odd_kind, VOLUMES, True),
        (odd_name, VOLUMES, True),
        (picture, PICTURES, False),
        (prepared, SLICES, False),
        (study, STUDIES, False),
    ]
}
"""Name to (what makes the input, what reads it, whether what is read must be what was written)."""


def write_good(folder: Path, read: Read) -> None:
    if read is VOLUMES:
        write_volume(subject(folder, "good", ".nii"))
    elif read is PICTURES:
        Image.fromarray((VOXELS[..., 0] % 256).astype(np.uint8)).save(folder / "good.png")
    elif read is SLICES:
        array = np.random.default_rng(0).random((1, 9, 8)).astype(np.float32)
        nib.save(nib.Nifti1Image(array, np.eye(4)), folder / "good.nii")
    else:
        write_series(folder / "good", VOXELS, AFFINE, description="t1", study=new_study())
