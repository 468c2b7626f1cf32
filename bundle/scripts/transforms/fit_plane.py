"""Bring slices to the network's size without ever cropping."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform, Resize, SpatialPad
from monai.utils import TraceKeys, ensure_tuple_rep

from .slabs import slabs_of


class FitPlaned(MapTransform, InvertibleTransform):
    """Pad the first two spatial axes to ``size``; larger images are resampled to it first, or refused.

    Invertible: padding is cut off and resampling undone to the image's own shape. The third axis is left alone.

    Args:
        keys: images (c, W, H) or (c, W, H, D).
        size: wanted width and height.
        resample_larger: resample images that are larger (keeping their aspect, with anti-aliasing) or refuse them.
        nearest: nearest-neighbour interpolation, for labels; one value or one a key.
        allow_missing_keys: do not raise when a key is missing.

    Raises (when called):
        ValueError: when an image is larger and ``resample_larger`` is off.
    """

    def __init__(
        self,
        keys: KeysCollection,
        size: int = 256,
        resample_larger: bool = True,
        nearest: bool | Sequence[bool] = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.size, self.resample_larger = size, resample_larger
        self.nearest = ensure_tuple_rep(nearest, len(self.keys))
        self.resize, self.pad = Resize((-1,)), SpatialPad((-1,))

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Fit every key."""
        result = dict(data)
        for key, nearest in self.key_iterator(result, self.nearest):
            image = result[key]
            if max(image.shape[1:3]) > self.size:
                image = self._shrink(image, nearest)
            self.pad.spatial_size = [self.size, self.size, *image.shape[3:]]
            result[key] = self.pad(image)
        return result

    def inverse(self, data: Mapping[Hashable, MetaTensor]) -> dict[Hashable, MetaTensor]:
        """Undo :meth:`__call__` for every key."""
        result: dict[Hashable, Any] = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.pad.inverse(result[key])
            operations = result[key].applied_operations
            if operations and operations[-1]["class"] == Resize.__name__:
                result[key] = self._enlarge(result[key])
        return result

    def _shrink(self, image: torch.Tensor, nearest: bool) -> torch.Tensor:
        name = getattr(image, "meta", {}).get("filename_or_obj", "image")
        if not self.resample_larger:
            raise ValueError(f"{name}: {tuple(image.shape[1:3])} pixels a slice, at most {self.size} are allowed.")
        scale = self.size / max(image.shape[1:3])
        self.resize.spatial_size = [max(1, round(n * scale)) for n in image.shape[1:3]] + list(image.shape[3:])
        linear = "bilinear" if image.ndim == 3 else "trilinear"
        options: dict[str, Any] = {"mode": "nearest" if nearest else linear, "anti_aliasing": not nearest}
        if image.ndim == 3:
            return self.resize(image, **options)
        return _by_slabs(partial(self.resize, mode=options["mode"]), image, self.resize.spatial_size, options)

    def _enlarge(self, image: MetaTensor) -> torch.Tensor:
        if image.ndim == 3:
            return self.resize.inverse(image)
        record = image.applied_operations[-1]
        info, size = record[TraceKeys.EXTRA_INFO], record[TraceKeys.ORIG_SIZE]
        corners = None if info["align_corners"] == TraceKeys.NONE else info["align_corners"]
        options = {"mode": info["mode"], "align_corners": corners, "dtype": info["dtype"]}
        return _by_slabs(self.resize.inverse, image, size, options)


def _by_slabs(record: Callable, image: torch.Tensor, size: Sequence[int], options: Mapping) -> torch.Tensor:
    """(c, W, H, D) resampled to ``size`` in parts of the third axis, since every slice is resampled alone.

    What the image remembers of it is MONAI's own, by ``record``, of an image without memory.
    """
    values = torch.empty((len(image), *map(int, size)), dtype=torch.float32, device=image.device)
    for part, place in zip(slabs_of(_plain(image)), slabs_of(values, like=image), strict=True):
        place.copy_(_plain(Resize([*size[:2], part.shape[-1]], **options)(part)))
    if not isinstance(image, MetaTensor):
        return values
    return _with_record(values, record(_with_record(torch.empty(image.shape, device="meta"), image)))


def _plain(image: torch.Tensor) -> torch.Tensor:
    return image.as_tensor() if isinstance(image, MetaTensor) else image


def _with_record(values: torch.Tensor, image: MetaTensor) -> MetaTensor:
    return MetaTensor(values, meta=image.meta, applied_operations=image.applied_operations)
