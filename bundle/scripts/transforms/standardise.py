"""Intensities that mean the same in every patient: standardised by a volume's own foreground, sequence by sequence.

A standardisation is called with the foreground's values of one sequence, (n,) float64, and that sequence's name, and
returns them on its own scale, (n,), where [0, 1] is what a network sees. It says what it is by its fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from ..checks import MANY, outside, refuse

Standardisation = Callable[[np.ndarray, str], np.ndarray]

LEAST = 1e-6
"""What a foreground voxel has at least, so that whoever asks for voxels above 0 still finds all of the foreground."""


@dataclass(frozen=True, kw_only=True)
class Percentile:
    """x -> (x - low) / (high - low), the ends being percentiles of the foreground.

    Args:
        lower: percentile that becomes 0; ``None`` keeps 0 at 0, negative values aside.
        upper: percentile that becomes 1.
    """

    lower: float | None = None
    upper: float = 99.5

    def __post_init__(self) -> None:
        """Refuse settings outside their range."""
        refuse(
            type(self).__name__,
            [outside("lower", self.lower or 0, 0, self.upper), outside("upper", self.upper, self.lower or 0, 100)],
        )

    def __call__(self, values: np.ndarray, sequence: str) -> np.ndarray:
        """Standardise the foreground of one sequence."""
        low, high = np.percentile(values, [self.lower or 0, self.upper])
        low = min(low, 0.0) if self.lower is None else low
        return (values - low) / above_zero(high - low, f"percentile {self.upper:g} less the lower end")


@dataclass(frozen=True, kw_only=True)
class Median:
    """x -> factor * x / median of the foreground: what is typical tissue has the same value in every patient.

    Args:
        factor: what the median becomes, in (0, 1].
    """

    factor: float = 0.35

    def __post_init__(self) -> None:
        """Refuse settings outside their range."""
        refuse(type(self).__name__, [outside("factor", self.factor, 1e-3, 1)])

    def __call__(self, values: np.ndarray, sequence: str) -> np.ndarray:
        """Standardise the foreground of one sequence."""
        return self.factor * values / above_zero(np.median(values), "the median")


@dataclass(frozen=True, kw_only=True)
class RobustRange:
    """x -> centre + width * (x - median) / (third quartile - first quartile).

    Quartiles do not follow a lesion of less than a quarter of the brain, nor the brightest vessels.

    Args:
        centre: what the median becomes, in [0, 1].
        width: what the interquartile range becomes, in (0, 1].
    """

    centre: float = 0.35
    width: float = 0.1

    def __post_init__(self) -> None:
        """Refuse settings outside their range."""
        refuse(type(self).__name__, [outside("centre", self.centre, 0, 1), outside("width", self.width, 1e-3, 1)])

    def __call__(self, values: np.ndarray, sequence: str) -> np.ndarray:
        """Standardise the foreground of one sequence."""
        first, median, third = np.percentile(values, [25, 50, 75])
        return self.centre + self.width * (values - median) / above_zero(third - first, "the interquartile range")


class StandardiseForegroundd(MapTransform):
    """Standardise each channel by the voxels of its foreground, those that are not 0, clipped to [0, 1].

    The background stays 0, and the foreground above it (:data:`LEAST`).

    Args:
        keys: images (c, ...), the brain or whatever the foreground is; 0 outside.
        sequences: names of the channels.
        standardisation: e.g. :class:`Median`.

    Raises (when called):
        ValueError: naming file and sequence: an empty or constant foreground, or one that cannot be standardised.
    """

    def __init__(self, keys: KeysCollection, sequences: Sequence[str], standardisation: Standardisation) -> None:
        super().__init__(keys)
        self.sequences, self.standardisation = list(sequences), standardisation

    def __call__(self, data: Mapping) -> dict:
        """Standardise every key."""
        result: dict[Any, Any] = dict(data)
        for key in self.keys:
            image = result[key]
            plain = image.as_tensor() if isinstance(image, MetaTensor) else image
            name = getattr(image, "meta", {}).get("filename_or_obj", key)
            channels = [self._one(c, s, name) for c, s in zip(plain, self.sequences, strict=True)]
            stacked = torch.stack(channels)
            result[key] = stacked
            if isinstance(image, MetaTensor):
                result[key] = MetaTensor(stacked, meta=image.meta, applied_operations=image.applied_operations)
        return result

    def _one(self, channel: torch.Tensor, sequence: str, name: str) -> torch.Tensor:
        try:
            values = self.standardisation(foreground_values(channel), sequence)
        except ValueError as error:
            raise ValueError(f"{name}, {sequence}: {error}.") from None
        standardised = torch.zeros(channel.shape, dtype=torch.float32, device=channel.device)
        standardised[channel != 0] = torch.from_numpy(values).to(standardised).clamp(LEAST, 1)
        return standardised


def foreground_values(channel: torch.Tensor) -> np.ndarray:
    """The values that are not 0, (n,) float64.

    Raises:
        ValueError: when there are none, or all are the same.
    """
    plain = channel.as_tensor() if isinstance(channel, MetaTensor) else channel
    values = plain[plain != 0].double().cpu().numpy()
    if not values.size or values.min() == values.max():
        raise ValueError("foreground is empty or constant")
    return values


def above_zero(value: float, what: str) -> float:
    """``value`` where one can divide by it.

    Raises:
        ValueError: when it is not above 0.
    """
    if not 0 < value < MANY:
        raise ValueError(f"{what} is {value:g}, above 0 is wanted")
    return value
