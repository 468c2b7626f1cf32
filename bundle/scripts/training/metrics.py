"""Validation metrics of the two trainings, as ignite metrics of an evaluator's output."""

from __future__ import annotations

from typing import Any

import torch
from ignite.metrics import Average, Loss
from monai.metrics import PSNRMetric
from torch import nn
from torch.nn import functional as F

from .losses import code_uncertainty


def psnr_metric() -> Average:
    """Mean over slices of the peak signal-to-noise ratio in dB, of reconstructions clamped to [0, 1].

    For outputs whose ``pred`` is (reconstruction, code probability) and whose ``label`` is the image.
    """
    metric = PSNRMetric(max_val=1.0, reduction="none")

    def per_slice(output: dict[str, Any]) -> torch.Tensor:
        reconstruction, _ = output["pred"]
        # one row a slice; MONAI's metric averages channels and pixels
        values: Any = metric(y_pred=reconstruction.clamp(0, 1), y=output["label"])
        return values.flatten()

    return _MeanOverSlices(output_transform=per_slice)


def code_uncertainty_metric() -> Average:
    """Mean of y (1 - y) over the code bits of all slices."""

    def per_slice(output: dict[str, Any]) -> torch.Tensor:
        return torch.stack([code_uncertainty(probability) for probability in output["pred"][1].double()])

    return _MeanOverSlices(output_transform=per_slice)


def bce_metric() -> Loss:
    """Mean binary cross-entropy of flip logits in nats; ln 2 = 0.693 is chance."""
    return Loss(F.binary_cross_entropy_with_logits, output_transform=lambda o: (o["pred"].float(), o["label"]))


def loss_metric(loss: nn.Module) -> Loss:
    """Mean over slices of a loss of the network's output and the target."""
    return Loss(loss, output_transform=lambda o: (o["pred"].float(), o["label"]))


def higher_is_better(current: float, best: float) -> bool:
    """Comparison for key metrics such as the PSNR."""
    return current > best


def lower_is_better(current: float, best: float) -> bool:
    """Comparison for key metrics that are losses; MONAI's default takes the higher."""
    return current < best


class _MeanOverSlices(Average):
    """ignite's average of vectors, with every entry counted."""

    def update(self, output: torch.Tensor) -> None:
        """Add each entry of ``output`` (N,)."""
        for value in output:
            super().update(value.item())
