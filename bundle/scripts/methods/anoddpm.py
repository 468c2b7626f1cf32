"""AnoDDPM: partial diffusion with Gaussian or simplex noise (Wyatt et al. 2022, CVPR workshops).

An image is noised for L of T steps and denoised again by a network that knows healthy images only.

=====================  =====================================================================
paper                  here
=====================  =====================================================================
lambda                 ``noise_level`` L: noised at timestep L - 1, undone at L - 1, ..., 0
x in [-1, 1]           images in [0, 1], rescaled inside
(x - x_hat)^2          four times that of the images in [0, 1]: its threshold 0.5 is 0.125 here
=====================  =====================================================================
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ..checks import outside, refuse
from ..networks import Parts
from ..noise import Draws, GaussianNoise, NoiseKind, SliceGenerator
from ..schedulers import GaussianScheduler
from .contract import Method, OnStep, Restoration, setting
from .task import Example, Task


@dataclass(frozen=True, eq=False, kw_only=True)
class AnoDDPM(Method):
    """Noise L steps, then the reverse process with noise of the same kind at every step.

    Needs the part ``denoiser``: ``(x_t, timesteps=(N,)) -> `` what the scheduler's ``prediction_type`` says.

    Attributes:
        scheduler: the process; its ``clip_range`` is that of x in [-1, 1].
        noise: its kind, that of the training.
        noise_level: L, 1..T; 200 in the paper.
        num_inference_steps: how many of the L steps are taken, evenly spread, the first at L; ``None`` for all.
        variance: of the ancestral steps, ``"fixed_large"`` (the authors') or ``"fixed_small"``.
        eta: takes implicit steps with this eta in [0, 1] in place of ancestral ones; ``None`` for ancestral.
        num_reconstructions: reconstructions with noise of their own that are averaged; 1 or more.

    Raises:
        ValueError: when one is outside its range.
    """

    scheduler: GaussianScheduler
    noise: NoiseKind = field(default_factory=GaussianNoise)
    noise_level: int = setting(200, symbol="L", label="noise level L")
    num_inference_steps: int | None = setting(None, symbol="N", label="steps N")
    variance: str = "fixed_large"
    eta: float | None = setting(None, symbol="eta", label="eta")
    num_reconstructions: int = setting(1, symbol="R", label="reconstructions R")

    def __post_init__(self) -> None:
        """Check the settings."""
        level, steps = self.noise_level, self.num_inference_steps
        problems = [
            outside("noise_level", level, 1, self.scheduler.num_train_timesteps, whole=True),
            None if steps is None else outside("num_inference_steps", steps, 1, level, whole=True),
            None if self.eta is None else outside("eta", self.eta, 0, 1),
            outside("num_reconstructions", self.num_reconstructions, 1, 1000, whole=True),
            None
            if self.variance in ("fixed_large", "fixed_small")
            else f"variance must be 'fixed_large' or 'fixed_small', got {self.variance!r}",
        ]
        refuse(type(self).__name__, problems)

    @property
    def passes(self) -> int:
        """Network evaluations a unit."""
        return (self.num_inference_steps or self.noise_level) * self.num_reconstructions

    def restore(
        self, images: torch.Tensor, encoded: torch.Tensor, network: Parts, streams: SliceGenerator, on_step: OnStep
    ) -> Restoration:
        """See :meth:`Method.restore`; the reconstruction is not clipped."""
        clean = 2 * images.float() - 1
        total = torch.zeros_like(clean)
        for number in range(self.num_reconstructions):
            total += self._reconstruct(clean, network, streams, number * (self.noise_level + 1), on_step)
        return Restoration((total / self.num_reconstructions + 1) / 2)

    def _reconstruct(
        self, clean: torch.Tensor, network: Parts, streams: SliceGenerator, first: int, on_step: OnStep
    ) -> torch.Tensor:
        """x_hat of x in [-1, 1]; draws are numbered from ``first``: the noising, then one a step."""
        self.scheduler.set_timesteps(self.num_inference_steps, self.noise_level)
        times = self.scheduler.timesteps.tolist()
        # x_{L-1} = sqrt(abar) x + sqrt(1 - abar) n
        noise = self.noise(clean.shape, streams.at(first), times[0])
        sample = self.scheduler.add_noise(clean, noise, times[0])
        for number, timestep in enumerate(times, start=1):
            output = network.denoiser(sample, timesteps=_repeated(timestep, sample))
            needed = timestep != times[-1] and self.eta != 0
            fresh = self.noise(sample.shape, streams.at(first + number), timestep) if needed else None
            if self.eta is None:
                sample, _ = self.scheduler.step(output, timestep, sample, fresh, self.variance)
            else:
                sample, _ = self.scheduler.ddim_step(output, timestep, sample, eta=self.eta, noise=fresh)
            on_step()
        return sample

    def trial(self) -> Method:
        """One step of one reconstruction."""
        return self.replace(num_inference_steps=1, num_reconstructions=1)


def _repeated(timestep: int, sample: torch.Tensor) -> torch.Tensor:
    return torch.full((len(sample),), timestep, device=sample.device)


class NoiseTask(Task):
    """Predict the noise (or x_0, where the scheduler says so) of an image at a random time.

    The loss of the papers is the mean squared error over all pixels.

    Args:
        scheduler: the process.
        noise: its kind; ``None`` for Gaussian.
        max_noise_level: times are uniform in 0..max_noise_level - 1; ``None`` for T (AnoDDPM: 800).
        image_range: what images in [0, 1] are rescaled to: (-1, 1) for AnoDDPM, (0, 1) for AutoDDPM.

    Raises:
        ValueError: when one is outside its range.
    """

    def __init__(
        self,
        scheduler: GaussianScheduler,
        noise: NoiseKind | None = None,
        max_noise_level: int | None = None,
        image_range: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        level = scheduler.num_train_timesteps if max_noise_level is None else max_noise_level
        rises = len(image_range) == 2 and image_range[0] < image_range[1]
        problems = [
            outside("max_noise_level", level, 1, scheduler.num_train_timesteps, whole=True),
            None if rises else f"image_range must be two rising numbers, got {image_range!r}",
        ]
        refuse(type(self).__name__, problems)
        self.scheduler, self.noise, self.max_noise_level = scheduler, noise or GaussianNoise(), int(level)
        self.image_range = (float(image_range[0]), float(image_range[1]))

    def example(self, clean: torch.Tensor, labels: torch.Tensor | None, draws: Draws) -> Example:
        """x_t, the noise (or x_0), and ``timesteps``; see :meth:`Task.example`."""
        low, high = self.image_range
        original = low + (high - low) * clean
        timesteps = draws.times(self.max_noise_level, len(clean), clean.device)
        noise = self.noise.draw(clean.shape, draws, timesteps)
        target = noise if self.scheduler.prediction_type == "epsilon" else original
        return self.scheduler.add_noise(original, noise, timesteps), target, {"timesteps": timesteps}
