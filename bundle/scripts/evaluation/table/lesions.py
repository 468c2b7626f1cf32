"""Rows of the table about lesions as objects in 3D."""

from __future__ import annotations

import numpy as np

from ..lesions import froc, sensitivity_at
from ..statistics import MethodStatistics
from .metric import Compute, Metric

FALSE_POSITIVES = (0.5, 1.0, 2.0, 4.0, 8.0)


def froc_sensitivity(place: int | None) -> Compute:
    """Sensitivity at one of the numbers of false positives a volume, or the mean over all."""

    def compute(statistics: MethodStatistics, weights: np.ndarray) -> np.ndarray:
        if not statistics.detections:
            return np.full(len(weights), np.nan)
        curve = {key: values[..., 1:] for key, values in froc(statistics.detections, weights).items()}
        values = sensitivity_at(curve, FALSE_POSITIVES)
        return values.mean(axis=-1) if place is None else values[..., place]

    return compute


def at_calibrated(key: str) -> Compute:
    """Of the free-response curve the point at the calibrated threshold; volumes that have none are left out."""

    def compute(statistics: MethodStatistics, weights: np.ndarray) -> np.ndarray:
        if not statistics.detections:
            return np.full(len(weights), np.nan)
        return np.asarray(froc(statistics.detections, weights * np.array(statistics.calibrated))[key][..., 0])

    return compute


NO_CURVE = "no lesion, or the map has more false positives at every threshold"
LESIONS = [
    *(
        Metric(
            f"froc_{number:g}",
            f"sensitivity at {number:g} false positives a volume",
            "lesions in 3D",
            "high",
            "Share of lesions (connected in 3D) touched by a predicted component; components that touch none are false "
            "positives.",
            NO_CURVE,
            froc_sensitivity(place),
        )
        for place, number in enumerate(FALSE_POSITIVES)
    ),
    Metric(
        "lesion_sensitivity_calibrated",
        "sensitivity, calibrated threshold",
        "lesions in 3D",
        "high",
        "Share of lesions touched at the calibrated threshold.",
        "no lesion, or no threshold",
        at_calibrated("sensitivity"),
    ),
    Metric(
        "false_positives_calibrated",
        "false positives a volume, calibrated threshold",
        "lesions in 3D",
        "low",
        "Predicted components that touch no lesion, at the calibrated threshold.",
        "no threshold",
        at_calibrated("false_positives"),
    ),
]
