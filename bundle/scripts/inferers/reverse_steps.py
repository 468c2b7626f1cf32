"""The loop of Algorithm 1 (Wolleb et al. 2024, arXiv 2403.11667), one step at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn

from ..noise import SliceGenerator
from ..schedulers import BernoulliScheduler

Step = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""z_s in {0, 1}, (B, C, h, w); M_s, boolean, of its shape; the mask's share, (B,), NaN where the network gives NaN."""


def masked_reverse_steps(
    scheduler: BernoulliScheduler,
    probability_threshold: float,
    denoiser: nn.Module,
    code: torch.Tensor,
    sample: torch.Tensor,
    generator: SliceGenerator,
) -> Iterator[Step]:
    """Undo the noise of ``sample`` over the scheduler's timesteps, changing only what the mask frees.

    Nothing is read back from the device, so that it never waits for the host.

    Args:
        scheduler: its timesteps are set.
        probability_threshold: P in [0, 1].
        denoiser: network of flip logits.
        code: z in {0, 1}, (B, C, h, w).
        sample: z_L, the same shape.
        generator: the slices' random streams; each draw carries the time (0..L) of the code it makes.

    Yields:
        the state after each step.
    """
    threshold = logit(probability_threshold)
    # M_L = 0
    mask = torch.zeros_like(code, dtype=torch.bool)
    for timestep in scheduler.timesteps.tolist():
        times = torch.full((len(code),), timestep, device=code.device)
        logits = denoiser(sample, timesteps=times).float()
        # M_{t-1} = M_t OR (eps_hat > P)
        mask = mask | (logits > threshold)
        # z0' = M z0_tilde + (1 - M) z;  z_{t-1} ~ B(theta_post(z_t, z0'))
        stream = generator.at(scheduler.previous_timestep(timestep) + 1)
        sample, _ = scheduler.step(logits, timestep, sample, code, mask, stream)
        yield sample, mask, mask_share(mask, logits)


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
