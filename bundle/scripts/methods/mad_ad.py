"""MAD-AD (Beizaee et al. 2025, arXiv 2502.16943): undo the noise of only those latents that are taken for noised.

Where the paper and the released code differ, this is the code, from which the published figures come: the mask is
learnt by squared error with weight 0.001, and the map is the channels' maximum, clipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from ..checks import outside, refuse
from ..networks import Parts
from ..networks.latent_autoencoder import GaussianAutoencoder
from ..noise import Draws, SliceGenerator, normal
from ..noise.blocks import SIZE_PROBABILITIES, brain_places, draw_block_mask
from ..schedulers import GaussianScheduler
from ..schedulers.gaussian_process import CLEAN
from ..smoothing import gaussian_smooth
from .contract import Method, OnStep, Restoration, setting
from .latents import wrong_scheduler
from .task import Example, Task


class Step(NamedTuple):
    """What one step makes of latents (B, c, h, w): ``sample``, the latents after it, and ``prediction``, z0_hat.

    ``keep`` is K_hat, the probability that a place has no noise, ``replaced`` where the step was taken, (B, 1, h, w).
    """

    sample: torch.Tensor
    prediction: torch.Tensor
    keep: torch.Tensor
    replaced: torch.Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class MadAd(Method):
    """Take the image's latent for a noised one and denoise it, at each step only where the predicted mask says noise.

    Parts: ``autoencoder``, a ``GaussianAutoencoder`` of images in [0, 1], and ``denoiser``, a ``MaskPredictingUNet``.
    Evidence: ``predicted_mask``, 1 - K_hat averaged over the steps, and ``image_difference``, the method's own map in
    [0, 1], which compares the decoded latent with the decoded corrected one, not with the image. ``mask_share``:
    replaced places, averaged over the steps.

    Args:
        scheduler: the noise process of the latents; ``prediction_type`` is ``"sample"``, nothing is clamped.
        latent_scale: factor of latents before diffusion, 1 over the standard deviation of the training latents.
        num_inference_steps: network evaluations S; the stride i is the smallest with ceil(T / i) = S.
        mask_threshold: a place is replaced where K_hat is below it.
        eta: 0 is deterministic, 1 has the posterior's variance.
        difference_limit: differences of decoded images in [0, 1] from which on the map is 1. (The authors' 0.25 is of
            images in [-1, 1].)
        sigma: of the map's Gaussian, in pixels.

    Raises:
        ValueError: naming every setting that is out of range.
    """

    evidence: ClassVar[tuple[str, ...]] = ("predicted_mask", "image_difference")
    slice_scores: ClassVar[tuple[str, ...]] = ("mask_share",)
    image_score: ClassVar[str] = "mask_share"

    scheduler: GaussianScheduler
    latent_scale: float
    num_inference_steps: int = setting(10, symbol="S", label="steps", column="steps")
    mask_threshold: float = setting(0.5, symbol="P", label="threshold P")
    eta: float = 0.5
    difference_limit: float = 0.125
    sigma: float = 5.0

    def __post_init__(self) -> None:
        """Check the settings; whole numbers may come as floats, e.g. 10.0."""
        steps, end = self.num_inference_steps, self.scheduler.num_train_timesteps
        wrong_steps = outside("num_inference_steps", steps, 1, end, whole=True)
        problems = [
            wrong_steps or _wrong_stride(int(steps), end),
            outside("latent_scale", self.latent_scale, 1e-6, 1e6),
            outside("mask_threshold", self.mask_threshold, 0, 1),
            outside("eta", self.eta, 0, 1),
            outside("difference_limit", self.difference_limit, 1e-6, 1e6),
            outside("sigma", self.sigma, 0, 1e3),
            *wrong_scheduler(self.scheduler, "sample"),
        ]
        refuse(type(self).__name__, problems)
        object.__setattr__(self, "num_inference_steps", int(steps))

    @property
    def passes(self) -> int:
        """Evaluations of the denoiser a slice."""
        return self.num_inference_steps

    @property
    def timesteps(self) -> list[int]:
        """The times visited, zero-based, the noisiest first."""
        end = self.scheduler.num_train_timesteps
        return list(range(0, end, _strides(end)[self.num_inference_steps]))[::-1]

    def encode(self, images: torch.Tensor, network: Parts) -> torch.Tensor:
        """The scaled mean of the latent, (N, c, h, w)."""
        mean, _ = network.autoencoder.encode(images).chunk(2, dim=1)
        return self.latent_scale * mean

    def restore(
        self, images: torch.Tensor, encoded: torch.Tensor, network: Parts, streams: SliceGenerator, on_step: OnStep
    ) -> Restoration:
        """Correct the latents, and compare what is decoded of them with what is decoded of those of the images."""
        noised, share = torch.zeros_like(encoded[:, :1]), encoded.new_zeros(len(encoded))
        corrected = encoded
        for corrected, prediction, keep, replaced in self.steps(encoded, network.denoiser, streams):  # noqa: B007
            noised += 1 - keep
            # A prediction that is not a number replaces nothing: it has to show here.
            failed = ~prediction.flatten(1).isfinite().all(dim=1) | keep.flatten(1).isnan().any(dim=1)
            share += replaced.float().mean(dim=(1, 2, 3)).masked_fill(failed, torch.nan)
            on_step()
        decode = network.autoencoder.decode
        reconstruction = decode(corrected / self.latent_scale)
        difference = difference_map(
            decode(encoded / self.latent_scale), reconstruction, self.difference_limit, self.sigma
        )
        evidence = {"predicted_mask": noised / self.passes, "image_difference": difference}
        return Restoration(reconstruction, evidence, {"mask_share": share / self.passes})

    def steps(self, latent: torch.Tensor, denoiser: nn.Module, streams: SliceGenerator) -> Iterator[Step]:
        """Denoise latents (B, c, h, w) to which no noise was added, place by place; yields each step."""
        sample = latent
        for t, s in pairwise([*self.timesteps, CLEAN]):
            times = torch.full((len(sample),), t, device=sample.device)
            output = denoiser(sample, timesteps=times).float()
            prediction, keep = output[:, :-1], output[:, -1:]
            noise = None
            if self.eta > 0 and s != CLEAN:
                # Each draw carries the time (1..T) of the latent it makes.
                noise = normal(sample.shape, streams.at(s + 1), sample.device)
            stepped, _ = self.scheduler.ddim_step(prediction, t, sample, s, self.eta, noise)
            # Decided anew at each step: a place may be replaced, left, and replaced again.
            replaced = keep < self.mask_threshold
            sample = torch.where(replaced, stepped, sample)
            yield Step(sample, prediction, keep, replaced)

    def trial(self) -> Method:
        """The fewest steps."""
        return self.replace(num_inference_steps=min(_strides(self.scheduler.num_train_timesteps)))


def difference_map(
    decoded: torch.Tensor, corrected: torch.Tensor, limit: float = 0.125, sigma: float = 5.0
) -> torch.Tensor:
    """min(A, limit) / limit, smoothed; A is the largest difference over channels. (B, 1, H, W) in [0, 1]."""
    difference = (corrected - decoded).abs().amax(dim=1, keepdim=True)
    return gaussian_smooth(difference.clamp(max=limit) / limit, sigma)


def _strides(end: int) -> dict[int, int]:
    """Of each possible number of steps its smallest stride, which comes last here; one step is no chain."""
    return {-(-end // stride): stride for stride in range(end, 0, -1) if stride < end or end == 1}


def _wrong_stride(steps: int, end: int) -> str | None:
    there = sorted(_strides(end))
    if steps in there:
        return None
    return f"num_inference_steps must be one of {', '.join(map(str, there))}, which divide {end} steps, got {steps}"


class MadAdTask(Task):
    """The denoiser's: from a latent noised in some blocks and its time to the clean latent and the mask.

    Args:
        autoencoder: frozen; only its ``encode`` is used.
        scheduler: the noise process.
        latent_scale: factor of latents, as in inference.
        max_mask_ratio: shares of noised blocks are uniform in [0, max_mask_ratio).
        size_probabilities: of blocks of 1, 2, 4 and 8 rows or columns. (The authors validate with others: ratio 0.3 and
            0.3, 0.3, 0.2, 0.2.)
        block: side in pixels of what must lie inside the brain to be noised at all.
        brain_share: of such a block that must be brain, which is where any channel is above 0.

    Raises:
        ValueError: naming every argument that is out of range.
    """

    def __init__(
        self,
        autoencoder: GaussianAutoencoder,
        scheduler: GaussianScheduler,
        latent_scale: float,
        max_mask_ratio: float = 0.4,
        size_probabilities: Sequence[float] = SIZE_PROBABILITIES,
        block: int = 16,
        brain_share: float = 0.9,
    ) -> None:
        wrong = len(size_probabilities) != len(SIZE_PROBABILITIES) or min(size_probabilities) < 0
        problems = [
            outside("latent_scale", latent_scale, 1e-6, 1e6),
            outside("max_mask_ratio", max_mask_ratio, 0, 1),
            outside("block", block, 1, 1e4, whole=True),
            outside("brain_share", brain_share, 0, 1),
            f"size_probabilities must be 4 numbers at least 0, got {list(size_probabilities)}" if wrong else None,
            *wrong_scheduler(scheduler, "sample"),
        ]
        refuse(type(self).__name__, problems)
        self.autoencoder, self.scheduler, self.latent_scale = autoencoder, scheduler, latent_scale
        self.max_mask_ratio, self.size_probabilities = max_mask_ratio, tuple(size_probabilities)
        self.block, self.brain_share = int(block), brain_share

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Mean and deviation of the latent, and where it lies well inside the brain, (B, 2 c + 1, h, w)."""
        latent = self.autoencoder.encode(images)
        foreground = (images > 0).any(dim=1, keepdim=True)
        brain = brain_places(foreground, latent.shape[2:], self.block, self.brain_share)
        return torch.cat([latent, brain.to(latent.dtype)], dim=1)

    def example(self, clean: torch.Tensor, labels: torch.Tensor | None, draws: Draws) -> Example:
        """The partly noised latent, the target (z and K, (B, c + 1, h, w)), and ``timesteps``."""
        mean, deviation = clean[:, :-1].chunk(2, dim=1)
        latent = self.latent_scale * (mean + deviation * draws.randn(mean.shape, clean.device))
        keep = draw_block_mask(
            draws, len(clean), clean.shape[2:], self.max_mask_ratio, self.size_probabilities, clean.device
        )
        keep = torch.where(clean[:, -1:] > 0.5, keep, 1.0)
        timesteps = draws.times(self.scheduler.num_train_timesteps, len(clean), clean.device)
        # z_t = K z + (1 - K) (sqrt(abar_t) z + sqrt(1 - abar_t) eps)
        noised = self.scheduler.add_noise(latent, draws.randn(latent.shape, clean.device), timesteps)
        return torch.where(keep > 0.5, latent, noised), torch.cat([latent, keep], dim=1), {"timesteps": timesteps}


class MadAdLoss(nn.Module):
    """mean (z0_hat - z)^2 over all places + weight * mean (K_hat - K)^2.

    Args:
        mask_weight: at least 0.
    """

    def __init__(self, mask_weight: float = 0.001) -> None:
        super().__init__()
        self.mask_weight = mask_weight

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Scalar loss of (B, c + 1, h, w), the mask being the last channel."""
        latent = F.mse_loss(prediction[:, :-1].float(), target[:, :-1].float())
        return latent + self.mask_weight * F.mse_loss(prediction[:, -1].float(), target[:, -1].float())
