"""The inference workflow's door to masked denoising."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine
from monai.engines import IterationEvents
from monai.utils import CommonKeys, convert_to_dst_type

from ..inferers.masked_bernoulli import MaskedBernoulliInferer

KEYS = {"anomaly_map": CommonKeys.PRED, "reconstruction": "reconstruction", "mask_density": "mask_density"}
"""Images among the inferer's results, and their keys in the engine's output."""


class MaskedDenoisingHandler:
    """Go on from the code probabilities that the evaluator's forward pass left in ``pred``.

    Writes into the engine's output: ``pred``, the anomaly map, ``reconstruction`` and ``mask_density``, all typed like
    the image (so that ``Invertd`` works), and ``mask_share`` (B, D), NaN for slices that were not processed; with the
    inferer's ``return_mask`` also ``mask`` and ``mask_growth``.

    Args:
        inferer: the same object that MONAI Label and MONAI Deploy call.
    """

    def __init__(self, inferer: MaskedBernoulliInferer) -> None:
        self.inferer = inferer

    def attach(self, engine: Engine) -> None:
        """Register the handler."""
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Denoise every selected slice of the batch."""
        output = engine.state.output
        image, probability = output[CommonKeys.IMAGE], output[CommonKeys.PRED]
        results = self.inferer.run_volumes(image, engine.network, probability)
        for name, key in KEYS.items():
            stacked = torch.stack([result.pop(name) for result in results]).reshape(len(image), -1, *image.shape[2:])
            output[key] = convert_to_dst_type(stacked, image)[0]
        for name in results[0]:
            output[name] = torch.stack([result[name] for result in results])
