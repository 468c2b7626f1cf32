from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics import PSNRMetric, SSIMMetric
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from scripts.evaluation.quality import psnr, ssim


def pair(seed: int = 0, shape: tuple[int, ...] = (2, 40, 33), noise: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Smooth image in [0, 1] and a noisy copy of it, (c, H, W)."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[1], : shape[2]]
    image = np.stack([0.5 + 0.4 * np.sin(rows / (4 + c)) * np.cos(columns / 5) for c in range(shape[0])])
    return image.astype(np.float32), np.clip(image + noise * rng.normal(size=shape), 0, 1).astype(np.float32)


def as_batch(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array)[None]


def region(seed: int = 1, shape: tuple[int, int] = (40, 33)) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < 0.3


@pytest.mark.parametrize("seed", range(3))
def test_psnr_equals_monai_and_skimage(seed):
    image, reconstruction = pair(seed)
    value = psnr(image, reconstruction)
    monai = PSNRMetric(max_val=1.0)(as_batch(reconstruction), as_batch(image)).item()
    assert value == pytest.approx(monai, abs=1e-4)
    assert value == pytest.approx(peak_signal_noise_ratio(image, reconstruction, data_range=1), abs=1e-4)
    assert psnr(255 * image, 255 * reconstruction, data_range=255) == pytest.approx(value, abs=1e-4)


def test_psnr_of_a_region_is_that_of_its_pixels():
    image, reconstruction = pair()
    where = region()
    expected = peak_signal_noise_ratio(image[:, where], reconstruction[:, where], data_range=1)
    assert psnr(image, reconstruction, where) == pytest.approx(expected, abs=1e-4)
    reconstruction[:, ~where] = 7
    assert psnr(image, reconstruction, where) == pytest.approx(expected, abs=1e-4)


def test_psnr_closed_form():
    # an error of 0.1 everywhere in one of two channels: 0.01 / 2
    image = np.zeros((2, 3, 3))
    reconstruction = image.copy()
    reconstruction[0] = 0.1
    assert psnr(image, reconstruction) == pytest.approx(10 * math.log10(1 / 0.005))


def test_psnr_of_equal_images_is_infinite():
    image, reconstruction = pair()
    assert psnr(image, image) == math.inf
    where = np.zeros(image.shape[1:], dtype=bool)
    where[3, 4] = True
    reconstruction[:, 3, 4] = image[:, 3, 4]
    assert psnr(image, reconstruction, where) == math.inf


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_no_pixel_is_not_defined(metric):
    image, reconstruction = pair()
    assert math.isnan(metric(image, reconstruction, np.zeros(image.shape[1:], dtype=bool)))


@pytest.mark.parametrize("seed", range(3))
def test_ssim_equals_monai(seed):
    image, reconstruction = pair(seed)
    monai = SSIMMetric(spatial_dims=2, data_range=1.0)(as_batch(reconstruction), as_batch(image)).item()
    assert ssim(image, reconstruction) == pytest.approx(monai, abs=1e-5)


def skimage_map(image: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
    """Map of the same definition, (c, H, W); its margins, where skimage mirrors the image, are of no use."""
    settings = {"win_size": 11, "sigma": 1.5, "truncate": 3.5}
    _, full = structural_similarity(
        image.astype(np.float64),
        reconstruction.astype(np.float64),
        channel_axis=0,
        full=True,
        data_range=1.0,
        gaussian_weights=True,
        use_sample_covariance=False,
        **settings,
    )
    return full


def test_ssim_of_regions_equals_skimage_at_the_same_pixels():
    image, reconstruction = pair()
    similarity = skimage_map(image, reconstruction)
    inner = np.zeros(image.shape[1:], dtype=bool)
    inner[5:-5, 5:-5] = True
    for where in (inner, region() & inner, region()):
        expected = similarity[:, where & inner].mean()
        assert ssim(image, reconstruction, where) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("pixel", [(5, 5), (20, 7), (34, 27)])
def test_ssim_of_one_pixel_is_that_of_its_window(pixel):
    image, reconstruction = pair()
    where = np.zeros(image.shape[1:], dtype=bool)
    where[pixel] = True
    row, column = pixel
    window = np.s_[:, row - 5 : row + 6, column - 5 : column + 6]
    assert ssim(image, reconstruction, where) == pytest.approx(ssim(image[window], reconstruction[window]), abs=1e-6)
    # channels count the same
    expected = skimage_map(image, reconstruction)[:, row, column].mean()
    assert ssim(image, reconstruction, where) == pytest.approx(expected, abs=1e-4)


def test_margin_is_not_judged():
    image, reconstruction = pair()
    margin = np.ones(image.shape[1:], dtype=bool)
    margin[5:-5, 5:-5] = False
    assert math.isnan(ssim(image, reconstruction, margin))
    assert ssim(image, reconstruction, np.ones_like(margin)) == ssim(image, reconstruction)


def test_ssim_of_equal_images_and_order_of_quality():
    image, reconstruction = pair()
    assert ssim(image, image) == pytest.approx(1, abs=1e-6)
    worse = pair(noise=0.3)[1]
    assert ssim(image, worse) < ssim(image, reconstruction) < 1
    assert psnr(image, worse) < psnr(image, reconstruction)


def test_images_are_not_changed():
    image, reconstruction = pair()
    before = image.copy(), reconstruction.copy()
    ssim(image, reconstruction, region())
    psnr(image, reconstruction, region())
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(reconstruction, before[1])


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_bad_arrays_are_named(metric):
    image, reconstruction = pair()
    with pytest.raises(ValueError, match=r"shape \(c, H, W\).*\(2, 40, 33\).*\(1, 40, 33\)"):
        metric(image, reconstruction[:1])
    with pytest.raises(ValueError, match=r"shape \(c, H, W\).*\(40, 33\)"):
        metric(image[0], reconstruction[0])
    with pytest.raises(ValueError, match=r"where.*uint8"):
        metric(image, reconstruction, region().astype(np.uint8))
    with pytest.raises(ValueError, match=r"where.*\(40, 33\).*\(33, 40\)"):
        metric(image, reconstruction, region().T)
    reconstruction[0, 0, :2] = np.nan
    with pytest.raises(ValueError, match=r"reconstruction.*2 of 2640"):
        metric(image, reconstruction)


def test_bad_sizes_and_ranges_are_named():
    image, reconstruction = pair(shape=(1, 12, 10))
    with pytest.raises(ValueError, match=r"image.*11.*\(12, 10\)"):
        ssim(image, reconstruction)
    with pytest.raises(ValueError, match=r"data_range.*0"):
        psnr(image, reconstruction, data_range=0)
