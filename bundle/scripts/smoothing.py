"""Gaussian smoothing with the border of ``scipy.ndimage``: a map goes on as its mirror image, edge included."""

from __future__ import annotations

import numpy as np
import torch

TRUNCATE = 4.0
"""Where the Gaussian ends, in standard deviations."""


def gaussian_smooth(maps: torch.Tensor, sigma: float) -> torch.Tensor:
    """What ``scipy.ndimage.gaussian_filter`` with its defaults makes of each map.

    Args:
        maps: (..., H, W).
        sigma: standard deviation in pixels; 0 leaves the maps as they are.

    Returns:
        float32, same shape.
    """
    if sigma <= 0:
        return maps.float()
    rows, columns = (torch.from_numpy(_smoothing_matrix(n, sigma)).to(maps.device) for n in maps.shape[-2:])
    # A filter along an axis is a matrix; two small products, in double precision on any device that has it.
    return (rows @ maps.double() @ columns.T).float()


def _smoothing_matrix(length: int, sigma: float) -> np.ndarray:
    """(length, length): row i holds the weights of what is smoothed to place i."""
    radius = int(TRUNCATE * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    # ... 1 0 | 0 1 ... n-1 | n-1 n-2 ...: a period of 2 n, whatever the radius.
    places = (np.arange(length)[:, None] + offsets) % (2 * length)
    places = np.minimum(places, 2 * length - 1 - places)
    matrix = np.zeros((length, length))
    np.add.at(matrix, (np.arange(length)[:, None], places), weights / weights.sum())
    return matrix
