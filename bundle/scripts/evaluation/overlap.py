"""Overlap of a binary prediction with a label, from the four counts of a confusion matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Confusion:
    """Numbers of pixels or voxels; ``+`` pools those of several images.

    Args:
        tp: lesion, predicted.
        fp: lesion-free, predicted.
        fn: lesion, not predicted.
        tn: lesion-free, not predicted.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    @classmethod
    def of(cls, prediction: np.ndarray, label: np.ndarray, where: np.ndarray | None = None) -> Confusion:
        """Count pixels of boolean arrays of one shape; those of ``where`` only, when given.

        Raises:
            ValueError: when an array is not boolean or the shapes differ.
        """
        prediction, label = np.asarray(prediction), np.asarray(label)
        where = np.ones(label.shape, dtype=bool) if where is None else np.asarray(where)
        for name, array in (("prediction", prediction), ("label", label), ("where", where)):
            if array.dtype != bool:
                raise ValueError(f"{name} must be boolean, got {array.dtype}.")
            if array.shape != label.shape:
                raise ValueError(f"{name} must have the label's shape {label.shape}, got {array.shape}.")
        prediction, label = prediction & where, label & where
        tp = np.count_nonzero(prediction & label)
        fp, fn = np.count_nonzero(prediction) - tp, np.count_nonzero(label) - tp
        return cls(int(tp), int(fp), int(fn), int(np.count_nonzero(where) - tp - fp - fn))

    def __add__(self, other: Confusion) -> Confusion:
        """Counts of both together."""
        if not isinstance(other, Confusion):
            return NotImplemented
        return Confusion(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)

    def dice(self, empty_is_right: bool = True) -> float:
        """Dice, in [0, 1].

        Args:
            empty_is_right: what an image without lesion counts. True: 1 when nothing is predicted, else 0. False:
                NaN whatever is predicted, which excludes the image from means.

        Returns:
            NaN also when there is not a single pixel.
        """
        if not self._has_lesion:
            return self._without_lesion(empty_is_right)
        return 2 * self.tp / (2 * self.tp + self.fp + self.fn)

    def iou(self, empty_is_right: bool = True) -> float:
        """Intersection over union, in [0, 1]; images without lesion and NaN as for :meth:`dice`."""
        if not self._has_lesion:
            return self._without_lesion(empty_is_right)
        return self.tp / (self.tp + self.fp + self.fn)

    def precision(self) -> float:
        """Share of predicted pixels that are lesion, in [0, 1]; NaN when nothing is predicted."""
        return _ratio(self.tp, self.tp + self.fp)

    def sensitivity(self) -> float:
        """Share of lesion pixels that are predicted, in [0, 1]; NaN without lesion pixels."""
        return _ratio(self.tp, self.tp + self.fn)

    def specificity(self) -> float:
        """Share of lesion-free pixels that are not predicted, in [0, 1]; NaN without lesion-free pixels."""
        return _ratio(self.tn, self.tn + self.fp)

    @property
    def _has_lesion(self) -> bool:
        return self.tp + self.fn > 0

    def _without_lesion(self, empty_is_right: bool) -> float:
        if not empty_is_right or self.fp + self.tn == 0:
            return math.nan
        return float(self.fp == 0)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole > 0 else math.nan
