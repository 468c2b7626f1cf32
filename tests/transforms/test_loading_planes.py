from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image
from volume_files import (
    LPS_AFFINE,
    configured,
    head,
    save_volume,
    stored_as,
)

from scripts.transforms import LoadGreyImaged, LoadPreparedSliced, LoadSubjectd

LOAD = LoadSubjectd(["t1", "flair"])


@pytest.fixture
def files(tmp_path) -> list[str]:
    return [save_volume(tmp_path / f"S_{name}.nii.gz", head(seed)) for seed, name in enumerate(("t1", "flair"))]


def error_of(load, item: dict) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        load(item)
    return str(caught.value)


class TestPreparedSlices:
    LOAD = LoadPreparedSliced(["t1", "flair"])

    @staticmethod
    def array(channels: int, shape=(12, 10)) -> np.ndarray:
        return np.random.default_rng(channels).random((channels, *shape)).astype(np.float32)

    def test_transposed_in_the_plane(self, tmp_path):
        array = self.array(2)
        path = save_volume(tmp_path / "x.nii.gz", array, np.diag([2.0, 1, 3, 1]))
        loaded = self.LOAD({"subject": "x", "image": path})
        assert isinstance(loaded["image"], MetaTensor)
        assert np.array_equal(loaded["image"].numpy(), array.transpose(0, 2, 1))
        assert loaded["image"].meta["filename_or_obj"] == path
        assert np.allclose(loaded["image"].meta["original_affine"], np.diag([2.0, 1, 3, 1]))
        assert "label" not in loaded

    def test_agrees_with_the_volume_it_was_made_of(self, tmp_path):
        """The method's release reads BraTS (stored LPS) with nibabel, transposes each slice and stores it padded."""
        volume, slice_index, size = head(), 2, 16
        scaled = (volume / np.percentile(volume[volume > 0], 99.5)).clip(0, 1)
        prepared = np.zeros((1, size, size), dtype=np.float32)
        prepared[0, 3:13, 2:14] = scaled[..., slice_index].T
        stored, affine = stored_as(volume, LPS_AFFINE, "RAS")
        whole = configured("preprocessing", image_size=size, sequences=["t1"])(
            {"subject": "S", "image": [save_volume(tmp_path / "v.nii.gz", stored, affine)]}
        )["image"]
        one = configured("preprocessing", "data/prepared_slices", image_size=size, sequences=["t1"])(
            {"subject": "S", "image": save_volume(tmp_path / "p.nii.gz", prepared, np.eye(4))}
        )["image"]
        assert np.allclose(one.numpy(), whole[..., slice_index].numpy(), atol=1e-6)

    def test_a_further_channel_is_the_label(self, tmp_path):
        array = np.concatenate([self.array(2), np.zeros((1, 12, 10), np.float32)])
        array[2, 3, 4:6] = 1, 4
        loaded = self.LOAD({"image": save_volume(tmp_path / "x.nii.gz", array)})
        assert loaded["image"].shape == (2, 10, 12)
        assert loaded["label"].shape == (1, 10, 12)
        assert torch.nonzero(loaded["label"][0]).tolist() == [[4, 3], [5, 3]]
        assert set(loaded["label"].unique().tolist()) == {0, 1}

    @pytest.mark.parametrize("value", [-0.01, 1.01, 255])
    def test_out_of_range(self, tmp_path, value):
        array = self.array(2)
        array[1, 5, 5] = value
        path = save_volume(tmp_path / "x.nii.gz", array)
        message = error_of(self.LOAD, {"image": path})
        assert message.startswith(f"{path}: values from ")
        assert f"{value:g}" in message
        assert message.endswith("[0, 1].")

    @pytest.mark.parametrize("shape", [(1, 12, 10), (4, 12, 10), (12, 10), (2, 12, 10, 3)])
    def test_shape(self, tmp_path, shape):
        path = save_volume(tmp_path / "x.nii.gz", np.random.default_rng(0).random(shape).astype(np.float32))
        message = error_of(self.LOAD, {"image": path})
        assert message.startswith(f"{path}: shape {shape}, wanted (2 or 3 with the label")

    def test_not_finite(self, tmp_path):
        array = self.array(2)
        array[0, 0, 0] = np.nan
        path = save_volume(tmp_path / "x.nii.gz", array)
        assert error_of(self.LOAD, {"image": path}).startswith(f"{path}: 1 voxels are NaN")

    def test_unreadable(self, tmp_path):
        (tmp_path / "x.nii.gz").write_text("text")
        assert error_of(self.LOAD, {"image": str(tmp_path / "x.nii.gz")}).startswith(f"{tmp_path / 'x.nii.gz'}: cannot")


class TestPictures:
    LOAD = LoadGreyImaged()
    WIDTH, HEIGHT = 7, 4

    def ramp(self, dtype=np.uint8, top=250) -> np.ndarray:
        """(row, column): grows along x, with one bright corner at the right of the first row."""
        picture = np.tile(np.linspace(0, top / 2, self.WIDTH), (self.HEIGHT, 1))
        picture[0, -1] = top
        return picture.astype(dtype)

    @pytest.mark.parametrize("extension", ["png", "bmp", "tif"])
    def test_x_comes_first(self, tmp_path, extension):
        path = tmp_path / f"x.{extension}"
        Image.fromarray(self.ramp()).save(path)
        image = self.LOAD({"subject": "x", "image": str(path)})["image"]
        assert isinstance(image, MetaTensor)
        assert image.shape == (1, self.WIDTH, self.HEIGHT)
        assert image.dtype == torch.float32
        for x in range(self.WIDTH):
            for y in range(self.HEIGHT):
                assert float(image[0, x, y]) == pytest.approx(self.ramp()[y, x] / 255)
        assert torch.nonzero(image[0] == image.max()).tolist() == [[self.WIDTH - 1, 0]]

    def test_jpeg(self, tmp_path):
        picture = np.zeros((32, 64), dtype=np.uint8)
        picture[:8, 40:] = 200
        Image.fromarray(picture).save(tmp_path / "x.jpeg", quality=95)
        image = self.LOAD({"image": str(tmp_path / "x.jpeg")})["image"][0]
        assert image.shape == (64, 32)
        assert image[44:60, 1:7].numpy() == pytest.approx(200 / 255, abs=0.03)
        assert image[:36].max() < 0.05
        assert image[:, 16:].max() < 0.05

    @pytest.mark.parametrize("extension", ["png", "tif"])
    def test_16_bit_keeps_its_depth(self, tmp_path, extension):
        picture = self.ramp(np.uint16, 60001)
        Image.fromarray(picture).save(tmp_path / f"x.{extension}")
        image = self.LOAD({"image": str(tmp_path / f"x.{extension}")})["image"][0]
        assert np.allclose(image.numpy(), picture.T / 65535, atol=1e-7)
        assert len(image.unique()) == len(np.unique(picture))

    def test_colour_becomes_luminance(self, tmp_path):
        colours = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [90, 90, 90]]], dtype=np.uint8)
        Image.fromarray(colours).save(tmp_path / "x.png")
        image = self.LOAD({"image": str(tmp_path / "x.png")})["image"][0]
        # ITU-R 601
        wanted = np.array([[0.299, 0.587], [0.114, 90 / 255]]).T
        assert np.allclose(image.numpy(), wanted, atol=1 / 255)

    def test_palette(self, tmp_path):
        grey = self.ramp()
        Image.fromarray(grey).convert("P").save(tmp_path / "x.png")
        image = self.LOAD({"image": str(tmp_path / "x.png")})["image"][0]
        assert np.allclose(image.numpy(), grey.T / 255, atol=1 / 255)

    @pytest.mark.parametrize(("healthy", "labelled"), [(True, True), (False, False), (None, False)])
    def test_healthy_pictures_have_an_empty_label(self, tmp_path, healthy, labelled):
        Image.fromarray(self.ramp()).save(tmp_path / "x.png")
        item = {"image": str(tmp_path / "x.png")} | ({} if healthy is None else {"healthy": healthy})
        loaded = self.LOAD(item)
        assert ("label" in loaded) == labelled
        if labelled:
            assert loaded["label"].shape == loaded["image"].shape
            assert not loaded["label"].any()

    @pytest.mark.parametrize("value", [0, 255])
    def test_constant(self, tmp_path, value):
        path = tmp_path / "x.png"
        Image.fromarray(np.full((5, 5), value, np.uint8)).save(path)
        assert error_of(self.LOAD, {"image": str(path)}).startswith(f"{path}: empty or constant")

    def test_several_frames(self, tmp_path):
        path = tmp_path / "x.tif"
        frames = [Image.fromarray(self.ramp()), Image.fromarray(self.ramp()[::-1].copy())]
        frames[0].save(path, save_all=True, append_images=frames[1:])
        message = error_of(self.LOAD, {"image": str(path)})
        assert message.startswith(f"{path}: cannot")
        assert "2 frames, one is wanted" in message

    @pytest.mark.parametrize("array", [np.random.default_rng(0).random((5, 4)), np.full((5, 4), 70000) + np.eye(5, 4)])
    def test_deeper_than_16_bits(self, tmp_path, array):
        path = tmp_path / "x.tif"
        Image.fromarray(array.astype(np.float32 if array.max() < 1 else np.int32)).save(path)
        message = error_of(self.LOAD, {"image": str(path)})
        assert message.startswith(f"{path}: cannot")
        assert "8 or 16 bits" in message

    @pytest.mark.parametrize("kind", ["missing", "text", "truncated"])
    def test_unreadable(self, tmp_path, kind):
        path = tmp_path / "x.png"
        if kind == "text":
            path.write_text("no picture")
        if kind == "truncated":
            Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)).save(path)
            path.write_bytes(path.read_bytes()[:600])
        assert error_of(self.LOAD, {"image": str(path)}).startswith(f"{path}: cannot be read as an image")
