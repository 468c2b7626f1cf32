"""What keeps a latent in shape while its autoencoder is trained: functions of the latent, each a scalar.

A regulariser takes what the autoencoder's ``forward`` returns behind the reconstruction, ``regulariser(*latent)``:

==============================  ==============================================
latent                          regulariser
==============================  ==============================================
binary code: y                  :func:`~scripts.training.losses.code_uncertainty`
Gaussian: mean, deviation       :func:`gaussian_divergence`
quantised: encoded, quantised   :func:`commitment`
==============================  ==============================================
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .losses import code_uncertainty

__all__ = ["code_uncertainty", "commitment", "gaussian_divergence"]


def gaussian_divergence(mean: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
    """KL(N(mean, deviation^2) || N(0, 1)), summed over a latent, averaged over the batch.

    Latent diffusion models give it a weight of about 1e-6 beside a reconstruction loss that is averaged over pixels.

    Args:
        mean: (B, ...).
        deviation: above 0, same shape.
    """
    mean, variance = mean.float(), deviation.float().square()
    # KL = (m^2 + s^2 - ln s^2 - 1) / 2
    divergence = (mean.square() + variance - variance.log() - 1) / 2
    return divergence.flatten(1).sum(dim=1).mean()


def commitment(encoded: torch.Tensor, quantised: torch.Tensor, *, commitment_cost: float = 0.25) -> torch.Tensor:
    """VQ's loss of a codebook that follows by a moving average: pulls the encoder towards the entries it was given.

    Args:
        encoded: the latent before quantising, (B, ...).
        quantised: and after; gets no gradient.
        commitment_cost: factor, 0.25 in van den Oord et al. 2017 (arXiv 1711.00937).
    """
    return commitment_cost * F.mse_loss(encoded.float(), quantised.detach().float())
