"""Coarse noise (Kascenas et al., MIDL 2022): random blobs, about as wide as a lesion, on what the image shows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import interpolate

from .draws import Draws


def coarse_noise(noise: torch.Tensor, shift: Sequence[int], foreground: torch.Tensor) -> torch.Tensor:
    """The field n f that is added to images, from its random numbers.

    Args:
        noise: at low resolution, (B, c, h, w), in the image's units.
        shift: (rows, columns) by which all fields are shifted, cyclically, so that the nodes of the coarse grid, where
            the interpolated noise is strongest, fall on every pixel alike.
        foreground: f, (B, 1, H, W), boolean or weights; its size is the image's.

    Returns:
        (B, c, H, W), type of ``noise``.
    """
    # The corners of both grids coincide, as the authors have it; otherwise it is another field, off by two deviations.
    field = interpolate(noise, size=tuple(foreground.shape[2:]), mode="bilinear", align_corners=True)
    return field.roll(tuple(shift), dims=(2, 3)) * foreground


def draw_coarse_noise(
    channels: int, foreground: torch.Tensor, draws: Draws, std: float = 0.2, resolution: int = 16
) -> torch.Tensor:
    """A field for every image of a batch: n ~ N(0, std^2) at each node and channel, shifts uniform over the image.

    Args:
        channels: of the images, c.
        foreground: f, (B, 1, H, W), boolean or weights.
        draws: source of the numbers; one shift for the whole batch.
        std: standard deviation at the nodes, in the image's units.
        resolution: nodes across the field of view, whatever the image's size.

    Returns:
        (B, c, H, W), float32.
    """
    noise = std * draws.randn((len(foreground), channels, resolution, resolution), foreground.device)
    shift = [draws.shared_integers(0, size, 1)[0] for size in foreground.shape[2:]]
    return coarse_noise(noise, shift, foreground)
