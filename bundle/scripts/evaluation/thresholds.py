"""Which threshold turns a map into a segmentation: rules that need no label, and the best one, which does.

Every rule gives a threshold a slice, for ``map > threshold``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .bins import Bins
from .pixel_metrics import quantile_index


def above(bins: Bins, index: int) -> float:
    """Threshold t such that ``value > t`` iff the value's bin is ``index`` or a higher one."""
    if index >= bins.count:
        return float(np.finfo(np.float32).max)
    return float(np.nextafter(np.float32(bins.lower[index]), np.float32(-np.inf)))


def threshold_for_rate(bins: Bins, healthy: np.ndarray, rate: float) -> float:
    """Lowest threshold that at most ``rate`` of the healthy foreground pixels exceed; NaN without any.

    Args:
        bins: the quantisation.
        healthy: (bins,) counts of foreground pixels of healthy slices.
        rate: wanted false positive rate, in [0, 1].
    """
    index = int(quantile_index(healthy, rate))
    return float("nan") if index < 0 else above(bins, index)


def patient_folds(patients: Sequence[str], seed: int = 0, folds: int = 2) -> np.ndarray:
    """Number of the fold of each subject, (n,); all subjects of a patient share one, sizes differ by one patient.

    Raises:
        ValueError: when ``folds`` is below 2.
    """
    if folds < 2:
        raise ValueError(f"folds must be 2 or more, got {folds}.")
    names = sorted(set(patients))
    order = np.random.default_rng(seed).permutation(len(names))
    fold = {names[place]: rank % folds for rank, place in enumerate(order)}
    return np.array([fold[p] for p in patients], dtype=np.int64)


def crossfitted(bins: Bins, healthy: np.ndarray, folds: np.ndarray, rate: float) -> np.ndarray:
    """For each subject the threshold found on the healthy slices of the other folds, (n,); NaN where there are none.

    Args:
        bins: the quantisation.
        healthy: (n, bins) counts of each subject's healthy foreground pixels.
        folds: (n,) fold of each subject.
        rate: wanted false positive rate.
    """
    result = np.full(len(folds), np.nan)
    for fold in np.unique(folds):
        result[folds == fold] = threshold_for_rate(bins, healthy[folds != fold].sum(axis=0), rate)
    return result


def papers_rule(raw_map: np.ndarray) -> np.ndarray:
    """Thresholds (n,) of the rule that the paper reports and its code applies, for maps (W, H, n) before smoothing.

    There each slice's map is clipped at its own 1st and 99th percentile, rescaled to [0, 1] and cut at 0.5, so that
    every slice with any contrast has positives, healthy ones too. Rescaling and the median commute.
    """
    if raw_map.shape[-1] == 0:
        return np.empty(0)
    low, high = np.percentile(raw_map, [1, 99], axis=(0, 1))
    middle: np.ndarray = (low + high) / 2
    # A map that is constant between its percentiles has no positives.
    return np.where(high > low, middle, np.inf)


def rate_thresholds(bins: Bins, negative: np.ndarray, rates: Sequence[float]) -> np.ndarray:
    """Thresholds, descending, at which these shares of the lesion-free pixels are false positives; for FROC curves.

    Without lesion-free pixels no threshold has false positives: 0 then, which all of a map exceeds.
    """
    if not np.any(negative):
        return np.array([0.0])
    values = {above(bins, int(quantile_index(negative, rate))) for rate in rates}
    return np.array(sorted(values, reverse=True))
