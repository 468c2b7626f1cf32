"""Latent diffusion with a mask (Pinaya et al. 2022, arXiv 2206.03461): inpaint where the latent is unlikely.

The method has no public code. What the paper does not fix is a setting here: the level noise is added to, the width of
the mask's smoothing, channels averaged for a mask of places, one threshold for all places.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from monai.networks.nets import VQVAE
from torch import nn

from ..checks import outside, refuse
from ..networks import Parts
from ..noise import Draws, SliceGenerator, normal
from ..schedulers import GaussianScheduler
from ..schedulers.gaussian_process import CLEAN
from ..schedulers.timesteps import even_timesteps
from .contract import Method, OnStep, Restoration, setting
from .latent_divergence import noise_divergence, smoothed_mask
from .latents import wrong_scheduler
from .task import Example, Task

NO_THRESHOLD = (
    "kl_threshold is None: inpainting needs a number, the 97.5th percentile of the KL maps of healthy validation "
    "slices, which are made with inpainting and mask_residual false"
)


@dataclass(frozen=True, eq=False, kw_only=True)
class LatentDiffusionMask(Method):
    """Find the places of a latent that the denoiser finds unlikely, and inpaint those.

    Parts: ``autoencoder``, with MONAI's verbs of stage 2, such as a ``QuantizingAutoencoder``, and ``denoiser``, which
    predicts noise. Evidence: ``kl``, the divergence at each place; ``inpainting_mask``, what was replaced;
    ``masked_residual``, the method's own map, the mean over channels of abs(x - x_hat), multiplied by the smoothed
    mask or not. ``kl``: the divergence averaged over places; ``mask_share``: the share of places replaced.

    The paper's three levels: (a) neither ``inpainting`` nor ``mask_residual``, (b) the first, (c), the method, both.

    Args:
        scheduler: the noise process of the latents; ``prediction_type`` is ``"epsilon"``, nothing is clamped.
        latent_scale: factor of latents before diffusion, 1 over the standard deviation of the training latents.
        kl_threshold: a place is replaced where its divergence is above it, ``healthy_percentile`` of those of healthy
            slices (:mod:`scripts.methods.latent_divergence`); needed for levels (b) and (c).
        kl_first, kl_last, kl_stride: timesteps that the divergence is averaged over, the first at least 1.
        shared_noise: one draw of noise for all of these in place of one for each.
        noise_level: L, steps of noise to add and undo, 1..T.
        num_inference_steps: of the reverse process, 1..L; ``None`` for L.
        eta: of the reverse process: 1 is the ancestral one with the posterior's variance, 0 is deterministic.
        inpainting: keep the latent where the mask is not set, at every step.
        mask_residual: multiply the residual by the mask, brought to the image's size and smoothed.
        mask_sigma: of that Gaussian, in places of the latent.

    Raises:
        ValueError: naming every setting that is out of range.
    """

    evidence: ClassVar[tuple[str, ...]] = ("kl", "inpainting_mask", "masked_residual")
    slice_scores: ClassVar[tuple[str, ...]] = ("kl", "mask_share")
    image_score: ClassVar[str] = "kl"

    scheduler: GaussianScheduler
    latent_scale: float
    kl_threshold: float | None = None
    kl_first: int = 400
    kl_last: int = 600
    kl_stride: int = setting(1, symbol="K", label="KL stride")
    shared_noise: bool = False
    noise_level: int = setting(500, symbol="L", label="noise level L")
    num_inference_steps: int | None = setting(None, symbol="S", label="steps", column="steps")
    eta: float = 1.0
    inpainting: bool = True
    mask_residual: bool = True
    mask_sigma: float = 0.5

    def __post_init__(self) -> None:
        """Check the settings."""
        end, steps, threshold = self.scheduler.num_train_timesteps, self.num_inference_steps, self.kl_threshold
        wrong_level = outside("noise_level", self.noise_level, 1, end, whole=True)
        wrong_first = outside("kl_first", self.kl_first, 1, end - 1, whole=True)
        steps_end, last_from = end if wrong_level else self.noise_level, 1 if wrong_first else self.kl_first
        problems = [
            outside("latent_scale", self.latent_scale, 1e-6, 1e6),
            wrong_first,
            outside("kl_last", self.kl_last, last_from, end - 1, whole=True),
            outside("kl_stride", self.kl_stride, 1, end, whole=True),
            wrong_level,
            None if steps is None else outside("num_inference_steps", steps, 1, steps_end, whole=True),
            outside("eta", self.eta, 0, 1),
            outside("mask_sigma", self.mask_sigma, 0, 1e3),
            NO_THRESHOLD if threshold is None and self.inpainting else None,
            None if threshold is None else outside("kl_threshold", threshold, 0, float("inf")),
            "mask_residual needs inpainting, without which there is no mask" if self._loose_mask else None,
            *wrong_scheduler(self.scheduler, "epsilon"),
        ]
        refuse(type(self).__name__, problems)

    @property
    def _loose_mask(self) -> bool:
        return self.mask_residual and not self.inpainting

    @property
    def kl_timesteps(self) -> list[int]:
        """Zero-based timesteps of the divergence."""
        return list(range(int(self.kl_first), int(self.kl_last) + 1, int(self.kl_stride)))

    @property
    def passes(self) -> int:
        """Evaluations of the denoiser a slice."""
        return len(self.kl_timesteps) + int(self.num_inference_steps or self.noise_level)

    def encode(self, images: torch.Tensor, network: Parts) -> torch.Tensor:
        """The scaled latent, (N, c, h, w)."""
        return self.latent_scale * network.autoencoder.encode_stage_2_inputs(images).float()

    def restore(
        self, images: torch.Tensor, encoded: torch.Tensor, network: Parts, streams: SliceGenerator, on_step: OnStep
    ) -> Restoration:
        """Divergence, mask, inpainting, map."""
        kl = self.divergence(encoded, network.denoiser, streams, on_step)
        mask = torch.ones_like(kl, dtype=torch.bool)
        if self.inpainting and self.kl_threshold is not None:
            mask = kl > self.kl_threshold
        healed = self.heal(encoded, mask, network.denoiser, streams, on_step)
        reconstruction = network.autoencoder.decode_stage_2_outputs(healed / self.latent_scale).float()
        residual = (images.float() - reconstruction).abs().mean(dim=1, keepdim=True)
        if self.mask_residual:
            residual = residual * smoothed_mask(mask, residual.shape[2:], self.mask_sigma)
        # A divergence that is not a number masks nothing: it has to show in both.
        share = (mask.float() + 0 * kl).mean(dim=(1, 2, 3))
        evidence = {"kl": kl, "inpainting_mask": mask.float(), "masked_residual": residual}
        return Restoration(reconstruction, evidence, {"kl": kl.mean(dim=(1, 2, 3)), "mask_share": share})

    def divergence(
        self, latent: torch.Tensor, denoiser: nn.Module, streams: SliceGenerator, on_step: OnStep = lambda: None
    ) -> torch.Tensor:
        """:func:`noise_divergence` of latents (N, c, h, w), averaged over its timesteps and channels: (N, 1, h, w)."""
        total, shared = torch.zeros_like(latent[:, :1]), streams.at(self._draw(2, 0))
        for t in self.kl_timesteps:
            noise = normal(latent.shape, shared if self.shared_noise else streams.at(self._draw(2, t)), latent.device)
            total += noise_divergence(self.scheduler, denoiser, latent, t, noise).mean(dim=1, keepdim=True)
            on_step()
        return total / len(self.kl_timesteps)

    def heal(
        self, latent: torch.Tensor, mask: torch.Tensor, denoiser: nn.Module, streams: SliceGenerator, on_step: OnStep
    ) -> torch.Tensor:
        """Add L steps of noise to latents (N, c, h, w) and undo them; where ``mask`` is False they stay as they are."""
        level = int(self.noise_level)
        times = even_timesteps(self.scheduler.num_train_timesteps, self.num_inference_steps, level)
        sample = self._noised(latent, level - 1, streams.at(self._draw(0, level - 1)))
        for t, s in pairwise([*times, CLEAN]):
            epsilon = denoiser(sample, timesteps=torch.full((len(sample),), t, device=sample.device)).float()
            noise = None if s == CLEAN else normal(sample.shape, streams.at(self._draw(0, s)), sample.device)
            # y = step(y, t) where masked, q(z, s) elsewhere; the latent itself at the last step.
            unknown, _ = self.scheduler.ddim_step(epsilon, t, sample, s, self.eta, noise)
            sample = torch.where(mask, unknown, self._noised(latent, s, streams.at(self._draw(1, s))))
            on_step()
        return sample

    def _noised(self, latent: torch.Tensor, timestep: int, stream: SliceGenerator) -> torch.Tensor:
        if timestep == CLEAN:
            return latent
        return self.scheduler.add_noise(latent, normal(latent.shape, stream, latent.device), timestep)

    def _draw(self, kind: int, timestep: int) -> int:
        """Step of a draw: for the unknown (0), the known (1) and the divergence (2), by the time of what it makes."""
        return kind * (self.scheduler.num_train_timesteps + 1) + timestep + 1

    def trial(self) -> Method:
        """One step of each."""
        return self.replace(kl_first=self.kl_last, num_inference_steps=1)

    def replace(self, **values: Any) -> Method:
        """Other settings; steps beyond L are cut to L."""
        steps = values.get("num_inference_steps", self.num_inference_steps)
        level = values.get("noise_level", self.noise_level)
        if isinstance(steps, (int, float)) and isinstance(level, (int, float)) and steps > level >= 1:
            values["num_inference_steps"] = int(level)
        return super().replace(**values)


class LatentNoiseTask(Task):
    """The denoiser's: from a noised latent and its time to the noise; the loss is the squared error.

    Args:
        autoencoder: frozen; only its ``encode_stage_2_inputs`` is used.
        scheduler: the noise process.
        latent_scale: factor of latents, as in inference.

    Raises:
        ValueError: naming every argument that is out of range.
    """

    def __init__(self, autoencoder: VQVAE, scheduler: GaussianScheduler, latent_scale: float) -> None:
        problems = [outside("latent_scale", latent_scale, 1e-6, 1e6), *wrong_scheduler(scheduler, "epsilon")]
        refuse(type(self).__name__, problems)
        self.autoencoder, self.scheduler, self.latent_scale = autoencoder, scheduler, latent_scale

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """The scaled latent, (B, c, h, w)."""
        return self.latent_scale * self.autoencoder.encode_stage_2_inputs(images).float()

    def example(self, clean: torch.Tensor, labels: torch.Tensor | None, draws: Draws) -> Example:
        """z_t, the noise, and ``timesteps``."""
        timesteps = draws.times(self.scheduler.num_train_timesteps, len(clean), clean.device)
        noise = draws.randn(clean.shape, clean.device)
        return self.scheduler.add_noise(clean, noise, timesteps), noise, {"timesteps": timesteps}
