"""Guidance without a classifier (Ho and Salimans 2022, arXiv 2207.12598, eq. 6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..networks.classes import NULL, classes
from .prediction import predicted_noise


@dataclass(frozen=True, eq=False)
class ClassifierFreeGuidance:
    """(1 + w) eps(x_t, t, y) - w eps(x_t, t, null).

    Args:
        strength: w; 0 leaves the conditional prediction, -1 gives that of the null class.
    """

    strength: float

    def __call__(
        self, network: Any, x_t: torch.Tensor, timesteps: torch.Tensor, prediction: torch.Tensor
    ) -> torch.Tensor:
        """The conditional ``prediction`` (B, c, *size) guided by the part ``denoiser``."""
        null = classes(NULL, len(x_t), x_t.device)
        return self.combine(prediction, predicted_noise(network.denoiser, x_t, timesteps, null))

    def combine(self, conditional: torch.Tensor, unconditional: torch.Tensor) -> torch.Tensor:
        """Of two predictions that are there already."""
        return (1 + self.strength) * conditional - self.strength * unconditional
