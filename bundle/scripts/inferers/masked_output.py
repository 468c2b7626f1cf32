"""The results of masked denoising for a batch of slices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch


@dataclass
class MaskedDenoisingOutput:
    """What masked denoising knows of N slices.

    Attributes:
        reconstruction: D(z_0), (N, c, H, W), float32, image units.
        anomaly_map: (N, 1, H, W), float32, at least 0.
        mask_share: share of set entries of M_0, the image-level score, (N,), float32 in [0, 1].
        mask_density: the same at each place of the image, interpolated from the code's grid, (N, 1, H, W), float32.
        mask: M_0, (N, C, h, w) boolean, when asked for.
        mask_growth: share of set entries after each step, (N, steps), when asked for.
    """

    reconstruction: torch.Tensor
    anomaly_map: torch.Tensor
    mask_share: torch.Tensor
    mask_density: torch.Tensor
    mask: torch.Tensor | None = None
    mask_growth: torch.Tensor | None = None

    @classmethod
    def cat(cls, parts: Iterable[MaskedDenoisingOutput]) -> MaskedDenoisingOutput:
        """Join the outputs of several chunks of slices."""
        parts = list(parts)
        columns: dict[str, list[Any]] = {f.name: [getattr(part, f.name) for part in parts] for f in fields(cls)}
        joined: dict[str, Any] = {k: None if v[0] is None else torch.cat(v) for k, v in columns.items()}
        return cls(**joined)

    def split(self, counts: Sequence[int]) -> list[MaskedDenoisingOutput]:
        """Undo :meth:`cat`: outputs of ``counts[0]`` slices, of ``counts[1]``, and so on."""
        columns = [getattr(self, f.name) for f in fields(self)]
        parts = [[None] * len(counts) if c is None else c.split(list(counts)) for c in columns]
        return [MaskedDenoisingOutput(*values) for values in zip(*parts, strict=True)]
