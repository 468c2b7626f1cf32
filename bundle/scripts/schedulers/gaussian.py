"""Reverse steps of Gaussian diffusion: ancestral (Ho et al. 2020, arXiv 2006.11239), implicit (Song et al. 2021,
arXiv 2010.02502), and the implicit one the other way. Symbols as in :mod:`scripts.schedulers.gaussian_process`.
"""

from __future__ import annotations

import math

import torch

from .gaussian_process import CLEAN, GaussianProcess


class GaussianScheduler(GaussianProcess):
    """The noising process with its exact posterior between any two times, and steps of sampling and encoding.

    Noise is always an argument: which kind it is, and where it comes from, is not this class's business.
    Arguments and time convention are those of :class:`~scripts.schedulers.gaussian_process.GaussianProcess`.
    """

    def posterior_coefficients(
        self, timestep: int, previous_timestep: int | None = None
    ) -> tuple[float, float, float, float]:
        """Of q(x_s | x_t, x_0) for s < t (Ho eq. 6 and 7 with s = t - 1): factors of x_0 and x_t, and two variances.

        Args:
            timestep: zero-based t.
            previous_timestep: zero-based s, in [-1, timestep); ``None`` means ``timestep - 1``.

        Returns:
            the mean's factors of x_0 and of x_t, the posterior's variance (``"fixed_small"``), and that of the step
            from s to t, 1 - abar_t / abar_s, which is beta_t where s = t - 1 (``"fixed_large"``).

        Raises:
            ValueError: when not -1 <= previous_timestep < timestep < T.
        """
        earlier = timestep - 1 if previous_timestep is None else previous_timestep
        if not CLEAN <= earlier < timestep < self.num_train_timesteps:
            raise ValueError(
                f"need -1 <= previous_timestep < timestep < {self.num_train_timesteps}, got {earlier} and {timestep}."
            )
        t, s = timestep + 1, earlier + 1
        beta = self._betas[t] if s == t - 1 else 1 - self._abar[t] / self._abar[s]
        share = self._noise[s] / self._noise[t]  # (1 - abar_s) / (1 - abar_t)
        return math.sqrt(self._abar[s]) * beta / self._noise[t], math.sqrt(1 - beta) * share, beta * share, beta

    def posterior(
        self, sample: torch.Tensor, original_sample: torch.Tensor, timestep: int, previous_timestep: int | None = None
    ) -> tuple[torch.Tensor, float]:
        """Mean and variance of q(x_s | x_t, x_0), see :meth:`posterior_coefficients`."""
        of_original, of_sample, variance, _ = self.posterior_coefficients(timestep, previous_timestep)
        return of_original * self.widened(original_sample) + of_sample * self.widened(sample), variance

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int,
        sample: torch.Tensor,
        noise: torch.Tensor | None = None,
        variance: str = "fixed_large",
        previous_timestep: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One ancestral reverse step (Ho Algorithm 2): the posterior's mean, and noise, but for the step to x_0.

        Args:
            model_output: what the network says of ``sample`` at ``timestep``.
            timestep: zero-based t.
            sample: x_t, (B, ...).
            noise: of unit variance, same shape; needed but for the last step, where it is not used.
            variance: ``"fixed_large"`` or ``"fixed_small"``, see :meth:`posterior_coefficients`.
            previous_timestep: where to; ``None`` takes :meth:`previous_timestep`.

        Returns:
            ``prev_sample``, x_s in the type of ``sample``, and ``pred_original_sample``, clamped, at least float32.

        Raises:
            ValueError: when noise is missing, ``variance`` is neither, or ``timestep`` was not set.
        """
        earlier = self.previous_timestep(timestep) if previous_timestep is None else previous_timestep
        _, _, small, large = self.posterior_coefficients(timestep, earlier)
        if variance not in ("fixed_large", "fixed_small"):
            raise ValueError(f"variance must be 'fixed_large' or 'fixed_small', got {variance!r}.")
        prediction = self.predict_original_sample(model_output, sample, timestep)
        prev_sample, _ = self.posterior(sample, prediction, timestep, earlier)
        if earlier != CLEAN:
            deviation = math.sqrt(large if variance == "fixed_large" else small)
            prev_sample = prev_sample + deviation * self.widened(_needed(noise, timestep))
        return prev_sample.to(sample.dtype), prediction

    def ddim_step(
        self,
        model_output: torch.Tensor,
        timestep: int,
        sample: torch.Tensor,
        previous_timestep: int | None = None,
        eta: float = 0.0,
        noise: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One implicit reverse step (Song eq. 12), with eps taken anew from the clamped x_0.

        Args:
            model_output: what the network says of ``sample`` at ``timestep``.
            timestep: zero-based t.
            sample: x_t, (B, ...).
            previous_timestep: where to, s; ``None`` takes :meth:`previous_timestep`.
            eta: 0 is deterministic, 1 has the posterior's variance (Song eq. 16).
            noise: of unit variance, same shape; needed where ``eta`` is above 0, but for the step to x_0.

        Returns:
            ``prev_sample``, x_s in the type of ``sample``, and ``pred_original_sample``, clamped, at least float32.

        Raises:
            ValueError: when noise is missing, ``eta`` is not in [0, 1], or ``timestep`` was not set.
        """
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {eta!r}.")
        earlier = self.previous_timestep(timestep) if previous_timestep is None else previous_timestep
        _, _, variance, _ = self.posterior_coefficients(timestep, earlier)
        prediction = self.predict_original_sample(model_output, sample, timestep)
        epsilon = self._epsilon(model_output, prediction, sample, timestep)
        # sigma^2 = eta^2 (1 - abar_s) / (1 - abar_t) (1 - abar_t / abar_s)
        # x_s = sqrt(abar_s) x_0 + sqrt(1 - abar_s - sigma^2) eps + sigma n
        signal, deviation = self._root_scales(earlier, sample)
        sigma = eta * math.sqrt(variance)
        prev_sample = signal * prediction + math.sqrt(max(deviation**2 - sigma**2, 0.0)) * epsilon
        if sigma > 0:
            prev_sample = prev_sample + sigma * self.widened(_needed(noise, timestep))
        return prev_sample.to(sample.dtype), prediction

    def reversed_step(
        self, model_output: torch.Tensor, timestep: int, sample: torch.Tensor, next_timestep: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One implicit step towards noise, which encodes: x_u = sqrt(abar_u) x_0 + sqrt(1 - abar_u) eps for a u > t.

        Args:
            model_output: what the network says of ``sample`` at ``timestep``.
            timestep: zero-based t; -1 where the sample is clean, which takes a network that predicts the noise.
            sample: x_t, (B, ...).
            next_timestep: zero-based u; T is beyond the noisiest, where abar = 0.

        Returns:
            x_u in the type of ``sample``, and ``pred_original_sample``, clamped, at least float32.

        Raises:
            ValueError: when not -1 <= timestep < next_timestep <= T, or a clean sample's noise is not to be had.
        """
        last = self.num_train_timesteps
        if not CLEAN <= timestep < next_timestep <= last:
            raise ValueError(f"need -1 <= timestep < next_timestep <= {last}, got {timestep} and {next_timestep}.")
        if timestep == CLEAN and self.prediction_type != "epsilon":
            raise ValueError("timestep -1: a network that predicts the sample says nothing of a clean one's noise.")
        prediction = self.predict_original_sample(model_output, sample, timestep)
        epsilon = self._epsilon(model_output, prediction, sample, timestep)
        signal, deviation = self._root_scales(next_timestep, sample)
        return (signal * prediction + deviation * epsilon).to(sample.dtype), prediction

    def _epsilon(
        self, model_output: torch.Tensor, prediction: torch.Tensor, sample: torch.Tensor, timestep: int
    ) -> torch.Tensor:
        """The noise that belongs to x_0; the network's own where nothing was clamped or there is no other."""
        if self.prediction_type == "epsilon" and (self.clip_range is None or timestep == CLEAN):
            return self.widened(model_output)
        return self.predict_noise(prediction, sample, timestep)


def _needed(noise: torch.Tensor | None, timestep: int) -> torch.Tensor:
    if noise is None:
        raise ValueError(f"noise is needed for the step from timestep {timestep}, which is not the last.")
    return noise
