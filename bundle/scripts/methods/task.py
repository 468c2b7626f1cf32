"""What a part of the network is taught: from clean units to the network's inputs and targets.

MONAI's trainers, losses and metrics stay; :class:`~scripts.training.TaskPrepareBatch` calls a task for every batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from ..noise import Draws

Example = tuple[torch.Tensor, Any, dict[str, Any]]
"""The network's inputs (B, ...), the loss's target, and further keywords of the network, such as ``timesteps`` (B,)."""


class Task(ABC):
    """What a part of the network is taught."""

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """What is made of images (B, c, *size) once and may be kept, such as latents; by default the images."""
        return images

    @abstractmethod
    def example(self, clean: torch.Tensor, labels: torch.Tensor | None, draws: Draws) -> Example:
        """One batch of examples.

        Args:
            clean: what :meth:`encode` made of the images, float32.
            labels: class of each unit, (B,), 0 healthy and 1 diseased; ``None`` where the data have healthy units only.
            draws: source of all randomness; the same in every process for what is drawn for the whole batch.
        """
