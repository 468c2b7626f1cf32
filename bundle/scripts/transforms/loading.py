"""Loading of subjects, with errors that name the file."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from ..describe import Undescribed
from ..reading import MAX_VOXELS, VolumeFile, open_volume
from ..texts import printable

logger = logging.getLogger(__name__)

AFFINE_TOLERANCE = 1e-3
"""Largest difference, in mm, between the affines of one subject's files."""


def check_problem(data: Mapping) -> None:
    """Raise the ``problem`` that the data list found with a subject, as a ``ValueError``."""
    if "problem" in data:
        raise ValueError(data["problem"])


def check_not_constant(image: torch.Tensor, names: Sequence[str]) -> None:
    """Every channel must hold an image."""
    for channel, name in zip(image, names, strict=True):
        check_range(float(channel.min()), float(channel.max()), name)


def check_finite(image: torch.Tensor, name: str) -> None:
    """No voxel may be NaN or infinite."""
    wrong = int(image.numel() - torch.isfinite(image).sum())
    if wrong:
        raise ValueError(f"{printable(name)}: {wrong} voxels are NaN or infinite, all must be finite.")


def check_range(low: float, high: float, name: str) -> None:
    """An image whose smallest and largest value are the same is none."""
    if low == high:
        raise ValueError(f"{printable(name)}: empty or constant, every voxel is {low:g}.")


class LoadSubjectd(Undescribed, Transform):
    """Load a subject's volumes: one 3D file a sequence, or one file whose last axis is the sequences.

    ``image`` becomes (c, W, H, D) float32 with the patient space of the first file; ``label``, where there is one,
    (1, W, H, D) with 1 wherever the file is above 0. Reads NIfTI, NRRD, MetaImage and what else ITK reads. All
    headers are read before any voxel, and voxels slab by slab into their place: the memory needed is that of the
    result. What a header leaves open about the place in space, e.g. a qform that contradicts the sform, is warned of,
    with what is used; axes that are not perpendicular are kept.

    Args:
        sequences: names of the sequences, one a channel, in order.
        max_voxels: largest number of voxels of a subject, all channels counted; a header that claims more is refused.

    Raises (when called):
        ValueError: naming the file, what it holds and what is wanted: no file, unreadable, damaged or longer than its
            header says, too large, an affine that is none, NaN or infinite voxels, a constant channel, 2D data,
            another number of channels, shapes or affines that differ.
    """

    def __init__(self, sequences: Sequence[str], max_voxels: int = MAX_VOXELS) -> None:
        self.sequences, self.max_voxels = list(sequences), max_voxels

    def __call__(self, data: Mapping) -> dict:
        """Load ``image`` and ``label`` of one item of a data list."""
        check_problem(data)
        files, label = data["image"], data.get("label")
        single = isinstance(files, (str, bytes)) or not isinstance(files, Sequence)
        volumes = [self._volume(os.fsdecode(files))] if single else self._stack([str(f) for f in files])
        spaces = volumes if label is None else [*volumes, self._label(str(label), volumes[0])]
        for volume in spaces:
            for note in volume.notes:
                logger.warning("%s: %s.", printable(volume.path), note)
        result = {**data, "image": self._read(volumes)}
        if label is not None:
            values = torch.empty((1, *spaces[-1].shape[:3]))
            spaces[-1].read(values)
            result["label"] = MetaTensor(values.gt_(0), meta=spaces[-1].meta)
        return result

    def _open(self, path: str) -> VolumeFile:
        volume = open_volume(path, self.max_voxels)
        if len(volume.shape) not in (3, 4):
            raise ValueError(f"{printable(path)}: holds a {len(volume.shape)}D image, a 3D volume is wanted.")
        return volume

    def _volume(self, path: str) -> VolumeFile:
        """A file with all sequences."""
        volume = self._open(path)
        if volume.channels != len(self.sequences):
            raise ValueError(
                f"{printable(path)}: has {volume.channels} channel(s), {len(self.sequences)} are wanted: "
                f"{', '.join(self.sequences)}."
            )
        return volume

    def _stack(self, paths: Sequence[str]) -> list[VolumeFile]:
        """A file a sequence."""
        if len(paths) != len(self.sequences):
            raise ValueError(
                f"{len(paths)} files given, {len(self.sequences)} are wanted: {', '.join(self.sequences)}."
            )
        volumes = [self._open(path) for path in paths]
        for volume in volumes:
            if volume.channels != 1:
                raise ValueError(f"{printable(volume.path)}: has {volume.channels} channels, one sequence is wanted.")
            _check_same_space(volume, paths[0], volumes[0])
        if len(volumes) * math.prod(volumes[0].shape) > self.max_voxels:
            raise ValueError(
                f"{printable(paths[0])}: {len(volumes)} sequences of {volumes[0].shape[:3]} voxels, at most "
                f"{self.max_voxels:,} voxels are allowed (max_voxels)."
            )
        return volumes

    def _label(self, path: str, image: VolumeFile) -> VolumeFile:
        label = self._open(path)
        if label.channels != 1:
            raise ValueError(f"{printable(path)}: has {label.channels} channels, a label has one.")
        _check_same_space(label, "the image", image)
        return label

    def _read(self, volumes: Sequence[VolumeFile]) -> MetaTensor:
        """All channels, each read into its place."""
        target, first = torch.empty((len(self.sequences), *volumes[0].shape[:3])), 0
        ranges = []
        for volume in volumes:
            ranges += volume.read(target[first : first + volume.channels])
            first += volume.channels
        single = len(volumes) == 1 and volumes[0].channels > 1
        names = [f"{volumes[0].path} ({s})" for s in self.sequences] if single else [v.path for v in volumes]
        for (low, high), name in zip(ranges, names, strict=True):
            check_range(low, high, name)
        return MetaTensor(target, meta=volumes[0].meta)


def _check_same_space(volume: VolumeFile, other_path: str, other: VolumeFile) -> None:
    path, shape, wanted = printable(volume.path), volume.shape[:3], other.shape[:3]
    if shape != wanted:
        raise ValueError(f"{path}: shape {shape}, {printable(other_path)} has {wanted}.")
    difference = float(np.abs(np.asarray(volume.meta["affine"]) - np.asarray(other.meta["affine"])).max())
    if not difference <= AFFINE_TOLERANCE:
        raise ValueError(
            f"{path}: its affine differs from that of {printable(other_path)} by {difference:g}, "
            f"at most {AFFINE_TOLERANCE:g} is allowed."
        )
