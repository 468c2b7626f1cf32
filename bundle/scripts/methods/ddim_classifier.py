"""DDIM with classifier guidance (Wolleb et al. 2022, MICCAI, arXiv 2203.04306): diseased to healthy, by a classifier.

The image is encoded for L implicit steps, which loses nothing, and decoded with the gradient of a classifier of noised
images towards the healthy class. What has changed is the anomaly: sum over channels of |x - h|.

=================  =================================================================================
paper              here
=================  =================================================================================
t, alpha_bar_t     zero-based index and its table entry; before index 0 there is the image, abar = 1
L, s               ``noise_level`` (500), ``guidance_scale`` (100)
eps(x_t, t, y)     part ``denoiser``, told that the image is healthy, both ways
C(x_t, t)          part ``classifier``
=================  =================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..checks import outside, refuse
from ..guidance import ClassifierGuidance, guided_ddim_step, predicted_noise
from ..networks import Parts
from ..networks.classes import DISEASED, HEALTHY, classes
from ..networks.fit import check_parts, needed_labels
from ..noise import Draws, SliceGenerator
from ..ranges import to_image, to_network, wrong_range
from ..schedulers import GaussianScheduler
from .contract import OnStep, Restoration, setting
from .task import Example, Task
from .translation import Translation, repeated


@dataclass(frozen=True, eq=False, kw_only=True)
class DDIMClassifier(Translation):
    """Encode L steps, decode with the gradient of the classifier.

    Needs the parts ``denoiser`` (:class:`~scripts.networks.conditional_unet.ConditionalUNet`, or a U-Net that knows no
    classes) and ``classifier`` (:class:`~scripts.networks.classifier.NoisyImageClassifier`). Its number a unit is the
    classifier's probability of the diseased class for the image as it is, at timestep 0; the paper publishes none.

    Attributes:
        guidance_scale: s, at least 0.
        released_loop: repeat the loop of the released code: the image is noised at index 0 first (a random start), the
            first index is not encoded, and decoding begins two indices below where encoding arrived. ``noise_level``
            then needs two steps at least.
        respaced_classifier: tell the classifier the place in the grid in place of the timestep, as the released code
            does; the same where the grid has all T times.
    """

    slice_scores: ClassVar[tuple[str, ...]] = ("class_probability",)
    image_score: ClassVar[str] = "class_probability"

    image_range: Sequence[float] = (0.0, 1.0)
    guidance_scale: float = setting(100.0, symbol="s", label="guidance scale s")
    respaced_classifier: bool = False

    def _problems(self) -> list[str | None]:
        enough = not self.released_loop or self.stride < self.noise_level
        return [
            outside("guidance_scale", self.guidance_scale, 0, 1e6),
            None if enough else f"num_inference_steps must be 2 or more in the released loop, got stride {self.stride}",
        ]

    @property
    def passes(self) -> int:
        """Encoding; U-Net and classifier in decoding; the classifier for the image."""
        return len(self.encoding_times()) - 1 + 2 * (len(self.decoding_times()) - 1) + 1

    @property
    def guidance(self) -> ClassifierGuidance:
        """The gradient towards the healthy class."""
        stride = self.stride if self.respaced_classifier else 1
        return ClassifierGuidance(self.scheduler, self.guidance_scale, HEALTHY, stride)

    def restore(
        self, images: torch.Tensor, encoded: torch.Tensor, network: Parts, streams: SliceGenerator, on_step: OnStep
    ) -> Restoration:
        """See :meth:`Method.restore`; the reconstruction is not clipped, and may leave [0, 1] a little.

        Raises:
            ValueError: when a part is missing, or takes other images.
        """
        check_parts(network, images, "denoiser", "classifier")
        healthy = self.translate(images, network, streams, on_step)
        x = to_network(images, self.image_range)
        probability = network.classifier(x, repeated(0, x)).float().softmax(dim=1)[:, DISEASED]
        on_step()
        return Restoration(to_image(healthy, self.image_range), slice_scores={"class_probability": probability})

    def encoding_times(self) -> list[int]:
        """See :class:`~scripts.methods.translation.Translation`."""
        return self.levels[1:] if self.released_loop else self.levels

    def decoding_times(self) -> list[int]:
        """See :class:`~scripts.methods.translation.Translation`."""
        times = super().decoding_times()
        return times[2:] if self.released_loop else times

    def start(self, images: torch.Tensor, streams: SliceGenerator) -> torch.Tensor:
        """The images, noised at index 0 in the released loop."""
        if not self.released_loop:
            return images
        return self.scheduler.add_noise(images, streams.at(0).randn(images.shape), 0)

    def _encoding_noise(self, network: Any, state: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return predicted_noise(network.denoiser, state, timesteps, classes(HEALTHY, len(state), state.device))

    def _decoding_step(
        self, network: Any, state: torch.Tensor, timestep: int, earlier: int, on_step: OnStep
    ) -> torch.Tensor:
        output = self._encoding_noise(network, state, repeated(timestep, state))
        on_step()
        state, _ = guided_ddim_step(self.scheduler, self.guidance, network, output, timestep, state, earlier)
        on_step()
        return state


class ClassifierTask(Task):
    """Tell the class of noised images, t uniform; the loss is the cross-entropy.

    Args:
        scheduler: the process.
        image_range: what images in [0, 1] are to the classifier.

    Raises:
        ValueError: when ``image_range`` is not two rising numbers.
    """

    def __init__(self, scheduler: GaussianScheduler, image_range: Sequence[float] = (0.0, 1.0)) -> None:
        refuse(type(self).__name__, [wrong_range("image_range", image_range)])
        self.scheduler, self.image_range = scheduler, tuple(image_range)

    def example(self, clean: torch.Tensor, labels: torch.Tensor | None, draws: Draws) -> Example:
        """x_t, the class, and ``timesteps``; see :meth:`Task.example`.

        Raises:
            ValueError: when there are no labels.
        """
        classes_told = needed_labels(type(self).__name__, labels, clean)
        images = to_network(clean, self.image_range)
        timesteps = draws.times(self.scheduler.num_train_timesteps, len(images), images.device)
        noise = draws.randn(images.shape, images.device)
        return self.scheduler.add_noise(images, noise, timesteps), classes_told, {"timesteps": timesteps}
