"""Denoising autoencoder with coarse noise (Kascenas et al., "Denoising autoencoders for unsupervised anomaly detection
in brain MRI", MIDL 2022).

A U-Net learns to take coarse noise off healthy images; it takes a lesion for noise. Part: ``unet``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ..checks import MANY, outside, refuse
from ..foreground_scores import foreground_mask
from ..networks import Parts
from ..noise import Draws, SliceGenerator
from ..noise.coarse import draw_coarse_noise
from .contract import Method, OnStep, Restoration
from .task import Example, Task


@dataclass(frozen=True, eq=False, kw_only=True)
class DenoisingAutoencoder(Method):
    """One pass of the U-Net through the image as it is: y = net(x), without noise, not clamped."""

    def restore(
        self, images: torch.Tensor, encoded: torch.Tensor, network: Parts, streams: SliceGenerator, on_step: OnStep
    ) -> Restoration:
        """Restore N slices (N, c, H, W)."""
        reconstruction = network.part("unet")(images)
        on_step()
        return Restoration(reconstruction=reconstruction)


@dataclass(frozen=True, eq=False, kw_only=True)
class DenoisingTask(Task):
    """Take coarse noise off: x~ = x + n f -> x.

    Attributes:
        noise_std: standard deviation of the noise at its nodes, in the image's units.
        noise_resolution: nodes of the noise across the field of view.
        foreground: the noise lies where the channels' sum exceeds this.

    Raises:
        ValueError: when one is out of range.
    """

    noise_std: float = 0.2
    noise_resolution: int = 16
    foreground: float = 0.01

    def __post_init__(self) -> None:
        """Check the settings."""
        refuse(
            type(self).__name__,
            [
                outside("noise_std", self.noise_std, 0, MANY),
                outside("noise_resolution", self.noise_resolution, 1, MANY, whole=True),
                outside("foreground", self.foreground, 0, MANY),
            ],
        )

    def example(self, clean: torch.Tensor, labels: torch.Tensor | None, draws: Draws) -> Example:
        """Noised images and the clean ones, both (B, c, H, W)."""
        f = foreground_mask(clean, self.foreground)
        noise = draw_coarse_noise(clean.shape[1], f, draws, self.noise_std, int(self.noise_resolution))
        return clean + noise, clean, {}


class ForegroundLoss(nn.Module):
    """Mean over all pixels of (y - x)^2 f: the background counts as 0, and counts.

    Args:
        foreground: f is where the sum of x over channels exceeds this.
    """

    def __init__(self, foreground: float = 0.01) -> None:
        super().__init__()
        self.foreground = foreground

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Scalar loss of y against x, both (B, c, H, W)."""
        error = (prediction.float() - target.float()).square()
        return (error * foreground_mask(target, self.foreground)).mean()
