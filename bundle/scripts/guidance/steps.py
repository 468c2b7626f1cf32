"""A deterministic step with guidance in the prediction of the noise."""

from __future__ import annotations

from typing import Any

import torch

from ..schedulers import GaussianScheduler
from .prediction import Guidance


def guided_ddim_step(
    scheduler: GaussianScheduler,
    guidance: Guidance,
    network: Any,
    model_output: torch.Tensor,
    timestep: int,
    sample: torch.Tensor,
    previous_timestep: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """x_s from x_t: x_0 is clamped before guidance, and not again behind it.

    Clamping what is guided would take back most of it where the image is 0 or 1, as its background is.

    Args:
        scheduler: of the process.
        guidance: see :data:`~scripts.guidance.prediction.Guidance`.
        network: all parts.
        model_output: eps(x_t, t).
        timestep: zero-based t.
        sample: x_t, (B, c, *size).
        previous_timestep: s, zero-based; -1 where the step ends at x_0.

    Returns:
        ``prev_sample`` x_s and ``pred_original_sample``, both (B, c, *size), float32.
    """
    x_0 = scheduler.predict_original_sample(model_output, sample, timestep)
    eps = scheduler.predict_noise(x_0, sample, timestep)
    timesteps = torch.full((len(sample),), timestep, device=sample.device)
    eps = guidance(network, sample, timesteps, eps)
    # x_0 = (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t)
    alpha_bar = scheduler.alpha_bar(timestep)
    x_0 = (sample - (1 - alpha_bar) ** 0.5 * eps) / alpha_bar**0.5
    return scheduler.add_noise(x_0, eps, previous_timestep), x_0
