"""Rows of the table about pixels, from histograms of the score."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...evaluation import pixel_metrics as pixels
from ..statistics import MethodStatistics
from .metric import Compute, Metric

CHUNK = 32
"""Resamples at a time, which bounds the memory of resampled histograms."""

LESION, FREE = ["lesion"], ["healthy_slices", "diseased_slices"]
EVERYWHERE = [*LESION, "lesion_outside"], [*FREE, "outside"]
NO_LESION = "no lesion pixel"
NO_BOTH = "lesion pixels and lesion-free ones are both needed"


def occupied(statistics: MethodStatistics, weights: np.ndarray, *groups: Sequence[str]) -> list[np.ndarray]:
    """Resampled histograms, each the sum of a group of names, (R, bins in use); one empty bin where none is."""
    sums = [statistics.histogram(*names) for names in groups]
    used = np.any([s.any(axis=0) for s in sums], axis=0)
    used[0] |= not used.any()
    return [weights @ s[:, used] for s in sums]


def of_histograms(function: Callable, lesion: Sequence[str], free: Sequence[str]) -> Compute:
    """A metric of the histograms of lesion pixels and lesion-free ones."""

    def compute(statistics: MethodStatistics, weights: np.ndarray) -> np.ndarray:
        parts = np.array_split(weights, max(1, -(-len(weights) // CHUNK)))
        return np.concatenate([function(*occupied(statistics, part, lesion, free)) for part in parts])

    return compute


def pro(statistics: MethodStatistics, weights: np.ndarray) -> np.ndarray:
    """AUPRO inside the foreground."""
    regions = weights @ np.array(statistics.regions, dtype=np.float64)
    parts = []
    for chosen, number in zip(*(np.array_split(a, -(-len(weights) // CHUNK)) for a in (weights, regions)), strict=True):
        share, negative = occupied(statistics, chosen, ["regions"], FREE)
        parts.append(pixels.aupro(share, number, negative))
    return np.concatenate(parts)


def best_dice(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Dice of all pixels together at the best threshold."""
    dice: np.ndarray = pixels.best_dice(positive, negative)[0]
    return dice


PIXELS = [
    Metric(
        "ap_foreground",
        "average precision",
        "pixels, inside the foreground",
        "high",
        "Area under precision and recall over all foreground pixels of all slices; chance is the prevalence.",
        NO_LESION,
        of_histograms(pixels.average_precision, LESION, FREE),
    ),
    Metric(
        "ap_diseased_slices",
        "average precision, slices with lesion only",
        "pixels, inside the foreground",
        "high",
        "The same over the slices that have a lesion, which is easier.",
        NO_LESION,
        of_histograms(pixels.average_precision, LESION, ["diseased_slices"]),
    ),
    Metric(
        "auroc_foreground",
        "AUROC",
        "pixels, inside the foreground",
        "high",
        "Chance that a lesion pixel scores above a lesion-free one.",
        NO_BOTH,
        of_histograms(pixels.auroc, LESION, FREE),
    ),
    Metric(
        "fpr95_foreground",
        "false positive rate at 95 % sensitivity",
        "pixels, inside the foreground",
        "low",
        "Share of lesion-free pixels above the threshold that finds 95 % of the lesion pixels.",
        NO_BOTH,
        of_histograms(pixels.fpr_at_sensitivity, LESION, FREE),
    ),
    Metric(
        "aupro_foreground",
        "AUPRO up to 30 %",
        "pixels, inside the foreground",
        "high",
        "Mean share found of each lesion in its slice, against the false positive rate up to 0.3; large and small "
        "lesions count alike.",
        NO_BOTH,
        pro,
    ),
    Metric(
        "best_dice_foreground",
        "Dice of all pixels at the best threshold (oracle)",
        "pixels, inside the foreground",
        "high",
        "The highest Dice that any one threshold reaches; it is chosen with the labels, so no method can promise it.",
        NO_LESION,
        of_histograms(best_dice, LESION, FREE),
    ),
    Metric(
        "ap_image",
        "average precision",
        "pixels, whole image",
        "high",
        "As above, with the empty background, which makes the task look easier.",
        NO_LESION,
        of_histograms(pixels.average_precision, *EVERYWHERE),
    ),
    Metric(
        "auroc_image",
        "AUROC",
        "pixels, whole image",
        "high",
        "As above, with the empty background.",
        NO_BOTH,
        of_histograms(pixels.auroc, *EVERYWHERE),
    ),
]
