"""Lesions as objects in 3D: which are found, how many false alarms that costs, and how it depends on their size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from monai.metrics import compute_froc_score
from scipy import ndimage

NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True, eq=False)
class Detections:
    """What each threshold finds in one volume.

    Args:
        sizes: (lesions,) int64 voxels of each lesion.
        hit: (lesions, K) boolean, whether the lesion is found at the threshold.
        false_positives: (K,) int64 predicted components that touch no lesion.
    """

    sizes: np.ndarray
    hit: np.ndarray
    false_positives: np.ndarray


def components(label: np.ndarray) -> tuple[np.ndarray, int]:
    """Connected components of a boolean volume, voxels that share a corner included.

    Args:
        label: (W, H, D) boolean.

    Returns:
        int32 (W, H, D), 0 outside and 1 to n inside the components, and their number n.

    Raises:
        ValueError: when ``label`` is not boolean or not 3D.
    """
    label = np.asarray(label)
    if label.dtype != bool or label.ndim != 3:
        raise ValueError(f"label must be boolean (W, H, D), got {label.dtype} {label.shape}.")
    numbered = np.zeros(label.shape, dtype=np.int32)
    box = _box(label)
    count = ndimage.label(label[box], structure=NEIGHBOURS, output=numbered[box])
    return numbered, int(count)


def detect(
    anomaly_map: np.ndarray,
    label: np.ndarray,
    thresholds: Sequence[float] | np.ndarray,
    min_voxels: int = 0,
    where: np.ndarray | None = None,
    min_overlap: float = 0.0,
) -> Detections:
    """Lesions found and false alarms of one volume at each threshold; a voxel is predicted when above it.

    Args:
        anomaly_map: (W, H, D) finite, taken as float32.
        label: (W, H, D) boolean; its components are the lesions.
        thresholds: (K,) in any order.
        min_voxels: smaller predicted components are dropped.
        where: (W, H, D) boolean, the voxels to judge; ``None`` for all. Lesions are the components of the whole
            label, but voxels elsewhere are neither predicted nor count for their size; lesions that lie elsewhere
            altogether are left out.
        min_overlap: share of a lesion's voxels, in [0, 1], that must be predicted for it to be found; never less than
            one voxel.

    Raises:
        ValueError: when shapes or types do not fit, the map or a threshold is NaN, or an argument is out of range.
    """
    anomaly_map, thresholds = np.asarray(anomaly_map, dtype=np.float32), np.asarray(thresholds, dtype=np.float64)
    lesions, _ = components(label)
    _check(anomaly_map, lesions, thresholds, min_voxels, where, min_overlap)
    if where is not None:
        anomaly_map, lesions = np.where(where, anomaly_map, -np.inf), np.where(where, lesions, 0)
    sizes = np.bincount(lesions.reshape(-1))
    covered = np.zeros((len(sizes), len(thresholds)), dtype=np.int64)
    false_positives = np.zeros(len(thresholds), dtype=np.int64)
    for k in np.argsort(thresholds):
        predicted = anomaly_map > thresholds[k]
        # what is predicted at higher thresholds lies in the same box
        box = _box(predicted)
        anomaly_map, lesions = anomaly_map[box], lesions[box]
        covered[:, k], false_positives[k] = _judge(predicted[box], lesions, len(sizes), min_voxels)
    there = np.flatnonzero(sizes[1:]) + 1
    sizes, covered = sizes[there], covered[there]
    return Detections(sizes, (covered > 0) & (covered / sizes[:, None] >= min_overlap), false_positives)


def froc(detections: Sequence[Detections], weights: np.ndarray | None = None) -> dict[str, Any]:
    """Free-response curve of several volumes, a point a threshold.

    Args:
        detections: of each volume, for the same thresholds.
        weights: (..., volumes) how often each volume counts, such as bootstrap resamples; ``None`` for once each.

    Returns:
        ``sensitivity``, share of all lesions found, NaN without lesions, and ``false_positives``, mean number a
        volume, NaN without volumes: float64 (..., K).

    Raises:
        ValueError: when there are no detections, their thresholds differ in number or the weights do not fit.
    """
    if len({len(d.false_positives) for d in detections}) != 1:
        raise ValueError(
            "detections must be one or more of the same number of thresholds, "
            f"got {[len(d.false_positives) for d in detections]}."
        )
    weights = np.ones(len(detections)) if weights is None else np.asarray(weights, dtype=np.float64)
    if weights.ndim == 0 or weights.shape[-1] != len(detections):
        raise ValueError(f"weights must be (..., {len(detections)}), one a volume, got {weights.shape}.")
    found = weights @ np.stack([d.hit.sum(axis=0) for d in detections])
    lesions = weights @ np.array([len(d.sizes) for d in detections])
    false_positives = weights @ np.stack([d.false_positives for d in detections])
    return {
        "sensitivity": _ratio(found, lesions[..., None]),
        "false_positives": _ratio(false_positives, weights.sum(axis=-1)[..., None]),
    }


def sensitivity_at(
    curve: Mapping[str, np.ndarray], false_positives: Sequence[float] = (0.25, 0.5, 1, 2, 4, 8)
) -> np.ndarray:
    """Sensitivity at numbers of false positives a volume, on straight lines between the points of a curve.

    The curve is made monotone first: a point counts as good as any with no more false positives.

    Args:
        curve: ``sensitivity`` and ``false_positives``, (..., K), as :func:`froc` returns them.
        false_positives: (N,) numbers to look up.

    Returns:
        float64 (..., N). NaN below the curve's fewest false positives, and where the curve is not defined; beyond its
        most false positives the highest sensitivity.
    """
    sensitivity, alarms = np.asarray(curve["sensitivity"]), np.asarray(curve["false_positives"])
    result = np.full((*sensitivity.shape[:-1], len(false_positives)), np.nan)
    for place in np.ndindex(sensitivity.shape[:-1]):
        if np.isfinite(sensitivity[place]).all() and np.isfinite(alarms[place]).all():
            result[place] = _look_up(sensitivity[place], alarms[place], false_positives)
    return result


def by_size(sizes: np.ndarray, hit: np.ndarray, edges: Sequence[float]) -> dict[str, np.ndarray]:
    """Sensitivity and number of lesions in classes of size.

    Args:
        sizes: (lesions,) in any unit.
        hit: (lesions,) or (lesions, K) boolean, as in :class:`Detections`.
        edges: borders between classes in the unit of ``sizes``, ascending; a size at a border is in the class above.

    Returns:
        ``number``, int64 (classes,), with one class more than edges: below the first, between each two, from the last
        on; ``sensitivity``, float64 (classes,) or (classes, K), in [0, 1], NaN for classes without lesions.

    Raises:
        ValueError: when the numbers of sizes and hits differ or the edges do not ascend.
    """
    sizes, hit = np.asarray(sizes), np.asarray(hit)
    if len(sizes) != len(hit):
        raise ValueError(f"sizes and hit must be of the same lesions, got {len(sizes)} and {len(hit)}.")
    if not np.all(np.diff(edges) > 0):
        raise ValueError(f"edges must ascend, got {list(edges)}.")
    belongs = np.arange(len(edges) + 1)[:, None] == np.searchsorted(edges, sizes, side="right")
    number = belongs.sum(axis=1)
    found = belongs.astype(np.float64) @ hit
    return {"sensitivity": _ratio(found, number.reshape(-1, *(1,) * (hit.ndim - 1))), "number": number}


def _judge(predicted: np.ndarray, lesions: np.ndarray, numbers: int, min_voxels: int) -> tuple[np.ndarray, int]:
    """Predicted voxels of each lesion, (numbers,), and the number of components without any lesion."""
    component, count = ndimage.label(predicted, structure=NEIGHBOURS)
    kept = np.bincount(component[predicted], minlength=count + 1) >= max(min_voxels, 1)
    overlap = predicted & (lesions > 0)
    here, lesion = component[overlap], lesions[overlap]
    touches = np.zeros(count + 1, dtype=bool)
    touches[here] = True
    return np.bincount(lesion[kept[here]], minlength=numbers), int(np.count_nonzero(kept & ~touches))


def _look_up(sensitivity: np.ndarray, alarms: np.ndarray, wanted: Sequence[float]) -> list[float]:
    order = np.lexsort((sensitivity, alarms))
    alarms, sensitivity = alarms[order], np.maximum.accumulate(sensitivity[order])
    # of points with as many false positives only the best, the last, is on the curve
    best = np.append(np.diff(alarms) > 0, True)
    # MONAI's curves descend
    alarms, sensitivity = alarms[best][::-1], sensitivity[best][::-1]
    return [
        float(compute_froc_score(alarms, sensitivity, (number,))) if number >= alarms[-1] else math.nan
        for number in wanted
    ]


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    """Smallest box around the voxels of ``mask``, empty without any."""
    box = []
    for axis in range(mask.ndim):
        inside = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        box.append(slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0))
    return tuple(box)


def _check(
    anomaly_map: np.ndarray,
    lesions: np.ndarray,
    thresholds: np.ndarray,
    min_voxels: int,
    where: np.ndarray | None,
    min_overlap: float,
) -> None:
    if anomaly_map.shape != lesions.shape:
        raise ValueError(f"anomaly_map must have the label's shape {lesions.shape}, got {anomaly_map.shape}.")
    bad = anomaly_map.size - np.count_nonzero(np.isfinite(anomaly_map))
    if bad:
        raise ValueError(f"anomaly_map must be finite, got {bad} of {anomaly_map.size} voxels NaN or infinite.")
    if thresholds.ndim != 1 or np.isnan(thresholds).any():
        raise ValueError(f"thresholds must be (K,) without NaN, got {thresholds}.")
    if min_voxels < 0:
        raise ValueError(f"min_voxels must be 0 or more, got {min_voxels}.")
    if not 0 <= min_overlap <= 1:
        raise ValueError(f"min_overlap must lie in [0, 1], got {min_overlap}.")
    if where is not None and (where.dtype != bool or where.shape != lesions.shape):
        raise ValueError(f"where must be boolean {lesions.shape}, got {where.dtype} {where.shape}.")


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """``part / whole``, NaN where ``whole`` is 0."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
