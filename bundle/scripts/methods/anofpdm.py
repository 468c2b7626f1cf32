"""AnoFPDM (Che et al. 2024, arXiv 2404.15683): anomalies from the forward process, with image labels alone.

An image is noised step by step. At each step the denoiser predicts it twice, as if healthy, with guidance, and without
guidance; where and when the two part is the anomaly (:mod:`scripts.sub_anomaly_maps`).

===================  ==============================================================================
paper                here
===================  ==============================================================================
t, abar_t            zero-based index and its table entry
K, w                 ``noise_level`` (600), ``guidance_strength`` (2 for BraTS21, 30 for ATLAS)
eps_h, eps_0         part ``denoiser``, told healthy, or nothing (null class)
X0(eps)              clamp((x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t)), ``predict_original_sample``
xh_t, x0_t           X0((1 + w) eps_h - w eps_0), X0(eps_0)
===================  ==============================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..channels import chosen_channels, wrong_channels
from ..checks import outside, refuse
from ..grid import grid_levels, grid_problems
from ..guidance import ClassifierFreeGuidance, predicted_noise
from ..networks import Parts
from ..networks.classes import HEALTHY, NULL, classes
from ..networks.fit import check_parts
from ..noise import SliceGenerator
from ..ranges import to_image, to_network, wrong_range
from ..schedulers import GaussianScheduler
from ..sub_anomaly_maps import SubAnomalyMaps, cosine_of_errors
from .contract import Method, OnStep, Restoration, setting
from .translation import repeated

FORWARD = ("ddim", "ddpm")


@dataclass(frozen=True, eq=False, kw_only=True)
class AnoFPDM(Method):
    """Guided and unguided predictions along the forward process.

    Needs the part ``denoiser``, which knows the null class.

    Evidence: ``aggregated_map``, AAM of each channel that is judged by, (N, k, H, W); the published map is their mean,
    5x5 median. Numbers a unit: ``cosine_distance``, 1 - cosine of the two errors over t, an image being diseased where
    it is at least 1 - c; and for each channel judged by ``peak_difference_C``, the largest M, from which the threshold
    comes (:func:`scripts.evaluation.threshold_rules.dynamic_quantile_thresholds`). The reconstruction is the mean of
    xh_t over the steps of the map.

    Attributes:
        scheduler: the process; its ``clip_range`` is [-1, 1].
        noise_level: K, steps of the forward process, 1..T - 1.
        num_inference_steps: how many of them are visited, 0, K / N, 2 K / N, ...; divides K. ``None`` for all.
        guidance_strength: w, -1..1000.
        forward: ``"ddim"``, the deterministic process of the null class, or ``"ddpm"``, new noise at every step.
        channels: the sequences judged by, zero-based; in the paper FLAIR and T2.
        end_step_only: the ablation whose map is that of the step before t_e alone.
        interval: take every n-th step before t_e, and t_e; ``None`` for all before it.
        gradient_maps: (xh_t - x0_t)^2 / (((1 - abar_t) / sqrt(abar_t))^2 (1 + w)^2) in place of the sub-anomaly maps.
        image_range: what images in [0, 1] are to the denoiser.
        released_reference: take X0(eps_h) for x0_t, as the released code does; the published w, c and Mmax are for it.
        released_states: in the deterministic process, move on from t - 1 to t + 1 as if the state were at t, as the
            released code does; ``gradient_maps`` then take abar at the place in the grid.

    Raises:
        ValueError: when one is outside its range.
    """

    evidence: ClassVar[tuple[str, ...]] = ("aggregated_map",)
    image_score: ClassVar[str] = "cosine_distance"

    scheduler: GaussianScheduler
    noise_level: int = setting(600, symbol="K", label="forward steps K")
    num_inference_steps: int | None = setting(None, symbol="N", label="steps N")
    guidance_strength: float = setting(2.0, symbol="w", label="guidance strength w")
    forward: str = "ddim"
    channels: Sequence[int]
    end_step_only: bool = False
    interval: int | None = None
    gradient_maps: bool = False
    image_range: Sequence[float] = (-1.0, 1.0)
    released_reference: bool = False
    released_states: bool = False

    def __post_init__(self) -> None:
        """Check the settings."""
        steps = self.scheduler.num_train_timesteps
        problems = [
            *grid_problems(steps, self.noise_level, self.num_inference_steps),
            outside("guidance_strength", self.guidance_strength, -1, 1000),
            None if self.forward in FORWARD else f"forward must be one of {FORWARD}, got {self.forward!r}",
            wrong_channels("channels", self.channels)
            or (None if self.channels is not None else "channels: at least one is needed"),
            None if self.interval is None else outside("interval", self.interval, 1, steps, whole=True),
            wrong_range("image_range", self.image_range),
        ]
        if self.end_step_only and self.interval:
            problems.append("end_step_only and interval exclude each other")
        if self.gradient_maps and self.guidance_strength == -1:
            problems.append("gradient_maps divide by (1 + w)^2: guidance_strength must not be -1")
        refuse(type(self).__name__, problems)

    @property
    def slice_scores(self) -> tuple[str, ...]:  # type: ignore[override]
        """The names depend on the channels."""
        return ("cosine_distance", *(f"peak_difference_{c}" for c in self.channels))

    @property
    def times(self) -> list[int]:
        """The timesteps of the forward process."""
        return grid_levels(self.noise_level, self.num_inference_steps)[:-1]

    @property
    def passes(self) -> int:
        """Two predictions a step; the released states need one more each to move on."""
        more = len(self.times) - 1 if self.released_states and self.forward == "ddim" else 0
        return 2 * len(self.times) + more

    def trial(self) -> Method:
        """Two steps."""
        return self.replace(noise_level=2, num_inference_steps=None)

    def restore(
        self, images: torch.Tensor, encoded: torch.Tensor, network: Parts, streams: SliceGenerator, on_step: OnStep
    ) -> Restoration:
        """See :meth:`Method.restore`.

        Raises:
            ValueError: when the denoiser takes other images or does not know the null class.
        """
        check_parts(network, images, "denoiser", null_class=True)
        judged = chosen_channels(self.channels, images)
        found = SubAnomalyMaps(self.end_step_only, self.interval)
        x = to_network(images, self.image_range)
        for step, (healthy, reference) in enumerate(self.predictions(x, network, streams, on_step)):
            anomaly = self._gradient_map(healthy, reference, step) if self.gradient_maps else None
            found.update(x, healthy, reference, anomaly)
        curves = found.curves[..., judged]
        scores = {"cosine_distance": 1 - cosine_of_errors(curves[0], curves[1])}
        scores |= {f"peak_difference_{c}": found.peaks[:, c] for c in judged}
        evidence = {"aggregated_map": found.maps[:, judged]}
        return Restoration(to_image(found.healthy, self.image_range), evidence, scores)

    def predictions(
        self, x: torch.Tensor, network: Any, streams: SliceGenerator, on_step: OnStep
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """xh_t and x0_t at each step, (B, c, *size).

        Args:
            x: images in the denoiser's range.
            network: the parts.
            streams: of the noise; step k of the process draws ``streams.at(k)``, the deterministic one k = 0 alone.
            on_step: called after each evaluation.
        """
        guidance = ClassifierFreeGuidance(self.guidance_strength)
        state, unguided, before = x, x, 0
        for step, t in enumerate(self.times):
            state = self._next_state(x, state, unguided, network, (step, before, t), streams, on_step)
            conditional = self._noise(network, state, t, HEALTHY, on_step)
            unguided, before = self._noise(network, state, t, NULL, on_step), t
            eps = guidance.combine(conditional, unguided)
            reference = conditional if self.released_reference else unguided
            yield tuple(self.scheduler.predict_original_sample(e, state, t) for e in (eps, reference))  # type: ignore[misc]

    def _next_state(
        self,
        x: torch.Tensor,
        state: torch.Tensor,
        unguided: torch.Tensor,
        network: Any,
        place: tuple[int, int, int],
        streams: SliceGenerator,
        on_step: OnStep,
    ) -> torch.Tensor:
        """x_t, from the image, or from the state before and the noise predicted there.

        Args:
            x: the images.
            state: that of the step before.
            unguided: eps_0 there.
            network: the parts.
            place: the step's number, the timestep before and the timestep.
            streams: of the noise.
            on_step: called after each evaluation.
        """
        step, before, t = place
        if step == 0 or self.forward == "ddpm":
            # x_t = sqrt(abar_t) x + sqrt(1 - abar_t) n, in the deterministic process at its start alone
            return self.scheduler.add_noise(x, streams.at(step).randn(x.shape), t)
        if not self.released_states:
            return self.scheduler.reversed_step(unguided, before, state, t)[0]
        following = t + self.times[1]
        eps = self._noise(network, state, t, NULL, on_step)
        return self.scheduler.reversed_step(eps, t, state, following)[0]

    def _noise(self, network: Any, state: torch.Tensor, t: int, label: int, on_step: OnStep) -> torch.Tensor:
        labels = classes(label, len(state), state.device)
        eps = predicted_noise(network.denoiser, state, repeated(t, state), labels)
        on_step()
        return eps

    def _gradient_map(self, healthy: torch.Tensor, reference: torch.Tensor, step: int) -> torch.Tensor:
        """The squared gradient of log p(healthy | x_t) that guidance followed."""
        alpha_bar = self.scheduler.alpha_bar(step if self.released_states else self.times[step])
        factor = (1 - alpha_bar) / alpha_bar**0.5 * (1 + self.guidance_strength)
        return ((healthy - reference) / factor).square()
