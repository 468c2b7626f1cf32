"""From the anomaly map of a volume to a segmentation in three dimensions, as pDDPM does it (arXiv 2303.03758).

Functions take plain volumes (W, H, D), slices along the last axis; the transforms take (1, W, H, D) maps that lie
anyhow and turn them (:func:`~scripts.transforms.segmentation.by_slices`).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scipy.ndimage import binary_erosion, binary_fill_holes, find_objects, label, median_filter

from ..checks import outside, refuse
from .segmentation import by_slices


def eroded_planes(mask: np.ndarray, iterations: int) -> np.ndarray:
    """``mask`` (W, H, D) less a margin in each slice: pixels with an outer one among their 4 neighbours, repeatedly.

    Beyond the border is outside.
    """
    if iterations == 0:
        return mask.astype(bool)
    # One cross a plane, which does not reach into the next.
    cross = np.zeros((3, 3, 3), dtype=bool)
    cross[1, :, 1] = cross[:, 1, 1] = True
    return binary_erosion(mask.astype(bool), cross, iterations=iterations)


def median_volume(values: np.ndarray, size: int) -> np.ndarray:
    """Median over a cube of ``size`` voxels a side; the border is reflected."""
    return values if size == 1 else median_filter(values, size=size)


def drop_small_filled(binary: np.ndarray, max_filled: int) -> np.ndarray:
    """Drop components, connected over faces, edges and corners, that are at most ``max_filled`` with holes filled.

    Args:
        binary: (W, H, D).
        max_filled: largest volume in voxels that is dropped; 0 keeps all.
    """
    kept = binary.astype(bool).copy()
    numbers, _ = label(kept, structure=np.ones((3, 3, 3)))
    for number, box in enumerate(find_objects(numbers), start=1):
        component = numbers[box] == number
        if component.sum() <= max_filled and binary_fill_holes(component, np.ones((3, 3, 3))).sum() <= max_filled:
            kept[box][component] = False
    return kept


class RestrictBraind(MapTransform):
    """Set maps to 0 outside the brain, and in a margin inside it that grows with the image.

    Args:
        keys: anomaly maps.
        mask_key: the brain mask, (1, W, H, D), above 0 inside; it lies as the maps do.
        share: the margin is that of ``H // share`` erosions, H the slices' second axis; 25 in pDDPM.
        allow_missing_keys: do not raise when a key is missing.

    Raises:
        ValueError: when ``share`` is below 1.
    """

    def __init__(
        self, keys: KeysCollection, mask_key: str = "brain", share: int = 25, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        refuse(type(self).__name__, [outside("share", share, 1, np.inf, whole=True)])
        self.mask_key, self.share = mask_key, int(share)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict:
        """Replace every key's map by the restricted one."""
        result = dict(data)
        inside = by_slices(result[self.mask_key], self._eroded)
        plain = inside.as_tensor() if isinstance(inside, MetaTensor) else inside
        for key in self.key_iterator(result):
            result[key] = result[key] * plain.to(result[key].device)
        return result

    def _eroded(self, planes: torch.Tensor) -> torch.Tensor:
        mask = planes[0].cpu().numpy() > 0
        return torch.from_numpy(eroded_planes(mask, mask.shape[1] // self.share))[None]


class SmoothVolumed(MapTransform):
    """Median over a cube.

    Args:
        keys: anomaly maps, (1, W, H, D).
        median_size: odd width of the cube in voxels; 1 for none.
        allow_missing_keys: do not raise when a key is missing.

    Raises:
        ValueError: when the size is even or below 1.
    """

    def __init__(self, keys: KeysCollection, median_size: int = 5, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if median_size < 1 or median_size % 2 == 0:
            raise ValueError(f"median_size must be odd and at least 1, got {median_size}.")
        self.median_size = median_size

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict:
        """Replace every key's map by the smoothed one."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = by_slices(result[key], self._smooth)
        return result

    def _smooth(self, planes: torch.Tensor) -> torch.Tensor:
        smooth = median_volume(planes[0].cpu().numpy(), self.median_size)
        return torch.from_numpy(smooth)[None].to(planes)


class SegmentVolumed(MapTransform):
    """Threshold, and removal of components that are small with their holes filled.

    Args:
        keys: anomaly maps, (1, W, H, D).
        threshold: voxels above it are anomalous, in units of the map.
        max_filled: largest filled volume in voxels that is dropped; 7 in pDDPM, 0 keeps all.
        allow_missing_keys: do not raise when a key is missing.
    """

    def __init__(
        self, keys: KeysCollection, threshold: float, max_filled: int = 7, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.threshold, self.max_filled = threshold, max_filled

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict:
        """Replace every key's map by its segmentation, 0 or 1, float32."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = by_slices(result[key], self._segment)
        return result

    def _segment(self, planes: torch.Tensor) -> torch.Tensor:
        kept = drop_small_filled(planes[0].cpu().numpy() > self.threshold, self.max_filled)
        return torch.from_numpy(kept)[None].to(planes.device, torch.float32)
