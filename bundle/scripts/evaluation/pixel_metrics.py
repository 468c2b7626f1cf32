"""Pixel metrics from histograms of the score: of lesion pixels and of lesion-free ones.

``positive`` and ``negative`` are counts, or weighted counts, (..., bins) in ascending order of score, as
:class:`scripts.evaluation.bins.Bins` makes them; leading dimensions, such as bootstrap resamples, are independent. A
pixel counts as predicted when its bin is at or above the threshold's. Results are float64 of the leading shape, a
NumPy scalar for one pair of histograms, and NaN where the metric is not defined.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def average_precision(positive: np.ndarray, negative: np.ndarray) -> Any:
    """Sum of precision times the step in recall over all thresholds, in [0, 1]; NaN without lesion pixels."""
    positive, negative = _pair(positive, negative)
    hits, alarms = _at_or_above(positive), _at_or_above(negative)
    gained = positive * _ratio(hits, hits + alarms)
    return _ratio(np.nansum(gained, axis=-1), hits[..., 0])


def auroc(positive: np.ndarray, negative: np.ndarray) -> Any:
    """Chance that a lesion pixel scores above a lesion-free one, in [0, 1], ties count half.

    NaN without lesion pixels or without lesion-free ones.
    """
    positive, negative = _pair(positive, negative)
    hits = _at_or_above(positive)
    won = np.sum(negative * (hits - positive / 2), axis=-1)
    return _ratio(won, hits[..., 0] * negative.sum(axis=-1))


def fpr_at_sensitivity(positive: np.ndarray, negative: np.ndarray, sensitivity: float = 0.95) -> Any:
    """False positive rate, in [0, 1], at the highest threshold that finds this share of the lesion pixels.

    NaN without lesion pixels or without lesion-free ones.

    Raises:
        ValueError: when ``sensitivity`` lies outside (0, 1].
    """
    _check_share("sensitivity", sensitivity)
    positive, negative = _pair(positive, negative)
    hits, alarms = _at_or_above(positive), _at_or_above(negative)
    recall = _ratio(hits, hits[..., :1])
    # recall falls with the threshold, so the bins that qualify are the first ones
    last = np.maximum(np.count_nonzero(recall >= sensitivity, axis=-1) - 1, 0)
    rate = _ratio(np.take_along_axis(alarms, last[..., None], axis=-1)[..., 0], alarms[..., 0])
    return np.where(hits[..., 0] > 0, rate, np.nan)[()]


def best_dice(positive: np.ndarray, negative: np.ndarray) -> tuple[Any, Any]:
    """Highest Dice over all thresholds, of all pixels together, and the bin of its threshold.

    Returns:
        Dice in [0, 1], NaN without lesion pixels, and the bin ``index``, int64, for ``score >= lower[index]``: the
        highest of several that are as good; -1 without lesion pixels.
    """
    positive, negative = _pair(positive, negative)
    hits, alarms = _at_or_above(positive), _at_or_above(negative)
    dice = _ratio(2 * hits, hits + alarms + hits[..., :1])
    index = dice.shape[-1] - 1 - np.argmax(dice[..., ::-1], axis=-1)
    defined = hits[..., 0] > 0
    best = np.take_along_axis(dice, index[..., None], axis=-1)[..., 0]
    return np.where(defined, best, np.nan)[()], np.where(defined, index, -1)[()]


def aupro(region_share: np.ndarray, regions: np.ndarray, negative: np.ndarray, max_fpr: float = 0.3) -> Any:
    """Area under the mean overlap with each lesion against the false positive rate, up to ``max_fpr``.

    By trapezoids from (0, 0) on, cut at ``max_fpr`` by linear interpolation, divided by ``max_fpr``.

    Args:
        region_share: (..., bins) sum over lesions of the share of the lesion's pixels that lie in the bin.
        regions: (...) number, or weighted number, of lesions.
        negative: (..., bins) counts of lesion-free pixels.
        max_fpr: false positive rate at which the area ends, in (0, 1].

    Returns:
        Area in [0, 1]; NaN without lesions or without lesion-free pixels.

    Raises:
        ValueError: when ``max_fpr`` lies outside (0, 1] or the histograms have different numbers of bins.
    """
    _check_share("max_fpr", max_fpr)
    region_share, negative = _pair(region_share, negative)
    overlap = _from_zero(_ratio(_at_or_above(region_share), np.asarray(regions, dtype=np.float64)[..., None]))
    alarms = _at_or_above(negative)
    rate = _from_zero(_ratio(alarms, alarms[..., :1]))
    rise, run = np.diff(overlap), np.diff(rate)
    width = np.diff(np.minimum(rate, max_fpr))
    # the end of the segment that crosses max_fpr; a vertical one has no area
    reached = np.divide(width, run, out=np.zeros(run.shape), where=run > 0)
    return np.sum(width * (overlap[..., :-1] + rise * reached / 2), axis=-1) / max_fpr


def prevalence(positive: np.ndarray, negative: np.ndarray) -> Any:
    """Share of lesion pixels, in [0, 1]: the average precision of chance; NaN without pixels."""
    positive, negative = _pair(positive, negative)
    hits, alarms = positive.sum(axis=-1), negative.sum(axis=-1)
    return _ratio(hits, hits + alarms)


def curve(positive: np.ndarray, negative: np.ndarray, points: int = 200) -> dict[str, list[float]]:
    """Recall, precision and false positive rate at thresholds in descending order, for drawing.

    The highest and the lowest threshold are always among them, the others lie evenly along the ROC curve. The start
    of the ROC curve at (0, 0), where nothing is predicted and precision is not defined, is left out.

    Args:
        positive: (bins,) counts of lesion pixels.
        negative: (bins,) counts of lesion-free pixels.
        points: most points to keep; 2 or more.

    Returns:
        ``recall``, ``precision`` and ``false_positive_rate``, each in [0, 1]; empty lists where there are no lesion
        pixels or no lesion-free ones.

    Raises:
        ValueError: when ``points`` is below 2 or the histograms have leading dimensions.
    """
    if points < 2:
        raise ValueError(f"points must be 2 or more, got {points}.")
    positive, negative = _pair(positive, negative)
    if positive.ndim != 1:
        raise ValueError(f"positive and negative must have the shape (bins,), got {positive.shape}.")
    occupied = np.flatnonzero(positive + negative)[::-1]
    hits, alarms = _at_or_above(positive), _at_or_above(negative)
    if not (hits[0] > 0 and alarms[0] > 0):
        return {"recall": [], "precision": [], "false_positive_rate": []}
    recall, rate = hits[occupied] / hits[0], alarms[occupied] / alarms[0]
    length = recall + rate
    keep = np.unique(np.searchsorted(length, np.linspace(length[0], length[-1], points)))
    precision = hits[occupied] / (hits + alarms)[occupied]
    return {
        "recall": recall[keep].tolist(),
        "precision": precision[keep].tolist(),
        "false_positive_rate": rate[keep].tolist(),
    }


def quantile_index(counts: np.ndarray, rate: float) -> Any:
    """Lowest bin such that the share of ``counts`` (..., bins) at or above it is at most ``rate``, in [0, 1].

    Returns:
        int64 of the leading shape. ``bins``, one past the last, where even the last bin holds more: no threshold of
        ``lower`` does it. -1, not defined, where the counts are all zero.

    Raises:
        ValueError: when ``rate`` lies outside [0, 1].
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must lie in [0, 1], got {rate}.")
    above = _at_or_above(np.asarray(counts, dtype=np.float64))
    total = above[..., :1]
    index = np.count_nonzero(_ratio(above, total) > rate, axis=-1)
    return np.where(total[..., 0] > 0, index, -1)[()]


def _pair(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    positive, negative = np.asarray(positive, dtype=np.float64), np.asarray(negative, dtype=np.float64)
    if positive.ndim == 0 or positive.shape != negative.shape:
        raise ValueError(
            "histograms of lesion and lesion-free pixels must have the same shape (..., bins), "
            f"got {positive.shape} and {negative.shape}."
        )
    return positive, negative


def _at_or_above(counts: np.ndarray) -> np.ndarray:
    """Counts (..., bins) at or above each bin."""
    return np.cumsum(counts[..., ::-1], axis=-1)[..., ::-1]


def _from_zero(values: np.ndarray) -> np.ndarray:
    """Values (..., bins) in descending order of threshold, after the 0 of a threshold above all scores."""
    return np.concatenate([np.zeros((*values.shape[:-1], 1)), values[..., ::-1]], axis=-1)


def _ratio(part: np.ndarray, whole: np.ndarray) -> Any:
    """``part / whole``, NaN where ``whole`` is 0."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)[()]


def _check_share(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{name} must lie in (0, 1], got {value}.")
