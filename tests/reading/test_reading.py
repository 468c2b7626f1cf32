from __future__ import annotations

import gzip
import logging
import os

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from malformed_classes import VOXELS, subject, write_volume
from volume_files import LPS_AFFINE, head, save_volume

from scripts.reading import open_volume
from scripts.transforms import LoadSubjectd

LOAD = LoadSubjectd(["t1"])
BOUNDED = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def error_of(path, load=LOAD) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        load({"image": [str(path)]})
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


def loaded(path) -> np.ndarray:
    return LOAD({"image": [str(path)]})["image"][0].numpy()


@BOUNDED
@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_flipped_bit_of_gzip_never_gives_other_voxels(tmp_path, place, bit):
    path = write_volume(tmp_path / "x_t1.nii.gz")
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << bit
    path.write_bytes(data)
    try:
        assert np.array_equal(loaded(path), VOXELS)
    except ValueError as error:
        assert str(error).startswith(f"{path}: ")


@BOUNDED
@given(changes=st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=6))
def test_headers_are_believed_or_refused(tmp_path, changes):
    path = write_volume(tmp_path / "x.nii")
    data = bytearray(path.read_bytes())
    for place, value in changes:
        data[place] = value
    path.write_bytes(data)
    try:
        assert loaded(path).size <= 2 * VOXELS.size
    except ValueError as error:
        assert str(error).startswith(f"{path}: ")
        assert str(error).isprintable()


@pytest.mark.parametrize("surplus", [b"\x00", b"more"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mha", ".nrrd"])
def test_what_follows_the_voxels_is_refused(tmp_path, ending, surplus):
    path = write_volume(tmp_path / f"x{ending}")
    assert np.array_equal(loaded(path), VOXELS)
    whole = path.read_bytes()
    path.write_bytes(gzip.compress(gzip.decompress(whole) + surplus) if ending == ".nii.gz" else whole + surplus)
    assert "more than its header claims" in error_of(path)


def test_the_checksum_at_the_end_counts(tmp_path):
    path = write_volume(tmp_path / "x.nii.gz")
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))
    assert "CRC" in error_of(path)


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_deflated_data_are_whole(tmp_path, ending):
    path = write_volume(tmp_path / f"z{ending}")
    assert np.array_equal(loaded(path), VOXELS)
    data = path.read_bytes()
    for wrong in (data[:-3], data[:-6] + bytes(6), data + b"x"):
        path.write_bytes(wrong)
        error_of(path)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_claims_that_no_file_of_that_size_can_keep(tmp_path, ending):
    header = nib.Nifti1Header()
    header.set_data_shape((2000, 2000, 250))
    header.set_sform(LPS_AFFINE, 1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    body = header.binaryblock + bytes(1000)
    (tmp_path / f"x{ending}").write_bytes(gzip.compress(body) if ending == ".nii.gz" else body)
    assert "at most" in error_of(tmp_path / f"x{ending}")


def test_the_limit_is_an_argument(tmp_path):
    path = save_volume(tmp_path / "x.nii", head())
    assert "12 x 10 x 5 voxels, at most 599 are allowed (max_voxels)" in error_of(path, LoadSubjectd(["t1"], 599))
    LoadSubjectd(["t1"], 600)({"image": [path]})
    with pytest.raises(ValueError, match="2 sequences"):
        LoadSubjectd(["t1", "t2"], 1199)({"image": [path, path]})


@pytest.mark.parametrize("target", ["/dev/zero", "../x.raw", "LIST", "x%03d.raw"])
@pytest.mark.parametrize("ending", [".mhd", ".nhdr"])
def test_data_files_elsewhere(tmp_path, ending, target):
    path = write_volume(tmp_path / f"x{ending}")
    path.write_text(path.read_text().replace("x.raw", target))
    assert "data file" in error_of(path)


def test_vectors_of_nrrd_and_big_endian(tmp_path):
    array = np.arange(2 * 3 * 4 * 5, dtype=">i2").reshape(2, 3, 4, 5, order="F")
    fields = "type: short\ndimension: 4\nspace: left-posterior-superior\nsizes: 2 3 4 5\nendian: big\nencoding: raw\n"
    fields += (
        "space directions: none (1,0,0) (0,1,0) (0,0,1)\nkinds: vector domain domain domain\nspace origin: (0,0,0)\n"
    )
    (tmp_path / "x.nrrd").write_bytes(f"NRRD0004\n{fields}\n".encode() + array.tobytes(order="F"))
    image = LoadSubjectd(["a", "b"])({"image": str(tmp_path / "x.nrrd")})["image"]
    assert np.array_equal(image.numpy(), array)


def nifti(path, sform=None, qform=None, zooms=(2, 2, 3)):
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(VOXELS.shape)
    if qform is not None:
        header.set_qform(qform, 1)
    if sform is not None:
        header.set_sform(sform, 2)
    header["pixdim"][1:4] = zooms
    header["magic"], header["vox_offset"] = b"n+1", 352
    path.write_bytes(header.binaryblock + bytes(4) + VOXELS.tobytes(order="F"))
    return path


class TestGeometry:
    STRAIGHT = np.diag([2.0, 2, 3, 1])

    def notes(self, path, caplog) -> list[str]:
        with caplog.at_level(logging.WARNING):
            image = LOAD({"image": [str(path)]})["image"]
        assert np.allclose(image.affine, nib.load(path).affine)
        return [record.message for record in caplog.records]

    def test_nothing_to_say(self, tmp_path, caplog):
        assert self.notes(nifti(tmp_path / "x.nii", self.STRAIGHT, self.STRAIGHT), caplog) == []

    def test_forms_that_differ(self, tmp_path, caplog):
        (note,) = self.notes(nifti(tmp_path / "x.nii", self.STRAIGHT, self.STRAIGHT @ np.diag([-1, -1, 1, 1])), caplog)
        assert "sform and qform differ by up to" in note and "the sform is used" in note

    def test_pixdim_that_differs(self, tmp_path, caplog):
        (note,) = self.notes(nifti(tmp_path / "x.nii", self.STRAIGHT, zooms=(1, 1, 1)), caplog)
        assert "pixdim says voxels of 1 x 1 x 1 mm, the sform 2 x 2 x 3: the sform is used" in note

    def test_neither(self, tmp_path, caplog):
        (note,) = self.notes(nifti(tmp_path / "x.nii"), caplog)
        assert "neither sform nor qform" in note

    def test_shear_is_kept(self, tmp_path, caplog):
        sheared = self.STRAIGHT.copy()
        sheared[0, 2] = 1.0
        notes = self.notes(nifti(tmp_path / "x.nii", sheared, zooms=np.linalg.norm(sheared[:3, :3], axis=0)), caplog)
        assert len(notes) == 1 and "71.57 degrees" in notes[0]

    @pytest.mark.parametrize("axes", [np.zeros((3, 3)), np.ones((3, 3)), np.full((3, 3), np.nan)])
    def test_none_at_all(self, tmp_path, axes):
        affine = np.eye(4)
        affine[:3, :3] = axes
        assert "affine" in error_of(nifti(tmp_path / "x.nii", affine))


@pytest.mark.parametrize("kind", ["fifo", "folder", "link", "device", "loop"])
def test_no_files(tmp_path, kind):
    path = subject(tmp_path, "bad", ".nii.gz")
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"link": "/nowhere", "device": "/dev/zero", "loop": path.name}[kind])
    assert "cannot be read as an image" in error_of(path)


def test_slabs_are_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("scripts.reading.volume_file.SLAB_VOXELS", VOXELS.shape[0] * VOXELS.shape[1] * 4)
    for ending in (".nii.gz", ".mha", ".nrrd"):
        assert np.array_equal(loaded(write_volume(tmp_path / f"x{ending}")), VOXELS)
    four = np.stack([VOXELS, VOXELS + 1], axis=-1)
    nib.save(nib.Nifti1Image(four, LPS_AFFINE), tmp_path / "four.nii.gz")
    volume = open_volume(str(tmp_path / "four.nii.gz"))
    target = torch.empty((2, *VOXELS.shape))
    assert volume.read(target) == [(VOXELS.min(), VOXELS.max()), (VOXELS.min() + 1, VOXELS.max() + 1)]
    assert np.array_equal(target.numpy(), np.moveaxis(four, -1, 0))
