"""The noising process of Gaussian diffusion (Ho et al. 2020, arXiv 2006.11239): tables, times, x_t and x_0.

===========================  =========================================================
paper                        here
===========================  =========================================================
x_0, x_t                     ``original_samples``, ``sample``
t = 1..T                     ``timestep`` = t - 1
beta_t, abar_t               abar_0 = 1 is the clean sample's, timestep -1
eps_theta(x_t, t)            ``model_output``, where ``prediction_type`` is ``"epsilon"``
x_0 predicted of x_t         ``pred_original_sample``
===========================  =========================================================
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from monai.networks.schedulers import Scheduler

from ..checks import refuse
from .gaussian_tables import double_betas
from .timesteps import checked_timesteps, even_timesteps

CLEAN = -1
"""The timestep of the clean sample x_0, one before the first noisy one (paper: t = 0)."""

Times = int | torch.Tensor
"""One zero-based timestep for all samples, or a tensor (B,) or (1,) of them."""


class GaussianProcess(Scheduler):
    """What Gaussian noise does to samples, and at which times sampling looks at them.

    Time convention as in :class:`~scripts.schedulers.BernoulliScheduler`: a ``timestep`` is the zero-based index
    ``t - 1`` of the paper's t = 1..T; -1 (:data:`CLEAN`) is the clean sample, where abar = 1. A ``noise_level`` L is a
    number of steps, 1..T: sampling from it starts at timestep L - 1.

    Tables are float64, and samples are computed in at least float32, whatever the network runs in. Noise is always an
    argument: which kind it is, and where it comes from, is not this class's business.

    Args:
        num_train_timesteps: T.
        schedule: name in ``monai.networks.schedulers.NoiseSchedules``, such as ``linear_beta`` or ``cosine``.
        prediction_type: what the network says, the noise (``"epsilon"``) or x_0 (``"sample"``).
        clip_range: smallest and largest value of x_0, which predictions are clamped to; ``None`` for no clamping.
        table_precision: ``"float64"``, or ``"float32"`` to repeat results of code whose tables are single precision
            (there 1 - abar_0 is off by 2e-4 of itself, and so is the last step).
        schedule_args: passed to the schedule, e.g. ``beta_start`` and ``beta_end``.

    Raises:
        ValueError: when a beta is not strictly between 0 and 1, or another argument is none of those above.
    """

    def __init__(
        self,
        num_train_timesteps: int = 1000,
        schedule: str = "linear_beta",
        prediction_type: str = "epsilon",
        clip_range: Sequence[float] | None = (-1.0, 1.0),
        table_precision: str = "float64",
        **schedule_args,
    ) -> None:
        super().__init__(num_train_timesteps, schedule, **schedule_args)
        refuse(type(self).__name__, _problems(prediction_type, clip_range, table_precision))
        self.prediction_type, self.table_precision = prediction_type, table_precision
        self.clip_range = None if clip_range is None else (float(clip_range[0]), float(clip_range[1]))
        single = table_precision == "float32"
        betas = self.betas if single else double_betas(schedule, self.betas, **schedule_args)
        if betas.min() <= 0 or betas.max() >= 1:
            raise ValueError(f"betas must lie inside (0, 1), {schedule!r} gives [{betas.min():g}, {betas.max():g}].")
        abar = self.alphas_cumprod if single else torch.cumprod(1 - betas, dim=0)
        # Index t: 0 is the clean sample (abar = 1), T + 1 what lies beyond the noisiest (abar = 0).
        self._betas: list[float] = [0.0, *betas.tolist(), 1.0]
        self._abar: list[float] = [1.0, *abar.tolist(), 0.0]
        # 1 - abar by itself, since in single precision the difference is rounded too.
        self._noise: list[float] = [0.0, *(1 - abar).tolist(), 1.0]
        self._scales = torch.tensor([self._abar, self._noise], dtype=torch.float64).sqrt()
        self._previous: dict[int, int] = {}
        self.set_timesteps()

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        noise_level: int | None = None,
        timesteps: Sequence[int] | None = None,
    ) -> None:
        """Choose the times that sampling visits: an even subset of 1..L that always contains L, or an own grid.

        Args:
            num_inference_steps: how many network evaluations, 1..L; ``None`` means all L.
            noise_level: L, the number of noise steps to undo, 1..T; ``None`` means T.
            timesteps: the zero-based timesteps themselves, falling; in place of the other two.

        Raises:
            ValueError: when one is outside its range, or ``timesteps`` comes with another.
        """
        if timesteps is None:
            times = even_timesteps(self.num_train_timesteps, num_inference_steps, noise_level)
        elif num_inference_steps is None and noise_level is None:
            times = checked_timesteps(timesteps, self.num_train_timesteps)
        else:
            raise ValueError("timesteps stand for themselves: leave out num_inference_steps and noise_level.")
        self.num_inference_steps = len(times)
        self.timesteps = torch.tensor(times)
        self._previous = dict(pairwise([*times, CLEAN]))

    def previous_timestep(self, timestep: int) -> int:
        """The timestep that sampling visits after ``timestep``; :data:`CLEAN` (-1) after the last.

        Raises:
            ValueError: when ``timestep`` is not one of those set by :meth:`set_timesteps`.
        """
        try:
            return self._previous[int(timestep)]
        except KeyError:
            raise ValueError(f"timestep {timestep} is not among the {len(self._previous)} timesteps set.") from None

    def alpha_bar(self, timestep: int) -> float:
        """abar at a zero-based timestep: 1 at -1, 0 at T."""
        return self._abar[timestep + 1]

    def add_noise(self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: Times) -> torch.Tensor:
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps (Ho eq. 4).

        Args:
            original_samples: x_0, (B, ...).
            noise: eps, same shape.
            timesteps: zero-based; -1 adds no noise, T gives the noise alone.

        Returns:
            x_t, type and shape of ``original_samples``.
        """
        signal, deviation = self._root_scales(timesteps, original_samples)
        return (signal * self.widened(original_samples) + deviation * self.widened(noise)).to(original_samples.dtype)

    def predict_original_sample(
        self, model_output: torch.Tensor, sample: torch.Tensor, timestep: Times
    ) -> torch.Tensor:
        """x_0 as the network sees it, clamped to ``clip_range``: (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t)."""
        prediction = self.widened(model_output)
        if self.prediction_type == "epsilon":
            signal, deviation = self._root_scales(timestep, sample)
            prediction = (self.widened(sample) - deviation * prediction) / signal
        return prediction if self.clip_range is None else prediction.clamp(*self.clip_range)

    def predict_noise(self, pred_original_sample: torch.Tensor, sample: torch.Tensor, timestep: Times) -> torch.Tensor:
        """The eps that takes x_0 to x_t: (x_t - sqrt(abar_t) x_0) / sqrt(1 - abar_t); timestep at least 0."""
        signal, deviation = self._root_scales(timestep, sample)
        return (self.widened(sample) - signal * self.widened(pred_original_sample)) / deviation

    @staticmethod
    def widened(values: torch.Tensor) -> torch.Tensor:
        """In at least float32: in half precision 1 - abar vanishes at the first steps."""
        return values.to(torch.promote_types(values.dtype, torch.float32))

    def describe(self) -> dict[str, Any]:
        """Everything that results depend on, in JSON values; the schedule as three of its abar."""
        last = self.num_train_timesteps - 1
        return {
            "name": type(self).__name__,
            "num_train_timesteps": self.num_train_timesteps,
            "alphas_cumprod": [float(f"{self.alpha_bar(t):.6g}") for t in (0, last // 2, last)],
            "prediction_type": self.prediction_type,
            "clip_range": None if self.clip_range is None else list(self.clip_range),
            "table_precision": self.table_precision,
        }

    def _root_scales(self, timesteps: Times, samples: torch.Tensor) -> tuple[Any, Any]:
        """sqrt(abar_t) and sqrt(1 - abar_t), as numbers or broadcastable to ``samples``."""
        if isinstance(timesteps, int):
            t = timesteps + 1
            return math.sqrt(self._abar[t]), math.sqrt(self._noise[t])
        self._scales = self._scales.to(samples.device)
        scales = self._scales[:, timesteps.to(samples.device) + 1].to(self.widened(samples[:0]).dtype)
        signal, deviation = scales.reshape(2, -1, *[1] * (samples.ndim - 1))
        return signal, deviation


def _problems(prediction_type: str, clip_range: Sequence[float] | None, table_precision: str) -> list[str]:
    """What is wrong with the arguments, in words."""
    named = {
        "prediction_type": (prediction_type, ("epsilon", "sample")),
        "table_precision": (table_precision, ("float64", "float32")),
    }
    found = [
        f"{key} must be {a!r} or {b!r}, got {value!r}" for key, (value, (a, b)) in named.items() if value not in (a, b)
    ]
    if clip_range is not None and (len(clip_range) != 2 or clip_range[0] >= clip_range[1]):
        found.append(f"clip_range must be two rising numbers or None, got {clip_range!r}")
    return found
