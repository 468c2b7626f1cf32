"""Curves of all methods: precision and recall, lesions found and false alarms, calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from .drawing import Picture, legend_below, line_style, plain, plot_figure, svg_uri
from .names import methods_of, part
from .numbers import finite, number_text, numbers


@dataclass(frozen=True)
class Curve:
    """A method's curve; ``index`` is the method's number, which decides the colour."""

    title: str
    index: int
    x: np.ndarray
    y: np.ndarray


def curves_of(summary: Mapping[str, Any], kind: str, x: str, y: str) -> list[Curve]:
    """The curves ``kind`` of the methods that have a point to show."""
    found = []
    for index, method in enumerate(methods_of(summary)):
        entry = part(summary, "curves", method.name, kind)
        first, second = numbers(entry.get(x)), numbers(entry.get(y))
        if len(first) == len(second) and np.isfinite(first + second).any():
            found.append(Curve(method.title, index, first, second))
    return found


def draw_curves(curves: list[Curve], **line: Any) -> tuple[Figure, Axes]:
    """All curves in one plot, legend below."""
    figure, axis = plot_figure(len(curves) + 1)
    for curve in curves:
        axis.plot(curve.x, curve.y, label=plain(curve.title, 60, 1), **line_style(curve.index), **line)
    return figure, axis


def precision_recall(curves: list[Curve], prevalence: float | None) -> Figure:
    """Precision against recall; a dotted line at the prevalence, which chance reaches."""
    figure, axis = draw_curves(curves)
    if prevalence is not None:
        label = f"chance: prevalence {number_text(prevalence)}"
        axis.axhline(prevalence, color="0.3", linewidth=1, linestyle=(0, (1, 2)), label=label)
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    legend_below(figure)
    return figure


def froc(curves: list[Curve], per: str = "") -> Figure:
    """Share of lesions found against false positives: linear up to 1, logarithmic beyond."""
    figure, axis = draw_curves(curves)
    axis.set_xscale("symlog", linthresh=1)
    axis.xaxis.set_major_formatter(ScalarFormatter())
    label = f"false positives per {per}" if per else "false positives"
    axis.set(xlabel=plain(label), ylabel="share of lesions found", ylim=(0, 1.02))
    axis.set_xlim(left=0)
    legend_below(figure)
    return figure


def calibration(curves: list[Curve]) -> Figure:
    """Realised against wanted share of false alarms, both logarithmic; zeros lie on the lower edge."""
    values = np.concatenate([np.concatenate((curve.x, curve.y)) for curve in curves])
    positive = values[np.isfinite(values) & (values > 0)]
    low, high = (float(positive.min()) / 2, float(positive.max()) * 2) if len(positive) else (1e-3, 1.0)
    lifted = [replace(curve, x=np.maximum(curve.x, low), y=np.maximum(curve.y, low)) for curve in curves]
    figure, axis = draw_curves(lifted, marker="o", markersize=4, clip_on=False)
    axis.plot([low, high], [low, high], color="0.3", linewidth=1, linestyle=(0, (1, 2)), label="realised as wanted")
    axis.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), xlabel="wanted", ylabel="realised")
    legend_below(figure)
    return figure


def curve_pictures(summary: Mapping[str, Any]) -> list[Picture]:
    """The pictures of all kinds of curves that at least one method has."""
    pictures = []
    if found := curves_of(summary, "precision_recall", "recall", "precision"):
        figure = precision_recall(found, finite(part(summary, "data").get("prevalence_foreground")))
        caption = "Precision and recall of pixels. Chance reaches the prevalence of lesion pixels, the dotted line."
        pictures.append(_picture(figure, "Precision against recall", found, caption))
    if found := curves_of(summary, "froc", "false_positives", "sensitivity"):
        first = methods_of(summary)[found[0].index].name
        figure = froc(found, str(part(summary, "curves", first, "froc").get("per") or ""))
        caption = "Free-response ROC: share of lesions found against false positives; the axis is linear up to 1 only."
        pictures.append(_picture(figure, "Share of lesions found against false positives", found, caption))
    if found := curves_of(summary, "calibration", "wanted", "realised"):
        caption = (
            "Calibration: the share of false alarms that was asked for and the one that came about, both axes "
            "logarithmic. On the dotted line they are equal; zeros are drawn on the lower edge."
        )
        pictures.append(_picture(calibration(found), "Realised against wanted false alarms", found, caption))
    return pictures


def _picture(figure: Figure, what: str, curves: list[Curve], caption: str) -> Picture:
    return Picture(svg_uri(figure), f"{what}: {'; '.join(curve.title for curve in curves)}.", caption)
