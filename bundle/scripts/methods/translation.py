"""Translation of an image by an implicit diffusion: encoded for L steps, decoded as healthy by guidance.

What the two translations share. h is the state; level L is timestep L of the table, the image itself the start:

    h = x;  for t = 0 .. L-1: h at level t -> level t + 1;  for t = L .. 0: h at level t -> level t - 1, guided

Both papers' released codes turn at another place than where they arrive: see ``released_loop`` of the subclasses.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from ..checks import refuse
from ..grid import grid_levels, grid_problems, grid_stride
from ..networks import Parts
from ..noise import SliceGenerator
from ..ranges import to_network, wrong_range
from ..schedulers import GaussianScheduler
from ..schedulers.gaussian_process import CLEAN
from .contract import Method, OnStep, setting


@dataclass(frozen=True, eq=False, kw_only=True)
class Translation(Method):
    """Encode, decode with guidance; both deterministic.

    Attributes:
        scheduler: the process; its ``clip_range`` is [-1, 1] in both papers, whatever the images' range.
        noise_level: L, 1..T - 1.
        num_inference_steps: N, times of the grid below L, 0, L / N, 2 L / N, ...; divides L. ``None`` for all.
        image_range: what images in [0, 1] are to the networks.
        released_loop: repeat the loop of the released code.

    Raises:
        ValueError: when one is outside its range.
    """

    scheduler: GaussianScheduler
    noise_level: int = setting(500, symbol="L", label="noise level L")
    num_inference_steps: int | None = setting(None, symbol="N", label="steps N")
    image_range: Sequence[float] = (-1.0, 1.0)
    released_loop: bool = False

    def __post_init__(self) -> None:
        """Check the settings."""
        steps = self.scheduler.num_train_timesteps
        problems = grid_problems(steps, self.noise_level, self.num_inference_steps)
        refuse(type(self).__name__, [*problems, wrong_range("image_range", self.image_range), *self._problems()])

    def _problems(self) -> list[str | None]:
        """What is wrong with the settings of the subclass, in words."""
        return []

    @property
    def levels(self) -> list[int]:
        """Timesteps of the grid, 0 .. L."""
        return grid_levels(self.noise_level, self.num_inference_steps)

    @property
    def stride(self) -> int:
        """Distance of the timesteps of the grid."""
        return grid_stride(self.noise_level, self.num_inference_steps)

    def encoding_times(self) -> list[int]:
        """Where encoding evaluates the network, and, last, where it arrives."""
        return self.levels

    def decoding_times(self) -> list[int]:
        """Where decoding evaluates the network, and, last, the clean image."""
        return [*reversed(self.levels), CLEAN]

    def trial(self) -> Method:
        """One step each way, or what the released loop needs for one."""
        return self.replace(num_inference_steps=None, noise_level=2)

    def translate(self, images: torch.Tensor, network: Parts, streams: SliceGenerator, on_step: OnStep) -> torch.Tensor:
        """The image as if it were healthy, in the networks' range, not clamped."""
        start = self.start(to_network(images, self.image_range), streams)
        latent = _last_state(self.encoding(start, network, on_step))
        return _last_state(self.decoding(latent, network, on_step))

    def start(self, images: torch.Tensor, streams: SliceGenerator) -> torch.Tensor:
        """What is encoded: the images, in the networks' range."""
        return images

    def encoding(self, state: torch.Tensor, network: Any, on_step: OnStep) -> Iterator[tuple[int, torch.Tensor]]:
        """Each timestep that encoding visits, and the state behind it."""
        for timestep, following in pairwise(self.encoding_times()):
            output = self._encoding_noise(network, state, repeated(timestep, state))
            state, _ = self.scheduler.reversed_step(output, timestep, state, following)
            on_step()
            yield timestep, state

    def decoding(self, state: torch.Tensor, network: Any, on_step: OnStep) -> Iterator[tuple[int, torch.Tensor]]:
        """Each timestep that decoding visits, and the state behind it; the last is the image."""
        for timestep, earlier in pairwise(self.decoding_times()):
            state = self._decoding_step(network, state, timestep, earlier, on_step)
            yield timestep, state

    @abstractmethod
    def _encoding_noise(self, network: Any, state: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """eps that encoding takes."""

    @abstractmethod
    def _decoding_step(
        self, network: Any, state: torch.Tensor, timestep: int, earlier: int, on_step: OnStep
    ) -> torch.Tensor:
        """The state one step closer to the image."""


def _last_state(states: Iterator[tuple[int, torch.Tensor]]) -> torch.Tensor:
    """The state behind the last step; those before are let go."""
    return deque(states, maxlen=1)[0][1]


def repeated(timestep: int, state: torch.Tensor) -> torch.Tensor:
    """``timestep`` for every unit of ``state``, (B,)."""
    return torch.full((len(state),), timestep, device=state.device)
