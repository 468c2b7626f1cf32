"""Rows of the table about segmentations, under each rule that gives a threshold."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..bootstrap import weighted_mean, weighted_sd
from ..overlap import Confusion
from ..statistics import MethodStatistics
from .metric import Compute, Metric, Select, diseased, healthy, mean_of

RULES = {
    "calibrated": "calibrated threshold",
    "deployed": "threshold that inference used",
    "paper": "the paper's rule",
    "oracle": "best threshold (oracle)",
}
COUNTS = ("tp", "fp", "fn", "tn")


def of_subjects(rule: str, measure: Callable[[Confusion], float], spread: bool = False) -> Compute:
    """Mean, or standard deviation, over subjects of a measure of all their slices together."""

    def compute(statistics: MethodStatistics, weights: np.ndarray) -> np.ndarray:
        columns = [statistics.column(f"{name}_{rule}") for name in COUNTS]
        values = np.full(len(statistics.regions), np.nan)
        for index in range(len(values)):
            counts = [column[statistics.groups == index] for column in columns]
            # Slices without a threshold have no counts.
            if len(counts[0]) and np.isfinite(counts[0]).all():
                values[index] = measure(Confusion(*(int(c.sum()) for c in counts)))
        return (weighted_sd if spread else weighted_mean)(values, np.arange(len(values)), weights)

    return compute


def ratio_of_slices(top: str, bottom: Sequence[str], select: Select) -> Compute:
    """Mean over slices of a ratio; slices whose denominator is 0 are left out."""

    def compute(statistics: MethodStatistics, weights: np.ndarray) -> np.ndarray:
        upper, lower = statistics.column(top), np.sum([statistics.column(name) for name in bottom], axis=0)
        values = np.divide(upper, lower, out=np.full(upper.shape, np.nan), where=(lower > 0) & select(statistics))
        return weighted_mean(values, statistics.groups, weights)

    return compute


def any_alarm(rule: str) -> Compute:
    """Share of healthy slices with a single predicted pixel."""

    def compute(statistics: MethodStatistics, weights: np.ndarray) -> np.ndarray:
        alarms = statistics.column(f"fp_{rule}")
        values = np.where(healthy(statistics) & np.isfinite(alarms), alarms > 0, np.nan)
        return weighted_mean(values, statistics.groups, weights)

    return compute


def false_positive_share(rule: str) -> Compute:
    """Share of the foreground of healthy slices that is predicted, all pixels together."""

    def compute(statistics: MethodStatistics, weights: np.ndarray) -> np.ndarray:
        alarms = statistics.column(f"fp_{rule}")
        known = healthy(statistics) & np.isfinite(alarms)
        sums = [
            weights @ np.bincount(statistics.groups, np.where(known, values, 0), weights.shape[1])
            for values in (alarms, statistics.column("foreground_pixels"))
        ]
        return np.divide(sums[0], sums[1], out=np.full(len(weights), np.nan), where=sums[1] > 0)

    return compute


def overlap_metrics(rule: str, title: str) -> list[Metric]:
    """Dice and its kin under one rule of thresholds."""
    group = f"segmentation, {title}"
    tp, fp, fn = f"tp_{rule}", f"fp_{rule}", f"fn_{rule}"

    def dice(confusion: Confusion) -> float:
        return confusion.dice(empty_is_right=False)

    none = "no slice with a lesion, or no threshold"
    table: list[tuple[str, str, str, str, Compute]] = [
        ("dice_slice", "Dice a slice", "high", "Mean over slices with a lesion.", mean_of(f"dice_{rule}", diseased)),
        (
            "dice_slice_sd",
            "Dice a slice, standard deviation",
            "",
            "Over slices with a lesion.",
            mean_of(f"dice_{rule}", diseased, spread=True),
        ),
        (
            "dice_slice_all",
            "Dice a slice, healthy ones too",
            "high",
            "Mean over all slices; a healthy slice counts 1 when nothing is predicted and 0 otherwise.",
            mean_of(f"dice_{rule}"),
        ),
        (
            "dice_subject",
            "Dice a subject",
            "high",
            "Mean over subjects of the Dice of all their slices together; subjects without lesion are left out.",
            of_subjects(rule, dice),
        ),
        (
            "dice_subject_sd",
            "Dice a subject, standard deviation",
            "",
            "Over subjects with a lesion.",
            of_subjects(rule, dice, spread=True),
        ),
        (
            "dice_subject_all",
            "Dice a subject, empty ones too",
            "high",
            "The same, subjects without lesion counting 1 when nothing is predicted and 0 otherwise.",
            of_subjects(rule, Confusion.dice),
        ),
        (
            "iou_subject",
            "IoU a subject",
            "high",
            "Mean over subjects with a lesion.",
            of_subjects(rule, lambda confusion: confusion.iou(empty_is_right=False)),
        ),
        (
            "precision_slice",
            "precision a slice",
            "high",
            "Mean over slices with a lesion in which anything is predicted.",
            ratio_of_slices(tp, [tp, fp], diseased),
        ),
        (
            "sensitivity_slice",
            "sensitivity a slice",
            "high",
            "Mean over slices with a lesion.",
            ratio_of_slices(tp, [tp, fn], diseased),
        ),
        (
            "fpr_healthy",
            "false positive pixels in healthy slices",
            "low",
            "Share of the foreground of healthy slices, after small components are removed.",
            false_positive_share(rule),
        ),
        (
            "alarms_healthy",
            "healthy slices with any alarm",
            "low",
            "Share of healthy slices in which anything is predicted.",
            any_alarm(rule),
        ),
    ]
    return [Metric(f"{key}_{rule}", name, group, better, text, none, f) for key, name, better, text, f in table]


OVERLAPS = [metric for rule, title in RULES.items() for metric in overlap_metrics(rule, title)]
