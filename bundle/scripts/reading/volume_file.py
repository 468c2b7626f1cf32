"""One image file: what its header says, then its voxels slab by slab."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import numpy as np
import torch

from ..texts import printable

MAX_VOXELS = 1 << 30
"""Largest number of voxels that is read, 4 GiB in float32: 512 x 512 x 1024 in four sequences."""

SLAB_VOXELS = 1 << 22
"""About how many voxels are converted at once."""

Block = tuple[int, slice, np.ndarray]
"""Channel, range of the third axis, and the voxels (W, H, n) there, in the file's own type."""


@dataclass(frozen=True)
class VolumeFile:
    """A file whose header has been read and believed; no voxel has.

    Attributes:
        path: the file.
        shape: its axes, the channels' last: (W, H, D) or (W, H, D, c); also others, which cannot be read.
        meta: of a ``MetaTensor``; ``affine`` leads to RAS.
        blocks: all voxels, channel by channel along the third axis; ends with an error when the file is not whole.
        notes: sentences on what the header leaves open.
    """

    path: str
    shape: tuple[int, ...]
    meta: dict
    blocks: Callable[[], Iterator[Block]]
    notes: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """Number of channels, 1 where the file has no such axis."""
        return self.shape[3] if len(self.shape) > 3 else 1

    def read(self, target: torch.Tensor) -> list[tuple[float, float]]:
        """Read all voxels into ``target`` (c, W, H, D), float32; smallest and largest value of each channel.

        Raises:
            ValueError: naming the file when it cannot be read to its end, or holds NaN or infinity.
        """
        ranges, wrong = [(np.inf, -np.inf)] * self.channels, 0
        with named(self.path):
            for channel, place, array in self.blocks():
                slab = to_tensor(array)
                target[channel, ..., place] = slab
                wrong += int(slab.numel() - torch.isfinite(slab).sum())
                low, high = ranges[channel]
                ranges[channel] = (min(low, float(slab.min())), max(high, float(slab.max())))
        if wrong:
            raise ValueError(f"{printable(self.path)}: {wrong} voxels are NaN or infinite, all must be finite.")
        return ranges


def open_volume(path: str, max_voxels: int = MAX_VOXELS) -> VolumeFile:
    """Read the header of a NIfTI file by nibabel, of any other by ITK.

    Args:
        path: the file.
        max_voxels: how many voxels, channels included, are allowed.

    Raises:
        ValueError: naming the file: none, unreadable, with an impossible affine, larger than ``max_voxels`` or than
            what it can hold.
    """
    from .itk_file import open_itk
    from .nifti import EXTENSIONS, open_nifti

    with named(path):
        return (open_nifti if path.lower().endswith(EXTENSIONS) else open_itk)(path, max_voxels)


@contextmanager
def named(path: str) -> Iterator[None]:
    """Any error becomes one that names the file, in one line."""
    try:
        yield
    except Exception as error:
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        cause = printable(" ".join(str(error).split()))
        raise ValueError(f"{printable(path)}: cannot be read as an image ({kind}{cause}).") from None


def check_voxels(shape: Sequence[int], max_voxels: int) -> None:
    """Refuse an image that is empty or larger than allowed.

    Raises:
        ValueError: naming its shape.
    """
    text = " x ".join(map(str, shape))
    if not shape or min(shape) < 1:
        raise ValueError(f"its header claims {text or 'no'} voxels, wanted at least one along every axis")
    if prod(shape) > max_voxels:
        raise ValueError(f"its header claims {text} voxels, at most {max_voxels:,} are allowed (max_voxels)")


def slabs(shape: Sequence[int]) -> list[slice]:
    """The third axis in parts of about :data:`SLAB_VOXELS` voxels."""
    step = max(1, SLAB_VOXELS // max(1, shape[0] * shape[1]))
    return [slice(start, min(start + step, shape[2])) for start in range(0, shape[2], step)]


def to_tensor(array: np.ndarray) -> torch.Tensor:
    """float32, whatever numbers and byte order the array has."""
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
