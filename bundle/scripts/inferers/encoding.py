"""The forward pass of the inference workflow: selection and encoding alone."""

from __future__ import annotations

from typing import Any

import torch
from monai.inferers import Inferer

from .anomaly import AnomalyInferer
from .volumes import EncodedVolumes


class EncodingInferer(Inferer):
    """Encode the slices that the anomaly inferer selects; its handler goes on from them.

    Args:
        inferer: whose method, slice selection, batch size and precision are used.
    """

    def __init__(self, inferer: AnomalyInferer) -> None:
        super().__init__()
        self.inferer = inferer

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> EncodedVolumes:
        """The selected slices of (B, c, W, H) or (B, c, W, H, D), encoded."""
        return self.inferer.encode_volumes(inputs, network)
