"""AutoDDPM: mask, stitch and re-sample (Bercea et al. 2023, arXiv 2305.19643), as its authors' code does it.

A first partial diffusion restores the image x to r. Where x and r differ, by pixel and to the eye, is masked. A second,
shallower diffusion inpaints that part; it is held to x outside, and taken back and forth at each step.

=========  ==============================================================================================
authors    here
=========  ==============================================================================================
L = 200    ``noise_level`` 201: there an index, undone at timesteps 200, ..., 0
M = 50     ``inpainting_level`` 51: likewise, but timestep 0 is not undone
R = 5      ``num_resamplings``
0.13       ``mask_threshold``; a negative one there is ``None`` here
=========  ==============================================================================================

Images stay in [0, 1]. The network is taught by :class:`~scripts.methods.anoddpm.NoiseTask` with ``image_range=(0, 1)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import ClassVar

import torch
from torch.nn.functional import max_pool2d

from ..checks import outside, refuse
from ..networks import Parts
from ..noise import GaussianNoise, NoiseKind, SliceGenerator
from ..schedulers import GaussianScheduler
from .contract import Method, OnStep, Restoration, setting

Perceptual = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Distance at every pixel, (N, 1, H, W), of two images (N, c, H, W) in [0, 1]."""


@dataclass(frozen=True, eq=False, kw_only=True)
class AutoDDPM(Method):
    """Partial diffusion, mask of where it changed the image, inpainting there.

    Needs the part ``denoiser``: ``(x_t, timesteps=(N,)) -> eps``.

    Attributes:
        scheduler: the process.
        noise: its kind, that of the training.
        noise_level: L, 1..T, of the first diffusion.
        num_inference_steps: how many of its L steps are taken, evenly spread, the first at L; ``None`` for all.
        inpainting_level: M, 2..T, of the second diffusion: noised at timestep M - 1, undone at M - 1, ..., 1.
        num_resamplings: R, how often each of its steps is taken; 1 or more.
        mask_threshold: the mask is where the likelihood map is above it, at least 0; ``None`` takes the map's own
            ``quantile``. It belongs to a network, its data and the perceptual distance: calibrate it anew.
        quantile: of each image, that residuals are divided by, in (0, 1].
        perceptual: distance that residuals are multiplied by; ``None`` for 1 everywhere
            (:func:`scripts.networks.lpips.load_lpips` makes either).
        variance: of the steps, ``"fixed_small"`` (the authors') or ``"fixed_large"``.

    Evidence:
        likelihood: C, at least 0, (N, 1, H, W): normalised residual times perceptual distance.
        inpainting_mask: where the second diffusion changed the image, 0 or 1, (N, 1, H, W).

    Raises:
        ValueError: when one is outside its range.
    """

    evidence: ClassVar[tuple[str, ...]] = ("likelihood", "inpainting_mask")

    scheduler: GaussianScheduler
    noise: NoiseKind = field(default_factory=GaussianNoise)
    noise_level: int = setting(201, symbol="L", label="noise level L")
    num_inference_steps: int | None = setting(None, symbol="N", label="steps N")
    inpainting_level: int = setting(51, symbol="M", label="inpainting level M")
    num_resamplings: int = setting(5, symbol="R", label="resamplings R")
    mask_threshold: float | None = setting(0.13, symbol="tau", label="mask threshold")
    quantile: float = 0.95
    perceptual: Perceptual | None = None
    variance: str = "fixed_small"

    def __post_init__(self) -> None:
        """Check the settings."""
        steps, threshold, end = self.num_inference_steps, self.mask_threshold, self.scheduler.num_train_timesteps
        problems = [
            outside("noise_level", self.noise_level, 1, end, whole=True),
            None if steps is None else outside("num_inference_steps", steps, 1, self.noise_level, whole=True),
            outside("inpainting_level", self.inpainting_level, 2, end, whole=True),
            outside("num_resamplings", self.num_resamplings, 1, 1000, whole=True),
            None if threshold is None else outside("mask_threshold", threshold, 0, float("inf")),
            outside("quantile", self.quantile, 1e-6, 1),
            None
            if self.variance in ("fixed_large", "fixed_small")
            else f"variance must be 'fixed_large' or 'fixed_small', got {self.variance!r}",
        ]
        refuse(type(self).__name__, problems)

    @property
    def passes(self) -> int:
        """Network evaluations a unit, of both diffusions."""
        return (self.num_inference_steps or self.noise_level) + (self.inpainting_level - 1) * self.num_resamplings

    def restore(
        self, images: torch.Tensor, encoded: torch.Tensor, network: Parts, streams: SliceGenerator, on_step: OnStep
    ) -> Restoration:
        """See :meth:`Method.restore`; the reconstruction is clipped to [0, 1]."""
        x = images.float()
        # Draws are numbered in the order they are taken.
        steps = (streams.at(number) for number in count())
        first = self.first_restoration(x, network, steps, on_step)
        likelihood = self.likelihood(x, first)
        mask = self.mask(likelihood)
        final = self.inpaint(x, first, mask, network, steps, on_step).clamp(0, 1)
        return Restoration(final, {"likelihood": likelihood, "inpainting_mask": mask.float()})

    def first_restoration(
        self, x: torch.Tensor, network: Parts, steps: Iterator[SliceGenerator], on_step: OnStep
    ) -> torch.Tensor:
        """r in [0, 1]: x noised for L steps and denoised again."""
        self.scheduler.set_timesteps(self.num_inference_steps, self.noise_level)
        times = self.scheduler.timesteps.tolist()
        y = self._noised(x, times[0], steps)
        for timestep in times:
            y = self._step(y, timestep, self.scheduler.previous_timestep(timestep), network, steps, on_step)
        return y.clamp(0, 1)

    def likelihood(self, x: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        """C = S(x, r) d / Q(d), the quotient at most 1, with d the mean over channels of |x - r|; (N, 1, H, W)."""
        residual = (x - first).abs().mean(dim=1, keepdim=True)
        # An image that is its own reconstruction has a map of 0, not 0 / 0.
        normalised = (residual / _quantile(residual, self.quantile).clamp_min(1e-30)).clamp(0, 1)
        return normalised if self.perceptual is None else normalised * self._distance(x, first)

    def _distance(self, x: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        distance = self.perceptual
        if isinstance(distance, torch.nn.Module):
            distance = distance.to(x.device)
        assert distance is not None
        return distance(x, first)

    def mask(self, likelihood: torch.Tensor) -> torch.Tensor:
        """m, boolean: where C is above the threshold, and one pixel around; an empty mask stays empty."""
        if self.mask_threshold is None:
            above = likelihood > _quantile(likelihood, self.quantile).clamp(0, 1)
        else:
            above = likelihood > self.mask_threshold
        return max_pool2d(above.float(), kernel_size=3, stride=1, padding=1) > 0

    def inpaint(
        self,
        x: torch.Tensor,
        first: torch.Tensor,
        mask: torch.Tensor,
        network: Parts,
        steps: Iterator[SliceGenerator],
        on_step: OnStep,
    ) -> torch.Tensor:
        """x outside the mask; inside the sample at timestep 0, one step short of clean, as in the authors' code."""
        known = x * ~mask
        y = self._noised(first, self.inpainting_level - 1, steps)
        for timestep in range(self.inpainting_level - 1, 0, -1):
            for repeat in range(self.num_resamplings):
                held = self._noised(known, timestep - 1, steps)
                sample = self._step(y, timestep, timestep - 1, network, steps, on_step)
                y = torch.where(mask, sample, held)
                if repeat < self.num_resamplings - 1:
                    y = self._back(y, timestep - 1, steps)
        return torch.where(mask, y, x)

    def _noised(self, x: torch.Tensor, timestep: int, steps: Iterator[SliceGenerator]) -> torch.Tensor:
        return self.scheduler.add_noise(x, self.noise(x.shape, next(steps), timestep), timestep)

    def _back(self, y: torch.Tensor, timestep: int, steps: Iterator[SliceGenerator]) -> torch.Tensor:
        """y = sqrt(1 - beta) y + sqrt(beta) n with beta that of ``timestep``, where y is.

        To go on to timestep + 1 it would have to be that one's; the authors' code takes this one.
        """
        beta = self.scheduler.posterior_coefficients(timestep)[3]
        noise = self.noise(y.shape, next(steps), timestep)
        return (1 - beta) ** 0.5 * y + beta**0.5 * noise

    def _step(
        self,
        y: torch.Tensor,
        timestep: int,
        earlier: int,
        network: Parts,
        steps: Iterator[SliceGenerator],
        on_step: OnStep,
    ) -> torch.Tensor:
        """One reverse step, with a draw unless it is the last."""
        output = network.denoiser(y, timesteps=torch.full((len(y),), timestep, device=y.device))
        noise = self.noise(y.shape, next(steps), timestep) if earlier >= 0 else None
        sample, _ = self.scheduler.step(output, timestep, y, noise, self.variance, previous_timestep=earlier)
        on_step()
        return sample

    def trial(self) -> Method:
        """One step of each diffusion."""
        return self.replace(num_inference_steps=1, inpainting_level=2, num_resamplings=1)


def residual_by_likelihood(
    image: torch.Tensor, reconstruction: torch.Tensor, evidence: Mapping[str, torch.Tensor] | None = None
) -> torch.Tensor:
    """The authors' map A = C |x - y|, mean over channels, (B, 1, H, W), at least 0.

    Args:
        image: x, (B, c, H, W) in [0, 1].
        reconstruction: y, the inpainted image.
        evidence: ``likelihood`` C, (B, 1, H, W).

    Raises:
        ValueError: when there is no such evidence.
    """
    if evidence is None or "likelihood" not in evidence:
        raise ValueError("residual_by_likelihood: this score needs the evidence 'likelihood', and there is none.")
    residual = (image.float() - reconstruction.float()).abs().mean(dim=1, keepdim=True)
    return residual * evidence["likelihood"].float()


def _quantile(values: torch.Tensor, q: float) -> torch.Tensor:
    """Of all values of each image, (N, 1, 1, 1), linearly interpolated."""
    return torch.quantile(values.flatten(1), q, dim=1).reshape(-1, 1, 1, 1)
