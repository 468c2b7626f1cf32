"""Image files as they lie on the disk: refused before anything is allocated, verified while they are read."""

from .disk import check_file, kind_problem
from .volume_file import MAX_VOXELS, VolumeFile, named, open_volume

__all__ = ["MAX_VOXELS", "VolumeFile", "check_file", "kind_problem", "named", "open_volume"]
