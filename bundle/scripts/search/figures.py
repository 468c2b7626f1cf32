"""Figures of a search, after Fig. 3 of the paper: heat maps over two settings, boxes of the slices' scores.

The first two axes of the grid make the rows and columns of a panel; every combination of the further ones is a panel.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from ..files import atomic_path
from ..report.drawing import method_colour
from .grid import Axis, Grid
from .tables import SettingSummary

HEAT_METRICS = {"average_precision": "average precision", "best_dice": "Dice at the best threshold (oracle)"}
KINDS = {"healthy": method_colour(0), "diseased": method_colour(1)}
NO_AXIS = Axis("", (None,), "", "", "")
"""Stands for the second axis of a grid that has one."""

Summaries = Mapping[str, SettingSummary]


def heat_axes(grid: Grid) -> tuple[Axis, Axis, Sequence[Axis]]:
    """Rows, columns and, for a panel each, the further axes of a figure; one with a single value goes to the panels."""
    wide = [axis for axis in grid.axes if len(axis.values) > 1]
    chosen = (wide + [axis for axis in grid.axes if axis not in wide])[:2]
    chosen.sort(key=grid.axes.index)
    rest = [axis for axis in grid.axes if axis not in chosen]
    return chosen[0], chosen[1] if len(chosen) > 1 else NO_AXIS, rest


def summary_at(summaries: Summaries, grid: Grid, values: Mapping[str, Any]) -> SettingSummary:
    """The summary of the setting with these values by field."""
    return summaries[grid.setting(*(values[axis.field] for axis in grid.axes)).name]


def panels_of(axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """Values by field of every panel."""
    return [
        dict(zip([a.field for a in axes], values, strict=True))
        for values in itertools.product(*(a.values for a in axes))
    ]


def heat_values(summaries: Summaries, grid: Grid, metric: str, panel: Mapping[str, Any]) -> np.ndarray:
    """A metric over the first axis (rows) and the second (columns) in one panel; NaN where it is not defined."""
    rows, columns, _ = heat_axes(grid)
    return np.array(
        [
            [
                summary_at(summaries, grid, {**panel, rows.field: row, columns.field: column}).row[metric]
                for column in columns.values
            ]
            for row in rows.values
        ]
    )


def heat_maps(summaries: Summaries, grid: Grid, caption: str = "") -> Figure:
    """Average precision and the oracle's Dice over two settings, a row of panels each."""
    rows, columns, rest = heat_axes(grid)
    panels = panels_of(rest)
    width = max(3.2, 0.75 * len(columns.values) + 1.6) * len(panels) + 0.6
    height = max(2.6, 0.45 * len(rows.values) + 1.4) * len(HEAT_METRICS) + 0.5
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(len(HEAT_METRICS), len(panels), squeeze=False)
    for line, (metric, title) in zip(axes, HEAT_METRICS.items(), strict=True):
        values = [heat_values(summaries, grid, metric, panel) for panel in panels]
        limits = _limits(np.stack(values))
        for axis, panel, shown in zip(line, panels, values, strict=True):
            image = _draw_panel(axis, shown, rows, columns, limits)
            axis.set_title("\n".join([title, panel_title(rest, panel)]).strip(), fontsize=8)
        figure.colorbar(image, ax=list(line), shrink=0.8).ax.tick_params(labelsize=7)
    figure.suptitle(caption, fontsize=8, wrap=True)
    return figure


def panel_title(axes: Sequence[Axis], panel: Mapping[str, Any]) -> str:
    """Values of the further axes in words, such as ``steps 20``."""
    return ", ".join(f"{axis.label} {value_text(panel[axis.field])}" for axis in axes)


def value_text(value: Any) -> str:
    """A value of an axis; ``None`` is all."""
    if value is None:
        return "all"
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def _draw_panel(axis: Axes, values: np.ndarray, rows: Axis, columns: Axis, limits: tuple[float, float]) -> AxesImage:
    image = axis.imshow(values, cmap="viridis", origin="lower", aspect="auto", vmin=limits[0], vmax=limits[1])
    names = [] if columns is NO_AXIS else [value_text(v) for v in columns.values]
    axis.set_xticks(range(len(names)), names)
    axis.set_yticks(range(len(rows.values)), [value_text(v) for v in rows.values])
    axis.set_xlabel(columns.label, fontsize=8)
    axis.set_ylabel(rows.label, fontsize=8)
    axis.tick_params(labelsize=8)
    for (row, column), value in np.ndenumerate(values):
        # White on the dark half of the colours, black on the bright one; viridis is bright from 0.6 on.
        bright = value > limits[0] + 0.6 * (limits[1] - limits[0])
        text = "–" if np.isnan(value) else f"{value:.3f}"
        colour = "black" if bright or np.isnan(value) else "white"
        axis.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    return image


def _limits(values: np.ndarray) -> tuple[float, float]:
    """Ends of the colours, the same in all panels of a metric."""
    defined = values[np.isfinite(values)]
    if not defined.size:
        return 0.0, 1.0
    low, high = float(defined.min()), float(defined.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def score_boxes(summaries: Summaries, grid: Grid, score: str, caption: str = "") -> Figure:
    """A score of healthy and of diseased slices: a pair of boxes a setting, a panel as in the heat maps."""
    rows, columns, rest = heat_axes(grid)
    panels, shown = panels_of(rest), [axis for axis in (rows, columns) if axis is not NO_AXIS]
    places = panels_of(shown)
    size = (max(4.8, 0.6 * len(places) + 1.2), 3.0 * len(panels) + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, sharey=True)[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        for kind in KINDS:
            found = [summary_at(summaries, grid, {**panel, **place}) for place in places]
            _draw_boxes(axis, [scores_of(summary, score, kind) for summary in found], kind)
        names = ["\n".join(f"{a.symbol.rstrip('-')} {value_text(place[a.field])}" for a in shown) for place in places]
        axis.set_xticks(range(len(places)), names, fontsize=7)
        axis.set_xlim(-0.6, len(places) - 0.4)
        axis.set_title(panel_title(rest, panel), fontsize=8)
        axis.set_ylabel(score.replace("_", " "), fontsize=8)
        axis.tick_params(axis="y", labelsize=7)
        axis.grid(axis="y", color="0.9", linewidth=0.6)
        axis.set_axisbelow(True)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", fontsize=8, frameon=False, ncols=2)
    figure.suptitle(caption, fontsize=8, wrap=True)
    return figure


def scores_of(summary: SettingSummary, score: str, kind: str) -> np.ndarray:
    """A score of the ``healthy`` or the ``diseased`` slices of a setting."""
    return summary.slice_scores[score][summary.diseased == (kind == "diseased")]


def _draw_boxes(axis: Axes, shares: Sequence[np.ndarray], kind: str) -> None:
    colour, shift = KINDS[kind], (-0.19 if kind == "healthy" else 0.19)
    boxes = axis.boxplot(
        [s.tolist() for s in shares],
        positions=[place + shift for place in range(len(shares))],
        widths=0.32,
        patch_artist=True,
        manage_ticks=False,
        boxprops={"facecolor": colour, "alpha": 0.6},
        medianprops={"color": "black"},
        flierprops={"markersize": 2, "markeredgecolor": colour},
    )
    boxes["boxes"][0].set_label(f"{kind} slices")


def save_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG, atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
