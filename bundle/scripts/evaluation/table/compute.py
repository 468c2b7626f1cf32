"""From the statistics of all methods to the table: values, intervals over patients, paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..bootstrap import interval, paired_difference, resamples
from ..statistics import MethodStatistics
from ..values import estimate
from .metric import Metric

FEW = "fewer than 2 patients: no interval"
Runs = Mapping[str, Sequence[MethodStatistics]]
"""For each method its statistics, one for each sampling seed."""


def subject_weights(patients: Sequence[str], count: int, seed: int) -> np.ndarray:
    """How often each subject counts in each resample of the patients, (count, subjects)."""
    names, place = np.unique(np.asarray(patients), return_inverse=True)
    return np.asarray(resamples(len(names), count, seed)[:, place], dtype=np.float64)


def compute_table(
    runs: Runs, metrics: Sequence[Metric], patients: Sequence[str], reference: str, count: int = 1000, seed: int = 0
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Estimates of every metric for every method, and paired differences to the reference.

    Args:
        runs: statistics; the mean over the seeds of a method is reported, their standard deviation beside it.
        metrics: rows.
        patients: of each subject.
        reference: method that the others are compared with.
        count: resamples.
        seed: of the resampling.

    Returns:
        ``table[method][metric]`` as :meth:`scripts.evaluation.values.Estimate.as_dict` with ``seed_sd``, and
        ``differences[method][metric]``, reference minus method.
    """
    weights = subject_weights(patients, count, seed)
    everyone = np.ones((1, len(patients)))
    table: dict[str, Any] = {name: {} for name in runs}
    differences: dict[str, Any] = {name: {} for name in runs if name != reference}
    for metric in metrics:
        drawn, values = {}, {}
        for name, statistics in runs.items():
            single = np.array([metric.compute(s, everyone)[0] for s in statistics])
            drawn[name] = np.mean([metric.compute(s, weights) for s in statistics], axis=0)
            values[name] = float(single.mean())
            table[name][metric.key] = _entry(metric, single, drawn[name], patients)
        for name in differences:
            differences[name][metric.key] = _difference(metric, values, drawn, reference, name, patients)
    return table, differences


def _entry(metric: Metric, single: np.ndarray, drawn: np.ndarray, patients: Sequence[str]) -> dict[str, Any]:
    few = len(set(patients)) < 2
    low, high = (np.nan, np.nan) if few else interval(drawn)
    value = float(single.mean())
    reason = metric.reason if np.isnan(value) else (FEW if few else "")
    spread = float(single.std(ddof=1)) if len(single) > 1 and np.isfinite(single).all() else None
    return {**estimate(value, low, high, reason).as_dict(), "seed_sd": spread}


def _difference(
    metric: Metric,
    values: Mapping[str, float],
    drawn: Mapping[str, np.ndarray],
    reference: str,
    name: str,
    patients: Sequence[str],
) -> dict[str, Any]:
    value = values[reference] - values[name]
    if not np.isfinite(value):
        return {"reason": metric.reason}
    if len(set(patients)) < 2:
        return {"value": value, "low": None, "high": None, "p_value": None, "reason": FEW}
    result = {"value": value, **paired_difference(drawn[reference], drawn[name])}
    return {key: float(v) if np.isfinite(v) else None for key, v in result.items()}
