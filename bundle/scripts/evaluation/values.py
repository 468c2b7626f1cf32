"""A number to report: its interval, or why there is none, so that no NaN is ever silent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Estimate:
    """A finite value with its interval, or the reason why there is no value.

    Args:
        value: the value in the metric's own unit; ``None`` where it is not defined.
        low: lower end of the interval; ``None`` without one.
        high: upper end of the interval; ``None`` without one.
        reason: why there is no value; next to a value, a remark such as why there is no interval.

    Raises:
        ValueError: when a number is not finite, or there is neither a value nor a reason.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        """Check the arguments."""
        for name in ("value", "low", "high"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise ValueError(f"{name} must be finite or None, got {number}.")
        if self.value is None and not self.reason:
            raise ValueError(f"reason must say why there is no value, got {self.reason!r}.")

    def as_dict(self) -> dict[str, Any]:
        """``value``, ``low``, ``high`` and ``reason`` in JSON values."""
        return {"value": self.value, "low": self.low, "high": self.high, "reason": self.reason}

    def text(self, digits: int = 3) -> str:
        """For people: ``0.512 [0.43, 0.60]`` or ``not defined: reason``.

        Args:
            digits: digits of the value after the point; the interval has one fewer.
        """
        if self.value is None:
            return f"not defined: {self.reason}"
        value = f"{self.value:.{digits}f}"
        if self.low is None or self.high is None:
            return value
        fewer = max(digits - 1, 0)
        return f"{value} [{self.low:.{fewer}f}, {self.high:.{fewer}f}]"


def estimate(value: float, low: float = math.nan, high: float = math.nan, reason: str = "") -> Estimate:
    """Estimate from numbers that may be NaN or infinite.

    Args:
        value: NaN where it is not defined, then ``reason`` must say why; an infinite one, which JSON cannot hold, is
            left out with the reason ``infinite``, followed by ``reason``.
        low: lower end of the interval; left out when not finite or when there is no value.
        high: upper end of the interval, likewise.
        reason: why there is no value, or no interval.

    Raises:
        ValueError: when the value is NaN without a reason.
    """
    value = float(value)
    if math.isnan(value) and not reason:
        raise ValueError("reason must say why the value is NaN, got an empty one.")
    if math.isinf(value):
        sign = "" if value > 0 else "minus "
        reason = f"{sign}infinite: {reason}" if reason else f"{sign}infinite"
    if not math.isfinite(value):
        return Estimate(None, reason=reason)
    return Estimate(value, _finite(low), _finite(high), reason or None)


def _finite(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None
