"""From a data set's batches to what a network is given, as its task says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.engines import PrepareBatch

from ..methods import Task
from ..noise import Draws
from .latents import LATENT, to_numbers


class ImagePrepareBatch(PrepareBatch):
    """Batches whose target is the image itself."""

    def __call__(
        self, batchdata: Mapping[str, torch.Tensor], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``batchdata["image"]`` on the device, twice."""
        image = batchdata["image"].to(device=device, non_blocking=non_blocking, **kwargs)
        return image, image


class TaskPrepareBatch(PrepareBatch):
    """Encode images on the device, or take what is encoded already, and make the task's examples of them.

    Randomness is torch's own, which the training seeds anew in every epoch.

    Args:
        task: what the network is taught.
        amp: encode in bfloat16 autocast.
        stratified: spread the times of a batch evenly in place of drawing them, for validation.
        generator: source of randomness of a batch that is shared out among processes; ``None`` for torch's own.
    """

    def __init__(self, task: Task, amp: bool = False, stratified: bool = False, generator: Any = None) -> None:
        super().__init__()
        self.task, self.amp, self.draws = task, amp, Draws(generator, stratified)

    def __call__(
        self, batchdata: Mapping[str, torch.Tensor], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, Any, tuple, dict]:
        """Inputs, target, and the network's further arguments and keywords."""
        key = LATENT if LATENT in batchdata else "image"
        values = batchdata[key].to(device=device, non_blocking=non_blocking, **kwargs)
        # Turned into numbers only here, so that fewer bytes travel.
        clean = to_numbers(values) if key == LATENT else self._encode(values)
        labels = batchdata["class"].to(device=device, non_blocking=non_blocking) if "class" in batchdata else None
        inputs, target, keywords = self.task.example(clean, labels, self.draws)
        return inputs, target, (), keywords

    @torch.no_grad()
    def _encode(self, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=self.amp):
            return self.task.encode(images)
