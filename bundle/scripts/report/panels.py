"""Rows of pictures of single slices: input, reconstruction, the methods' maps, segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..pictures import as_shown
from .drawing import Picture, plain, png_uri
from .numbers import number_text

# Of Okabe and Ito's colours the three that also differ in lightness and stand out on grey.
_HIT, _ALARM, _MISS = "#56B4E9", "#D55E00", "#F0E442"
_OVERLAY = {"true positive": _HIT, "false positive": _ALARM, "false negative": _MISS}
_COLUMN_INCHES, _PICTURE_INCHES = 1.5, 1.42
_ABOVE_INCHES, _BELOW_INCHES = 0.42, 0.4
_COLUMN_PIXELS = 105

GROUPS = {"random": "Slices drawn at random", "best": "Best slices", "worst": "Worst slices"}


@dataclass(frozen=True)
class Panel:
    """What is shown of one slice; all arrays are (W, H) of one size.

    Args:
        group: ``random``, ``best`` or ``worst``.
        title: subject, slice and Dice, as text.
        image: grey values in [0, 1].
        reconstruction: likewise; ``None`` for a method without one.
        maps: method title to anomaly map.
        label: lesion.
        segmentation: what the reference method marks.
    """

    group: str
    title: str
    image: np.ndarray
    reconstruction: np.ndarray | None
    maps: dict[str, np.ndarray]
    label: np.ndarray
    segmentation: np.ndarray


def map_limits(panels: Sequence[Panel]) -> dict[str, float]:
    """Upper end of each method's colour scale: the 99.5th percentile of its maps in all panels."""
    limits = {}
    for title in dict.fromkeys(title for panel in panels for title in panel.maps):
        values = np.concatenate([np.ravel(panel.maps[title]) for panel in panels if title in panel.maps])
        values = values[np.isfinite(values)]
        top = float(np.percentile(values, 99.5)) if len(values) else 0.0
        # Maps that are nearly everywhere 0 have that percentile at 0, which is no scale.
        limits[title] = top if top > 0 else max(float(values.max(initial=0)), 0.0) or 1.0
    return limits


def draw_panel(panel: Panel, limits: dict[str, float], reconstruction: bool = True) -> Figure:
    """One row of pictures.

    Args:
        panel: the slice.
        limits: of :func:`map_limits`; its methods are the columns, so that the panels' columns are the same.
        reconstruction: whether there is a column for it.
    """
    figure, axes = _row_of_axes(2 + reconstruction + len(limits), panel.image.shape[1] / panel.image.shape[0])
    _show_input(axes[0], panel)
    if reconstruction:
        _show_reconstruction(axes[1], panel)
    for axis, (title, top) in zip(axes[1 + reconstruction : -1], limits.items(), strict=True):
        _show_map(axis, title, panel.maps.get(title), top)
    _show_segmentation(axes[-1], panel)
    return figure


def _row_of_axes(columns: int, aspect: float) -> tuple[Figure, list[Axes]]:
    """Axes of one size at one height, whatever stands above and below them; layout engines shift them."""
    width, height = _COLUMN_INCHES * columns, _ABOVE_INCHES + _PICTURE_INCHES * aspect + _BELOW_INCHES
    figure = Figure(figsize=(width, height))
    size = (_PICTURE_INCHES / width, _PICTURE_INCHES * aspect / height)
    gap = (_COLUMN_INCHES - _PICTURE_INCHES) / 2
    places = [(_COLUMN_INCHES * column + gap) / width for column in range(columns)]
    axes = [figure.add_axes((left, _BELOW_INCHES / height, *size)) for left in places]
    for axis in axes:
        axis.set(xticks=[], yticks=[])
    return figure, axes


def _show_input(axis: Axes, panel: Panel) -> None:
    axis.imshow(as_shown(panel.image), cmap="gray", vmin=0, vmax=1)
    label = as_shown(panel.label)
    # Without an edge there is no outline, and matplotlib warns of that.
    if 0 < label.mean() < 1:
        axis.contour(label, levels=[0.5], colors=[_MISS], linewidths=0.9)
    axis.set_title("input, lesion outlined", fontsize=7)


def _show_reconstruction(axis: Axes, panel: Panel) -> None:
    axis.set_title("reconstruction", fontsize=7)
    if panel.reconstruction is None:
        _say_missing(axis, "no reconstruction")
    else:
        axis.imshow(as_shown(panel.reconstruction), cmap="gray", vmin=0, vmax=1)


def _show_map(axis: Axes, title: str, values: np.ndarray | None, top: float) -> None:
    axis.set_title(plain(title, 24), fontsize=7)
    if values is None:
        _say_missing(axis, "no map")
        return
    heat = axis.imshow(as_shown(values), cmap="inferno", vmin=0, vmax=top)
    bar = axis.figure.colorbar(heat, cax=axis.inset_axes((0, -0.11, 1, 0.06)), orientation="horizontal", extend="max")
    bar.set_ticks([0, top], labels=["0", number_text(top)])
    bar.ax.tick_params(labelsize=7, length=2)
    # Turned inwards, or they run into the neighbours'.
    lowest, highest = bar.ax.get_xticklabels()
    lowest.set_horizontalalignment("left")
    highest.set_horizontalalignment("right")


def _show_segmentation(axis: Axes, panel: Panel) -> None:
    axis.imshow(as_shown(panel.image), cmap="gray", vmin=0, vmax=1)
    label, marked = as_shown(panel.label) > 0.5, as_shown(panel.segmentation) > 0.5
    kinds = (label & marked, ~label & marked, label & ~marked)
    for where, colour in zip(kinds, _OVERLAY.values(), strict=True):
        axis.imshow(np.ma.masked_where(~where, where.astype(np.float32)), cmap=ListedColormap([colour]), alpha=0.75)
    axis.set_title("segmentation", fontsize=7)
    handles = [Patch(facecolor=to_rgba(colour), edgecolor="0.3", label=name) for name, colour in _OVERLAY.items()]
    look = {"fontsize": 6.5, "frameon": False, "labelspacing": 0.15, "handlelength": 1.2, "borderaxespad": 0.0}
    axis.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.01), **look)


def _say_missing(axis: Axes, text: str) -> None:
    axis.text(0.5, 0.5, text, ha="center", va="center", fontsize=7, color="0.4", transform=axis.transAxes)
    axis.set_frame_on(False)


def panel_pictures(panels: Sequence[Panel]) -> dict[str, list[Picture]]:
    """Group title to the pictures of its panels; known groups first, in their order."""
    limits = map_limits(panels)
    reconstruction = any(panel.reconstruction is not None for panel in panels)
    groups: dict[str, list[Picture]] = {title: [] for title in GROUPS.values()}
    for panel in panels:
        figure = draw_panel(panel, limits, reconstruction)
        alt = f"{panel.title}: input, reconstruction, anomaly maps and segmentation."
        width = _COLUMN_PIXELS * (2 + reconstruction + len(limits))
        group = GROUPS.get(panel.group, panel.group)
        groups.setdefault(group, []).append(Picture(png_uri(figure), alt, panel.title, width))
    return {group: pictures for group, pictures in groups.items() if pictures}
