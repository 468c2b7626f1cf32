"""Histograms of the scores of healthy and diseased images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .drawing import Picture, legend_below, plain, plot_figure, svg_uri
from .names import part
from .numbers import numbers

_KINDS = {"healthy": ("#0072B2", "-"), "diseased": ("#D55E00", "--")}


def draw_histogram(title: str, edges: np.ndarray, counts: Mapping[str, np.ndarray]) -> Figure:
    """Share of each kind's counts in every bin, on a logarithmic axis.

    Args:
        title: of the score.
        edges: (B + 1,) of the bins.
        counts: ``healthy`` and ``diseased``, (B,) each; one may be missing.
    """
    figure, axis = plot_figure(2)
    for kind, bins in counts.items():
        colour, dash = _KINDS[kind]
        total = np.nansum(bins)
        label = f"{kind} (n = {int(total):,})"
        # NaN, not 0, where nothing is: a logarithmic axis has no place for it.
        share = np.where(bins > 0, bins / max(total, 1), np.nan)
        axis.stairs(share, edges, color=colour, linestyle=dash, linewidth=1.4, label=label)
    axis.set(xlabel=plain(title, 60, 2), ylabel="share", yscale="log")
    if edges[0] > 0 and edges[-1] > 100 * edges[0]:
        axis.set_xscale("log")
    legend_below(figure)
    return figure


def histogram_pictures(summary: Mapping[str, Any]) -> list[Picture]:
    """A picture a score that has bins and counts."""
    pictures = []
    for title in part(summary, "score_histograms"):
        entry = part(summary, "score_histograms", title)
        edges = numbers(entry.get("edges"))
        counts = {kind: numbers(entry.get(kind)) for kind in _KINDS}
        counts = {kind: bins for kind, bins in counts.items() if len(bins) and len(bins) == len(edges) - 1}
        if counts and np.isfinite(edges).all():
            alt = f"Histogram of {title}: {' and '.join(counts)}."
            pictures.append(Picture(svg_uri(draw_histogram(title, edges, counts)), alt, title))
    return pictures
