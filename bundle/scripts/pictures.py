"""Pictures for people: what training and inference show of images, reconstructions and maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from .inferers import AnomalyInferer
from .networks import Parts


def as_shown(plane: torch.Tensor | np.ndarray) -> np.ndarray:
    """A plane (x, y) as the rows and columns of a picture: x to the right, y down."""
    return np.asarray(plane, dtype=np.float32).T


def picture_grid(rows: Mapping[str, torch.Tensor]) -> Figure:
    """Rows of grey pictures, 0 black and 1 white: a column an image, and every channel in rows of its own.

    Args:
        rows: row title to (N, c, W, H); the rows of one channel stand together.
    """
    count, channels = next(iter(rows.values())).shape[:2]
    lines = [
        (f"{title}, channel {channel + 1}" if channels > 1 else title, images[:, channel])
        for channel in range(channels)
        for title, images in rows.items()
    ]
    figure = Figure(figsize=(1.6 * count, 1.7 * len(lines)), layout="constrained")
    axes = figure.subplots(len(lines), count, squeeze=False)
    for line, (title, planes) in zip(axes, lines, strict=True):
        for axis, plane in zip(line, planes.float().cpu(), strict=True):
            axis.imshow(as_shown(plane), cmap="gray", vmin=0, vmax=1)
        for axis in line:
            axis.set_axis_off()
        line[0].set_title(title, fontsize=8, loc="left")
    return figure


def reconstruction_rows(network: Any, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Images and what a network reconstructs of them in one pass."""
    return {"image": images, "reconstruction": network.reconstruct(images)}


class RestorationRows:
    """Images, their reconstructions in one pass where a part can do that, and what the method restores.

    Args:
        inferer: runs the method.
        network: its parts.
        part: name of the one that is being trained; the pictures take the weights that they are given for it.
    """

    def __init__(self, inferer: AnomalyInferer, network: Parts, part: str) -> None:
        self.inferer, self.network, self.part = inferer, network, part

    def __call__(self, trained: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Rows of pictures for ``images`` (N, c, W, H)."""
        parts: dict[str, Any] = {**dict(self.network.named_children()), self.part: trained}
        network = Parts(**parts)
        rows = {"image": images}
        for part in network.children():
            if hasattr(part, "reconstruct"):
                rows |= reconstruction_rows(part, images)
        places = torch.arange(len(images), device=images.device)
        return {**rows, "restoration": self.inferer.restore(images, places, network)[1].reconstruction}


def overview_slices(processed: Sequence[bool] | np.ndarray, count: int = 5) -> list[int]:
    """Indices of up to ``count`` slices, evenly spread over those that were processed."""
    valid = np.flatnonzero(np.asarray(processed, dtype=bool))
    if len(valid) == 0:
        return []
    return sorted({int(valid[i]) for i in np.linspace(0, len(valid) - 1, min(count, len(valid))).round().astype(int)})
