"""Which slices of a volume the method looks at: one rule for training, inference and MONAI Label."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..checks import outside, refuse


class SliceSelector:
    """Indices of the slices to use along the last axis of a preprocessed volume.

    Args:
        slice_range: ``[first, last + 1]`` in the canonical orientation, as for ``range``; ``None`` for all slices.
            A range that reaches beyond a volume is cut at its end.
        min_foreground: least share of pixels with any channel above 0, in [0, 1]; 0 keeps every slice.

    Raises:
        ValueError: when an argument is outside its range.
    """

    def __init__(self, slice_range: Sequence[int] | None = None, min_foreground: float = 0.0) -> None:
        fits = slice_range is None or (len(slice_range) == 2 and 0 <= slice_range[0] < slice_range[1])
        wrong = f"slice_range must be [first, last + 1] with 0 <= first <= last, got {slice_range}"
        refuse("slices", [None if fits else wrong, outside("min_foreground", min_foreground, 0, 1)])
        self.slice_range, self.min_foreground = slice_range, min_foreground

    def __call__(self, volume: torch.Tensor) -> torch.Tensor:
        """Indices, int64 (N,), of the slices of ``volume`` (c, W, H, D) to use; may be empty."""
        keep = torch.ones(volume.shape[-1], dtype=torch.bool, device=volume.device)
        if self.slice_range is not None:
            keep[: self.slice_range[0]] = False
            keep[self.slice_range[1] :] = False
        if self.min_foreground > 0:
            share = (volume > 0).any(dim=0).float().mean(dim=(0, 1))
            keep &= share >= self.min_foreground
        return torch.nonzero(keep).flatten()


def volume_to_slices(volume: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Slices (N, c, W, H) of a volume (c, W, H, D)."""
    return volume.index_select(-1, indices.to(volume.device)).movedim(-1, 0)


def slices_to_volume(slices: torch.Tensor, indices: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
    """Copy of ``background`` (c, W, H, D) with slices (N, c, W, H) written at ``indices``."""
    return background.clone().index_copy_(-1, indices.to(background.device), slices.movedim(0, -1).to(background))
