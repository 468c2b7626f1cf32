from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from helpers import residual_slices

from scripts.describe import describe
from scripts.foreground_scores import erode, eroded_absolute_residual, foreground_mask


def slowly_eroded(mask: np.ndarray) -> np.ndarray:
    """Of one plane: at most one pixel of the 25 around is outside."""
    padded = np.pad(mask, 2)
    return np.array(
        [[padded[r : r + 5, c : c + 5].sum() >= 24 for c in range(mask.shape[1])] for r in range(mask.shape[0])]
    )


@pytest.mark.parametrize("share", [0.0, 0.02, 0.05, 0.3])
def test_erosion_equals_loop(share):
    mask = np.random.default_rng(0).random((3, 1, 20, 26)) >= share
    eroded = erode(torch.from_numpy(mask))
    assert eroded.dtype == torch.bool and eroded.shape == mask.shape
    np.testing.assert_array_equal(eroded[:, 0].numpy(), [slowly_eroded(plane) for plane in mask[:, 0]])


def test_one_pixel_may_be_missing_two_may_not():
    mask = torch.ones(2, 1, 9, 9)
    mask[:, 0, 4, 4] = 0
    mask[1, 0, 4, 5] = 0
    first, second = erode(mask)
    assert first[0, 2:7, 2:7].all() and first.sum() == 25
    assert not second[0, 2:7, 3:7].any() and second[0, 2:7, 2].all()


@pytest.mark.parametrize("channels", [1, 3])
def test_foreground_is_where_the_sum_exceeds_the_threshold(channels):
    image = torch.full((1, channels, 1, 3), 0.02)
    image[..., 1] = 0.0101 / channels
    image[..., 2] = 0.0099 / channels
    assert foreground_mask(image).tolist() == [[[[True, True, False]]]]
    assert foreground_mask(image, 0.0102).tolist() == [[[[True, False, False]]]]


@pytest.mark.parametrize("foreground", [0.01, 0.05])
def test_score_equals_loop(foreground):
    image, reconstruction, _ = residual_slices()
    image[0, :, 10, 10:12] = 0.02
    result = eroded_absolute_residual(image, reconstruction, {}, foreground=foreground)
    assert result.shape == (3, 1, 32, 32) and result.dtype == torch.float32
    x, y = image.numpy(), reconstruction.numpy()
    for b in range(len(x)):
        inside = slowly_eroded(x[b].sum(axis=0) > foreground)
        assert 0.2 < inside.mean() < 0.9
        np.testing.assert_allclose(result[b, 0].numpy(), np.abs(x[b] - y[b]).mean(axis=0) * inside, atol=1e-6)


def test_score_is_described():
    assert describe(partial(eroded_absolute_residual, foreground=0.1)) == {
        "name": "eroded_absolute_residual",
        "foreground": 0.1,
    }
