"""Rows of the table about slices and patients, healthy against diseased."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...evaluation import pixel_metrics as pixels
from ..image_metrics import level_weights
from ..statistics import MethodStatistics
from .metric import Compute, Metric, diseased


def sensitivity_at_specificity(positive: np.ndarray, negative: np.ndarray, specificity: float = 0.95) -> np.ndarray:
    """Highest sensitivity among thresholds with at least this specificity; histograms (R, bins), ascending."""
    hits, alarms = (np.cumsum(h[:, ::-1], axis=-1) for h in (positive, negative))
    total, free = hits[:, -1], alarms[:, -1]
    # Sums of weights are rounded: exactly 0.95 must not fail by the last digit.
    allowed = alarms <= (1 - specificity) * free[:, None] + 1e-9 * free[:, None]
    best = np.where(allowed, hits, 0).max(axis=-1)
    return np.divide(best, total, out=np.full(len(total), np.nan), where=(total > 0) & (free > 0))


def of_slices(column: str, function: Callable, matched: bool = False) -> Compute:
    """A metric of one score a slice, healthy against diseased; ``matched`` weighs healthy slices by their height."""

    def compute(statistics: MethodStatistics, weights: np.ndarray) -> np.ndarray:
        scores, ill = statistics.column(column), diseased(statistics)
        if not np.isfinite(scores).all() or not len(scores):
            return np.full(len(weights), np.nan)
        matching = level_weights(statistics.column("height"), ill)[0] if matched else np.ones(len(scores))
        _, place = np.unique(scores, return_inverse=True)
        histogram = np.zeros((2, len(weights), int(place.max()) + 1))
        counts = weights[:, statistics.groups] * matching
        for kind in (0, 1):
            chosen = ill == bool(kind)
            np.add.at(histogram[kind].T, place[chosen], counts[:, chosen].T)
        defined = (histogram.sum(axis=-1) > 0).all(axis=0)
        return np.where(defined, function(histogram[1], histogram[0]), np.nan)

    return compute


MAP_SCORES = {"map_mean": "mean of the map", "map_quantile": "99 % quantile of the map"}
"""Scores of a slice that every method has."""


def titles(slice_scores: Sequence[str] = ()) -> dict[str, str]:
    """Columns of the scores of a slice, those of the methods first, and their titles."""
    return {**{name: name.replace("_", " ") for name in slice_scores}, **MAP_SCORES}


def slice_metrics(slice_scores: Sequence[str] = ()) -> list[Metric]:
    """Healthy against diseased slices, by each score of a slice.

    Args:
        slice_scores: names of the scores that methods have beside those of the map.
    """
    kinds: list[tuple[str, str, Callable, bool, str]] = [
        ("auroc", "AUROC", pixels.auroc, False, "Chance that a slice with a lesion scores above a healthy one."),
        ("auprc", "AUPRC", pixels.average_precision, False, "Average precision; chance is the share of such slices."),
        (
            "sensitivity95",
            "sensitivity at 95 % specificity",
            sensitivity_at_specificity,
            False,
            "Share of slices with a lesion found by the threshold that 5 % of the healthy ones exceed.",
        ),
        (
            "auroc_matched",
            "AUROC, matched by height",
            pixels.auroc,
            True,
            "Healthy slices weighted to lie at the heights of those with a lesion, so that height alone gives 0.5.",
        ),
    ]
    reason = "slices of both kinds are needed, and the score for every one of them"
    return [
        Metric(
            f"slice_{kind}_{column}", f"{title}, {name}", "slices", "high", text, reason, of_slices(column, f, matched)
        )
        for column, name in titles(slice_scores).items()
        for kind, title, f, matched, text in kinds
    ]


def of_patients(column: str, function: Callable) -> Compute:
    """A metric of one score a subject, the mean of its slices; a subject is diseased when any slice is.

    Subjects of which no slice was processed have no score, and are left out.
    """

    def compute(statistics: MethodStatistics, weights: np.ndarray) -> np.ndarray:
        values, ill = statistics.column(column), diseased(statistics)
        subjects = len(statistics.regions)
        if not np.isfinite(values).all() or not len(values):
            return np.full(len(weights), np.nan)
        number = np.bincount(statistics.groups, minlength=subjects)
        scores = np.bincount(statistics.groups, values, subjects) / np.maximum(number, 1)
        sick = np.bincount(statistics.groups, ill, subjects) > 0
        # As float32, so that equal scores do not differ by what their sum was rounded.
        order = np.unique(scores.astype(np.float32), return_inverse=True)[1]
        positive, negative = (np.zeros((len(weights), int(order.max()) + 1)) for _ in range(2))
        for histogram, chosen in ((positive, sick), (negative, ~sick & (number > 0))):
            np.add.at(histogram.T, order[chosen], weights[:, chosen].T)
        defined = (positive.sum(axis=-1) > 0) & (negative.sum(axis=-1) > 0)
        return np.where(defined, function(positive, negative), np.nan)

    return compute


def patient_metrics(slice_scores: Sequence[str] = ()) -> list[Metric]:
    """Healthy against diseased patients, by the mean of each score over a patient's slices."""
    kinds = (("auroc", "AUROC", pixels.auroc), ("auprc", "AUPRC", pixels.average_precision))
    return [
        Metric(
            f"patient_{kind}_{column}",
            f"{title}, {name}",
            "patients",
            "high",
            "Of the mean over a subject's slices; a subject is diseased when any of its slices is.",
            "healthy patients and diseased ones are both needed, and the score for every one of them",
            of_patients(column, function),
        )
        for column, name in titles(slice_scores).items()
        for kind, title, function in kinds
    ]
