"""Spatial perceptual distance LPIPS (Zhang et al. 2018, arXiv 1801.03924), version 0.1, on SqueezeNet 1.1.

Weights are not part of the bundle: those of the trunk are torchvision's for ImageNet, those of the linear layers come
with the package ``lpips``. Neither package is imported. Without a trunk there is no distance: never a random one.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import conv2d, interpolate, relu

from ..files import file_hash, load_checkpoint

logger = logging.getLogger(__name__)

TAPS = (1, 4, 7, 9, 10, 11, 12)
"""Layers of the trunk whose features are compared."""

SCALINGS = {"single": (2.0, -1.0), "released": (4.0, -3.0)}
"""What images in [0, 1] are brought to, factor and offset: [-1, 1] as LPIPS wants them, or as AutoDDPM's code does."""

_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class Fire(nn.Module):
    """SqueezeNet's module: 1x1 to few channels, then 1x1 and 3x3 side by side."""

    def __init__(self, in_channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in, h, w) to (B, 2 expand, h, w)."""
        x = relu(self.squeeze(x))
        return torch.cat([relu(self.expand1x1(x)), relu(self.expand3x3(x))], dim=1)


def squeezenet_features() -> nn.Sequential:
    """The convolutional part of SqueezeNet 1.1, whose layers are numbered as torchvision's ``features``."""

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, stride=2, ceil_mode=True)

    first = [nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(), pool()]
    small = [Fire(64, 16, 64), Fire(128, 16, 64), pool(), Fire(128, 32, 128), Fire(256, 32, 128), pool()]
    large = [Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)]
    return nn.Sequential(*first, *small, *large)


class SpatialLpips(nn.Module):
    """Perceptual distance at every pixel; each channel of the images is compared by itself, as grey.

    Args:
        trunk: state dict of SqueezeNet 1.1 by torchvision's names, ``features.0.weight`` and so on; others are ignored.
        linear: state dict with the taps' weights, (1, C, 1, 1) each, in their order.
        scaling: ``"single"``: images in [0, 1] are brought to [-1, 1]; ``"released"``: to [-3, 1], as AutoDDPM's
            last released code does, which normalises twice.
        source: what the weights are, for :meth:`describe`.

    Raises:
        ValueError: when a state dict does not fit, or ``scaling`` is neither.
    """

    def __init__(
        self,
        trunk: Mapping[str, torch.Tensor],
        linear: Mapping[str, torch.Tensor],
        scaling: str = "single",
        source: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if scaling not in SCALINGS:
            raise ValueError(f"scaling must be one of {', '.join(SCALINGS)}, got {scaling!r}.")
        self.scaling, self.source = scaling, dict(source or {})
        self.features = squeezenet_features()
        prefix = "features."
        try:
            self.features.load_state_dict({k.removeprefix(prefix): v for k, v in trunk.items() if k.startswith(prefix)})
        except RuntimeError as error:
            raise ValueError(f"trunk: no SqueezeNet 1.1 as torchvision stores it: {error}") from None
        if len(linear) != len(TAPS):
            raise ValueError(f"linear: wanted {len(TAPS)} tensors, got {len(linear)}.")
        for number, weight in enumerate(linear.values()):
            self.register_buffer(f"linear{number}", weight.float().clone())
        for name, values in (("shift", _SHIFT), ("scale", _SCALE)):
            self.register_buffer(name, torch.tensor(values)[:, None, None])
        self.eval().requires_grad_(False)

    def forward(self, image: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """The distance, (B, 1, H, W), at least 0, mean over channels, of images (B, c, H, W) in [0, 1]."""
        batch, channels, *size = image.shape
        pairs = zip(self._taps(image.flatten(0, 1)), self._taps(other.flatten(0, 1)), strict=True)
        distance = image.new_zeros((batch * channels, 1, *size))
        for number, (a, b) in enumerate(pairs):
            # w^T (a / |a| - b / |b|)^2
            weighted = conv2d((a - b).square(), self.get_buffer(f"linear{number}"))
            distance = distance + interpolate(weighted, size=tuple(size), mode="bilinear", align_corners=False)
        return distance.reshape(batch, channels, *size).mean(dim=1, keepdim=True)

    def _taps(self, grey: torch.Tensor) -> list[torch.Tensor]:
        """Features of (n, H, W), each of length 1 over its channels."""
        factor, offset = SCALINGS[self.scaling]
        x = (factor * grey[:, None] + offset - self.get_buffer("shift")) / self.get_buffer("scale")
        taps = []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in TAPS:
                taps.append(x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10))
        return taps

    def describe(self) -> dict[str, Any]:
        """Name, scaling and files."""
        return {"name": type(self).__name__, "scaling": self.scaling, **self.source}


def load_lpips(trunk: str | None, linear: str | None = None, scaling: str = "single") -> SpatialLpips | None:
    """:class:`SpatialLpips` from files, or ``None``, with a warning, where there is no trunk.

    Args:
        trunk: file of torchvision's ``squeezenet1_1`` weights.
        linear: file of the linear layers; ``None`` takes ``weights/v0.1/squeeze.pth`` of the package ``lpips``.
        scaling: see :class:`SpatialLpips`.

    Raises:
        FileNotFoundError: when a file is missing, or ``linear`` is ``None`` and the package is not installed.
        ValueError: when a file does not fit.
    """
    if trunk is None:
        logger.warning(
            "perceptual distance: no trunk is given (torchvision's squeezenet1_1 for ImageNet); it counts as 1 "
            "everywhere. Thresholds that were found with it do not hold."
        )
        return None
    found = linear or _packaged_linear()
    states = load_checkpoint(trunk, "trunk"), load_checkpoint(found, "linear")
    return SpatialLpips(*states, scaling=scaling, source={"trunk": file_hash(trunk), "linear": file_hash(found)})


def _packaged_linear() -> str:
    spec = importlib.util.find_spec("lpips")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("linear: no file is given and the package lpips, which has one, is not installed.")
    return str(Path(spec.submodule_search_locations[0]) / "weights" / "v0.1" / "squeeze.pth")
