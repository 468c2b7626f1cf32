"""DDIM with classifier-free guidance (Sanchez et al. 2022, DGM4MICCAI): diseased to healthy, without a classifier.

The image is encoded for L implicit steps with the null class, and decoded with (1 + w) eps(healthy) - w eps(null). One
U-Net does both. The anomaly is the mean over the sequences looked at of (x - h)^2.

=================  ==================================================================================
paper              here
=================  ==================================================================================
t, alpha_bar_t     zero-based index and its table entry; before index 0 there is the image, abar = 1
L, w               ``noise_level``, ``guidance_strength``
eps(x_t, t, y)     part ``denoiser``; images are in [-1, 1] to it
=================  ==================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..channels import chosen_channels, wrong_channels
from ..checks import outside, refuse
from ..guidance import ClassifierFreeGuidance, predicted_noise
from ..median import mirrored_median
from ..networks import Parts
from ..networks.classes import HEALTHY, NULL, classes
from ..networks.fit import check_parts, needed_labels
from ..noise import Draws, SliceGenerator
from ..ranges import to_image, to_network, wrong_range
from ..schedulers import GaussianScheduler
from .contract import OnStep, Restoration, setting
from .task import Example, Task
from .translation import Translation, repeated


@dataclass(frozen=True, eq=False, kw_only=True)
class DDIMClassifierFree(Translation):
    """Encode L steps with the null class, decode with guidance towards healthy.

    Needs the part ``denoiser``, which knows the null class. An image is held for diseased when any pixel of its
    smoothed map is above the threshold, so its number is the largest value of that map,
    5x5 median of mean over channels of (x - h)^2.

    Attributes:
        guidance_strength: w, -1..1000; -1 decodes with the null class, 0 with the healthy one alone.
        channels: the sequences that the number a unit looks at, zero-based; ``None`` for all.
        released_loop: begin decoding one index below where encoding arrived, as code of Che et al. 2024
            (arXiv 2404.15683) does.
    """

    slice_scores: ClassVar[tuple[str, ...]] = ("largest_residual",)
    image_score: ClassVar[str] = "largest_residual"

    guidance_strength: float = setting(1.1, symbol="w", label="guidance strength w")
    channels: Sequence[int] | None = None

    def _problems(self) -> list[str | None]:
        return [
            outside("guidance_strength", self.guidance_strength, -1, 1000),
            wrong_channels("channels", self.channels),
        ]

    @property
    def passes(self) -> int:
        """Encoding; the U-Net twice in decoding."""
        return len(self.encoding_times()) - 1 + 2 * (len(self.decoding_times()) - 1)

    def restore(
        self, images: torch.Tensor, encoded: torch.Tensor, network: Parts, streams: SliceGenerator, on_step: OnStep
    ) -> Restoration:
        """See :meth:`Method.restore`.

        Raises:
            ValueError: when the denoiser takes other images or does not know the null class.
        """
        check_parts(network, images, "denoiser", null_class=True)
        looked_at = chosen_channels(self.channels, images)
        healthy = self.translate(images, network, streams, on_step)
        residual = (to_network(images, self.image_range) - healthy)[:, looked_at].square().mean(dim=1, keepdim=True)
        largest = mirrored_median(residual).flatten(1).amax(dim=1)
        return Restoration(to_image(healthy, self.image_range), slice_scores={"largest_residual": largest})

    def decoding_times(self) -> list[int]:
        """See :class:`~scripts.methods.translation.Translation`."""
        times = super().decoding_times()
        return times[1:] if self.released_loop else times

    def _encoding_noise(self, network: Any, state: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return predicted_noise(network.denoiser, state, timesteps, classes(NULL, len(state), state.device))

    def _decoding_step(
        self, network: Any, state: torch.Tensor, timestep: int, earlier: int, on_step: OnStep
    ) -> torch.Tensor:
        timesteps, healthy = repeated(timestep, state), classes(HEALTHY, len(state), state.device)
        output = predicted_noise(network.denoiser, state, timesteps, healthy)
        on_step()
        output = ClassifierFreeGuidance(self.guidance_strength)(network, state, timesteps, output)
        on_step()
        return self.scheduler.ddim_step(output, timestep, state, previous_timestep=earlier)[0]


class ConditionalNoiseTask(Task):
    """Predict the noise of an image whose class is told, or is not; the loss is the mean squared error.

    Healthy and diseased images come together. For guidance without a classifier, and for AnoFPDM, the class is
    dropped at random; for guidance by a classifier, it is not.

    Args:
        scheduler: the process.
        drop_probability: of the null class in place of an image's own, independent for each image; 0.1 in the papers.
        image_range: what images in [0, 1] are to the denoiser.

    Raises:
        ValueError: when one is outside its range.
    """

    def __init__(
        self,
        scheduler: GaussianScheduler,
        drop_probability: float = 0.1,
        image_range: Sequence[float] = (-1.0, 1.0),
    ) -> None:
        problems = [outside("drop_probability", drop_probability, 0, 1), wrong_range("image_range", image_range)]
        refuse(type(self).__name__, problems)
        self.scheduler, self.drop_probability = scheduler, drop_probability
        self.image_range = tuple(image_range)

    def example(self, clean: torch.Tensor, labels: torch.Tensor | None, draws: Draws) -> Example:
        """x_t, the noise, ``timesteps`` and ``class_labels``; see :meth:`Task.example`.

        Raises:
            ValueError: when there are no labels.
        """
        told = needed_labels(type(self).__name__, labels, clean)
        images = to_network(clean, self.image_range)
        timesteps = draws.times(self.scheduler.num_train_timesteps, len(images), images.device)
        noise = draws.randn(images.shape, images.device)
        dropped = draws.rand((len(images),), images.device) < self.drop_probability
        told = torch.where(dropped, NULL, told)
        keywords = {"timesteps": timesteps, "class_labels": told}
        return self.scheduler.add_noise(images, noise, timesteps), noise, keywords
