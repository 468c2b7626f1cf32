"""From the anomaly map to a segmentation, slice by slice (paper, section 3): smooth, restrict, cut, clean.

All of it happens in the image's own pixels, after the inverse of preprocessing, so that calibration and evaluation,
which read stored maps, do exactly the same. Maps are (1, W, H) or (1, W, H, D); which axis numbers the slices of a
volume is read from its affine, and is the last one where there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.networks.layers import median_filter
from monai.transforms import MapTransform
from scipy.ndimage import binary_fill_holes, distance_transform_edt
from skimage.morphology import remove_small_objects

from ..checks import outside, refuse


def slice_dimension(image: torch.Tensor) -> int:
    """Dimension of (c, W, H, D) along which slices are counted: the one closest to head and foot, or the last."""
    if not isinstance(image, MetaTensor):
        return image.ndim - 1
    orientation = nib.io_orientation(np.asarray(image.affine, dtype=np.float64))
    return 1 + int(np.flatnonzero(orientation[:, 0] == 2)[0])


def by_slices(anomaly_map: torch.Tensor, function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """``function`` of the plain map with slices along its last axis; the result lies as the map did, meta data too."""
    plain = anomaly_map.as_tensor() if isinstance(anomaly_map, MetaTensor) else anomaly_map
    if plain.ndim == 4:
        dimension = slice_dimension(anomaly_map)
        result = function(plain.movedim(dimension, -1)).movedim(-1, dimension)
    else:
        result = function(plain)
    if not isinstance(anomaly_map, MetaTensor):
        return result
    return MetaTensor(result, meta=anomaly_map.meta, applied_operations=anomaly_map.applied_operations)


def smooth_slices(anomaly_map: torch.Tensor, median_size: int) -> torch.Tensor:
    """Median filter in the plane of each slice, which keeps memory that of one slice.

    Args:
        anomaly_map: (1, W, H) or (1, W, H, D), slices along the last axis.
        median_size: odd width of the window; 1 leaves the map as it is.
    """
    if median_size == 1 or anomaly_map.numel() == 0:
        return anomaly_map
    if anomaly_map.ndim == 3:
        return median_filter(anomaly_map, kernel_size=median_size, spatial_dims=2)
    slices = [smooth_slices(s, median_size) if s.any() else s for s in anomaly_map.unbind(-1)]
    return torch.stack(slices, dim=-1)


def eroded_foreground(image: torch.Tensor, erosion: float) -> torch.Tensor:
    """Where any channel is above 0, holes filled, less a margin; slice by slice.

    Args:
        image: (c, W, H) or (c, W, H, D), slices along the last axis.
        erosion: width of the margin in pixels, at least 0; pixels no farther than this from the outside are left out.

    Returns:
        boolean, (1, W, H) or (1, W, H, D).
    """
    foreground = (image > 0).any(dim=0, keepdim=True)
    planes = (foreground[..., None] if foreground.ndim == 3 else foreground)[0].cpu().numpy()
    kept = np.zeros(planes.shape, dtype=bool)
    for index in np.flatnonzero(planes.any(axis=(0, 1))):
        filled = binary_fill_holes(planes[..., index])
        # What lies beyond the image's border counts as outside.
        distance = distance_transform_edt(np.pad(filled, 1))[1:-1, 1:-1]
        kept[..., index] = distance > erosion
    return torch.from_numpy(kept).to(image.device).reshape(foreground.shape)


class SmoothSlicesd(MapTransform):
    """Median in the plane of each slice.

    Args:
        keys: anomaly maps.
        median_size: odd width of the window in pixels; 1 for none.
        allow_missing_keys: do not raise when a key is missing.

    Raises:
        ValueError: when the size is even or below 1.
    """

    def __init__(self, keys: KeysCollection, median_size: int = 5, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        odd = isinstance(median_size, (int, float)) and median_size >= 1 and median_size % 2 == 1
        refuse("post-processing", [None if odd else f"median_size must be odd and at least 1, got {median_size!r}"])
        self.median_size = int(median_size)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict:
        """Replace every key's map by the smoothed one."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = by_slices(result[key], lambda planes: smooth_slices(planes, self.median_size))
        return result


class RestrictForegroundd(MapTransform):
    """Set maps to 0 outside the image's foreground, and in a margin inside its edge.

    Args:
        keys: anomaly maps.
        image_key: the image; where any of its channels is above 0 is foreground. It lies as the maps do.
        erosion: width of the margin in pixels; 0 for none.
        allow_missing_keys: do not raise when a key is missing.

    Raises:
        ValueError: when ``erosion`` is below 0.
    """

    def __init__(
        self, keys: KeysCollection, image_key: str = "image", erosion: float = 0.0, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        refuse("post-processing", [outside("foreground_erosion", erosion, 0, float("inf"))])
        self.image_key, self.erosion = image_key, erosion

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict:
        """Replace every key's map by the restricted one."""
        result = dict(data)
        inside = by_slices(result[self.image_key], lambda planes: eroded_foreground(planes, self.erosion))
        plain = inside.as_tensor() if isinstance(inside, MetaTensor) else inside
        for key in self.key_iterator(result):
            result[key] = result[key] * plain.to(result[key].device)
        return result


class ThresholdMapd(MapTransform):
    """Cut maps by a threshold.

    Args:
        keys: anomaly maps.
        threshold: pixels above it are anomalous, in units of the map.
        allow_missing_keys: do not raise when a key is missing.
    """

    def __init__(self, keys: KeysCollection, threshold: float, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.threshold = threshold

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict:
        """Replace every key's map by its segmentation, 0 or 1, float32."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = (result[key] > self.threshold).float()
        return result


class DropSmalld(MapTransform):
    """Removal of small components.

    Args:
        keys: segmentations, 0 or 1.
        min_size: components with fewer pixels, connected in the slice, are dropped; 0 keeps all.
        min_voxels: components with fewer voxels, connected in the volume, are dropped after that; 0 keeps all.
        allow_missing_keys: do not raise when a key is missing.

    Raises:
        ValueError: naming each size that is no whole number of at least 0.
    """

    def __init__(
        self, keys: KeysCollection, min_size: int = 10, min_voxels: int = 0, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        sizes = {"min_component_size": min_size, "min_component_voxels": min_voxels}
        refuse("post-processing", [outside(key, n, 0, float("inf"), whole=True) for key, n in sizes.items()])
        self.min_size, self.min_voxels = int(min_size), int(min_voxels)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict:
        """Replace every key's segmentation by one without small components."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = by_slices(result[key], lambda planes: drop_small(planes, self.min_size, self.min_voxels))
        return result


def drop_small(binary: torch.Tensor, min_size: int, min_voxels: int = 0) -> torch.Tensor:
    """Drop components of fewer than ``min_size`` pixels in a slice, then of fewer than ``min_voxels`` in the volume.

    Args:
        binary: 0 or 1, (1, W, H) or (1, W, H, D), slices along the last axis.
        min_size: least number of pixels, connected over edges and corners.
        min_voxels: least number of voxels, connected likewise.
    """
    planes = binary[0, ..., None] if binary.ndim == 3 else binary[0]
    kept = planes.bool().cpu().numpy().copy()
    if min_size > 1:
        for index in np.flatnonzero(kept.any(axis=(0, 1))):
            kept[..., index] = remove_small_objects(kept[..., index], max_size=min_size - 1, connectivity=2)
    if min_voxels > 1 and kept.any():
        kept = remove_small_objects(kept, max_size=min_voxels - 1, connectivity=3)
    return torch.from_numpy(kept).to(binary).reshape(binary.shape)
