"""The picture of a subject that a person looks at first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from ..pictures import as_shown, overview_slices


def draw_overview(
    subject: str,
    planes: Mapping[str, np.ndarray],
    processed: np.ndarray,
    numbers: Sequence[int],
    threshold: float,
    channel: int = 0,
    count: int = 6,
    scores: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """Rows of input, reconstruction, anomaly map and overlay for some slices of a subject.

    The map's colours are the same in all slices: 0 is black, four times the threshold or the map's own maximum,
    whichever is less, is white.

    Args:
        subject: title.
        planes: ``image`` and ``reconstruction`` (c, W, H, D) in [0, 1], ``anomaly_map`` and ``pred`` (1, W, H, D).
        processed: (D,) boolean.
        numbers: (D,), the slices' indices in the input's own file.
        threshold: of the segmentation.
        channel: which image channel is shown.
        count: how many slices.
        scores: by name numbers of the slices, (D,), for their titles.
    """
    indices = overview_slices(processed, count) or [planes["image"].shape[-1] // 2]
    figure = Figure(figsize=(2.1 * max(len(indices), 2), 8.6), layout="constrained")
    highest = float(planes["anomaly_map"].max())
    limits = [limit for limit in (4 * threshold, highest) if limit > 0]
    top = min(limits, default=1.0)
    axes = figure.subplots(4, len(indices), squeeze=False)
    for column, index in zip(axes.T, indices, strict=True):
        image = as_shown(planes["image"][channel, ..., index])
        column[0].imshow(image, cmap="gray", vmin=0, vmax=1)
        column[1].imshow(as_shown(planes["reconstruction"][channel, ..., index]), cmap="gray", vmin=0, vmax=1)
        heat = column[2].imshow(as_shown(planes["anomaly_map"][0, ..., index]), cmap="inferno", vmin=0, vmax=top)
        column[3].imshow(image, cmap="gray", vmin=0, vmax=1)
        segmentation = as_shown(planes["pred"][0, ..., index])
        column[3].imshow(np.ma.masked_less(segmentation, 0.5), cmap=ListedColormap(["red"]), alpha=0.5)
        said = [f"{name.replace('_', ' ')} {values[index]:.3g}" for name, values in (scores or {}).items()]
        column[0].set_title("\n".join([f"slice {numbers[index]}", *said]), fontsize=8)
        for axis in column:
            axis.set(xticks=[], yticks=[])
    for axis, name in zip(axes[:, 0], ("input", "reconstruction", "anomaly map", "overlay"), strict=True):
        axis.set_ylabel(name, fontsize=9)
    figure.colorbar(heat, ax=axes, shrink=0.25, label="anomaly map")
    figure.suptitle(f"{subject}: threshold {threshold:.4g}", fontsize=10)
    return figure
