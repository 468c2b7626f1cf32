"""CG-CDM (Hu et al. 2023, MICCAI, arXiv 2306.03878): what a small change of the condition changes, summed over steps.

An image known to be diseased is noised for Q steps. From there two implicit trajectories run: one told that it is
diseased, e(1), the other that it is almost, tau e(1) + (1 - tau) e(0). The sum over R steps and over channels of
(x^1 - x^tau) / (1 - tau), the finite difference, is large where the class matters; its sign is kept.

=================  ================================================================================
paper              here
=================  ================================================================================
Q, R, tau          ``noise_level``, ``num_steps``, ``tau``; Q is a zero-based index into alpha_bar
=================  ================================================================================

The paper's pseudo code starts at t = Q and noises stepwise by beta_t in place of its root, a misprint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch

from ..checks import outside, refuse
from ..guidance import ClassifierGuidance, finite_difference, guided_ddim_step, predicted_noise
from ..networks import Parts
from ..networks.classes import DISEASED, HEALTHY, classes, mixed_classes
from ..networks.fit import check_parts
from ..noise import SliceGenerator
from ..ranges import to_image, to_network, wrong_range
from ..schedulers import GaussianScheduler
from .contract import Method, OnStep, Restoration, setting
from .translation import repeated


@dataclass(frozen=True, eq=False, kw_only=True)
class CGCDM(Method):
    """Two trajectories of conditions that differ a little, and their difference.

    Needs the part ``denoiser``, whose classes may be mixed, such as
    :class:`~scripts.networks.conditional_unet.ConditionalUNet`, and, with guidance, ``classifier``. It segments slices
    that are known to be diseased and decides about none.

    Evidence: ``summed_difference``, signed, and ``difference_map``, the same from 0 to 1 in each slice (the published
    code takes the range of a whole batch, which Otsu's threshold of a slice does not see). The reconstruction is what
    the second trajectory predicts at its last step.

    Attributes:
        scheduler: the process; its ``clip_range`` is [-1, 1].
        noise_level: Q, 1..T - 1.
        num_steps: R, 1..Q.
        tau: share of the diseased class in the second condition, in [0, 1).
        guidance_scale: s of the classifier's guidance, towards the diseased class on the first trajectory and the
            healthy one on the second; 0 for none, and then no classifier is needed.
        image_range: what images in [0, 1] are to the networks.
        released_start: take the noised image for one of index Q - 1, as the published code does.

    Raises:
        ValueError: when one is outside its range.
    """

    evidence: ClassVar[tuple[str, ...]] = ("summed_difference", "difference_map")

    scheduler: GaussianScheduler
    noise_level: int = setting(400, symbol="Q", label="noise level Q")
    num_steps: int = setting(10, symbol="R", label="steps R")
    tau: float = setting(0.95, symbol="tau", label="tau")
    guidance_scale: float = setting(10.0, symbol="s", label="guidance scale s")
    image_range: Sequence[float] = (0.0, 1.0)
    released_start: bool = False

    def __post_init__(self) -> None:
        """Check the settings."""
        problems = [
            outside("noise_level", self.noise_level, 1, self.scheduler.num_train_timesteps - 1, whole=True),
            outside("tau", self.tau, 0, 1) or (None if self.tau < 1 else "tau must be below 1, got 1"),
            outside("guidance_scale", self.guidance_scale, 0, 1e6),
            wrong_range("image_range", self.image_range),
        ]
        if problems[0] is None:
            problems.append(outside("num_steps", self.num_steps, 1, self.noise_level, whole=True))
        refuse(type(self).__name__, problems)

    @property
    def passes(self) -> int:
        """Two trajectories, twice as many evaluations with guidance."""
        return self.num_steps * (4 if self.guidance_scale else 2)

    def trial(self) -> Method:
        """One step."""
        return self.replace(num_steps=1)

    def restore(
        self, images: torch.Tensor, encoded: torch.Tensor, network: Parts, streams: SliceGenerator, on_step: OnStep
    ) -> Restoration:
        """See :meth:`Method.restore`.

        Raises:
            ValueError: when a part is missing, or takes other images.
        """
        check_parts(network, images, "denoiser", *(["classifier"] if self.guidance_scale else []))
        x = to_network(images, self.image_range)
        start = self.scheduler.add_noise(x, streams.at(0).randn(x.shape), int(self.noise_level))
        total, original = torch.zeros_like(x[:, :1]), x
        for diseased, mixed, original in self.trajectories(start, network, on_step):  # noqa: B007
            total += finite_difference(diseased, mixed, self.tau).sum(dim=1, keepdim=True)
        evidence = {"summed_difference": total, "difference_map": rescaled(total)}
        return Restoration(to_image(original, self.image_range), evidence)

    def trajectories(self, start: torch.Tensor, network: Any, on_step: OnStep) -> Any:
        """After each step the states of both trajectories, and the image that the second predicts."""
        first = int(self.noise_level) - self.released_start
        diseased = mixed = start
        count, device = len(start), start.device
        conditions = classes(DISEASED, count, device), mixed_classes(self.tau, count, device)
        for timestep, earlier in pairwise(range(first, first - int(self.num_steps) - 1, -1)):
            diseased, _ = self._step(network, diseased, conditions[0], DISEASED, timestep, earlier, on_step)
            mixed, original = self._step(network, mixed, conditions[1], HEALTHY, timestep, earlier, on_step)
            yield diseased, mixed, original

    def _step(
        self,
        network: Any,
        state: torch.Tensor,
        condition: torch.Tensor,
        target: int,
        timestep: int,
        earlier: int,
        on_step: OnStep,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        output = predicted_noise(network.denoiser, state, repeated(timestep, state), condition)
        on_step()
        if not self.guidance_scale:
            return self.scheduler.ddim_step(output, timestep, state, previous_timestep=earlier)
        guidance = ClassifierGuidance(self.scheduler, self.guidance_scale, target)
        moved = guided_ddim_step(self.scheduler, guidance, network, output, timestep, state, earlier)
        on_step()
        return moved


def rescaled(maps: torch.Tensor) -> torch.Tensor:
    """Each map (N, 1, *size) from 0 to 1; one that is the same everywhere is 0."""
    low, high = maps.flatten(1).aminmax(dim=1)
    low, span = (v.reshape(-1, *[1] * (maps.ndim - 1)) for v in (low, high - low))
    return torch.where(span > 0, (maps - low) / span.clamp_min(torch.finfo(maps.dtype).tiny), 0.0)
