from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.transforms import Compose, Invertd
from volume_files import LPS_AFFINE, ORIENTATIONS, configured, head, oblique, save_volume, stored_as

from scripts.transforms import FitPlaned

DEPTHS = [(), (3,)]


def noise(*shape: int, seed: int = 0) -> MetaTensor:
    image = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) + 0.1
    affine = torch.from_numpy(LPS_AFFINE if len(shape) == 4 else LPS_AFFINE[:, [0, 1, 3]][[0, 1, 3]])
    return MetaTensor(image, affine=affine, meta={"filename_or_obj": "x.nii"})


def smooth(*shape: int) -> MetaTensor:
    """A slow wave that differs along every axis."""
    image = torch.full(shape, 0.5)
    for axis, n in enumerate(shape[1:], 1):
        wave = torch.sin(torch.arange(n) / n * 3 + axis)
        image = image + 0.2 * wave.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return MetaTensor(image)


def fit(image: torch.Tensor, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
    """The fitted image, and what the inverse makes of it."""
    transform = FitPlaned("image", **kwargs)
    fitted = transform({"image": image})
    return fitted["image"], transform.inverse(fitted)["image"]


class TestPadding:
    @pytest.mark.parametrize("depth", DEPTHS, ids=["2D", "3D"])
    @pytest.mark.parametrize("plane", [(12, 10), (16, 16), (16, 9), (7, 16), (1, 1)])
    def test_exact_inverse(self, plane, depth):
        image = noise(2, *plane, *depth)
        fitted, restored = fit(image, size=16)
        assert fitted.shape == (2, 16, 16, *depth)
        assert restored.shape == image.shape
        assert torch.equal(restored.as_tensor(), image.as_tensor())
        assert torch.allclose(restored.affine, image.affine)

    @pytest.mark.parametrize("depth", DEPTHS, ids=["2D", "3D"])
    def test_zeros_around_the_middle(self, depth):
        image = noise(2, 12, 9, *depth)
        fitted, _ = fit(image, size=16)
        assert torch.equal(fitted.as_tensor()[:, 2:14, 3:12], image.as_tensor())
        assert float(fitted.sum()) == pytest.approx(float(image.sum()), rel=1e-5)

    @pytest.mark.parametrize("depth", DEPTHS, ids=["2D", "3D"])
    def test_what_was_written_into_the_fitted_image_comes_back(self, depth):
        transform = FitPlaned("image", size=16)
        fitted = transform({"image": noise(1, 12, 9, *depth)})
        fitted["image"][:, 2 + 5, 3 + 7] = 42
        restored = transform.inverse(fitted)["image"]
        places = torch.nonzero(restored[0] == 42)[:, :2].unique(dim=0)
        assert places.tolist() == [[5, 7]]

    def test_deep_volumes_keep_their_depth(self):
        fitted, restored = fit(noise(1, 4, 4, 20), size=8)
        assert fitted.shape == (1, 8, 8, 20)
        assert restored.shape == (1, 4, 4, 20)


class TestResampling:
    @pytest.mark.parametrize("depth", DEPTHS, ids=["2D", "3D"])
    @pytest.mark.parametrize(
        ("plane", "inner"), [((40, 40), (32, 32)), ((64, 48), (32, 24)), ((30, 48), (20, 32)), ((33, 5), (32, 5))]
    )
    def test_keeps_the_aspect_and_comes_back_to_its_own_shape(self, plane, inner, depth):
        image = smooth(2, *plane, *depth)
        fitted, restored = fit(image, size=32)
        assert fitted.shape == (2, 32, 32, *depth)
        covered = (fitted[0] != 0).reshape(32, 32, -1).any(dim=-1)
        assert (int(covered.any(dim=1).sum()), int(covered.any(dim=0).sum())) == inner
        assert restored.shape == image.shape
        # MONAI's anti-aliasing counts zeros in beyond the border, so that it darkens there
        inner = tuple(slice(5, -5) if n > 10 else slice(None) for n in plane)
        difference = (restored - image).abs()[(slice(None), *inner)]
        assert float(difference.max()) < 0.01
        assert float(difference.mean()) < 0.003

    @pytest.mark.parametrize("corner", [(0, 0), (0, -1), (-1, 0), (-1, -1)])
    @pytest.mark.parametrize("plane", [(40, 40), (64, 40), (31, 47)])
    def test_nothing_is_cropped(self, plane, corner):
        image = torch.full((1, *plane, 2), 0.1)
        x, y = (slice(0, 5) if c == 0 else slice(-5, None) for c in corner)
        image[:, x, y] = 1.0
        fitted, restored = fit(MetaTensor(image), size=32)
        scale = 32 / max(plane)
        # what is bright beyond the background amounts to the block, whatever its edge looks like
        image_sum = float(fitted.sum()) / 2 - 0.1 * (scale * plane[0]) * (scale * plane[1])
        assert image_sum == pytest.approx(0.9 * (5 * scale) ** 2, rel=0.45)
        inside = restored[0, x, y, 0][1:-1, 1:-1]
        assert float(inside.min()) > 0.6
        outside = restored[0, ..., 0].clone()
        outside[x, y] = 0
        assert float(outside.mean()) < 0.12

    def test_slices_do_not_mix(self):
        image = torch.zeros(1, 40, 40, 5)
        image[..., 2] = 1
        fitted, restored = fit(MetaTensor(image), size=32)
        for result in (fitted, restored):
            assert float(result[..., [0, 1, 3, 4]].abs().max()) < 1e-6
            assert float(result[..., 2].min()) > 0.999

    def test_fine_detail_is_smoothed_away_rather_than_aliased(self):
        image = torch.zeros(1, 96, 96)
        image[:, ::3] = 1
        fitted, _ = fit(MetaTensor(image), size=32)
        # One line in three: plain sampling would take every third pixel and see none of them.
        assert float(fitted[:, 4:-4, 4:-4].mean()) == pytest.approx(1 / 3, abs=0.05)

    def test_geometry(self):
        """Pixel centres keep their place in space, in the fitted image and in the restored one."""
        size = 24
        x, y = torch.meshgrid(torch.arange(48.0), torch.arange(40.0), indexing="ij")
        image = torch.stack([x, y])[..., None].expand(-1, -1, -1, 3).contiguous()
        fitted, restored = fit(MetaTensor(image, affine=torch.eye(4)), size=size)
        affine = fitted.affine.numpy()
        for i in (6, 12, 17):
            for j in (7, 12, 16):
                place = affine @ [i, j, 1, 1]
                assert fitted[:, i, j, 1].tolist() == pytest.approx(place[:2], abs=0.05)
        assert torch.allclose(restored.affine, torch.eye(4, dtype=restored.affine.dtype), atol=1e-6)

    @pytest.mark.parametrize("depth", DEPTHS, ids=["2D", "3D"])
    def test_labels_stay_binary(self, depth):
        label = MetaTensor((noise(1, 40, 50, *depth) > 0.6).float())
        transform = FitPlaned(["image", "label"], size=32, nearest=[False, True])
        fitted = transform({"image": noise(2, 40, 50, *depth), "label": label})
        assert set(fitted["label"].unique().tolist()) == {0, 1}
        assert len(fitted["image"].unique()) > 100
        restored = transform.inverse(fitted)["label"]
        assert restored.shape == label.shape
        assert set(restored.unique().tolist()) == {0, 1}

    def test_refused(self):
        with pytest.raises(ValueError, match=r"x\.nii: \(12, 17\) pixels a slice, at most 16"):
            fit(noise(1, 12, 17, 3), size=16, resample_larger=False)

    def test_what_fits_is_not_refused(self):
        image = noise(1, 16, 16, 3)
        fitted, _ = fit(image, size=16, resample_larger=False)
        assert torch.equal(fitted.as_tensor(), image.as_tensor())


class TestKeys:
    def test_a_missing_key(self):
        FitPlaned(["image", "label"], size=16, allow_missing_keys=True)({"image": noise(1, 5, 5)})
        with pytest.raises(KeyError):
            FitPlaned(["image", "label"], size=16)({"image": noise(1, 5, 5)})

    def test_sizes_may_change_between_calls(self):
        transform = FitPlaned("image", size=16)
        images = [noise(1, 12, 10, 3), noise(1, 20, 18, 5), noise(1, 16, 2), noise(1, 30, 12)]
        fitted = [transform({"image": image}) for image in images]
        for image, one in zip(images, fitted, strict=True):
            assert one["image"].shape == (1, 16, 16, *image.shape[3:])
            assert transform.inverse(one)["image"].shape == image.shape


class TestInsideMonai:
    @pytest.mark.parametrize("plane", [(12, 10), (40, 30)])
    @pytest.mark.parametrize("depth", DEPTHS, ids=["2D", "3D"])
    def test_invertd(self, plane, depth):
        """As in inference: through a batch, onto maps that never went through the transform themselves."""
        preprocessing = Compose([FitPlaned("image", size=24)])
        image = smooth(1, *plane, *depth)
        batch = list_data_collate([preprocessing({"image": image})])
        values = batch["image"] * 2
        binary = (batch["image"] > 0.6).float()
        output = decollate_batch({"image": batch["image"], "map": values, "pred": binary})[0]
        invert = Invertd(["map", "pred"], preprocessing, "image", nearest_interp=[False, True], to_tensor=True)
        inverted = invert(output)
        assert inverted["map"].shape == image.shape
        assert float((inverted["map"] - 2 * image).abs().mean()) < 0.02
        assert set(inverted["pred"].unique().tolist()) <= {0, 1}
        assert float((inverted["pred"] == (image > 0.6)).float().mean()) > 0.93
        if max(plane) <= 24:
            assert torch.equal(inverted["map"].as_tensor(), 2 * image.as_tensor())
            assert torch.equal(inverted["pred"].as_tensor(), (image > 0.6).float().as_tensor())

    @pytest.mark.parametrize("size", [16, 8], ids=["padded", "resampled"])
    @pytest.mark.parametrize("orientation", ORIENTATIONS)
    def test_the_configured_round_trip_ends_in_the_files_own_space(self, tmp_path, orientation, size):
        affine = oblique(LPS_AFFINE)
        paths = []
        for seed, name in enumerate(("t1", "flair")):
            stored, matrix = stored_as(head(seed), affine, orientation)
            paths.append(save_volume(tmp_path / f"S_{name}.nii", stored, matrix))
        settings = {"image_size": size, "sequences": ["t1", "flair"], "threshold": 0.5, "median_size": 1}
        preprocessing = configured("preprocessing", **settings)
        batch = list_data_collate([preprocessing({"subject": "S", "image": paths})])
        image = batch["image"]
        # The posterior half of the left-right axis, marked in the canonical orientation.
        marked = torch.zeros_like(image[:, :1])
        marked[:, :, size // 2 :] = 1
        outputs = decollate_batch({"image": image, "pred": marked, "reconstruction": image})[0]
        postprocessing = configured("postprocessing", **settings, preprocessing=preprocessing)
        result = postprocessing(outputs)
        for key in ("image", "reconstruction", "pred", "anomaly_map"):
            assert result[key].shape[1:] == stored.shape
            assert np.allclose(result[key].affine, matrix, atol=1e-4)
        wanted = np.zeros(head().shape, dtype=np.float32)
        wanted[6:] = 1
        wanted, _ = stored_as(wanted, affine, orientation)
        # The segmentation ends at the image's foreground, the map does not.
        inside = (result["image"] > 0).any(dim=0).numpy()
        assert np.array_equal(result["pred"][0].numpy(), wanted * inside)
        if size == 16:
            assert np.array_equal(inside, stored_as(head() > 0, affine, orientation)[0])
            assert not inside.all()
            raw = np.stack([stored_as(head(seed), affine, orientation)[0] for seed in range(2)])
            top = [np.percentile(head(seed)[head(seed) > 0], 99.5) for seed in range(2)]
            scaled = (raw / np.array(top).reshape(2, 1, 1, 1)).clip(0, 1)
            assert np.allclose(result["image"].numpy(), scaled, atol=1e-6)
            assert np.array_equal(result["anomaly_map"][0].numpy(), wanted)
