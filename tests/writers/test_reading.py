"""Writers as readers: files of anybody, in any orientation."""

from __future__ import annotations

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from volume_files import LPS_AFFINE, SHAPE, configured, head, laid_out, oblique, save_volume

from scripts.results import ResultFolder
from scripts.writers import ImageWriter, PreparedSliceWriter, VolumeWriter

READERS = {None: VolumeWriter, "data/oct2017": ImageWriter, "data/prepared_slices": PreparedSliceWriter}
"""By the overlay that configures them."""


class TestReading:
    @pytest.mark.parametrize("cls", READERS.values())
    def test_without_results_there_is_nothing_to_write_to(self, cls):
        reader = cls(None, 0.0)
        for action in (
            lambda: reader.results,
            lambda: reader.read_planes("S", "anomaly"),
            lambda: reader.write("S", {}),
        ):
            with pytest.raises(ValueError, match="this writer has no result folder, it only reads"):
                action()

    @pytest.mark.parametrize("overlay", READERS)
    def test_the_configured_layout_is_the_writers_own(self, tmp_path, overlay):
        names = [overlay] if overlay else []
        reader = configured("layout", *names)
        assert type(reader) is READERS[overlay]
        settings = {"results": ResultFolder(str(tmp_path), {}), "threshold": 0.5, "sequences": ["t1", "flair"]}
        assert type(configured("writer", *names, **settings)) is type(reader)

    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("order", permutations(range(3)), ids=str)
    def test_volumes_of_others_in_any_orientation(self, tmp_path, order, channels):
        """Scaled integers, as other programs write them; 4D for several channels."""
        planes, affine = np.stack([head(i) for i in range(channels)]), oblique(LPS_AFFINE)
        for flips in product((False, True), repeat=3):
            stored = np.stack([laid_out(plane, affine, order, flips)[0] for plane in planes], axis=-1)
            matrix = laid_out(planes[0], affine, order, flips)[1]
            image = nib.Nifti1Image((stored if channels > 1 else stored[..., 0]).astype(np.int16), matrix)
            image.header.set_slope_inter(0.5, 3)
            path = tmp_path / "x.nii"
            nib.save(image, path)
            read = VolumeWriter(None, 0.0).read_file(path)
            assert read.dtype == np.float32
            assert read.shape == planes.shape
            assert np.array_equal(read, planes * 0.5 + 3)

    def test_slices_of_others(self, tmp_path):
        array = np.random.default_rng(0).random((2, 6, 9)).astype(np.float32)
        save_volume(tmp_path / "x.nii.gz", array, np.diag([2.0, 3, 4, 1]))
        planes = PreparedSliceWriter(None, 0.0).read_file(tmp_path / "x.nii.gz")
        assert np.array_equal(planes, array.transpose(0, 2, 1)[..., None])
        save_volume(tmp_path / "y.nii.gz", array[0], np.eye(4))
        assert np.array_equal(ImageWriter(None, 0.0).read_file(tmp_path / "y.nii.gz"), array[:1, ..., None])

    def test_a_missing_file(self, tmp_path):
        for cls in READERS.values():
            with pytest.raises(FileNotFoundError, match="none"):
                cls(None, 0.0).read_file(tmp_path / "none.nii.gz")


class TestSpace:
    @pytest.mark.parametrize("order", permutations(range(3)), ids=str)
    def test_is_the_same_however_a_volume_is_stored(self, tmp_path, order):
        reader, affine = VolumeWriter(None, 0.0), oblique(LPS_AFFINE)
        array = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
        for flips in product((False, True), repeat=3):
            stored, matrix = laid_out(array, affine, order, flips)
            space = reader.space(matrix, stored.shape)
            # nibabel's canonical axes go right and anterior, ours left and posterior.
            right = nib.as_closest_canonical(nib.Nifti1Image(stored, matrix))
            left = right.affine @ np.diag([-1, -1, 1, 1])
            left[:, 3] += right.affine @ [right.shape[0] - 1, right.shape[1] - 1, 0, 0]
            assert np.allclose(space, left, atol=1e-9)
            assert np.allclose(space, affine, atol=1e-9)
            # A voxel that was read lies where its file says it lies.
            save_volume(tmp_path / "x.nii", stored, matrix)
            read = reader.read_file(tmp_path / "x.nii")[0]
            for voxel in ((0, 0, 0), (3, 1, 2), (4, 3, 1)):
                (place,) = np.argwhere(read == stored[voxel])
                assert np.allclose(space @ [*place, 1], matrix @ [*voxel, 1], atol=1e-9)

    @pytest.mark.parametrize("cls", [ImageWriter, PreparedSliceWriter])
    def test_pictures_have_none(self, cls):
        assert np.array_equal(cls(None, 0.0).space(LPS_AFFINE, SHAPE), np.eye(4))
