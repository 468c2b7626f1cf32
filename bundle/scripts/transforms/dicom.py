"""Loading of subjects from DICOM: a series a sequence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import itk
import numpy as np
import torch
from monai.config import PathLike
from monai.data import ITKReader, MetaTensor
from monai.transforms import Transform
from monai.utils import ensure_tuple, require_pkg

from ..describe import Undescribed
from ..dicom import DicomImage, check_same_geometry, match_series, read_series, sorted_images
from .loading import check_not_constant, check_problem, read_image


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

    Raises (when called):
        ValueError: naming the folder, the series and what is wanted: no series for a sequence or several, slices
            that are missing, unevenly spaced or not of one volume, series of another geometry, unreadable files.
    """

    def __init__(
        self,
        sequences: Sequence[str],
        series_patterns: Mapping[str, Sequence[str]],
        series_exclusions: Mapping[str, Sequence[str]],
        modalities: Sequence[str] = ("MR",),
    ) -> None:
        self.sequences, self.modalities = list(sequences), list(modalities)
        self.series_patterns, self.series_exclusions = series_patterns, series_exclusions
        self.reader = SliceStackReader()

    def __call__(self, data: Mapping) -> dict:
        """Load ``image`` of one item of a data list."""
        check_problem(data)
        place = str(data.get("folder", data["subject"]))
        volumes = list(self.select(data["image"], place).values())
        names = [f"{place}: series {volume[0].description!r}" for volume in volumes]
        images = [self._load([i.path for i in v], name) for v, name in zip(volumes, names, strict=True)]
        stacked = torch.cat([image.as_tensor() for image in images])
        check_not_constant(stacked, names)
        return {**data, "image": MetaTensor(stacked, meta=images[0].meta)}

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

    def _load(self, files: Sequence[Path], name: str) -> MetaTensor:
        image = read_image(name, lambda _: self._read(files, name))
        if image.ndim != 4:
            raise ValueError(f"{name}: one grey value a pixel is wanted, got an image of shape {tuple(image.shape)}.")
        return image

    def _read(self, files: Sequence[Path], name: str) -> MetaTensor:
        """A series, (1, W, H, D) float32."""
        array, meta = self.reader.get_data(self.reader.read([str(path) for path in files]))
        volume = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None]
        return MetaTensor(volume, meta={**meta, "filename_or_obj": name})
