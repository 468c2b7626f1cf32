"""Masked Bernoulli diffusion (Wolleb et al. 2024, arXiv 2403.11667): Algorithm 1, and what its denoiser is taught."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from ..checks import outside, refuse
from ..networks import BinarizingAutoencoder, Parts
from ..noise import Draws, SliceGenerator, uniform
from ..schedulers import BernoulliScheduler
from .bit_masks import Step, logit, mask_share
from .compiled_bernoulli import compiled_steps
from .contract import Method, OnStep, Restoration, in_pieces, setting, undescribed
from .task import Example, Task

QUANTIZE_STEP = -1
"""Step of the draw z ~ B(y). Every other draw carries the time (0..L) of the code it makes."""


@dataclass(frozen=True, eq=False, kw_only=True)
class MaskedBernoulli(Method):
    """Undo L steps of Bernoulli noise, changing only bits whose flip probability ever exceeds P.

    Parts: ``autoencoder``, a :class:`~scripts.networks.BinarizingAutoencoder`, and ``denoiser``, a network of flip
    logits. (Its own rounding may differ with the batch size, most in bfloat16, and turn a bit whose probability lies at
    P.) Evidence: ``mask_density``, the share of the code's channels in M_0 at each place; ``mask_share``, that of all.

    Args:
        scheduler: the noise process.
        noise_level: L, steps of noise to add and undo, 1..T.
        probability_threshold: P in [0, 1]. Compared as logits, so that 0 masks every bit (the unmasked method) and
            1 none (the autoencoder alone).
        num_inference_steps: network evaluations, 1..L; ``None`` for L.
        compile_mode: mode of ``torch.compile`` for the steps, e.g. ``reduce-overhead``; ``None`` does without. Its
            rounding may differ, and the first batch waits for the compiler.

    Raises:
        ValueError: naming every setting that is out of range.
    """

    evidence: ClassVar[tuple[str, ...]] = ("mask_density",)
    slice_scores: ClassVar[tuple[str, ...]] = ("mask_share",)
    image_score: ClassVar[str] = "mask_share"

    scheduler: BernoulliScheduler
    noise_level: int = setting(200, symbol="L", label="noise level L")
    probability_threshold: float = setting(0.5, symbol="P", label="threshold P")
    num_inference_steps: int | None = setting(None, symbol="S", label="steps", column="steps")
    compile_mode: str | None = undescribed(None)

    def __post_init__(self) -> None:
        """Check the settings; whole numbers may come as floats, e.g. 200.0."""
        end, level, steps = self.scheduler.num_train_timesteps, self.noise_level, self.num_inference_steps
        wrong_level = outside("noise_level", level, 1, end, whole=True)
        steps_end = end if wrong_level else level
        problems = [
            wrong_level,
            outside("probability_threshold", self.probability_threshold, 0, 1),
            None if steps is None else outside("num_inference_steps", steps, 1, steps_end, whole=True),
        ]
        refuse(type(self).__name__, problems)
        object.__setattr__(self, "noise_level", int(level))
        object.__setattr__(self, "num_inference_steps", None if steps is None else int(steps))

    @property
    def passes(self) -> int:
        """Evaluations of the denoiser a slice."""
        return self.num_inference_steps or self.noise_level

    def encode(self, images: torch.Tensor, network: Parts) -> torch.Tensor:
        """Code probability y, (N, C, h, w)."""
        return in_pieces(network.autoencoder.encode, images)

    def restore(
        self, images: torch.Tensor, encoded: torch.Tensor, network: Parts, streams: SliceGenerator, on_step: OnStep
    ) -> Restoration:
        """Algorithm 1."""
        # z ~ B(y)
        code = network.autoencoder.quantize(encoded, streams.at(QUANTIZE_STEP))
        shares = []
        for code, mask, share in self.steps(code, network.denoiser, streams):  # noqa: B007, B020
            shares.append(share)
            on_step()
        # NaN in any step stays NaN: the mask only ever grows, and a later step would hide it.
        share = shares[-1].masked_fill(torch.stack(shares).isnan().any(dim=0), torch.nan)
        density = mask.float().mean(dim=1, keepdim=True)
        return Restoration(
            in_pieces(network.autoencoder.decode, code), {"mask_density": density}, {"mask_share": share}
        )

    def steps(self, code: torch.Tensor, denoiser: nn.Module, streams: SliceGenerator) -> Iterator[Step]:
        """Noise a code z (B, C, h, w) and undo it: yields (z_s, M_s, share of the mask) for each time visited."""
        self.scheduler.set_timesteps(self.num_inference_steps, self.noise_level)
        # z_L = z XOR eps_L
        noise = uniform(code.shape, streams.at(self.noise_level), code.device)
        start = torch.full((1,), self.noise_level - 1, device=code.device)
        noisy = self.scheduler.add_noise(code, noise, start)
        reverse = masked_reverse_steps if self.compile_mode is None else compiled_steps(self.compile_mode)
        yield from reverse(self.scheduler, self.probability_threshold, denoiser, code, noisy, streams)

    def trial(self) -> MaskedBernoulli:
        """One step."""
        return self.replace(num_inference_steps=1)  # type: ignore[return-value]

    def replace(self, **values: Any) -> Method:
        """Other settings; steps beyond L are cut to L."""
        level = values.get("noise_level", self.noise_level)
        steps = values.get("num_inference_steps", self.num_inference_steps)
        if isinstance(steps, (int, float)) and isinstance(level, (int, float)) and steps > level >= 1:
            values["num_inference_steps"] = int(level)
        return super().replace(**values)

    def describe(self) -> dict[str, Any]:
        """The settings; all L steps are told as their number."""
        return {**super().describe(), "num_inference_steps": self.passes}


def masked_reverse_steps(
    scheduler: BernoulliScheduler,
    probability_threshold: float,
    denoiser: nn.Module,
    code: torch.Tensor,
    sample: torch.Tensor,
    streams: SliceGenerator,
) -> Iterator[Step]:
    """Undo the noise of ``sample`` over the scheduler's timesteps, changing only what the mask frees.

    Nothing is read back from the device, so that it never waits for the host.

    Args:
        scheduler: its timesteps are set.
        probability_threshold: P in [0, 1].
        denoiser: network of flip logits.
        code: z in {0, 1}, (B, C, h, w).
        sample: z_L, the same shape.
        streams: the slices' random streams; each draw carries the time (0..L) of the code it makes.

    Yields:
        the state after each step.
    """
    threshold = logit(probability_threshold)
    # M_L = 0
    mask = torch.zeros_like(code, dtype=torch.bool)
    for timestep in scheduler.timesteps.tolist():
        times = torch.full((len(code),), timestep, device=code.device)
        logits = denoiser(sample, timesteps=times).float()
        # M_{t-1} = M_t OR (eps_hat > P)
        mask = mask | (logits > threshold)
        # z0' = M z0_tilde + (1 - M) z;  z_{t-1} ~ B(theta_post(z_t, z0'))
        stream = streams.at(scheduler.previous_timestep(timestep) + 1)
        sample, _ = scheduler.step(logits, timestep, sample, code, mask, stream)
        yield sample, mask, mask_share(mask, logits)


class FlipTask(Task):
    """The denoiser's: from a noisy code and its time to the bits that noise has flipped (paper eq. 5).

    Args:
        autoencoder: frozen; only its ``encode`` and ``quantize`` are used.
        scheduler: the noise process.
        max_noise_level: times are drawn from 1..max_noise_level; ``None`` for T, the paper's choice. A denoiser that
            is only ever asked to undo L steps learns nothing for that from times beyond L.

    Raises:
        ValueError: when ``max_noise_level`` is not a whole number in 1..T.
    """

    def __init__(
        self, autoencoder: BinarizingAutoencoder, scheduler: BernoulliScheduler, max_noise_level: int | None = None
    ) -> None:
        end = scheduler.num_train_timesteps
        level = end if max_noise_level is None else max_noise_level
        refuse(type(self).__name__, [outside("max_noise_level", level, 1, end, whole=True)])
        self.autoencoder, self.scheduler, self.max_noise_level = autoencoder, scheduler, int(level)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Code probability y, (B, C, h, w)."""
        return self.autoencoder.encode(images)

    def example(self, clean: torch.Tensor, labels: torch.Tensor | None, draws: Draws) -> Example:
        """z_t, the target z_t XOR z_0, and ``timesteps``."""
        code = self.autoencoder.quantize(clean, draws.shard)
        timesteps = draws.times(self.max_noise_level, len(code), code.device)
        noisy = self.scheduler.add_noise(code, uniform(code.shape, draws.shard, code.device), timesteps)
        return noisy, (noisy != code).to(code.dtype), {"timesteps": timesteps}
