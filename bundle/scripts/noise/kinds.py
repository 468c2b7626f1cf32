"""Kinds of noise that a diffusion method can be given: each draws for inference and training, and describes itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .draws import Draws
from .streams import SliceGenerator


class NoiseKind(ABC):
    """Noise of mean 0; what it is like depends on the public attributes, which describe it."""

    @abstractmethod
    def __call__(self, shape: Sequence[int], streams: SliceGenerator, timestep: int) -> torch.Tensor:
        """Noise of N units.

        Args:
            shape: (N, c, *size).
            streams: the units' streams at the step of this draw.
            timestep: zero-based time of the noise, for kinds that change with it.

        Returns:
            float32 of ``shape``, on the device of the streams; unit n depends on its stream alone.
        """

    @abstractmethod
    def draw(self, shape: Sequence[int], draws: Draws, timesteps: torch.Tensor) -> torch.Tensor:
        """Noise of a training batch.

        Args:
            shape: (B, c, *size), the rows of this process.
            draws: source of all randomness.
            timesteps: zero-based time of each row, (B,).

        Returns:
            float32 of ``shape``, on the device of ``timesteps``.
        """


@dataclass(frozen=True)
class GaussianNoise(NoiseKind):
    """Standard normal numbers, independent everywhere."""

    def __call__(self, shape: Sequence[int], streams: SliceGenerator, timestep: int) -> torch.Tensor:
        """See :meth:`NoiseKind.__call__`."""
        return streams.randn(shape)

    def draw(self, shape: Sequence[int], draws: Draws, timesteps: torch.Tensor) -> torch.Tensor:
        """See :meth:`NoiseKind.draw`."""
        return draws.randn(shape, timesteps.device)
