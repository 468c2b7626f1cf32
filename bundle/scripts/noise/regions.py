"""Random regions of a grid: coherent patches, as lesions are, in place of scattered places."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch.nn import functional as F

from ..checks import outside, refuse


class Normals(Protocol):
    """A source of standard normal numbers of a shape (B, ...): a slice generator or training draws."""

    def randn(self, shape: Sequence[int]) -> torch.Tensor:
        """Standard normal numbers, float32."""


def random_regions(
    shape: Sequence[int],
    source: Normals,
    share: Sequence[float] = (0.02, 0.3),
    sigma: Sequence[float] = (1.0, 3.0),
    inside: torch.Tensor | None = None,
) -> torch.Tensor:
    """For each row the places where a smooth random field is highest.

    White noise is smoothed by a Gaussian of the row's own width, then the highest k places are taken, k by the row's
    own share; both are uniform in their ranges. A wide Gaussian gives one round patch, a narrow one several ragged
    ones.

    Args:
        shape: (B, H, W), rows and size of the grid.
        source: of all randomness, asked once.
        share: least and largest share of the places that a region takes, in (0, 1].
        sigma: least and largest width of the Gaussian, in places.
        inside: (B, 1, H, W), true where a region may be, such as in the head; shares are of these places. ``None``
            for everywhere.

    Returns:
        boolean, (B, 1, H, W): round(share * places) of each row, at least one where any is allowed.

    Raises:
        ValueError: when a range is outside its own.
    """
    refuse("random_regions", [*_range("share", share, 1e-6, 1), *_range("sigma", sigma, 1e-3, 1e6)])
    rows, height, width = shape
    normals = source.randn((rows, height * width + 2))
    if inside is not None:
        normals = normals.to(inside.device)
    # One draw for everything: two draws of a stream at the same step would be the same numbers.
    white, chosen = normals[:, :-2].reshape(rows, height, width), _uniform_of(normals[:, -2:])
    widths, shares = (low + (high - low) * u for (low, high), u in zip((sigma, share), chosen.T, strict=True))
    field = _smoothing(height, widths) @ white @ _smoothing(width, widths).mT
    allowed = torch.ones_like(field, dtype=torch.bool) if inside is None else inside.reshape(field.shape).bool()
    return _highest(field, allowed, shares)[:, None]


def closed_regions(flips: torch.Tensor, threshold: float, radius: int = 1) -> torch.Tensor:
    """Where a code is suspect, as regions: places with enough suspect bits, gaps between them closed.

    Args:
        flips: flip probability of each bit, (B, C, H, W).
        threshold: a place is suspect where the mean over its bits is above it.
        radius: gaps of up to twice as many places are closed; 0 closes none.

    Returns:
        boolean, (B, 1, H, W).
    """
    suspect = (flips.float().mean(dim=1, keepdim=True) > threshold).float()
    size = 2 * radius + 1
    # On a larger plane, so that a region at the border is not eaten from outside.
    grown = F.max_pool2d(F.pad(suspect, [2 * radius] * 4), size, stride=1)
    return -F.max_pool2d(-grown, size, stride=1) > 0


def _highest(field: torch.Tensor, allowed: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """The highest ``shares`` of the allowed places of each row."""
    values = field.masked_fill(~allowed, -math.inf).flatten(1)
    places = allowed.flatten(1).sum(dim=1)
    wanted = torch.minimum((shares * places).round().long().clamp_min(1), places)
    rank = values.argsort(dim=1, descending=True).argsort(dim=1)
    return (rank < wanted[:, None]).reshape(field.shape)


def _uniform_of(normals: torch.Tensor) -> torch.Tensor:
    """Uniform numbers in [0, 1] of standard normal ones, by their distribution function."""
    return torch.special.ndtr(normals)


def _smoothing(size: int, sigma: torch.Tensor) -> torch.Tensor:
    """For each row a Gaussian filter as a matrix (B, size, size); the border's rows are scaled to sum 1 like others."""
    places = torch.arange(size, device=sigma.device, dtype=torch.float32)
    weights = torch.exp(-((places[:, None] - places) ** 2) / (2 * sigma[:, None, None] ** 2))
    return weights / weights.sum(dim=-1, keepdim=True)


def _range(key: str, ends: Sequence[float], low: float, high: float) -> list[str | None]:
    return [outside(f"{key}[0]", ends[0], low, ends[1]), outside(f"{key}[1]", ends[1], ends[0], high)]
