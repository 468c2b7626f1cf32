"""Noise schedules in double precision: MONAI's are single, where 1 - abar_0 is off by 2e-4 of itself."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch


def _linear(count: int, beta_start: float = 1e-4, beta_end: float = 2e-2) -> torch.Tensor:
    return torch.linspace(beta_start, beta_end, count, dtype=torch.float64)


def _scaled_linear(count: int, beta_start: float = 1e-4, beta_end: float = 2e-2) -> torch.Tensor:
    return _linear(count, math.sqrt(beta_start), math.sqrt(beta_end)).square()


def _sigmoid(count: int, beta_start: float = 1e-4, beta_end: float = 2e-2, sig_range: float = 6) -> torch.Tensor:
    places = torch.linspace(-sig_range, sig_range, count, dtype=torch.float64)
    return places.sigmoid() * (beta_end - beta_start) + beta_start


def _cosine(count: int, s: float = 8e-3) -> torch.Tensor:
    """Nichol and Dhariwal 2021 (arXiv 2102.09672, eq. 17): abar_t = f(t) / f(0), betas at most 0.999."""
    times = torch.linspace(0, 1, count + 1, dtype=torch.float64)
    f = torch.cos((times + s) / (1 + s) * math.pi / 2).square()
    return (1 - f[1:] / f[:-1]).clamp(0, 0.999)


_BETAS: dict[str, Callable[..., torch.Tensor]] = {
    "linear_beta": _linear,
    "scaled_linear_beta": _scaled_linear,
    "sigmoid_beta": _sigmoid,
    "cosine": _cosine,
}


def double_betas(schedule: str, single: torch.Tensor, **schedule_args: float) -> torch.Tensor:
    """beta_t of a schedule by MONAI's name, (T,), float64; of one that is not MONAI's own, ``single``.

    Args:
        schedule: name in ``monai.networks.schedulers.NoiseSchedules``.
        single: what that schedule gives, float32.
        schedule_args: its arguments.
    """
    own = _BETAS.get(schedule)
    return single.double() if own is None else own(len(single), **schedule_args)
