"""Bernoulli diffusion in regions: much noise inside, little outside.

Independent flips all over a code do not look like a lesion, which is coherent and leaves the rest as it is. Here time
passes at two speeds: inside a region as in :class:`BernoulliScheduler`, outside slower by a factor, so that the inside
has to be told from the outside. Each bit's forward process, posterior and loss stay those of the paper at the bit's
own time.

===========================  =========================================================
symbol                       here
===========================  =========================================================
R                            ``regions``, true inside, the same at all times of a code
u = floor(r t)               :meth:`RegionBernoulliScheduler.outside_timestep` + 1; r is ``outside_speed``
f                            ``foreign``, the code of another image
===========================  =========================================================

Where ``regions`` is ``None`` everything is the base class's.
"""

from __future__ import annotations

from typing import Any

import torch

from ..checks import outside, refuse
from ..noise import SliceGenerator, uniform
from .bernoulli import BernoulliScheduler


class RegionBernoulliScheduler(BernoulliScheduler):
    """Bit flips at time t inside regions and at time floor(r t) outside; time convention as in the base class.

    Args:
        num_train_timesteps: T.
        schedule: name in ``monai.networks.schedulers.NoiseSchedules``.
        outside_speed: r, in [0, 1]; 0 leaves the outside clean, 1 is the paper's process.
        schedule_args: passed to that schedule.

    Raises:
        ValueError: when an argument is outside its range.
    """

    def __init__(
        self,
        num_train_timesteps: int = 1000,
        schedule: str = "linear_beta",
        outside_speed: float = 0.1,
        **schedule_args: Any,
    ) -> None:
        refuse(type(self).__name__, [outside("outside_speed", outside_speed, 0, 1)])
        super().__init__(num_train_timesteps, schedule, **schedule_args)
        self.outside_speed = outside_speed
        speed = torch.tensor(outside_speed, dtype=torch.float64)
        # The outside's timestep at each timestep, from CLEAN on: index t holds u - 1.
        self._outside = torch.floor(torch.arange(num_train_timesteps + 1).double() * speed).long() - 1

    def outside_timestep(self, timesteps: torch.Tensor) -> torch.Tensor:
        """The timestep of bits outside regions, int64 of the same shape, from CLEAN (-1) on."""
        return self._outside.to(timesteps.device)[timesteps + 1]

    def flip_probability(
        self, original_samples: torch.Tensor, timesteps: torch.Tensor, regions: torch.Tensor | None = None
    ) -> torch.Tensor:
        """P(z_t != z_0 | z_0, R) for each bit, broadcastable to ``original_samples``, float32.

        Args:
            original_samples: z_0, (B, ...).
            timesteps: zero-based, (B,) or (1,).
            regions: R, broadcastable to z_0, e.g. (B, 1, H, W); ``None`` for the base class's.
        """
        inside = super().flip_probability(original_samples, timesteps)
        if regions is None:
            return inside
        return torch.where(
            regions.bool(), inside, super().flip_probability(original_samples, self.outside_timestep(timesteps))
        )

    def add_noise(
        self,
        original_samples: torch.Tensor,
        noise: torch.Tensor,
        timesteps: torch.Tensor,
        regions: torch.Tensor | None = None,
        foreign: torch.Tensor | None = None,
        foreign_regions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Draw z_t from q(z_t | z_0, R), with patches of another code where there are any.

        With patches z_0 is replaced by f in ``foreign_regions`` before bits flip. They are what a denoiser is taught
        to find from the surroundings: their bits are as decided as healthy ones, so nothing in them tells. There z_t
        is no draw from q(. | z_0), whatever t is; the target z_t XOR z_0 and the reverse process stay as they are.

        Args:
            original_samples: z_0 in {0, 1}, (B, ...).
            noise: uniform numbers in [0, 1), same shape.
            timesteps: zero-based, (B,) or (1,).
            regions: R; ``None`` for noise everywhere.
            foreign: f in {0, 1}, shape of z_0, such as the batch's own codes rolled by one; with ``foreign_regions``.
            foreign_regions: boolean, broadcastable to z_0.

        Returns:
            z_t in {0, 1}, type and shape of ``original_samples``.

        Raises:
            ValueError: when only one of ``foreign`` and ``foreign_regions`` is given.
        """
        if (foreign is None) != (foreign_regions is None):
            raise ValueError("foreign and foreign_regions go together: got only one of them.")
        patched = original_samples
        if foreign is not None and foreign_regions is not None:
            patched = torch.where(foreign_regions.bool(), foreign.to(original_samples), original_samples)
        # eps ~ B((1 - abar_t) / 2) inside, B((1 - abar_u) / 2) outside
        eps = noise < self.flip_probability(original_samples, timesteps, regions)
        return torch.where(eps, 1 - patched, patched)

    def posterior_mean(
        self,
        sample: torch.Tensor,
        original_sample: torch.Tensor,
        timestep: int,
        previous_timestep: int | None = None,
        regions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """P(z_s = 1 | z_t, z_0, R): the base class's with t and s inside, with their slower times outside.

        Args:
            sample: z_t in {0, 1}, (B, ...).
            original_sample: z_0 or its prediction, in [0, 1], same shape.
            timestep: zero-based t.
            previous_timestep: zero-based s; ``None`` means ``timestep - 1``.
            regions: R, broadcastable to z_t; ``None`` for the base class's.

        Raises:
            ValueError: when not -1 <= previous_timestep < timestep < T.
        """
        inside = super().posterior_mean(sample, original_sample, timestep, previous_timestep)
        if regions is None:
            return inside
        earlier = timestep - 1 if previous_timestep is None else previous_timestep
        times = self.outside_timestep(torch.tensor([int(timestep), int(earlier)])).tolist()
        # Where no time passes outside, nothing changes: z_s = z_t.
        still = times[0] == times[1]
        slower = sample.float() if still else super().posterior_mean(sample, original_sample, *times)
        return torch.where(regions.bool(), inside, slower)

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int,
        sample: torch.Tensor,
        original_sample: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        generator: torch.Generator | SliceGenerator | None = None,
        regions: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One reverse step as in the base class, each bit at its own time.

        With ``mask`` and ``regions`` the same the noise is in the mask alone but for what ``outside_speed`` allows:
        the prediction fills the mask, and outside the code z is what the reverse process returns to.

        Args:
            model_output: the network's logits of the flip probability, (B, C, H, W).
            timestep: zero-based, one of ``timesteps``.
            sample: z_t in {0, 1}, same shape.
            original_sample: z, the code of the image; together with ``mask``.
            mask: M, boolean, broadcastable: where it is False the prediction is replaced by z.
            generator: source of the new code's randomness.
            regions: R, broadcastable; ``None`` for the base class's step.

        Returns:
            ``prev_sample`` and ``pred_original_sample``, as in the base class.

        Raises:
            ValueError: when only one of ``original_sample`` and ``mask`` is given, or ``timestep`` was not set.
        """
        if regions is None:
            return super().step(model_output, timestep, sample, original_sample, mask, generator)
        if (original_sample is None) != (mask is None):
            raise ValueError("original_sample and mask go together: got only one of them.")
        prediction = self.predict_original_sample(model_output, sample)
        if mask is not None and original_sample is not None:
            # z0' = M z0_tilde + (1 - M) z
            prediction = torch.where(mask, prediction, original_sample.float())
        # z_s ~ B(theta_post(z_t, z0')) at each bit's own times
        theta = self.posterior_mean(sample, prediction, timestep, self.previous_timestep(timestep), regions)
        prev_sample = uniform(theta.shape, generator, theta.device) < theta
        return prev_sample.to(sample.dtype), prediction
