"""Noise that was drawn elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from scripts.noise import Draws, NoiseKind, SliceGenerator


class RecordedNoise(NoiseKind):
    """The draws of a recording, by the number of their step in the stream."""

    def __init__(self, draws: Sequence[torch.Tensor] | torch.Tensor) -> None:
        self._draws = draws
        self.taken: list[int] = []

    def __call__(self, shape: Sequence[int], streams: SliceGenerator, timestep: int) -> torch.Tensor:
        self.taken.append(streams.step)
        return self._draws[streams.step].reshape(tuple(shape))

    def draw(self, shape: Sequence[int], draws: Draws, timesteps: torch.Tensor) -> torch.Tensor:
        return self._draws[0].reshape(tuple(shape))
