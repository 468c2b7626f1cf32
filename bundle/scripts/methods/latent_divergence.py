"""How unlikely a place of a latent is to a denoiser, and from where on it is unusual."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.functional import interpolate

from ..schedulers import GaussianScheduler
from ..smoothing import gaussian_smooth


def noise_divergence(
    scheduler: GaussianScheduler, denoiser: nn.Module, latent: torch.Tensor, timestep: int, noise: torch.Tensor
) -> torch.Tensor:
    """KL of q(z_s | z_t, z_0) from p(z_s | z_t), s = t - 1, both with the posterior's variance v: place by place.

    Args:
        scheduler: the noise process.
        denoiser: predicts the noise.
        latent: z_0, (B, c, h, w).
        timestep: zero-based t, at least 1: the step to the clean latent has no posterior.
        noise: eps of z_t, same shape.

    Returns:
        (B, c, h, w), float32, at least 0.

    Raises:
        ValueError: when ``timestep`` is below 1.
    """
    if timestep < 1:
        raise ValueError(f"timestep must be at least 1, got {timestep}.")
    noised = scheduler.add_noise(latent, noise, timestep)
    times = torch.full((len(latent),), timestep, device=latent.device)
    error = noise.float() - denoiser(noised, timesteps=times).float()
    # The means differ by beta_t / sqrt(alpha_t (1 - abar_t)) (eps - eps_hat), and
    # v = beta_t (1 - abar_s) / (1 - abar_t), so that
    # KL = beta_t^2 / (2 v alpha_t (1 - abar_t)) (eps - eps_hat)^2 = beta_t / (2 alpha_t (1 - abar_s)) (eps - eps_hat)^2
    abar_t, abar_s = scheduler.alpha_bar(timestep), scheduler.alpha_bar(timestep - 1)
    alpha = abar_t / abar_s
    return (1 - alpha) / (2 * alpha * (1 - abar_s)) * error.square()


def healthy_percentile(maps: Iterable[torch.Tensor | np.ndarray], percentile: float = 97.5) -> float:
    """The value that so many per cent of all places of healthy slices do not exceed: the threshold of a mask.

    Args:
        maps: divergences of healthy slices, of any shapes; all their places are pooled.
        percentile: in [0, 100].

    Raises:
        ValueError: when there is no slice, a divergence is not a number, or ``percentile`` is out of range.
    """
    if not 0 <= percentile <= 100:
        raise ValueError(f"percentile must lie in [0, 100], got {percentile!r}.")
    flat = [np.asarray(values, dtype=np.float64).ravel() for values in maps]
    places = np.concatenate(flat) if flat else np.empty(0)
    if places.size == 0:
        raise ValueError("kl_threshold: there is no healthy slice to take the percentile of; validation needs some.")
    if not np.isfinite(places).all():
        raise ValueError("kl_threshold: a divergence of a healthy slice is not a number: are the weights damaged?")
    return float(np.percentile(places, percentile))


def smoothed_mask(mask: torch.Tensor, size: Sequence[int], sigma: float) -> torch.Tensor:
    """A mask of places at the size of the image, smoothed: (B, 1, H, W) in [0, 1].

    Args:
        mask: boolean, (B, 1, h, w).
        size: H and W; each place becomes a block of pixels.
        sigma: of the Gaussian, in places of the latent.
    """
    pixels = math.sqrt(math.prod(size) / math.prod(mask.shape[2:]))
    return gaussian_smooth(interpolate(mask.float(), size=tuple(size), mode="nearest"), sigma * pixels).clamp(0, 1)
