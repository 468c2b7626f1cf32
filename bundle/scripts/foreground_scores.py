"""The foreground of images, and scores that look at nothing else (Kascenas et al., MIDL 2022)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn.functional import avg_pool2d


def foreground_mask(image: torch.Tensor, threshold: float = 0.01) -> torch.Tensor:
    """f = (sum over channels of x) > ``threshold``.

    Args:
        image: x, (B, c, H, W), with a background of 0.
        threshold: in the image's units, of the sum, whatever the number of channels.

    Returns:
        boolean, (B, 1, H, W).
    """
    return image.float().sum(dim=1, keepdim=True) > threshold


def erode(mask: torch.Tensor) -> torch.Tensor:
    """Where at most one of the 5x5 pixels around is outside of ``mask``; beyond the image's border all are.

    Args:
        mask: boolean or 0 and 1, (B, 1, H, W).

    Returns:
        boolean, (B, 1, H, W).
    """
    # Zeros beyond the border count in the divisor of 25, of which 24 is a share of 0.96.
    return avg_pool2d(mask.float(), kernel_size=5, stride=1, padding=2, count_include_pad=True) > 0.95


def eroded_absolute_residual(
    image: torch.Tensor,
    reconstruction: torch.Tensor,
    evidence: Mapping[str, torch.Tensor] | None = None,
    *,
    foreground: float = 0.01,
) -> torch.Tensor:
    """a = mean over channels of |x_c - x_hat_c|, 0 outside of the eroded foreground of x.

    Args:
        image: x, (B, c, H, W).
        reconstruction: x_hat, same shape.
        evidence: not used.
        foreground: what the channels' sum exceeds there, see :func:`foreground_mask`.

    Returns:
        (B, 1, H, W), float32, at least 0.
    """
    residual = (image.float() - reconstruction.float()).abs().mean(dim=1, keepdim=True)
    return residual * erode(foreground_mask(image, foreground))
