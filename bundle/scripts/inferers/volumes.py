"""Volumes and their slices on the way to a method and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from ..data.selection import volume_to_slices
from ..methods import Method, Restoration


@dataclass
class EncodedVolumes:
    """The slices to process of B volumes, selected and cut once; N slices in all.

    Attributes:
        volumes: (B, c, W, H, D) float32, plain.
        counts: how many slices of each volume are processed.
        places: index of each slice in its volume, (N,) int64.
        images: the slices, (N, c, W, H).
        encoded: what the method's ``encode`` made of them, (N, ...); ``None`` before that.
    """

    volumes: torch.Tensor
    counts: list[int]
    places: torch.Tensor
    images: torch.Tensor
    encoded: torch.Tensor | None = None

    @classmethod
    def cut(cls, volumes: torch.Tensor, indices: Sequence[torch.Tensor]) -> EncodedVolumes:
        """Cut the slices at ``indices``, (n,) for each of ``volumes``."""
        slices = [volume_to_slices(v, i) for v, i in zip(volumes, indices, strict=True)]
        return cls(volumes, [len(i) for i in indices], torch.cat(list(indices)), torch.cat(slices))

    def owners(
        self, part: slice, results: Sequence[VolumeResult]
    ) -> Iterator[tuple[VolumeResult, slice, torch.Tensor]]:
        """For each volume with slices in ``part``: its result, the rows of the part, and their places in it."""
        start = 0
        for result, count in zip(results, self.counts, strict=True):
            low, high = max(start, part.start), min(start + count, part.stop)
            if low < high:
                yield result, slice(low - part.start, high - part.start), self.places[low:high]
            start += count


@dataclass
class VolumeResult:
    """Everything about one volume.

    Attributes:
        anomaly_map: (1, W, H, D), 0 in slices that were not processed.
        reconstruction: (c, W, H, D), there the input itself.
        processed: (D,) boolean.
        slice_scores: by name (D,) float32, there NaN.
        evidence: by name (k, W, H, D), there 0.
    """

    anomaly_map: torch.Tensor
    reconstruction: torch.Tensor
    processed: torch.Tensor
    slice_scores: dict[str, torch.Tensor] = field(default_factory=dict)
    evidence: dict[str, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def empty(cls, volume: torch.Tensor, method: Method) -> VolumeResult:
        """The result of a volume (c, W, H, D) of which no slice is processed."""
        depth = volume.shape[-1:]
        return cls(
            torch.zeros_like(volume[:1]),
            volume.clone(),
            torch.zeros(depth, dtype=torch.bool, device=volume.device),
            {name: volume.new_full(depth, torch.nan) for name in method.slice_scores},
            {name: torch.zeros_like(volume[:1]) for name in method.evidence},
        )

    def write(self, places: torch.Tensor, maps: torch.Tensor, restored: Restoration, rows: slice) -> None:
        """Put a method's slices (n, ...), ``rows`` of its batch, at ``places`` (n,)."""
        _put(self.anomaly_map, places, maps)
        _put(self.reconstruction, places, restored.reconstruction[rows])
        self.processed[places] = True
        for name, scores in restored.slice_scores.items():
            self.slice_scores[name].index_copy_(0, places, scores[rows].to(self.slice_scores[name]))
        for name, evidence in restored.evidence.items():
            if len(self.evidence[name]) != evidence.shape[1]:
                self.evidence[name] = self.evidence[name].new_zeros(evidence.shape[1], *self.evidence[name].shape[1:])
            _put(self.evidence[name], places, evidence[rows])


def _put(volume: torch.Tensor, places: torch.Tensor, slices: torch.Tensor) -> None:
    """Write slices (n, k, W, H) into a volume (k, W, H, D)."""
    volume.index_copy_(-1, places, slices.movedim(0, -1).to(volume))
