"""Loading of slices that others have prepared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from ..describe import Undescribed
from ..reading import open_volume
from ..texts import printable
from .loading import check_problem

MAX_SLICE_VOXELS = 1 << 26
"""Largest number of values of a prepared slice, all channels counted."""


class LoadPreparedSliced(Undescribed, Transform):
    """Load a slice prepared as a NIfTI array (channel, row, column), scaled already.

    ``image`` becomes (c, column, row): prepared slices lie transposed in the plane against volumes read as
    (x, y, z). A further channel is the label. Nothing is rescaled.

    Args:
        sequences: names of the sequences, one a channel, in order.
        max_voxels: largest number of values in a file; a header that claims more is refused.

    Raises (when called):
        ValueError: naming the file: none, unreadable or damaged, not 3D, too large, another number of channels, or
            values outside [0, 1].
    """

    def __init__(self, sequences: Sequence[str], max_voxels: int = MAX_SLICE_VOXELS) -> None:
        self.sequences, self.max_voxels = list(sequences), max_voxels

    def __call__(self, data: Mapping) -> dict:
        """Load ``image`` and, where the file holds one, ``label`` of one item of a data list."""
        check_problem(data)
        path, wanted = str(data["image"]), len(self.sequences)
        volume = open_volume(path, self.max_voxels)
        path = printable(path)
        if len(volume.shape) != 3 or volume.shape[0] not in (wanted, wanted + 1):
            raise ValueError(
                f"{path}: shape {volume.shape}, wanted ({wanted} or {wanted + 1} with the label, rows, columns)."
            )
        array = torch.empty((1, *volume.shape))
        volume.read(array)
        image = array[0, :wanted]
        if image.min() < 0 or image.max() > 1:
            raise ValueError(
                f"{path}: values from {float(image.min()):g} to {float(image.max()):g}, prepared slices lie in [0, 1]."
            )
        result = dict(data)
        meta = {"filename_or_obj": path, "original_affine": volume.meta["affine"]}
        result["image"] = MetaTensor(image.transpose(1, 2).contiguous(), meta=meta)
        if volume.shape[0] > wanted:
            label = (array[0, wanted:] > 0).float()
            result["label"] = MetaTensor(label.transpose(1, 2).contiguous())
        return result
