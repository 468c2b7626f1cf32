"""Every number of the table: what it is called, what it means, and how it follows from a method's statistics.

A further metric is a further entry in one of the lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .lesions import LESIONS
from .metric import Metric
from .pixels import PIXELS
from .reconstruction import HEALTHY, PAPER
from .segmentation import OVERLAPS, RULES
from .slices import patient_metrics, slice_metrics

__all__ = ["RULES", "Metric", "all_metrics", "describe"]


def all_metrics(paper_protocol: bool = True, slice_scores: Sequence[str] = ()) -> list[Metric]:
    """All metrics, in the order of the table.

    Args:
        paper_protocol: add those of the paper's Table 1.
        slice_scores: names of the scores of a slice that methods have beside those of the map.
    """
    of_slices = [*slice_metrics(slice_scores), *patient_metrics(slice_scores)]
    return [*PIXELS, *OVERLAPS, *LESIONS, *of_slices, *HEALTHY, *(PAPER if paper_protocol else [])]


def describe(metrics: Sequence[Metric]) -> dict[str, dict[str, Any]]:
    """Title, group, direction and definition of each, for the report."""
    return {
        m.key: {"title": m.title, "group": m.group, "better": m.better, "help": m.help, "reason": m.reason}
        for m in metrics
    }
