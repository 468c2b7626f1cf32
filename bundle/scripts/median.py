"""The median filter of slices, with the image mirrored at its border."""

from __future__ import annotations

import torch
from monai.networks.layers import median_filter
from torch.nn.functional import pad


def mirrored_median(maps: torch.Tensor, size: int = 5) -> torch.Tensor:
    """Median of each pixel's window of ``size`` by ``size``, mirrored without the border pixel itself.

    Args:
        maps: (B, k, H, W), H and W above ``size // 2``.
        size: odd.

    Returns:
        the same shape.
    """
    border = size // 2
    padded = pad(maps, [border] * 4, mode="reflect")
    return median_filter(padded, kernel_size=size, spatial_dims=2)[..., border:-border, border:-border]
