"""How much the lesion's size decides: sensitivity by class, Dice of every slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .drawing import Picture, legend_below, method_colour, plain, plot_figure, svg_uri
from .names import methods_of
from .numbers import numbers
from .small_tables import LesionSizes, lesion_sizes

MOST_METHODS = 6
"""How many methods get a Dice scatter; the tables and the curves have all."""


def draw_bars(sizes: LesionSizes, colours: Mapping[str, str]) -> Figure:
    """Sensitivity of every method in every class; a cross where it is not defined."""
    figure, axis = plot_figure(len(sizes.sensitivity) + 1)
    width = 0.8 / len(sizes.sensitivity)
    middles = np.arange(len(sizes.classes))
    for number, (title, line) in enumerate(sizes.sensitivity.items()):
        places = middles - 0.4 + width * (number + 0.5)
        axis.bar(places, np.nan_to_num(line), width * 0.92, color=colours[title], label=plain(title, 60, 1))
        missing = places[np.isnan(line)]
        # Just above the axis: a bar of height 0 must not look the same.
        axis.plot(missing, np.full(len(missing), 0.02), "x", color=colours[title], markersize=4)
    axis.set_xticks(middles, [plain(text.replace(" (", "\n(")) for text in sizes.headings()])
    axis.set(xlabel=plain(f"lesion size, {sizes.unit}".rstrip(", ")), ylabel="share of lesions found", ylim=(0, 1))
    axis.grid(False, axis="x")
    legend_below(figure)
    return figure


def bar_picture(summary: Mapping[str, Any]) -> Picture | None:
    """Picture of :func:`draw_bars`; ``None`` when the summary has no lesion sizes."""
    sizes = lesion_sizes(summary)
    if sizes is None:
        return None
    colours = {method.title: method_colour(index) for index, method in enumerate(methods_of(summary))}
    caption = "Share of lesions found, by size. A cross: not defined."
    return Picture(svg_uri(draw_bars(sizes, colours)), "Bars: share of lesions found by size and method.", caption)


def lesion_points(rows: Sequence[Mapping[str, Any]], method: str) -> tuple[np.ndarray, np.ndarray]:
    """Lesion pixels and Dice of a method's diseased slices that have both."""
    chosen = [row for row in rows if row.get("method") == method and str(row.get("diseased")) in ("1", "1.0", "True")]
    pixels = numbers([row.get("lesion_pixels") for row in chosen])
    dice = numbers([row.get("dice_calibrated") for row in chosen])
    known = (pixels > 0) & np.isfinite(dice)
    return pixels[known], dice[known]


def size_medians(pixels: np.ndarray, dice: np.ndarray, bins: int = 8, least: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Middle and median Dice of bins that are equally wide on a logarithmic axis.

    Args:
        pixels: of lesions, above 0.
        dice: of the same slices.
        bins: how many.
        least: slices below which a bin has no median.
    """
    edges = np.geomspace(pixels.min(), pixels.max() * (1 + 1e-9), bins + 1)
    place = np.clip(np.digitize(pixels, edges) - 1, 0, bins - 1)
    full = [number for number in range(bins) if np.count_nonzero(place == number) >= least]
    middles = np.sqrt(edges[:-1] * edges[1:])
    return middles[full], np.array([np.median(dice[place == number]) for number in full])


def draw_scatter(pixels: np.ndarray, dice: np.ndarray, colour: str, limits: tuple[float, float]) -> Figure:
    """Dice of every slice against its lesion's size, and the median of size bins."""
    figure, axis = plot_figure(1)
    # Thousands of points are smaller as pixels than as shapes.
    axis.plot(pixels, dice, ".", color=colour, alpha=0.6, markersize=5, markeredgewidth=0, rasterized=True)
    axis.plot(
        *size_medians(pixels, dice), "o-", color="black", linewidth=1.5, markersize=4, label="median of a size bin"
    )
    axis.set(xscale="log", xlim=limits, ylim=(-0.02, 1.02), xlabel="lesion pixels in the slice", ylabel="Dice")
    legend_below(figure)
    return figure


def scatter_pictures(summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[Picture]:
    """A scatter for each of the first methods that have slices to show, all with the same axes."""
    points = [
        (number, method.title, *lesion_points(rows, method.name)) for number, method in enumerate(methods_of(summary))
    ]
    points = [entry for entry in points if len(entry[2])][:MOST_METHODS]
    if not points:
        return []
    sizes = np.concatenate([entry[2] for entry in points])
    limits = float(sizes.min()) / 1.3, float(sizes.max()) * 1.3
    pictures = []
    for number, title, pixels, dice in points:
        caption = f"{title}: Dice at the calibrated threshold, {len(pixels)} slices with a lesion."
        figure = draw_scatter(pixels, dice, method_colour(number), limits)
        pictures.append(Picture(svg_uri(figure), f"Dice against lesion size of {title}.", caption))
    return pictures


def scatter_omitted(summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Titles of the methods whose scatter is left out because there are too many."""
    named = {row.get("method") for row in rows}
    able = [m.title for m in methods_of(summary) if m.name in named and len(lesion_points(rows, m.name)[0])]
    return able[MOST_METHODS:]
