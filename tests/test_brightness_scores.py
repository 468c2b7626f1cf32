from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch
from monai.networks.layers import GaussianFilter
from scipy.ndimage import distance_transform_cdt

from scripts.brightness_scores import (
    brightness,
    dark_within_tissue,
    lesser_of_residual_and_brightness,
    residual_plus_brightness,
    residual_times_brightness,
)
from scripts.describe import describe
from scripts.scores import bright_sequence

PAIRED = [residual_times_brightness, lesser_of_residual_and_brightness, residual_plus_brightness]
ALL = [*PAIRED, brightness, dark_within_tissue]


def slices(seed: int = 0, size: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """(3, 2, size, size) images with an empty frame, the last one empty, and reconstructions."""
    random = np.random.default_rng(seed)
    image, reconstruction = random.uniform(0.2, 0.9, (2, 3, 2, size, size))
    image[..., :3, :] = image[..., -5:, :] = image[..., :4] = 0
    image[2] = 0
    return torch.from_numpy(image).float(), torch.from_numpy(reconstruction).float()


def smooth(values: np.ndarray, sigma: float) -> np.ndarray:
    """A row and a column at a time, with the filter's own kernel."""
    if sigma == 0:
        return values
    impulse = torch.zeros(1, 1, 41)
    impulse[..., 20] = 1
    kernel = GaussianFilter(1, sigma)(impulse)[0, 0].numpy().astype(np.float64)
    along = np.apply_along_axis(np.convolve, 0, values, kernel, "full")[20:-20]
    return np.apply_along_axis(np.convolve, 1, along, kernel, "full")[:, 20:-20]


def parts(image, reconstruction, channel, sign, reference, sigma) -> tuple[np.ndarray, np.ndarray]:
    """G d and G b of one slice."""
    x, x_hat = image[channel].numpy().astype(np.float64), reconstruction[channel].numpy().astype(np.float64)
    inside = image.numpy().max(axis=0) > 0
    values = np.sort(x[inside])
    m = reference if reference is not None else values[(len(values) - 1) // 2] if len(values) else 0.0
    return smooth(sign * (x - x_hat), sigma), smooth(np.where(inside, sign * (x - m), 0), sigma)


COMBINED = {
    "residual_times_brightness": lambda d, b: np.sqrt(np.maximum(d, 0) * np.maximum(b, 0)),
    "lesser_of_residual_and_brightness": lambda d, b: np.maximum(0, np.minimum(d, b)),
    "residual_plus_brightness": lambda d, b: np.maximum(0, d + b),
}


@pytest.mark.parametrize("sigma", [0, 1.5])
@pytest.mark.parametrize("reference", [None, 0.5])
@pytest.mark.parametrize(("channel", "sign"), [(0, -1.0), (1, 1.0)])
@pytest.mark.parametrize("score", PAIRED, ids=lambda score: score.__name__)
def test_slice_by_slice(score, channel, sign, reference, sigma):
    image, reconstruction = slices()
    found = score(image, reconstruction, channel=channel, sign=sign, reference=reference, sigma=sigma)
    assert found.shape == (3, 1, 24, 24)
    for x, x_hat, a in zip(image, reconstruction, found, strict=True):
        wanted = COMBINED[score.__name__](*parts(x, x_hat, channel, sign, reference, sigma))
        np.testing.assert_allclose(a[0].numpy(), wanted, atol=2e-6)
    assert found[:2].max() > 0.02


def test_weight():
    image, reconstruction = slices()
    found = residual_plus_brightness(image, reconstruction, channel=1, weight=0.3)
    d, b = parts(image[0], reconstruction[0], 1, 1.0, None, 2.0)
    np.testing.assert_allclose(found[0, 0].numpy(), np.maximum(0, d + 0.3 * b), atol=2e-6)
    with pytest.raises(ValueError, match="weight: at least 0 is needed, got -1"):
        residual_plus_brightness(image, reconstruction, channel=1, weight=-1)


def test_they_are_ordered():
    """min <= geometric mean <= half the sum, wherever both are positive."""
    image, reconstruction = slices()
    least, product, total = (
        score(image, reconstruction, channel=1, sigma=1.0)
        for score in (lesser_of_residual_and_brightness, residual_times_brightness, residual_plus_brightness)
    )
    both = least > 0
    assert both.any()
    assert (least <= product + 1e-6)[both].all()
    assert (product <= total / 2 + 1e-6)[both].all()


def test_brightness_is_the_bright_sequence_where_both_are_defined_alike():
    image, _ = slices()
    torch.testing.assert_close(brightness(image, channel=1, sigma=0), bright_sequence(image, channel=1, sigma=0))
    d, b = parts(image[1], image[1], 1, 1.0, 0.4, 2.0)
    assert not d.any()
    np.testing.assert_allclose(brightness(image, channel=1, reference=0.4)[1, 0].numpy(), b.clip(0), atol=2e-6)


@pytest.mark.parametrize("margin", [0, 1, 3])
@pytest.mark.parametrize("sigma", [0, 1.0])
def test_dark_within_tissue(margin, sigma):
    image, _ = slices(1)
    image[0, :, 9:13, 9:13] *= 0.2  # fluid
    found = dark_within_tissue(image, channel=0, fluid=0.6, margin=margin, sigma=sigma)
    for x, a in zip(image, found, strict=True):
        inside = x.numpy().max(axis=0) > 0
        values = np.sort(x[0].numpy()[inside])
        m = float(values[(len(values) - 1) // 2]) if len(values) else 0.0
        # chessboard distance to the nearest pixel outside
        deep = distance_transform_cdt(np.pad(inside, 1), "chessboard")[1:-1, 1:-1] > margin
        tissue = deep & (smooth(x[0].numpy().astype(np.float64), sigma) >= 0.6 * m - 1e-7)
        _, dark = parts(x, x, 0, -1.0, None, sigma)
        np.testing.assert_allclose(a[0].numpy(), np.maximum(dark, 0) * tissue, atol=2e-6)
    assert found[:2].max() > 0.02
    assert not found[2].any()


@pytest.mark.parametrize("score", ALL, ids=lambda score: score.__name__)
class TestEach:
    def test_a_batch_equals_its_single_runs(self, score):
        image, reconstruction = slices()
        together = score(image, reconstruction, channel=0)
        assert together.dtype == torch.float32
        assert together.min() >= 0
        for i in range(3):
            torch.testing.assert_close(
                together[i : i + 1], score(image[i : i + 1], reconstruction[i : i + 1], channel=0)
            )

    def test_other_channels_and_evidence_have_no_say(self, score):
        image, reconstruction = slices()
        other = reconstruction.clone()
        other[:, 1] += 0.1
        evidence = {"mask_density": torch.rand(3, 1, 24, 24)}
        assert torch.equal(score(image, reconstruction, channel=0), score(image, other, evidence, channel=0))

    def test_inputs_stay_and_half_precision_is_taken(self, score):
        image, reconstruction = slices()
        before = image.clone()
        half = score(image.half(), reconstruction.half(), channel=0)
        torch.testing.assert_close(half, score(image, reconstruction, channel=0), atol=5e-3, rtol=0)
        assert torch.equal(image, before)

    def test_it_describes_itself(self, score):
        said = describe(partial(score, channel=1, sigma=2.0))
        assert said == {"name": score.__name__, "channel": 1, "sigma": 2.0}
        assert json.loads(json.dumps(said)) == said


@pytest.mark.parametrize("values", [{"fluid": 1.5}, {"margin": -1}])
def test_wrong_settings(values):
    with pytest.raises(ValueError, match=r"need fluid in \[0, 1\] and margin at least 0"):
        dark_within_tissue(slices()[0], channel=0, **values)
