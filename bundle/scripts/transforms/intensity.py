"""Intensity scaling by the foreground's own percentiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from .slabs import slabs_of


class ScaleForegroundd(MapTransform):
    """Scale each channel to [0, 1] by percentiles of its foreground, the voxels that are not 0.

    x -> clip((x - low) / (high - low), 0, 1) in the foreground, 0 elsewhere. MONAI's
    ``ScaleIntensityRangePercentiles`` counts the background in, so that its result depends on how much air the
    image holds.

    Args:
        keys: images, channel first.
        lower: percentile that becomes 0; ``None`` keeps 0 at 0.
        upper: percentile that becomes 1.

    Raises (when called):
        ValueError: when a channel's foreground is empty or constant, naming file and channel.
    """

    def __init__(self, keys: KeysCollection, lower: float | None = None, upper: float = 99.5) -> None:
        super().__init__(keys)
        if not 0 <= (lower or 0) < upper <= 100:
            raise ValueError(f"need 0 <= lower < upper <= 100, got lower={lower} and upper={upper}.")
        self.lower, self.upper = lower, upper

    def __call__(self, data: Mapping) -> dict:
        """Scale every key."""
        result = dict(data)
        for key in self.keys:
            image = result[key]
            name = getattr(image, "meta", {}).get("filename_or_obj", key)
            scaled = torch.empty(image.shape, device=image.device)
            for index, channel in enumerate(_plain(image)):
                self._scale(channel, scaled[index], f"{name}, channel {index}")
            result[key] = _like(scaled, image)
        return result

    def _scale(self, channel: torch.Tensor, scaled: torch.Tensor, name: str) -> None:
        # numpy, since torch.quantile has a limit of elements and torch lists the indices of those that are chosen
        array = channel.float().cpu().numpy()
        values = array[array != 0]
        wanted: Sequence[float] = [0.0 if self.lower is None else self.lower, self.upper]
        least, most = (values.min(), values.max()) if values.size else (0.0, 0.0)
        low, high = np.percentile(values, wanted, overwrite_input=True) if values.size else (0.0, 0.0)
        low = min(low, 0.0) if self.lower is None else low
        if not high > low or least == most:
            raise ValueError(f"{name}: foreground is empty or constant (percentiles {low:g} and {high:g}).")
        for part, place in zip(slabs_of(channel), slabs_of(scaled), strict=True):
            part = part.float()
            place.copy_(((part - low) / (high - low)).clamp(0, 1) * (part != 0))


def _plain(image: torch.Tensor) -> torch.Tensor:
    image = torch.as_tensor(image)
    return image.as_tensor() if isinstance(image, MetaTensor) else image


def _like(values: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    if not isinstance(image, MetaTensor):
        return values
    return MetaTensor(values, meta=image.meta, applied_operations=image.applied_operations)
