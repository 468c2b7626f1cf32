"""Metrics of a setting: over all subjects together, and of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..evaluation import pixel_metrics as pixels
from ..evaluation.bins import Bins
from ..evaluation.image_metrics import classification
from ..evaluation.overlap import Confusion
from ..evaluation.thresholds import threshold_for_rate
from .cells import Cell
from .grid import Setting

METRICS = ("average_precision", "auroc", "best_dice", "dice_at_healthy_rate")
"""Columns of every method that a setting may be chosen by; higher is better."""

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class SettingSummary:
    """A setting over all subjects.

    Attributes:
        setting: the setting.
        row: its row of the table; NaN where a metric is not defined.
        slice_scores: by name (slices,) of all subjects.
        diseased: (slices,) boolean.
    """

    setting: Setting
    row: Row
    slice_scores: Mapping[str, np.ndarray]
    diseased: np.ndarray


def metric_names(slice_scores: Sequence[str] = ()) -> tuple[str, ...]:
    """Columns that a setting of a method with these slice scores may be chosen by."""
    return (*METRICS, *(f"{name}_auroc" for name in slice_scores))


def metric_columns(cell: Cell, bins: Bins, rate: float) -> Row:
    """Metrics of one cell, or of several merged; NaN where one is not defined.

    Args:
        cell: histograms and slices.
        bins: of the histograms.
        rate: share of the foreground pixels of healthy slices above the threshold that needs no lesion label.
    """
    lesion, free = cell.lesion, cell.lesion_free
    threshold, dice = dice_at_rate(cell, bins, rate)
    return {
        "slices": cell.slices,
        "diseased_slices": int(cell.diseased.sum()),
        "average_precision": float(pixels.average_precision(lesion, free)),
        "auroc": float(pixels.auroc(lesion, free)),
        "best_dice": float(pixels.best_dice(lesion, free)[0]),
        "dice_at_healthy_rate": dice,
        "healthy_rate": rate,
        "healthy_rate_threshold": threshold,
        **_score_columns(cell),
        "map_mean_healthy": _mean(cell.map_mean[~cell.diseased]),
        "map_mean_diseased": _mean(cell.map_mean[cell.diseased]),
        "seconds_per_slice": float(cell.seconds) / cell.slices if cell.slices else float("nan"),
    }


def _score_columns(cell: Cell) -> Row:
    columns: Row = {}
    for name, values in cell.slice_scores.items():
        columns[f"{name}_healthy"] = _mean(values[~cell.diseased])
        columns[f"{name}_diseased"] = _mean(values[cell.diseased])
        columns[f"{name}_auroc"] = classification(values, cell.diseased)["auroc"]
    return columns


def dice_at_rate(cell: Cell, bins: Bins, rate: float) -> tuple[float, float]:
    """The threshold that ``rate`` of the cell's own healthy foreground pixels exceed, and the Dice of all its pixels.

    NaN without healthy slices; the Dice also without lesion pixels.
    """
    threshold = threshold_for_rate(bins, cell.healthy, rate)
    if np.isnan(threshold):
        return threshold, float("nan")
    # Every bin lies above the threshold or not at all above it.
    above = bins.lower > threshold
    tp, fp = int(cell.lesion[above].sum()), int(cell.lesion_free[above].sum())
    confusion = Confusion(tp, fp, int(cell.lesion.sum()) - tp, int(cell.lesion_free.sum()) - fp)
    return threshold, confusion.dice(empty_is_right=False)


def summarise_setting(setting: Setting, cell: Cell, subjects: int, bins: Bins, rate: float) -> SettingSummary:
    """The row of a setting, from the merged cells of its subjects."""
    row = {"setting": setting.name, **setting.columns, "subjects": subjects, **metric_columns(cell, bins, rate)}
    return SettingSummary(setting, row, cell.slice_scores, cell.diseased)


def best_setting(summaries: Sequence[SettingSummary], metric: str) -> SettingSummary | None:
    """The first setting with the highest value of a metric, so the cheapest of them; ``None`` without any."""
    defined = [summary for summary in summaries if not np.isnan(summary.row[metric])]
    return max(defined, key=lambda summary: summary.row[metric]) if defined else None


def without_nan(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Rows as they are written: what is not defined is empty."""
    return [{k: "" if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()} for row in rows]


def _mean(values: np.ndarray) -> float:
    return float(values.mean(dtype=np.float64)) if len(values) else float("nan")
