"""Histogram landmarks: the intensities of a volume moved to standard ones learnt from training volumes.

Nyul, Udupa and Zhang, "New variants of a method of MRI scale standardization", IEEE TMI 19 (2000).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..checks import outside, refuse
from ..files import write_json
from .standardise import above_zero, foreground_values

NYUL_PERCENTILES = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99)


@dataclass(frozen=True, kw_only=True)
class HistogramLandmarks:
    """The volume's percentiles are moved to landmarks learnt from training volumes, by a piecewise linear map.

    Beyond the outermost landmarks the map goes on with the slope of its last piece, so that what is brighter than
    anything stays so.

    Args:
        percentiles: ascending, in [0, 100].
        landmarks: for each sequence their standard values, ascending.

    Raises (when called):
        ValueError: when a sequence has no landmarks, or the volume's percentiles do not ascend.
    """

    landmarks: Mapping[str, Sequence[float]]
    percentiles: Sequence[float] = NYUL_PERCENTILES

    def __post_init__(self) -> None:
        """Refuse settings outside their range."""
        problems = [_not_ascending("percentiles", self.percentiles)]
        problems += [outside("percentiles", value, 0, 100) for value in self.percentiles]
        problems += [_not_ascending(f"landmarks of {name}", values) for name, values in self.landmarks.items()]
        problems += [
            f"landmarks of {name}: {len(values)} for {len(self.percentiles)} percentiles"
            for name, values in self.landmarks.items()
            if len(values) != len(self.percentiles)
        ]
        refuse(type(self).__name__, problems)

    @classmethod
    def from_file(cls, path: str) -> HistogramLandmarks:
        """Those that :func:`learn_landmarks` wrote.

        Raises:
            FileNotFoundError, ValueError: naming the file, when it is missing or holds something else.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"landmarks: no file {path!r}; learn_landmarks writes it from training volumes.")
        try:
            content = json.loads(Path(path).read_text())
            return cls(landmarks=dict(content["landmarks"]), percentiles=tuple(content["percentiles"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"landmarks: {path!r} does not hold percentiles and landmarks of each sequence ({error})."
            ) from None

    def __call__(self, values: np.ndarray, sequence: str) -> np.ndarray:
        """Standardise the foreground of one sequence."""
        if sequence not in self.landmarks:
            raise ValueError(f"no landmarks of {sequence!r}, there are those of {', '.join(self.landmarks)}")
        own, standard = np.percentile(values, self.percentiles), np.asarray(self.landmarks[sequence], dtype=np.float64)
        # Values that many voxels share, such as those of 8-bit files, may fill several percentiles.
        own, first = np.unique(own, return_index=True)
        above_zero(len(own) - 1, "the number of different percentiles less 1")
        standard = standard[first]
        slopes = np.diff(standard) / np.diff(own)
        below, above = np.minimum(values - own[0], 0) * slopes[0], np.maximum(values - own[-1], 0) * slopes[-1]
        return np.interp(values, own, standard) + below + above


def learn_landmarks(
    images: Iterable[torch.Tensor],
    sequences: Sequence[str],
    percentiles: Sequence[float] = NYUL_PERCENTILES,
    low: float = 0.05,
    high: float = 0.7,
    path: str | None = None,
) -> HistogramLandmarks:
    """Landmarks of training volumes: each volume's percentiles, its outermost moved to the standard ones; their mean.

    Args:
        images: training volumes (c, W, H, D), 0 outside the brain.
        sequences: names of the channels.
        percentiles: of the landmarks.
        low: standard value of the first percentile.
        high: of the last; below 1, so that what is brighter than healthy tissue has a place.
        path: JSON file to write them to, to be kept beside the weights.

    Raises:
        ValueError: when there is no volume, or one has an empty or constant foreground.
    """
    refuse("learn_landmarks", [outside("low", low, 0, high), outside("high", high, low, 1)])
    found = [[_own_landmarks(channel, percentiles) for channel in image] for image in images]
    if not found:
        raise ValueError("learn_landmarks: no training volume, at least one is wanted.")
    means = low + (high - low) * np.mean(found, axis=0)
    learnt = HistogramLandmarks(
        landmarks={name: mean.tolist() for name, mean in zip(sequences, means, strict=True)},
        percentiles=list(percentiles),
    )
    if path is not None:
        write_json(path, {"percentiles": learnt.percentiles, "landmarks": learnt.landmarks})
    return learnt


def _own_landmarks(channel: torch.Tensor, percentiles: Sequence[float]) -> np.ndarray:
    """Percentiles of a foreground, the first moved to 0 and the last to 1."""
    own = np.percentile(foreground_values(channel), percentiles)
    return (own - own[0]) / above_zero(own[-1] - own[0], "the last percentile less the first")


def _not_ascending(key: str, values: Sequence[float]) -> str | None:
    fits = len(values) > 1 and bool((np.diff(np.asarray(values, dtype=np.float64)) > 0).all())
    return None if fits else f"{key} must be at least two ascending numbers, got {list(values)}"
