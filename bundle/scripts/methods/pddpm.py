"""pDDPM: patched diffusion (Behrendt et al. 2023, MIDL, arXiv 2303.03758).

One patch after the other is noised and restored from what surrounds it, in one network pass each; the patches together
are the reconstruction. u = 2 x - 1 is what the network sees of an image x in [0, 1]; it predicts u itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ..checks import outside, refuse
from ..networks import Parts
from ..noise import Draws, NoiseKind, SimplexNoise, SliceGenerator
from ..schedulers import GaussianScheduler
from .contract import Method, OnStep, Restoration, setting
from .task import Example, Task

Box = tuple[int, int, int, int]
"""x_min, y_min, x_max, y_max; x is the last axis. It may reach over the image's edge, and is cut there."""

OVERLAPS = ("none", "cut", "mean")


def grid_boxes(size: Sequence[int], patch: int, overlap: bool = False) -> list[Box]:
    """Patches that cover an image, row by row.

    Args:
        size: (H, W).
        patch: side of a patch, in pixels.
        overlap: spread as many patches evenly from edge to edge, where without they lie side by side from the first
            corner and may reach over the last edges.
    """
    tops, lefts = (_starts(side, patch, overlap) for side in size)
    return [(x, y, x + patch, y + patch) for y in tops for x in lefts]


def _starts(side: int, patch: int, overlap: bool) -> list[int]:
    count = math.ceil(side / patch)
    if overlap and count > 1:
        # start i = floor(i (side - patch) / (n - 1))
        return [i * (side - patch) // (count - 1) for i in range(count)]
    return [i * patch for i in range(count)]


def inside(boxes: Sequence[Box], size: Sequence[int], device: torch.device | None = None) -> torch.Tensor:
    """Which pixels each box holds, (len(boxes), 1, H, W), boolean."""
    held = torch.zeros((len(boxes), 1, *size), dtype=torch.bool, device=device)
    for row, (left, top, right, bottom) in zip(held, boxes, strict=True):
        row[:, top:bottom, left:right] = True
    return held


@dataclass(frozen=True, eq=False, kw_only=True)
class PatchedDDPM(Method):
    """One pass a patch at one time; the patches' predictions side by side.

    Needs the part ``denoiser``: ``(u with a noised patch, timesteps=(N,)) -> u``.

    Attributes:
        scheduler: the process; ``prediction_type`` must be ``"sample"``. The authors' has the ``cosine`` schedule
            and clips nothing.
        noise: its kind, that of the training; the authors' is shared by the slices of a volume.
        noise_level: L, 1..T: a patch is noised and restored at timestep L - 1; 500 in the paper.
        image_size: (H, W) of the images.
        patch_size: side of a patch in pixels; the authors' 48. The image's gives their whole-image baseline.
        overlap: ``"none"`` for patches side by side; with ``"cut"`` they overlap, but still only those side by side
            are cut out of the predictions; with ``"mean"`` overlapping predictions are averaged.

    Raises:
        ValueError: when one is outside its range.
    """

    scheduler: GaussianScheduler
    noise: NoiseKind = field(default_factory=lambda: SimplexNoise(with_time=False, shared=True))
    noise_level: int = setting(500, symbol="L", label="noise level L")
    image_size: tuple[int, int] = (96, 96)
    patch_size: int = setting(48, symbol="s", label="patch size")
    overlap: str = "none"

    def __post_init__(self) -> None:
        """Check the settings."""
        sizes = [outside("image_size", side, 1, math.inf, whole=True) for side in self.image_size]
        problems = [
            outside("noise_level", self.noise_level, 1, self.scheduler.num_train_timesteps, whole=True),
            *sizes,
            None if len(self.image_size) == 2 else f"image_size must be (H, W), got {self.image_size!r}",
            outside("patch_size", self.patch_size, 1, math.inf, whole=True),
            None if self.overlap in OVERLAPS else f"overlap must be one of {OVERLAPS}, got {self.overlap!r}",
            _needs_samples(self.scheduler),
        ]
        refuse(type(self).__name__, problems)

    @property
    def boxes(self) -> list[Box]:
        """The patches that are noised."""
        return grid_boxes(self.image_size, self.patch_size, self.overlap != "none")

    @property
    def passes(self) -> int:
        """Network evaluations a unit: the number of patches."""
        return len(self.boxes)

    def restore(
        self, images: torch.Tensor, encoded: torch.Tensor, network: Parts, streams: SliceGenerator, on_step: OnStep
    ) -> Restoration:
        """See :meth:`Method.restore`; the reconstruction is not clipped.

        Raises:
            ValueError: when the images are not of ``image_size``.
        """
        size = tuple(images.shape[2:])
        if size != tuple(self.image_size):
            raise ValueError(f"image_size: images are {size}, the method is set to {tuple(self.image_size)}.")
        u, timestep = 2 * images.float() - 1, self.noise_level - 1
        times = torch.full((len(u),), timestep, device=u.device)
        noised = self.scheduler.add_noise(u, self.noise(u.shape, streams.at(0), timestep), timestep)
        taken = self.boxes if self.overlap == "mean" else grid_boxes(size, self.patch_size)
        total, count = torch.zeros_like(u), torch.zeros_like(u[:1, :1])
        held = zip(inside(self.boxes, size, u.device), inside(taken, size, u.device), strict=True)
        for noisy, kept in held:
            sample = torch.where(noisy, noised, u)
            output = network.denoiser(sample, timesteps=times)
            prediction = self.scheduler.predict_original_sample(output, sample, timestep)
            total, count = total + prediction * kept, count + kept
            on_step()
        return Restoration((total / count + 1) / 2)

    def trial(self) -> Method:
        """One patch."""
        return self.replace(patch_size=max(self.image_size))


class PatchTask(Task):
    """Restore one noised patch of an image: a patch of the grid and a time for each image.

    The target (B, c + 1, H, W) holds u in its first channels and in the last where the patch is;
    :class:`PatchLoss` takes it.

    Args:
        scheduler: the process; ``prediction_type`` must be ``"sample"``.
        noise: its kind; the authors' is one field a batch.
        patch_size: side of a patch in pixels.

    Raises:
        ValueError: when one is outside its range.
    """

    def __init__(self, scheduler: GaussianScheduler, noise: NoiseKind | None = None, patch_size: int = 48) -> None:
        refuse(
            type(self).__name__,
            [outside("patch_size", patch_size, 1, math.inf, whole=True), _needs_samples(scheduler)],
        )
        self.scheduler, self.patch_size = scheduler, int(patch_size)
        self.noise = noise or SimplexNoise(with_time=False, shared=True)

    def example(self, clean: torch.Tensor, labels: torch.Tensor | None, draws: Draws) -> Example:
        """The image with its noised patch, the target, and ``timesteps``; see :meth:`Task.example`."""
        u, size = 2 * clean - 1, clean.shape[2:]
        boxes = grid_boxes(size, self.patch_size)
        chosen = draws.integers(0, len(boxes), len(u)).tolist()
        timesteps = draws.times(self.scheduler.num_train_timesteps, len(u), u.device)
        noise = self.noise.draw(u.shape, draws, timesteps)
        noisy = inside([boxes[n] for n in chosen], size, u.device)
        sample = torch.where(noisy, self.scheduler.add_noise(u, noise, timesteps), u)
        return sample, torch.cat([u, noisy.to(u.dtype)], dim=1), {"timesteps": timesteps}


class PatchLoss(torch.nn.Module):
    """Mean over ALL pixels of |output - u|, where outside the patch the output is u itself.

    It is the patch's mean absolute error times its share of the image.
    """

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss, a scalar, of an output (B, c, H, W) and a target of :class:`PatchTask`."""
        u, noisy = target[:, :-1], target[:, -1:]
        return ((output - u).abs() * noisy).mean()


def _needs_samples(scheduler: GaussianScheduler) -> str | None:
    found = scheduler.prediction_type
    return None if found == "sample" else f"scheduler.prediction_type must be 'sample', got {found!r}"
