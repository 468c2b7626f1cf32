"""Uncertainty by resampling of subjects, the unit that is independent; slices and lesions go with their subject."""

from __future__ import annotations

import math

import numpy as np


def resamples(subjects: int, count: int = 1000, seed: int = 0) -> np.ndarray:
    """How often each subject is drawn in each bootstrap resample, int64 (count, subjects); rows sum to ``subjects``.

    With a single subject all resamples are the same, so an interval of them, of no width, means nothing: callers
    report none for fewer than 2 subjects.

    Raises:
        ValueError: when ``subjects`` or ``count`` is below 1.
    """
    if subjects < 1:
        raise ValueError(f"subjects must be 1 or more, got {subjects}.")
    if count < 1:
        raise ValueError(f"count must be 1 or more, got {count}.")
    return np.random.default_rng(seed).multinomial(subjects, np.full(subjects, 1 / subjects), size=count)


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of resampled values (R,), those that are not finite ignored.

    Returns:
        Lower and upper end in the unit of ``values``; NaN when fewer than half of the values are finite. The number
        of subjects is not known here: see :func:`resamples`.

    Raises:
        ValueError: when ``level`` lies outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}.")
    finite = _finite(values)
    if finite is None:
        return math.nan, math.nan
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_difference(a: np.ndarray, b: np.ndarray, level: float = 0.95) -> dict[str, float]:
    """Interval and two-sided p-value of ``a - b``, two measures (R,) of the same resamples.

    Returns:
        ``low`` and ``high`` as :func:`interval`; ``p_value`` is twice the smaller share of differences on one side
        of 0, 0 itself on both, at least 1 / number of finite differences and at most 1. All NaN when fewer than
        half of the differences are finite.

    Raises:
        ValueError: when the shapes differ or ``level`` lies outside (0, 1).
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"a and b must come from the same resamples, got the shapes {a.shape} and {b.shape}.")
    with np.errstate(invalid="ignore"):  # inf - inf is not finite, and left out with the others
        difference = a - b
    low, high = interval(difference, level)
    finite = _finite(difference)
    if finite is None:
        return {"low": low, "high": high, "p_value": math.nan}
    share = min(float(np.mean(finite <= 0)), float(np.mean(finite >= 0)))
    return {"low": low, "high": high, "p_value": min(max(2 * share, 1 / len(finite)), 1.0)}


def weighted_mean(values: np.ndarray, groups: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean of the items of the resampled subjects, an item of a subject drawn twice counted twice.

    Args:
        values: (n,) one value an item; NaN items are ignored.
        groups: (n,) subject of the item, an index into the columns of ``weights``.
        weights: (R, subjects) how often each subject is drawn.

    Returns:
        float64 (R,); NaN where no item is left, infinite where an item is.

    Raises:
        ValueError: when shapes do not fit, ``groups`` are no such indices, or a value is -inf.
    """
    values, groups, weights = _items(values, groups, weights)
    number, total = _totals(np.isfinite(values), values, groups, weights)
    infinite = weights @ np.bincount(groups, np.isposinf(values), weights.shape[1]) > 0
    mean = np.divide(total, number, out=np.full(number.shape, np.nan), where=number > 0)
    return np.where(infinite, np.inf, mean)


def weighted_sd(values: np.ndarray, groups: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Standard deviation, with n - 1, of the items of the resampled subjects; arguments as :func:`weighted_mean`.

    Returns:
        float64 (R,); NaN where fewer than 2 items are left or one is infinite.
    """
    values, groups, weights = _items(values, groups, weights)
    finite = np.isfinite(values)
    # around a value near the means of all resamples, so that the squares keep their digits
    centred = values - (values[finite].mean() if finite.any() else 0.0)
    number, total = _totals(finite, centred, groups, weights)
    _, squares = _totals(finite, centred**2, groups, weights)
    infinite = weights @ np.bincount(groups, np.isposinf(values), weights.shape[1]) > 0
    defined = (number > 1) & ~infinite
    spread = squares - np.divide(total**2, number, out=np.zeros(number.shape), where=number > 0)
    variance = np.divide(spread, number - 1, out=np.full(number.shape, np.nan), where=defined)
    return np.sqrt(np.maximum(variance, 0))


def _finite(values: np.ndarray) -> np.ndarray | None:
    """The finite ones of ``values``, or None when they are fewer than half."""
    values = np.asarray(values, dtype=np.float64)
    finite = values[np.isfinite(values)]
    return finite if len(finite) > 0 and 2 * len(finite) >= len(values) else None


def _items(values: np.ndarray, groups: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values, weights = np.asarray(values, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    groups = np.asarray(groups)
    if groups.size == 0:
        groups = groups.astype(np.int64)  # an empty list has no integers
    if values.ndim != 1 or values.shape != groups.shape or weights.ndim != 2:
        raise ValueError(
            "values, groups and weights must have the shapes (n,), (n,) and (R, subjects), "
            f"got {values.shape}, {groups.shape} and {weights.shape}."
        )
    subjects = weights.shape[1]
    if not np.issubdtype(groups.dtype, np.integer) or np.any((groups < 0) | (groups >= subjects)):
        raise ValueError(f"groups must be whole numbers in [0, {subjects}), got {groups.dtype} {np.unique(groups)}.")
    if np.any(np.isneginf(values)):
        raise ValueError(f"values must be above -inf, got {np.count_nonzero(np.isneginf(values))} that are not.")
    return values, groups, weights


def _totals(
    use: np.ndarray, values: np.ndarray, groups: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Number and sum of the items to ``use`` in each resample, each (R,)."""
    subjects = weights.shape[1]
    number = weights @ np.bincount(groups, use, subjects)
    return number, weights @ np.bincount(groups, np.where(use, values, 0), subjects)
