"""DICOM studies: which series is which sequence, and whether its images make a volume."""

from .geometry import check_same_geometry, sorted_images
from .headers import DicomImage, DicomSeries, read_series
from .matching import match_series

__all__ = ["DicomImage", "DicomSeries", "check_same_geometry", "match_series", "read_series", "sorted_images"]
