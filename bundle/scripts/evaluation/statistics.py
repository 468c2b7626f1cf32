"""What is kept of one method's maps of all subjects: histograms, a row a slice, lesions found. Never the maps.

Memory grows with the number of subjects by the six histograms and the rows of each, whatever the size of the images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .bins import Bins
from .lesions import Detections, components, detect
from .overlap import Confusion
from .pixel_metrics import average_precision
from .quality import psnr, ssim
from .sources import SubjectMaps
from .subjects import LabelledSubject

HISTOGRAMS = ("lesion", "healthy_slices", "diseased_slices", "lesion_outside", "outside", "regions")
"""Foreground pixels: of lesions, lesion-free in healthy slices, lesion-free in slices with a lesion. Pixels outside the
foreground: of lesions, lesion-free. And for each lesion in its slice the share of its pixels, for AUPRO."""

HIGH_QUANTILE = 0.99


@dataclass(eq=False)
class MethodStatistics:
    """Statistics of one method over the subjects added so far.

    Args:
        bins: the quantisation of scores.

    Attributes:
        histograms: by name a list of (bins,) counts, one a subject.
        regions: lesions in slices (2D components) of each subject.
        rows: one a slice, by column.
        detections: lesions found, one a subject, after the second pass.
        calibrated: whether the first threshold of a subject's detections is a calibrated one, or there was none.
        costs: one a subject that knows its cost.
        slice_scores: names of the method's own columns of the rows.
    """

    bins: Bins
    histograms: dict[str, list[np.ndarray]] = field(default_factory=lambda: {name: [] for name in HISTOGRAMS})
    regions: list[int] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    detections: list[Detections] = field(default_factory=list)
    calibrated: list[bool] = field(default_factory=list)
    costs: list[Mapping[str, Any]] = field(default_factory=list)
    slice_scores: list[str] = field(default_factory=list)

    def histogram(self, *names: str) -> np.ndarray:
        """Counts of all subjects, (subjects, bins), of one or the sum of several histograms."""
        return np.asarray(np.sum([np.stack(self.histograms[name]) for name in names], axis=0, dtype=np.float64))

    def column(self, name: str) -> np.ndarray:
        """A column of the rows, (slices,) float64, NaN where a row lacks it."""
        return np.array([row.get(name, np.nan) for row in self.rows], dtype=np.float64)

    @property
    def groups(self) -> np.ndarray:
        """Index of the subject of each row, (slices,)."""
        return np.array([row["index"] for row in self.rows], dtype=np.int64)

    def add(self, subject: LabelledSubject, maps: SubjectMaps, processed: np.ndarray, quality: list[dict]) -> None:
        """First pass: histograms and what a slice's row holds without any threshold.

        Args:
            subject: image and label.
            maps: of the method.
            processed: its map (W, H, n) after smoothing and restriction.
            quality: of the reconstruction, a row a slice, as :func:`slice_quality` gives it.
        """
        binned = self.bins.index(processed)
        self._add_histograms(subject, binned)
        index = len(self.regions) - 1
        for k in range(processed.shape[-1]):
            foreground = subject.foreground[..., k]
            values = processed[..., k][foreground]
            row = {
                "index": index,
                "subject": subject.name,
                "slice": int(subject.numbers[k]),
                "height": float(subject.heights[k]),
                "diseased": int(subject.diseased[k]),
                "lesion_pixels": int(subject.label[..., k].sum()),
                "foreground_pixels": int(foreground.sum()),
                # As float32, so that slices with equal values do not differ by what their sum was rounded.
                "map_mean": float(np.float32(values.mean(dtype=np.float64))) if values.size else 0.0,
                "map_quantile": float(np.quantile(values, HIGH_QUANTILE)) if values.size else 0.0,
                "average_precision": self._average_precision(binned[..., k], subject.label[..., k]),
                **quality[k],
            }
            self.rows.append({**row, **{name: float(values[k]) for name, values in maps.slice_scores.items()}})
        self.slice_scores = list(dict.fromkeys([*self.slice_scores, *maps.slice_scores]))
        if maps.cost is not None:
            self.costs.append(maps.cost)

    def _average_precision(self, binned: np.ndarray, label: np.ndarray) -> float:
        if not label.any():
            return float("nan")
        # Only the order of the bins counts, so the empty ones are left out.
        _, dense = np.unique(binned, return_inverse=True)
        dense = dense.reshape(label.shape)
        size = int(dense.max()) + 1
        counts = [np.bincount(dense[where], minlength=size) for where in (label, ~label)]
        return float(average_precision(*counts))

    def _add_histograms(self, subject: LabelledSubject, binned: np.ndarray) -> None:
        label, foreground = subject.label, subject.foreground
        diseased = np.broadcast_to(subject.diseased, label.shape)
        where = {
            "lesion": label & foreground,
            "healthy_slices": foreground & ~diseased,
            "diseased_slices": foreground & diseased & ~label,
            "lesion_outside": label & ~foreground,
            "outside": ~label & ~foreground,
        }
        for name, chosen in where.items():
            self.histograms[name].append(self._count(binned[chosen]))
        shares = np.zeros(self.bins.count)
        regions = 0
        for k in np.flatnonzero(subject.diseased):
            numbers, count = components(label[..., k : k + 1])
            regions += count
            lesion = numbers[..., 0] > 0
            sizes = np.bincount(numbers.reshape(-1))
            share = 1 / sizes[numbers[..., 0][lesion]]
            shares += np.bincount(binned[..., k][lesion], share, minlength=self.bins.count)
        self.histograms["regions"].append(shares.astype(np.float32))
        self.regions.append(regions)

    def _count(self, binned: np.ndarray) -> np.ndarray:
        return np.bincount(binned, minlength=self.bins.count).astype(np.uint32)

    def add_overlaps(
        self, index: int, processed: np.ndarray, label: np.ndarray, rule: str, thresholds: np.ndarray, drop: Callable
    ) -> np.ndarray:
        """Second pass: the confusion of every slice of a subject under one rule; the segmentation is returned.

        Args:
            index: of the subject.
            processed: its map (W, H, n).
            label: (W, H, n) boolean.
            rule: its name, part of the columns' names.
            thresholds: one a slice, (n,); where NaN, the columns stay empty.
            drop: removes small components of a boolean (W, H, n).
        """
        segmentation: np.ndarray = drop(processed > thresholds)
        rows = [row for row in self.rows if row["index"] == index]
        for k, row in enumerate(rows):
            if np.isnan(thresholds[k]):
                continue
            confusion = Confusion.of(segmentation[..., k], label[..., k])
            row.update({f"{name}_{rule}": getattr(confusion, name) for name in ("tp", "fp", "fn", "tn")})
            row[f"dice_{rule}"] = confusion.dice()
        return segmentation

    def add_detections(
        self, processed: np.ndarray, label: np.ndarray, calibrated: float, curve: np.ndarray, min_voxels: int
    ) -> None:
        """Second pass: lesions of one subject found at its calibrated threshold, NaN for none, and along a curve."""
        known = not np.isnan(calibrated)
        # Infinity keeps the place of a threshold that there is not.
        thresholds = np.concatenate([[calibrated if known else np.inf], curve])
        self.detections.append(detect(processed, label, thresholds, min_voxels))
        self.calibrated.append(known)


def slice_quality(subject: LabelledSubject, reconstruction: np.ndarray | None) -> list[dict[str, float]]:
    """PSNR in dB and SSIM of each slice: of all of it, and of its healthy part, which is all of it without a lesion."""
    if reconstruction is None:
        return [{} for _ in subject.slices]
    rows = []
    for k in range(len(subject.slices)):
        pair = subject.image[..., k], reconstruction[..., k]
        healthy = ~subject.label[..., k]
        rows.append(
            {
                "psnr": psnr(*pair),
                "psnr_healthy": psnr(*pair, healthy),
                "ssim_healthy": ssim(*pair, healthy) if min(healthy.shape) >= 11 else float("nan"),
            }
        )
    return rows
