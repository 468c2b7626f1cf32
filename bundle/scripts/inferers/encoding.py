"""The forward pass of the inference workflow: the encoder alone."""

from __future__ import annotations

from typing import Any

import torch
from monai.inferers import Inferer

from ..data.selection import volume_to_slices
from .masked_bernoulli import MaskedBernoulliInferer


class EncodingInferer(Inferer):
    """Code probabilities of the slices that the anomaly inferer selects; its handler goes on from them.

    Args:
        inferer: the masked inferer, whose slice selection, batch size and precision are used.
    """

    def __init__(self, inferer: MaskedBernoulliInferer) -> None:
        super().__init__()
        self.inferer = inferer

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """y (N, C, h, w) of all selected slices of (B, c, W, H) or (B, c, W, H, D), in order; empty without any."""
        volumes, indices = self.inferer.select(inputs)
        if sum(map(len, indices)) == 0:
            return volumes.new_empty(0)
        slices = [volume_to_slices(volume, i) for volume, i in zip(volumes, indices, strict=True)]
        return self.inferer.encode(torch.cat(slices), network)
