"""Transforms that MONAI does not have; everything else in the configs is MONAI's."""

from .fit_plane import FitPlaned
from .intensity import ScaleForegroundd
from .loading import LoadSubjectd
from .pictures import LoadGreyImaged
from .prepared_slices import LoadPreparedSliced
from .segmentation import DropSmalld, RestrictForegroundd, SmoothSlicesd, ThresholdMapd

__all__ = [
    "DropSmalld",
    "FitPlaned",
    "LoadGreyImaged",
    "LoadPreparedSliced",
    "LoadSubjectd",
    "RestrictForegroundd",
    "ScaleForegroundd",
    "SmoothSlicesd",
    "ThresholdMapd",
]
