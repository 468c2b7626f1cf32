"""Rules by which methods' authors chose a threshold; each gives tau for ``map > tau``."""

from __future__ import annotations

import numpy as np


def greedy_dice_threshold(maps: np.ndarray, labels: np.ndarray, steps: int = 10) -> tuple[float, float]:
    """A threshold of high Dice by interval halving (pDDPM); needs labels, and misses the best where Dice has peaks.

    Args:
        maps: anomaly maps, at least 0, any shape; Dice is that of all their places together.
        labels: above 0 where there is a lesion, same shape.
        steps: halvings.

    Returns:
        the threshold and its Dice, of the points that were looked at.
    """
    scores, lesion = np.sort(maps[labels > 0], axis=None), float((labels > 0).sum())
    everything = np.sort(maps, axis=None)

    def dice(threshold: float) -> float:
        hits = scores.size - np.searchsorted(scores, threshold, side="right")
        found = everything.size - np.searchsorted(everything, threshold, side="right")
        return float(2 * hits / (found + lesion)) if found + lesion else 0.0

    low, high = 0.0, float(maps.max(initial=0.0))
    seen: list[tuple[float, float]] = []
    for _ in range(steps):
        # Halves are judged by their middles; a tie goes to the lower.
        middles = [low + share * (high - low) for share in (0.25, 0.75)]
        values = [dice(middle) for middle in middles]
        seen += reversed(list(zip(values, middles, strict=True)))
        middle = (low + high) / 2
        low, high = (middle, high) if values[1] > values[0] else (low, middle)
    # Of equal ones the last that was looked at, the lower of its step: it lies closest to where the search ended.
    best, threshold = max(reversed(seen), key=lambda point: point[0])
    return threshold, best


def healthy_share_threshold(maps: np.ndarray, share: float = 0.05, step: float = 0.001) -> float:
    """The lowest threshold that at most ``share`` of the pixels of healthy maps exceed (AutoDDPM).

    Of equal shares the lowest threshold is taken.

    Args:
        maps: anomaly maps of healthy images, (n, ...); shares are means over the images.
        share: in [0, 1].
        step: thresholds are its multiples in [0, 1).

    Raises:
        ValueError: when no threshold does.
    """
    thresholds = np.arange(round(1 / step)) * step
    flat = np.sort(maps.reshape(len(maps), -1), axis=1)
    above = [flat.shape[1] - np.searchsorted(row, thresholds, side="right") for row in flat]
    shares = np.mean(above, axis=0) / flat.shape[1]
    allowed = np.flatnonzero(shares <= share)
    if allowed.size == 0:
        raise ValueError(f"share: more than {share:g} of the pixels exceed every threshold below 1.")
    return float(thresholds[allowed[0]])
