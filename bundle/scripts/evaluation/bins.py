"""One fixed quantisation of scores, so that histograms of any volume, method or machine can be added up."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

FLOAT32_MANTISSA_BITS = 23
FLOAT32_EXPONENT_BIAS = 127


@dataclass(frozen=True)
class Bins:
    """Monotone quantisation of float32 values into bins of constant relative width, the same for all data.

    A bin is a float32 exponent with the leading bits of its mantissa. Magnitudes below ``2**min_exponent`` share the
    bin of zero in the middle, magnitudes from ``2**max_exponent`` on the last bin; negative values mirror this.

    Args:
        mantissa_bits: a bin is at most ``2**-mantissa_bits`` of its value wide; 0 to 23.
        min_exponent: of the smallest magnitude told from zero; -126 or more.
        max_exponent: of the smallest magnitude no longer resolved; above ``min_exponent``, 127 or less.

    Raises:
        ValueError: when an argument is outside its range.
    """

    mantissa_bits: int = 8
    min_exponent: int = -24
    max_exponent: int = 8

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not 0 <= self.mantissa_bits <= FLOAT32_MANTISSA_BITS:
            raise ValueError(f"mantissa_bits must lie in [0, {FLOAT32_MANTISSA_BITS}], got {self.mantissa_bits}.")
        if not -126 <= self.min_exponent < self.max_exponent <= 127:
            raise ValueError(
                "min_exponent and max_exponent must satisfy -126 <= min_exponent < max_exponent <= 127, "
                f"got {self.min_exponent} and {self.max_exponent}."
            )

    @property
    def count(self) -> int:
        """Number of bins."""
        return 2 * self._last_step + 1

    @cached_property
    def lower(self) -> np.ndarray:
        """Smallest float32 value of each bin, float64 (count,): ``value >= lower[i]`` iff ``index(value) >= i``."""
        codes = np.arange(self._last_step, dtype=np.int32) + self._first_code
        edges = (codes << self._shift).astype(np.int32).view(np.float32)
        # the bin of zero and the negative ones exclude their edge away from zero: the smallest value is its neighbour
        mirrored = np.nextafter(-edges[::-1], np.float32(0))
        lower = np.concatenate([[-np.inf], mirrored, edges]).astype(np.float64)
        lower.setflags(write=False)
        return lower

    def index(self, values: np.ndarray) -> np.ndarray:
        """Bin of each value, int32 of the shape of ``values``, ascending with the value.

        Args:
            values: any shape; taken as float32, rounded where they are not.

        Raises:
            ValueError: when values are NaN or infinite, or beyond float32.
        """
        # views of bits need contiguous memory; the shape is kept for values without dimensions
        values = np.asarray(values)
        with np.errstate(over="ignore"):
            flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
        bad = flat.size - np.count_nonzero(np.isfinite(flat))
        if bad:
            raise ValueError(f"values must be finite float32, got {bad} of {flat.size} that are NaN or infinite.")
        bits = flat.view(np.int32)
        steps = ((bits & np.int32(0x7FFFFFFF)) >> self._shift) - np.int32(self._first_code - 1)
        np.clip(steps, 0, self._last_step, out=steps)
        np.negative(steps, out=steps, where=bits < 0)
        steps += np.int32(self._last_step)
        return steps.reshape(values.shape)

    def histogram(self, values: np.ndarray) -> np.ndarray:
        """Number of values in each bin, int64 (count,); values as for :meth:`index`."""
        return np.bincount(self.index(values).reshape(-1), minlength=self.count).astype(np.int64, copy=False)

    @property
    def _shift(self) -> int:
        """Bits of the mantissa that are dropped."""
        return FLOAT32_MANTISSA_BITS - self.mantissa_bits

    @property
    def _first_code(self) -> int:
        """Leading bits of the smallest magnitude told from zero."""
        return (self.min_exponent + FLOAT32_EXPONENT_BIAS) << self.mantissa_bits

    @property
    def _last_step(self) -> int:
        """Bins between that of zero and the last one, the last included."""
        return ((self.max_exponent - self.min_exponent) << self.mantissa_bits) + 1
