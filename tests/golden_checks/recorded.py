"""What the checks of recorded runs share: noise in the place of random streams, files, and masks at a threshold."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from golden_checks import Compared, compare


class RecordedStreams:
    """``at(step)`` gives the draw of that number; with one draw, that of step 0.

    Args:
        draws: (steps, N, ...), or (N, ...) with ``single``.
        single: there is one draw.
    """

    def __init__(self, draws: torch.Tensor, single: bool = False) -> None:
        self.draws, self.step = draws[None] if single else draws, 0

    def at(self, step: int) -> RecordedStreams:
        other = RecordedStreams(self.draws)
        other.step = step
        return other

    def randn(self, shape) -> torch.Tensor:
        draw = self.draws[self.step]
        assert tuple(draw.shape) == tuple(shape)
        return draw


def arrays(path) -> dict[str, torch.Tensor]:
    """An ``npz`` file as tensors, floating ones as float32 (float64 scalars stay)."""
    found = {name: torch.from_numpy(np.asarray(array)) for name, array in np.load(path).items()}
    return {n: t.float() if t.dtype == torch.float16 else t for n, t in found.items()}


def weights(path) -> dict[str, torch.Tensor]:
    """A state dict, float32."""
    return {key: tensor.float() for key, tensor in torch.load(path, weights_only=True).items()}


def compare_masks(name: str, ours: Any, reference: torch.Tensor, distance: torch.Tensor, rounding: float) -> Compared:
    """Masks must be identical, but for pixels whose map lies no farther from the threshold than it is reproduced.

    Args:
        name: of the mask; the number of such pixels that differ is told behind it.
        ours: 0 or 1.
        reference: the same shape.
        distance: the reference's map less its threshold, broadcastable.
        rounding: how well maps are reproduced.
    """
    differs = torch.as_tensor(ours).bool() != reference.bool()
    excused = differs & (distance.abs() <= rounding).expand(differs.shape)
    told = f"{name} ({int(excused.sum())} px at the threshold)" if excused.any() else name
    return compare(told, differs & ~excused, torch.zeros_like(differs), 0.0)
