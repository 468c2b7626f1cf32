"""What the report's figures share: colours, sizes, and how a figure gets into the page."""

from __future__ import annotations

import base64
import io
import textwrap
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito: told apart with any colour vision. Their yellow is too pale for lines on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
_DASHES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Picture:
    """A picture of the page.

    Args:
        uri: the whole file as a data URI.
        alt: what it shows, for those who do not see it.
        caption: text under it.
        min_width: pixels below which it is scrolled rather than shrunk; 0 for any.
    """

    uri: str
    alt: str
    caption: str
    min_width: int = 0


def line_style(index: int) -> dict[str, Any]:
    """Line of the method number ``index``, the same in every figure; the first, the reference, is the thickest."""
    return {
        "color": _COLOURS[index % len(_COLOURS)],
        "linestyle": _DASHES[index % len(_DASHES)],
        "linewidth": 2.0 if index == 0 else 1.3,
    }


def method_colour(index: int) -> str:
    """Colour of the method number ``index``."""
    return _COLOURS[index % len(_COLOURS)]


def plain(text: str, width: int = 0, lines: int = 3) -> str:
    """Text that matplotlib writes as it is, broken into lines of ``width`` characters.

    Args:
        text: any; names of methods are not meant as formulas, and a dollar sign would start one.
        width: 0 for one line.
        lines: how many at most; the rest is cut.
    """
    if width:
        text = "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" …"))
    return text.replace("$", r"\$")


def plot_figure(legend_lines: int = 0) -> tuple[Figure, Axes]:
    """A figure of one plot that can still be read on a telephone, with room for a legend below."""
    figure = Figure(figsize=(4.8, 3.5 + 0.19 * legend_lines), layout="constrained")
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="0.9", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8)
    return figure, axis


def legend_below(figure: Figure) -> None:
    """Legend of everything with a label, under the plot, where long names cover nothing."""
    figure.legend(loc="outside lower left", fontsize=8, frameon=False, labelspacing=0.3, handlelength=3)


def svg_uri(figure: Figure) -> str:
    """The figure as SVG; the same figure gives the same text."""
    stream = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "report"}):
        figure.savefig(stream, format="svg", dpi=150, metadata={"Date": None})
    return _uri("image/svg+xml", stream)


def png_uri(figure: Figure, dpi: int = 120) -> str:
    """The figure as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi)
    return _uri("image/png", stream)


def _uri(kind: str, stream: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
