"""AnoFPDM's choices from image labels alone (Che et al. 2024, arXiv 2404.15683): c, Mmax and the guidance strength w.

All of them are functions of arrays that a run on validation images leaves: the cosine of each image's two errors,
the largest difference of its two predictions, and whether it is diseased. No pixel label is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CANDIDATES = np.linspace(0.005, 0.095, 100)
"""Quantiles of the healthy images' cosines that c is chosen among."""


@dataclass(frozen=True)
class CosineThreshold:
    """An image is diseased where its cosine is at most ``threshold``.

    Attributes:
        threshold: c.
        errors: images it tells wrongly.
        accuracy: share of images it tells rightly.
    """

    threshold: float
    errors: int
    accuracy: float


def choose_cosine_threshold(cosines: np.ndarray, diseased: np.ndarray) -> CosineThreshold:
    """c: that low quantile of the healthy images' cosines that tells the fewest images wrongly, the lowest of equals.

    Args:
        cosines: (N,).
        diseased: (N,), 0 or 1.

    Raises:
        ValueError: when sizes differ, a cosine is not finite, or either class is missing.
    """
    values, labels = _checked("cosines", cosines, diseased)
    candidates = np.quantile(values[~labels], CANDIDATES.astype(values.dtype)).astype(values.dtype)
    errors = [int((values[labels] > c).sum() + (values[~labels] < c).sum()) for c in candidates]
    best = int(np.argmin(errors))
    return CosineThreshold(float(candidates[best]), errors[best], 1 - errors[best] / len(values))


def choose_max_differences(peak_differences: np.ndarray, diseased: np.ndarray) -> np.ndarray:
    """Mmax of each channel: the largest over diseased images of max_t M, (k,).

    Args:
        peak_differences: max_t M, (N, k).
        diseased: (N,), 0 or 1.

    Raises:
        ValueError: when sizes differ, a value is not finite, or there is no diseased image.
    """
    values, labels = _checked("peak_differences", peak_differences, diseased)
    return values[labels].max(axis=0)


def choose_guidance_strength(strengths: Sequence[float], accuracies: Sequence[float], tolerance: float = 0.99) -> float:
    """w: the largest whose accuracy, at a c of its own, is within ``tolerance`` of the best.

    Args:
        strengths: candidates.
        accuracies: share of images told rightly with each, as :func:`choose_cosine_threshold` gives it.
        tolerance: share of the best accuracy that is enough, in (0, 1].

    Raises:
        ValueError: when there is none, their numbers differ, or ``tolerance`` is out of range.
    """
    if not strengths or len(strengths) != len(accuracies):
        raise ValueError(f"strengths: as many as accuracies, at least one, got {len(strengths)}, {len(accuracies)}.")
    if not 0 < tolerance <= 1:
        raise ValueError(f"tolerance must lie in (0, 1], got {tolerance!r}.")
    enough = tolerance * max(accuracies)
    return max(w for w, accuracy in zip(strengths, accuracies, strict=True) if accuracy >= enough)


def _checked(key: str, values: np.ndarray, diseased: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, labels = np.asarray(values), np.asarray(diseased).astype(bool)
    if labels.ndim != 1 or len(values) != len(labels):
        raise ValueError(f"{key}: one for each image label is needed, got {values.shape} and {labels.shape}.")
    if not np.isfinite(values).all():
        raise ValueError(f"{key}: finite values are needed, {int((~np.isfinite(values)).sum())} are not.")
    if labels.all() or not labels.any():
        only = "diseased" if labels.all() and len(labels) else "healthy"
        raise ValueError(f"diseased: images of both classes are needed, all {len(labels)} are {only}.")
    return values, labels
