"""Metrics of one score a slice or patient, and the check that slices are not told apart by their height alone."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

P_VALUE_LIMIT = 0.01
EFFECT_LIMIT = 0.25


def classification(scores: np.ndarray, diseased: np.ndarray, weights: np.ndarray | None = None) -> dict[str, float]:
    """How well scores tell diseased items from healthy ones.

    Args:
        scores: (n,) finite, higher for disease.
        diseased: (n,) boolean.
        weights: (n,) non-negative weight of each item; ``None`` for 1 each.

    Returns:
        ``auroc``, ties count half; ``auprc``, the average precision; ``sensitivity_at_95_specificity``, the highest
        among the thresholds at which the specificity is 0.95 or more. Each in [0, 1]; all NaN when no diseased or no
        healthy item has weight.

    Raises:
        ValueError: when shapes differ, ``diseased`` is not boolean, a score is not finite or a weight negative.
    """
    scores, diseased = _items("scores", scores, diseased)
    weights = np.ones(scores.shape) if weights is None else np.asarray(weights, dtype=np.float64)
    if weights.shape != scores.shape or not np.all((weights >= 0) & np.isfinite(weights)):
        raise ValueError(f"weights must be {scores.shape}, finite and not negative, got {weights.shape} {weights}.")
    kept = weights > 0
    scores, diseased, weights = scores[kept], diseased[kept], weights[kept]
    if diseased.all() or not diseased.any():
        return dict.fromkeys(("auroc", "auprc", "sensitivity_at_95_specificity"), math.nan)
    false_alarms, sensitivity, _ = roc_curve(diseased, scores, sample_weight=weights, drop_intermediate=False)
    # sums of weights are rounded: a specificity of exactly 0.95 must not fail by the last digit
    return {
        "auroc": float(roc_auc_score(diseased, scores, sample_weight=weights)),
        "auprc": float(average_precision_score(diseased, scores, sample_weight=weights)),
        "sensitivity_at_95_specificity": float(sensitivity[false_alarms <= 0.05 + 1e-12].max()),
    }


def heights_differ(heights: np.ndarray, diseased: np.ndarray) -> tuple[bool, float, float]:
    """Whether diseased slices lie at other heights than healthy ones, so that height alone would tell them apart.

    Lesions in the middle of the brain and healthy slices at both ends have the same mean height, so the effect is the
    standardised mean difference of the height or, where that is larger, of the distance from the mean height of the
    diseased slices.

    Args:
        heights: (n,) finite height of each slice in its volume.
        diseased: (n,) boolean.

    Returns:
        Whether they differ: p-value below 0.01 and effect above 0.25 in magnitude, since slices of a subject are not
        independent and p-values of many slices always small; the p-value, Kolmogorov-Smirnov; the effect in standard
        deviations, diseased minus healthy. False and NaN with fewer than 2 slices of either kind.

    Raises:
        ValueError: when shapes differ, ``diseased`` is not boolean or a height is not finite.
    """
    heights, diseased = _items("heights", heights, diseased)
    if min(np.count_nonzero(diseased), np.count_nonzero(~diseased)) < 2:
        return False, math.nan, math.nan
    p_value = float(stats.ks_2samp(heights[diseased], heights[~diseased]).pvalue)
    distance = np.abs(heights - heights[diseased].mean())
    effect = max(_standardised(heights, diseased), _standardised(distance, diseased), key=abs)
    return p_value < P_VALUE_LIMIT and abs(effect) > EFFECT_LIMIT, p_value, effect


def level_weights(heights: np.ndarray, diseased: np.ndarray, levels: int = 10) -> tuple[np.ndarray, float]:
    """Weights under which healthy slices are distributed over the height as the diseased ones.

    Args:
        heights: (n,) height of each slice in its volume, in [0, 1].
        diseased: (n,) boolean.
        levels: number of equal classes of height; 1 or more.

    Returns:
        Weights, float64 (n,), and the share of diseased slices kept, NaN without any. A class without slices of one
        kind gets weight 0. Elsewhere diseased slices get 1, and healthy ones sum up so that the ratio of diseased to
        healthy, which average precision depends on, is that of all slices.

    Raises:
        ValueError: when shapes differ, ``diseased`` is not boolean, a height lies outside [0, 1] or ``levels`` is
            below 1.
    """
    if levels < 1:
        raise ValueError(f"levels must be 1 or more, got {levels}.")
    heights, diseased = _items("heights", heights, diseased)
    if np.any((heights < 0) | (heights > 1)):
        raise ValueError(f"heights must lie in [0, 1], got {heights.min()} to {heights.max()}.")
    level = np.minimum((heights * levels).astype(np.int64), levels - 1)
    ill = np.bincount(level[diseased], minlength=levels)
    healthy = np.bincount(level[~diseased], minlength=levels)
    if ill.sum() == 0:
        return np.zeros(heights.shape), math.nan
    both = (ill > 0) & (healthy > 0)
    per_healthy = np.divide(ill, healthy, out=np.zeros(levels), where=both) * healthy.sum() / ill.sum()
    weights = np.where(diseased, both[level], per_healthy[level]).astype(np.float64)
    return weights, float(ill[both].sum() / ill.sum())


def _standardised(values: np.ndarray, diseased: np.ndarray) -> float:
    """Difference of the means, diseased minus healthy, in pooled standard deviations."""
    ill, healthy = values[diseased], values[~diseased]
    difference = float(ill.mean() - healthy.mean())
    deviation = math.sqrt((ill.var(ddof=1) + healthy.var(ddof=1)) / 2)
    if deviation > 0:
        return difference / deviation
    return 0.0 if difference == 0 else math.copysign(math.inf, difference)


def _items(name: str, values: np.ndarray, diseased: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, diseased = np.asarray(values, dtype=np.float64), np.asarray(diseased)
    if values.ndim != 1 or values.shape != diseased.shape:
        raise ValueError(f"{name} and diseased must have one shape (n,), got {values.shape} and {diseased.shape}.")
    if diseased.dtype != bool:
        raise ValueError(f"diseased must be boolean, got {diseased.dtype}.")
    bad = np.count_nonzero(~np.isfinite(values))
    if bad:
        raise ValueError(f"{name} must be finite, got {bad} of {values.size} that are NaN or infinite.")
    return values, diseased
