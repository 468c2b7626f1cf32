"""Own threshold rules of methods, which need no calibration: each takes maps and gives a threshold a slice.

``otsu_thresholds`` is for ``map > threshold``, as Wolleb et al. 2022 (arXiv 2203.04306) and Hu et al. 2023
(arXiv 2306.03878) cut; ``dynamic_quantile_thresholds`` for ``map >= threshold``, as Che et al. 2024 (arXiv 2404.15683).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from skimage.filters import threshold_otsu

QUANTILES = (0.90, 0.98)
"""The published range: of the largest anomalies, and of none."""


def otsu_thresholds(maps: np.ndarray, bins: int = 256) -> np.ndarray:
    """Otsu's threshold of each slice, over all of its pixels, background too.

    Args:
        maps: (N, ...), finite.
        bins: of the histogram between the slice's least and largest value.

    Returns:
        (N,), float64; the value itself where a map is the same everywhere, so that nothing is above it.
    """
    return np.array([float(threshold_otsu(np.asarray(m), nbins=bins)) for m in maps], dtype=np.float64)


def dynamic_quantiles(
    peak_differences: np.ndarray, max_differences: Sequence[float], quantiles: Sequence[float] = QUANTILES
) -> tuple[np.ndarray, np.ndarray]:
    """Which quantile of a map is its threshold: the lower, the more guidance changed the image.

    r = max_t M / Mmax, from 0 to 1, rounded to two digits; q = 0.98 - 0.08 r, from a table of 101 values.

    Args:
        peak_differences: max_t M, (N, k), at least 0.
        max_differences: Mmax of each channel, k values above 0.
        quantiles: of r = 1 and of r = 0, in [0, 1].

    Returns:
        index into the table, 0..100, and q, both (N, k).

    Raises:
        ValueError: when the numbers of channels differ or a constant is not above 0.
    """
    largest = np.asarray(max_differences, dtype=np.float32)
    peaks = np.asarray(peak_differences, dtype=np.float32)
    if peaks.ndim != 2 or largest.shape != peaks.shape[1:] or not (largest > 0).all():
        raise ValueError(
            f"max_differences: one above 0 for each of the channels of {peaks.shape} is needed, got {list(largest)}."
        )
    low, high = quantiles
    share = np.round(np.clip(peaks / largest, 0, 1), 2)
    # Cut off in single precision, as published: .53 gives 52, and .59 gives 58, all others what they say.
    index = (np.float32(100) * share).astype(np.int64)
    return index, high - (high - low) * index / 100


def dynamic_quantile_thresholds(
    maps: np.ndarray,
    peak_differences: np.ndarray,
    max_differences: Sequence[float],
    quantiles: Sequence[float] = QUANTILES,
) -> np.ndarray:
    """AnoFPDM's threshold of each slice: mean over channels of quantile q of the channel's map, all pixels, linear.

    Args:
        maps: AAM of each channel, before smoothing, (N, k, ...).
        peak_differences: (N, k), see :func:`dynamic_quantiles`.
        max_differences: k values.
        quantiles: see :func:`dynamic_quantiles`.

    Returns:
        (N,), for ``smoothed mean over channels >= threshold``.
    """
    _, wanted = dynamic_quantiles(peak_differences, max_differences, quantiles)
    flat = np.asarray(maps, dtype=np.float64).reshape(*wanted.shape, -1)
    cuts = [[np.quantile(m, q) for m, q in zip(*row, strict=True)] for row in zip(flat, wanted, strict=True)]
    return np.array(cuts).mean(axis=1)
