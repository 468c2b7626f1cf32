from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_closing, label

from scripts.noise import Draws, SliceGenerator
from scripts.noise.regions import closed_regions, random_regions

SHAPE = (12, 16, 20)


def streams(indices=range(SHAPE[0]), seed: int = 3) -> SliceGenerator:
    return SliceGenerator(seed, list(indices))


def slow_regions(normals: np.ndarray, share, sigma, inside: np.ndarray) -> np.ndarray:
    """Place by place: the Gaussian mean of the noise, ranked."""
    from scipy.stats import norm

    _, height, width = SHAPE
    white, (u, v) = normals[:-2].reshape(height, width).astype(np.float64), norm.cdf(normals[-2:])
    spread, part = sigma[0] + (sigma[1] - sigma[0]) * u, share[0] + (share[1] - share[0]) * v
    field = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            along = np.exp(-((np.arange(height) - i) ** 2) / (2 * spread**2))
            across = np.exp(-((np.arange(width) - j) ** 2) / (2 * spread**2))
            field[i, j] = (along / along.sum()) @ white @ (across / across.sum())
    chosen = np.zeros((height, width), dtype=bool)
    order = sorted(np.argwhere(inside).tolist(), key=lambda place: -field[tuple(place)])
    for place in order[: max(1, round(part * inside.sum()))]:
        chosen[tuple(place)] = True
    return chosen


@pytest.mark.parametrize("masked", [False, True])
def test_against_places_one_by_one(masked):
    inside = torch.rand(SHAPE[0], 1, *SHAPE[1:], generator=torch.Generator().manual_seed(0)) < 0.6
    share, sigma = (0.05, 0.4), (0.7, 4.0)
    regions = random_regions(SHAPE, streams(), share, sigma, inside if masked else None)
    normals = streams().randn((SHAPE[0], SHAPE[1] * SHAPE[2] + 2)).numpy()
    for row in range(SHAPE[0]):
        places = inside[row, 0].numpy() if masked else np.ones(SHAPE[1:], dtype=bool)
        assert np.array_equal(regions[row, 0].numpy(), slow_regions(normals[row], share, sigma, places))


def test_shares_fill_their_range():
    regions = random_regions((400, 16, 16), streams(range(400)), share=(0.1, 0.5))
    shares = regions.float().mean(dim=(1, 2, 3)).numpy()
    assert shares.min() >= 0.1 - 1 / 512
    assert shares.max() <= 0.5 + 1 / 512
    assert abs(shares.mean() - 0.3) < 5 * 0.4 / np.sqrt(12 * 400)
    assert shares.std() == pytest.approx(0.4 / np.sqrt(12), rel=0.1)


def test_regions_are_coherent():
    """A wide Gaussian gives few pieces, scattered places many."""
    wide = random_regions((50, 16, 16), streams(range(50)), share=(0.2, 0.2), sigma=(3, 3))
    scattered = random_regions((50, 16, 16), streams(range(50)), share=(0.2, 0.2), sigma=(0.01, 0.01))
    pieces = [np.mean([label(r[0].numpy())[1] for r in regions]) for regions in (wide, scattered)]
    assert pieces[0] < 3
    assert pieces[1] > 15


def test_a_batch_equals_its_single_runs():
    together = random_regions(SHAPE, streams())
    for row in range(SHAPE[0]):
        assert torch.equal(together[row : row + 1], random_regions((1, *SHAPE[1:]), streams([row])))
    assert not torch.equal(together, random_regions(SHAPE, streams(seed=4)))


def test_training_draws():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = random_regions(SHAPE, Draws())
        second = random_regions(SHAPE, Draws())
    assert first.shape == (SHAPE[0], 1, *SHAPE[1:])
    assert first.dtype == torch.bool
    assert not torch.equal(first, second)


def test_nowhere_to_be():
    inside = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    inside[1, 0, 2, 3] = True
    regions = random_regions((2, 8, 8), streams([0, 1]), inside=inside)
    assert torch.equal(regions, inside)


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"share": (0, 0.3)}, r"share\[0\] must be a number in \[1e-06, 0.3\], got 0"),
        ({"share": (0.5, 1.2)}, r"share\[1\] must be a number in \[0.5, 1\], got 1.2"),
        ({"sigma": (3, 1)}, r"sigma\[0\] .* got 3"),
    ],
)
def test_ranges(ranges, message):
    with pytest.raises(ValueError, match=message):
        random_regions(SHAPE, streams(), **ranges)


@pytest.mark.parametrize("radius", [0, 1, 2])
def test_closing_against_scipy(radius):
    flips = torch.rand(5, 6, 18, 18, generator=torch.Generator().manual_seed(1))
    flips[:, :, :, :2] += 0.2  # at the border too
    closed = closed_regions(flips, 0.62, radius)
    for row, region in zip(flips.numpy(), closed, strict=True):
        suspect = row.mean(axis=0) > 0.62
        assert suspect.any()
        wide = np.pad(suspect, 2 * radius)
        wanted = binary_closing(wide, np.ones((2 * radius + 1,) * 2)) if radius else wide
        cut = slice(2 * radius, wide.shape[0] - 2 * radius)
        assert np.array_equal(region[0].numpy(), wanted[cut, cut])


def test_closing_closes():
    flips = torch.zeros(1, 2, 9, 9)
    flips[..., 4, 2] = flips[..., 4, 4] = 0.9
    assert int(closed_regions(flips, 0.5, 0).sum()) == 2
    assert int(closed_regions(flips, 0.5, 1).sum()) == 3
