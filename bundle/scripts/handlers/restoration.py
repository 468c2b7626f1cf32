"""The inference workflow's door to a method."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine
from monai.engines import IterationEvents
from monai.utils import CommonKeys, convert_to_dst_type

from ..inferers import AnomalyInferer
from ..inferers.anomaly import PROCESSED, SLICE_SCORES


class RestorationHandler:
    """Run the method's loop on what the evaluator's forward pass left in ``pred``, on the evaluator's device.

    Writes into the engine's output: ``pred``, the anomaly map, ``reconstruction`` and each evidence under its name, all
    typed like the image (so that ``Invertd`` works); ``processed`` (B, D), boolean, and ``slice_scores``, by name
    (B, D), NaN for slices that were not processed.

    Args:
        inferer: the same object that MONAI Label and MONAI Deploy call.
    """

    def __init__(self, inferer: AnomalyInferer) -> None:
        self.inferer = inferer

    def attach(self, engine: Engine) -> None:
        """Register the handler."""
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Restore every selected slice of the batch."""
        output, method = engine.state.output, self.inferer.method
        image = output[CommonKeys.IMAGE]
        results = self.inferer.restore_volumes(output[CommonKeys.PRED], engine.network)
        volumes = {
            CommonKeys.PRED: [result.anomaly_map for result in results],
            "reconstruction": [result.reconstruction for result in results],
            **{name: [result.evidence[name] for result in results] for name in method.evidence},
        }
        for key, items in volumes.items():
            stacked = torch.stack(items).reshape(len(image), -1, *image.shape[2:])
            output[key] = convert_to_dst_type(stacked, image)[0]
        output[PROCESSED] = torch.stack([result.processed for result in results])
        output[SLICE_SCORES] = {n: torch.stack([r.slice_scores[n] for r in results]) for n in method.slice_scores}
