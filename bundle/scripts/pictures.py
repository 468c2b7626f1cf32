"""Pictures for people: what training and inference show of images, reconstructions and maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from monai.networks.nets import DiffusionModelUNet

from .inferers import MaskedBernoulliInferer
from .networks import BinarizingAutoencoder, Parts


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


def reconstruction_rows(autoencoder: BinarizingAutoencoder, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """What stage 1 shows: images and their reconstructions from the decided code y > 1/2."""
    reconstruction = autoencoder.decode((autoencoder.encode(images) > 0.5).to(images.dtype))
    return {"image": images, "reconstruction": reconstruction}


class DenoisingRows:
    """What stage 2 shows: images, reconstructions without diffusion, and after masked denoising.

    Args:
        inferer: the masked inferer.
        autoencoder: the frozen autoencoder.
    """

    def __init__(self, inferer: MaskedBernoulliInferer, autoencoder: BinarizingAutoencoder) -> None:
        self.inferer, self.autoencoder = inferer, autoencoder

    def __call__(self, denoiser: DiffusionModelUNet, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Rows of pictures for ``images`` (N, c, W, H)."""
        network = Parts(autoencoder=self.autoencoder, denoiser=denoiser)
        output = self.inferer.run_slices(images, torch.arange(len(images), device=images.device), network)
        rows = reconstruction_rows(self.autoencoder, images)
        return {**rows, "masked denoising": output.reconstruction}


def overview_slices(scores: Sequence[float] | np.ndarray, count: int = 5) -> list[int]:
    """Indices of up to ``count`` slices, evenly spread over those that have a score (are not NaN)."""
    valid = np.flatnonzero(~np.isnan(np.asarray(scores, dtype=np.float64)))
    if len(valid) == 0:
        return []
    return sorted({int(valid[i]) for i in np.linspace(0, len(valid) - 1, min(count, len(valid))).round().astype(int)})
