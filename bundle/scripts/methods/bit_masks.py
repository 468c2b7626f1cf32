"""What the loops of masked Bernoulli diffusion, plain and compiled, share."""

from __future__ import annotations

import math

import torch

Step = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""z_s in {0, 1}, (B, C, h, w); M_s, boolean, of its shape; the mask's share, (B,), NaN where the network gives NaN."""


def mask_share(mask: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Share of set entries of the mask, (B,), float32.

    NaN never exceeds P and would pass for a healthy slice: it makes the share NaN too.
    """
    return mask.float().mean(dim=(1, 2, 3)).masked_fill(logits.isnan().any(dim=1).any(dim=(1, 2)), torch.nan)


def logit(probability: float) -> float:
    """log(p / (1 - p)), infinite at 0 and 1."""
    if probability in (0.0, 1.0):
        return math.inf if probability else -math.inf
    return math.log(probability / (1 - probability))
