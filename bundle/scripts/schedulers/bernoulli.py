"""Bernoulli diffusion of binary codes (Wolleb et al. 2024, arXiv 2403.11667, section 2.2).

===========================  =========================================================
paper                        here
===========================  =========================================================
z_0, z_t                     ``original_samples``, ``sample``
t = 1..T                     ``timestep`` = t - 1
beta_t, abar_t               ``betas[t - 1]``, ``alphas_cumprod[t - 1]``; abar_0 = 1
eps_hat(z_t, t)              sigmoid of ``model_output``
z0_tilde                     ``pred_original_sample``
theta_post                   :meth:`BernoulliScheduler.posterior_mean`
===========================  =========================================================
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from monai.networks.schedulers import Scheduler

from ..noise import SliceGenerator, uniform

CLEAN = -1
"""The timestep of the clean code z_0, one before the first noisy one (paper: t = 0)."""


class BernoulliScheduler(Scheduler):
    """Symmetric bit-flip noise, its exact posterior between any two times, and respaced sampling.

    Time convention, here and in everything that uses this class: a ``timestep`` is the zero-based index
    ``t - 1`` of the paper's t = 1..T, as in MONAI's schedulers. Timestep 0 is the least noisy code, T - 1 the
    noisiest, and -1 (:data:`CLEAN`) the clean code. A ``noise_level`` L is a number of steps, 1..T: sampling
    from it starts at timestep L - 1.

    Tables and posterior are float32, their differences taken in float64, whatever the network runs in: in half
    precision 1 - abar vanishes at the first steps, and the posterior would be 0/0.

    Args:
        num_train_timesteps: T.
        schedule: name in ``monai.networks.schedulers.NoiseSchedules``.
        schedule_args: passed to that schedule, e.g. ``beta_start`` and ``beta_end``.

    Raises:
        ValueError: when a beta is not strictly between 0 and 1.
    """

    def __init__(self, num_train_timesteps: int = 1000, schedule: str = "linear_beta", **schedule_args) -> None:
        super().__init__(num_train_timesteps, schedule, **schedule_args)
        low, high = float(self.betas.min()), float(self.betas.max())
        if low <= 0 or high >= 1:
            raise ValueError(f"betas must lie inside (0, 1), {schedule!r} gives [{low:g}, {high:g}].")
        # Index t, so that index 0 is the clean code: abar_0 = 1.
        alphas_cumprod = torch.cumprod(torch.cat([torch.ones(1).double(), 1.0 - self.betas.double()]), dim=0)
        self._abar: list[float] = alphas_cumprod.tolist()
        # P(bit flipped after t steps) = (1 - abar_t) / 2
        self.flip_probabilities = ((1.0 - alphas_cumprod) / 2).float()
        self._previous: dict[int, int] = {}
        self.set_timesteps()

    def describe(self) -> dict[str, Any]:
        """Name, T, and abar at the first, the middle and the last step, which tell schedules apart."""
        middle = self.num_train_timesteps // 2
        said = [float(f"{self._abar[i]:.5g}") for i in (1, middle, self.num_train_timesteps)]
        return {"name": type(self).__name__, "num_train_timesteps": self.num_train_timesteps, "alphas_cumprod": said}

    def set_timesteps(self, num_inference_steps: int | None = None, noise_level: int | None = None) -> None:
        """Choose the times that sampling visits: an even subset of 1..L that always contains L.

        Args:
            num_inference_steps: how many network evaluations, 1..L; ``None`` means all L.
            noise_level: L, the number of noise steps to undo, 1..T; ``None`` means T.

        Raises:
            ValueError: when one is outside its range.
        """
        level = self.num_train_timesteps if noise_level is None else int(noise_level)
        if not 1 <= level <= self.num_train_timesteps or level != (noise_level or level):
            raise ValueError(f"noise_level must lie in [1, {self.num_train_timesteps}], got {noise_level}.")
        steps = level if num_inference_steps is None else int(num_inference_steps)
        if not 1 <= steps <= level or steps != (num_inference_steps or steps):
            raise ValueError(f"num_inference_steps must lie in [1, noise_level={level}], got {num_inference_steps}.")
        # Integer arithmetic keeps the subset the same on every machine: times L, ..., > 0, then 0.
        times = [(level * (steps - i) + steps // 2) // steps for i in range(steps + 1)]
        self.num_inference_steps = steps
        self.timesteps = torch.tensor(times[:-1]) - 1
        self._previous = {t - 1: s - 1 for t, s in pairwise(times)}

    def previous_timestep(self, timestep: int) -> int:
        """The timestep that sampling visits after ``timestep``; :data:`CLEAN` (-1) after the last.

        Raises:
            ValueError: when ``timestep`` is not one of those set by :meth:`set_timesteps`.
        """
        try:
            return self._previous[int(timestep)]
        except KeyError:
            raise ValueError(f"timestep {timestep} is not among the {len(self._previous)} timesteps set.") from None

    def flip_probability(self, original_samples: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """P(z_t != z_0 | z_0) for each bit, broadcastable to ``original_samples``, float32."""
        self.flip_probabilities = self.flip_probabilities.to(original_samples.device)
        flips = self.flip_probabilities[timesteps.to(original_samples.device) + 1]
        return flips.reshape(-1, *[1] * (original_samples.ndim - 1))

    def add_noise(self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Draw z_t from q(z_t | z_0): z_t = z_0 XOR eps, eps ~ B((1 - abar_t) / 2) (paper eq. 2).

        Args:
            original_samples: z_0 in {0, 1}, shape (B, ...), any floating type.
            noise: uniform numbers in [0, 1), same shape: bit i flips where ``noise`` is below its probability.
            timesteps: zero-based, shape (B,) or (1,); :data:`CLEAN` (-1) adds no noise.

        Returns:
            z_t in {0, 1}, type and shape of ``original_samples``.
        """
        eps = noise < self.flip_probability(original_samples, timesteps)
        return torch.where(eps, 1 - original_samples, original_samples)

    @staticmethod
    def predict_original_sample(model_output: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        """z0_tilde = |z_t - eps_hat|, in [0, 1], float32, from the network's logits."""
        return torch.sigmoid(model_output.float()).sub_(sample.float()).abs_()

    def posterior_mean(
        self, sample: torch.Tensor, original_sample: torch.Tensor, timestep: int, previous_timestep: int | None = None
    ) -> torch.Tensor:
        """P(z_s = 1 | z_t, z_0) for a time s < t (paper eq. 4 with s = t - 1), for soft z_0 too.

        Args:
            sample: z_t in {0, 1}, shape (B, ...).
            original_sample: z_0 or its prediction, in [0, 1], same shape.
            timestep: zero-based t.
            previous_timestep: zero-based s, in [-1, timestep); ``None`` means ``timestep - 1``.

        Returns:
            probabilities, float32, same shape.

        Raises:
            ValueError: when not -1 <= previous_timestep < timestep < T.
        """
        return self.posterior(sample, original_sample, *self.posterior_coefficients(timestep, previous_timestep))

    def posterior_coefficients(
        self, timestep: int, previous_timestep: int | None = None
    ) -> tuple[float, float, float, float]:
        """a, (1 - a) / 2, abar_s and (1 - abar_s) / 2 of :meth:`posterior`, with a = abar_t / abar_s.

        Raises:
            ValueError: when not -1 <= previous_timestep < timestep < T.
        """
        earlier = timestep - 1 if previous_timestep is None else previous_timestep
        if not CLEAN <= earlier < timestep < self.num_train_timesteps:
            raise ValueError(
                f"need -1 <= previous_timestep < timestep < {self.num_train_timesteps}, got {earlier} and {timestep}."
            )
        abar_t, abar_s = self._abar[timestep + 1], self._abar[earlier + 1]
        return abar_t / abar_s, (abar_s - abar_t) / abar_s / 2, abar_s, (1.0 - abar_s) / 2

    @staticmethod
    def posterior(
        sample: torch.Tensor,
        original_sample: torch.Tensor,
        alpha: float | torch.Tensor,
        half_beta: float | torch.Tensor,
        abar_s: float | torch.Tensor,
        half_noise: float | torch.Tensor,
    ) -> torch.Tensor:
        """theta_post(z_t, z_0), float32, from :meth:`posterior_coefficients`, as numbers or 0-d tensors."""
        z_t, z_0 = sample.float(), original_sample.float()
        # theta_1 = (a z_t       + (1 - a) / 2) (abar_s z_0       + (1 - abar_s) / 2)
        # theta_0 = (a (1 - z_t) + (1 - a) / 2) (abar_s (1 - z_0) + (1 - abar_s) / 2)
        # In place, since at every step fresh memory costs several times what the arithmetic does.
        theta_1 = (z_t * alpha).add_(half_beta).mul_((z_0 * abar_s).add_(half_noise))
        theta_0 = (1 - z_t).mul_(alpha).add_(half_beta).mul_((1 - z_0).mul_(abar_s).add_(half_noise))
        return theta_1.div_(theta_0.add_(theta_1))

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int,
        sample: torch.Tensor,
        original_sample: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        generator: torch.Generator | SliceGenerator | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One reverse step, from ``timestep`` to :meth:`previous_timestep` (paper Algorithm 1, lines 6 to 9).

        Args:
            model_output: the network's logits of the flip probability, shape (B, C, H, W).
            timestep: zero-based, one of ``timesteps``.
            sample: z_t in {0, 1}, same shape.
            original_sample: z, the code of the image; together with ``mask``.
            mask: M, boolean, same shape: where it is False the prediction is replaced by z.
            generator: source of the new code's randomness.

        Returns:
            ``prev_sample``, z_s in {0, 1} in the type of ``sample``, and ``pred_original_sample``: z0_tilde, after
            the replacement when a mask is given, float32 in [0, 1].

        Raises:
            ValueError: when only one of ``original_sample`` and ``mask`` is given, or ``timestep`` was not set.
        """
        if (original_sample is None) != (mask is None):
            raise ValueError("original_sample and mask go together: got only one of them.")
        prediction = self.predict_original_sample(model_output, sample)
        if mask is not None and original_sample is not None:
            # z0' = M z0_tilde + (1 - M) z
            prediction = torch.where(mask, prediction, original_sample.float())
        # z_s ~ B(theta_post(z_t, z0'))
        theta = self.posterior_mean(sample, prediction, timestep, self.previous_timestep(timestep))
        prev_sample = uniform(theta.shape, generator, theta.device) < theta
        return prev_sample.to(sample.dtype), prediction
