"""Figures of a search, after Fig. 3 of the paper: heat maps over L and P, boxes of the mask's share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from ..files import atomic_path
from ..report.drawing import method_colour
from .grid import Grid, Setting
from .tables import SettingSummary

HEAT_METRICS = {"average_precision": "average precision", "best_dice": "Dice at the best threshold (oracle)"}
KINDS = {"healthy": method_colour(0), "diseased": method_colour(1)}

Summaries = Mapping[Setting, SettingSummary]


def heat_values(summaries: Summaries, grid: Grid, metric: str, step_count: int | None) -> np.ndarray:
    """A metric over noise levels (rows) and thresholds (columns) at one step count; NaN where it is not defined."""
    return np.array(
        [
            [summaries[grid.setting(level, p, step_count)].row[metric] for p in grid.probability_thresholds]
            for level in grid.noise_levels
        ]
    )


def heat_map(summaries: Summaries, grid: Grid, caption: str = "") -> Figure:
    """Average precision and the oracle's Dice over L and P, a row of panels each, a column a step count."""
    columns, rows = len(grid.step_counts), len(HEAT_METRICS)
    width = max(3.2, 0.75 * len(grid.probability_thresholds) + 1.6) * columns + 0.6
    height = max(2.6, 0.45 * len(grid.noise_levels) + 1.4) * rows + 0.5
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for line, (metric, title) in zip(axes, HEAT_METRICS.items(), strict=True):
        panels = [heat_values(summaries, grid, metric, count) for count in grid.step_counts]
        limits = _limits(np.stack(panels))
        for axis, values, count in zip(line, panels, grid.step_counts, strict=True):
            image = _draw_panel(axis, values, grid, limits)
            axis.set_title(f"{title}\n{steps_title(count, grid)}", fontsize=8)
        figure.colorbar(image, ax=list(line), shrink=0.8).ax.tick_params(labelsize=7)
    figure.suptitle(caption, fontsize=8, wrap=True)
    return figure


def steps_title(count: int | None, grid: Grid) -> str:
    """Title of a panel; says so where noise levels cut the steps."""
    if count is None:
        return "all L steps"
    cut = ", at most L" if count > min(grid.noise_levels) else ""
    return f"{count} step{'' if count == 1 else 's'}{cut}"


def _draw_panel(axis: Axes, values: np.ndarray, grid: Grid, limits: tuple[float, float]) -> AxesImage:
    image = axis.imshow(values, cmap="viridis", origin="lower", aspect="auto", vmin=limits[0], vmax=limits[1])
    axis.set_xticks(range(len(grid.probability_thresholds)), [f"{p:g}" for p in grid.probability_thresholds])
    axis.set_yticks(range(len(grid.noise_levels)), [str(level) for level in grid.noise_levels])
    axis.set_xlabel("threshold P", fontsize=8)
    axis.set_ylabel("noise level L", fontsize=8)
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


def mask_share_boxes(summaries: Summaries, grid: Grid, caption: str = "") -> Figure:
    """Share of the mask in healthy and in diseased slices: a pair of boxes a setting, a panel a step count."""
    places = [(level, p) for level in grid.noise_levels for p in grid.probability_thresholds]
    size = (max(4.8, 0.6 * len(places) + 1.2), 3.0 * len(grid.step_counts) + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(grid.step_counts), 1, squeeze=False, sharey=True)[:, 0]
    for axis, count in zip(axes, grid.step_counts, strict=True):
        for kind in KINDS:
            shares = [mask_shares(summaries[grid.setting(*place, count)], kind) for place in places]
            _draw_boxes(axis, shares, kind)
        axis.set_xticks(range(len(places)), [f"L {level}\nP {p:g}" for level, p in places], fontsize=7)
        axis.set_xlim(-0.6, len(places) - 0.4)
        axis.set_title(steps_title(count, grid), fontsize=8)
        axis.set_ylabel("share of the mask", fontsize=8)
        axis.tick_params(axis="y", labelsize=7)
        axis.grid(axis="y", color="0.9", linewidth=0.6)
        axis.set_axisbelow(True)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", fontsize=8, frameon=False, ncols=2)
    figure.suptitle(caption, fontsize=8, wrap=True)
    return figure


def mask_shares(summary: SettingSummary, kind: str) -> np.ndarray:
    """Mask shares of the ``healthy`` or the ``diseased`` slices of a setting."""
    return summary.mask_share[summary.diseased == (kind == "diseased")]


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
