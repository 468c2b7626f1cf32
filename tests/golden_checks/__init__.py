"""One module a method: ``check(folder)`` yields what was compared with its golden numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Compared:
    """An array beside its reference.

    Attributes:
        name: of the array in the reference.
        difference: the largest absolute one; NaN where shapes differ or either holds NaN alone.
        tolerance: the largest that passes.
    """

    name: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance; NaN is not."""
        return self.difference <= self.tolerance

    @property
    def verdict(self) -> str:
        """What is printed behind the numbers."""
        return "" if self.passed else "  BEYOND"


def compare(name: str, ours: Any, reference: Any, tolerance: float) -> Compared:
    """``ours`` beside ``reference``: arrays or tensors of equal shape; equal infinities and NaN count as equal."""
    a, b = (np.asarray(getattr(x, "detach", lambda x=x: x)(), dtype=np.float64) for x in (ours, reference))
    if a.shape != b.shape or (np.isnan(a) != np.isnan(b)).any():
        return Compared(name, float("nan"), tolerance)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    difference = np.abs(np.where(same, 0.0, a - np.where(same, a, b)))
    return Compared(name, float(difference.max(initial=0.0)), tolerance)
