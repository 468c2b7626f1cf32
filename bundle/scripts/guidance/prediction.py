"""What a denoiser says of noised images, and what guidance makes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Guidance = Callable[[Any, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(network, x_t (B, c, *size), timesteps (B,), eps of the same shape as x_t) -> eps. The network is all its parts."""


def predicted_noise(
    denoiser: Any, x_t: torch.Tensor, timesteps: torch.Tensor, class_labels: torch.Tensor
) -> torch.Tensor:
    """eps(x_t, t, y), float32: the first c output channels, since what may follow is a learned variance.

    Args:
        denoiser: called with ``timesteps`` and ``class_labels``.
        x_t: (B, c, *size).
        timesteps: zero-based, (B,).
        class_labels: (B,), or weights (B, classes); a network that knows no classes looks past them.
    """
    return denoiser(x_t, timesteps=timesteps, class_labels=class_labels)[:, : x_t.shape[1]].float()
