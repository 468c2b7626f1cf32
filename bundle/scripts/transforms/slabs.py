"""Large volumes in parts along their last axis, so that what is computed of them on the way stays small."""

from __future__ import annotations

from collections.abc import Iterator

import torch

SLAB_VOXELS = 1 << 22
"""About how many voxels are computed with at once."""


def slabs_of(image: torch.Tensor, like: torch.Tensor | None = None) -> Iterator[torch.Tensor]:
    """Views of ``image`` that together are all of it, cut along its last axis where ``like`` (or it itself) is."""
    cut = image if like is None else like
    step = max(1, SLAB_VOXELS * cut.shape[-1] // max(1, cut.numel()))
    return (image[..., start : start + step] for start in range(0, image.shape[-1], step))
