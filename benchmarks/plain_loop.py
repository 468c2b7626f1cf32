"""Algorithm 1 of the paper as one would write it down first: one slice at a time, float32, a look at every step.

It shares nothing with the bundle's own loop but the networks and the random numbers, so that both can be compared in
result as well as in time.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch

from scripts.noise import SliceGenerator


def alphas_cumprod(steps: int = 1000, start: float = 1e-4, end: float = 0.02) -> np.ndarray:
    """abar_0 = 1 to abar_T, (T + 1,), float64."""
    return np.concatenate([[1.0], np.cumprod(1.0 - np.linspace(start, end, steps))])


def visited_times(level: int, steps: int) -> list[int]:
    """L, ..., 0: even, rounded half up."""
    return [int(np.floor(level * (steps - i) / steps + 0.5)) for i in range(steps + 1)]


@torch.no_grad()
def plain_inference(
    network: torch.nn.Module,
    image: torch.Tensor,
    index: int,
    noise_level: int = 200,
    probability_threshold: float = 0.5,
    steps: int | None = None,
    seed: int = 0,
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """One slice (c, H, W): its code z_0 (C, h, w), reconstruction (c, H, W) and mask share."""
    abar, times = alphas_cumprod(), visited_times(noise_level, steps or noise_level)
    random = SliceGenerator(seed, [index], device=image.device)
    y = network.autoencoder.encode(image[None])
    z = (random.at(-1).rand(y.shape) < y).float()
    flips = (1 - abar[noise_level]) / 2
    z_t = torch.where(random.at(noise_level).rand(z.shape) < flips, 1 - z, z)
    mask = torch.zeros_like(z)
    share = 0.0
    for t, s in itertools.pairwise(times):
        logits = network.denoiser(z_t, timesteps=torch.tensor([t - 1], device=image.device))
        flip_probability = torch.sigmoid(logits)
        z_0 = (z_t - flip_probability).abs()
        mask = torch.maximum(mask, (flip_probability > probability_threshold).float())
        z_0 = mask * z_0 + (1 - mask) * z
        a = abar[t] / abar[s]
        theta_1 = (a * z_t + (1 - a) / 2) * (abar[s] * z_0 + (1 - abar[s]) / 2)
        theta_0 = (a * (1 - z_t) + (1 - a) / 2) * (abar[s] * (1 - z_0) + (1 - abar[s]) / 2)
        z_t = (random.at(s).rand(z.shape) < theta_1 / (theta_0 + theta_1)).float()
        share = mask.mean().item()
    return z_t[0], network.autoencoder.decode(z_t)[0], share
