"""What a metric is, and the ways to compute one for many resamples at once.

A metric is computed for many bootstrap resamples of the subjects at once: ``compute(statistics, weights)`` takes how
often each subject counts, (R, subjects), and returns (R,), NaN where the metric is not defined; the number itself is
that of one row of ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..bootstrap import weighted_mean, weighted_sd
from ..statistics import MethodStatistics

Compute = Callable[[MethodStatistics, np.ndarray], np.ndarray]
Select = Callable[[MethodStatistics], np.ndarray]


@dataclass(frozen=True)
class Metric:
    """One row of the table.

    Attributes:
        key: name in files.
        title: name for people.
        group: rows of a group stand together.
        better: ``high``, ``low``, or nothing where neither is.
        help: definition in a sentence.
        reason: why there is no value, where there is none.
        compute: see the module.
    """

    key: str
    title: str
    group: str
    better: str
    help: str
    reason: str
    compute: Compute


def mean_of(column: str, select: Select | None = None, spread: bool = False) -> Compute:
    """Mean, or standard deviation, of a column over slices, those of ``select`` only."""

    def compute(statistics: MethodStatistics, weights: np.ndarray) -> np.ndarray:
        values = statistics.column(column)
        if select is not None:
            values = np.where(select(statistics), values, np.nan)
        return (weighted_sd if spread else weighted_mean)(values, statistics.groups, weights)

    return compute


def diseased(statistics: MethodStatistics) -> np.ndarray:
    """Which slices have a lesion."""
    return statistics.column("diseased") > 0


def healthy(statistics: MethodStatistics) -> np.ndarray:
    """Which slices have none."""
    return ~diseased(statistics)
