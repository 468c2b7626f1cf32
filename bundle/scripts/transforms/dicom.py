"""Loading of subjects from DICOM: a series a sequence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import itk
import torch
from monai.config import PathLike
from monai.data import ITKReader, MetaTensor
from monai.transforms import Transform
from monai.utils import ensure_tuple, require_pkg

from ..describe import Undescribed
from ..dicom import DicomImage, check_same_geometry, match_series, read_series, sorted_images
from ..reading import MAX_VOXELS, named
from .loading import check_finite, check_not_constant, check_problem


class SliceStackReader(ITKReader):
    """ITK's reader for a volume whose slices are single files, in the order given; rescaled as their headers say."""

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> itk.Image:
        """One 3D image, float32, of the files."""
        return itk.imread([str(path) for path in ensure_tuple(data)], pixel_type=itk.F)


@require_pkg(pkg_name="pydicom")
class LoadDicomSubjectd(Undescribed, Transform):
    """Load a subject's sequences from DICOM files: one series a sequence, found by its description.

    ``image``, all files of the subject, becomes (c, W, H, D) float32, in the space of the first sequence's series:
    W along its rows, D along the normal of its slices. Rescale slope and intercept are applied.

    Args:
        sequences: names of the sequences, one a channel, in order.
        series_patterns: for each name regular expressions, one of which the series' description must hold.
        series_exclusions: for each name regular expressions that it must not hold.
        modalities: DICOM's codes, e.g. ``MR``.
        max_voxels: largest number of voxels of a subject, all series counted; headers that claim more are refused.

    Raises (when called):
        ValueError: naming the folder, the series and what is wanted: no series for a sequence or several, slices
            that are missing, unevenly spaced or not of one volume, series of another geometry, unreadable files,
            files with fewer pixels than their header claims, pixels of MONOCHROME1 (where 0 is white: whether their
            values are to be turned over is the display's affair) or of colour, too many voxels.
    """

    def __init__(
        self,
        sequences: Sequence[str],
        series_patterns: Mapping[str, Sequence[str]],
        series_exclusions: Mapping[str, Sequence[str]],
        modalities: Sequence[str] = ("MR",),
        max_voxels: int = MAX_VOXELS,
    ) -> None:
        self.sequences, self.modalities = list(sequences), list(modalities)
        self.series_patterns, self.series_exclusions = series_patterns, series_exclusions
        self.max_voxels, self.reader = max_voxels, SliceStackReader()

    def __call__(self, data: Mapping) -> dict:
        """Load ``image`` of one item of a data list."""
        check_problem(data)
        place = str(data.get("folder", data["subject"]))
        volumes = list(self.select(data["image"], place).values())
        names = [f"{place}: series {volume[0].description!r}" for volume in volumes]
        shape = (*volumes[0][0].size[::-1], len(volumes[0]))
        count = len(volumes) * math.prod(shape)
        if count > self.max_voxels:
            raise ValueError(f"{place}: {count:,} voxels, at most {self.max_voxels:,} are allowed (max_voxels).")
        stacked = torch.empty((len(volumes), *shape))
        meta: dict = {}
        for index, (volume, name) in enumerate(zip(volumes, names, strict=True)):
            with named(name):
                own = self._read([image.path for image in volume], stacked[index])
            meta = meta or {**own, "filename_or_obj": name}
            check_finite(stacked[index], name)
        check_not_constant(stacked, names)
        return {**data, "image": MetaTensor(stacked, meta=meta)}

    def select(self, files: Iterable[str], place: str) -> dict[str, list[DicomImage]]:
        """For each sequence the images of its series, in the order of the slices.

        Args:
            files: all files of a subject.
            place: what errors call the subject, e.g. its folder.
        """
        series = match_series(
            read_series(files), self.sequences, self.series_patterns, self.series_exclusions, self.modalities, place
        )
        volumes = [sorted_images(s, place) for s in series]
        check_same_geometry(volumes, [s.description for s in series], place)
        return dict(zip(self.sequences, volumes, strict=True))

    def _read(self, files: Sequence[Path], target: torch.Tensor) -> dict:
        """A series into ``target`` (W, H, D); what is known of it."""
        array, meta = self.reader.get_data(self.reader.read([str(path) for path in files]))
        if array.shape != tuple(target.shape):
            raise ValueError(f"one grey value a pixel is wanted, got {array.shape} for {tuple(target.shape)} voxels")
        target.copy_(torch.from_numpy(array))
        return meta
