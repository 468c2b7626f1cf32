"""Numbers as the report writes them: three significant digits, and never a NaN."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_SPACE = "\N{NO-BREAK SPACE}"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def finite(value: Any) -> float | None:
    """``value`` as a number; ``None`` for whatever is no finite number, such as the empty field of a table."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def numbers(values: Any) -> np.ndarray:
    """A list of numbers, NaN for each that is not finite; figures leave those out."""
    parsed = [finite(value) for value in ([] if values is None else values)]
    return np.array([math.nan if value is None else value for value in parsed], dtype=np.float64)


def number_text(value: float) -> str:
    """Three significant digits: ``0.512``, ``12.3``, ``12,300``, ``1.23 × 10⁻⁵``; without digits that say nothing.

    Args:
        value: a finite number.
    """
    if value == 0:
        return "0"
    # Rounded first, so that 999.6 is written as the thousand that it rounds to.
    rounded = float(f"{value:.2e}")
    sign, size = ("−" if rounded < 0 else ""), abs(rounded)
    if size < 0.001 or size >= 1e6:
        mantissa, exponent = f"{size:.2e}".split("e")
        return f"{sign}{mantissa}{_SPACE}×{_SPACE}10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
    decimals = max(2 - math.floor(math.log10(size)), 0)
    return f"{sign}{size:,.{decimals}f}"


def count_text(value: Any) -> str:
    """A count in full, ``12,345``; another number in three digits, text as it is."""
    number = finite(value)
    if number is None or isinstance(value, str):
        return str(value) if isinstance(value, str) and value else "not available"
    return f"{int(number):,}" if number.is_integer() and not isinstance(value, float) else number_text(number)


def interval_text(low: Any, high: Any) -> str:
    """``[0.430, 0.600]``; empty when an end is missing."""
    ends = finite(low), finite(high)
    if ends[0] is None or ends[1] is None:
        return ""
    return f"[{number_text(ends[0])}, {number_text(ends[1])}]"


def p_value_text(value: Any) -> str:
    """``p = 0.012`` or ``p < 0.001``; empty when there is none."""
    p_value = finite(value)
    if p_value is None:
        return ""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
