"""The report's page: one file with everything inside, so that it can be sent and kept."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..files import atomic_path
from .curves import curve_pictures
from .histograms import histogram_pictures
from .lesion_size import bar_picture, scatter_omitted, scatter_pictures
from .metric_tables import difference_table, value_table
from .names import by_group, methods_of, metrics_of, part
from .panels import Panel, panel_pictures
from .small_tables import configuration, data_rows, lesion_sizes, threshold_rows

_LOGGER = logging.getLogger(__name__)

SECTIONS = {
    "data": "Data and methods",
    "results": "Results",
    "definitions": "Definitions of the metrics",
    "differences": "Paired differences",
    "curves": "Curves",
    "lesion-size": "Lesion size",
    "scores": "Scores of images",
    "panels": "Slices",
    "thresholds": "Thresholds",
    "configuration": "Configuration and versions",
}
"""Ids and titles of the page's sections, in their order."""


def write_report(
    path: Path, summary: Mapping[str, Any], per_slice: Sequence[Mapping[str, Any]], panels: Sequence[Panel]
) -> None:
    """Write the report of an evaluation as one HTML file that loads nothing.

    Args:
        path: of the file; it is replaced as a whole.
        summary: what was measured; a section whose part is missing says that it is not available.
        per_slice: a row a method and slice, with ``method``, ``diseased``, ``lesion_pixels`` and ``dice_calibrated``.
        panels: slices to show.
    """
    page = _environment().get_template("report.html.j2").render(page_context(summary, per_slice, panels))
    with atomic_path(path) as temporary:
        # A file's name, and so a subject's, may hold bytes that are no text.
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
    _LOGGER.info("Report: %s.", path)


def page_context(
    summary: Mapping[str, Any], per_slice: Sequence[Mapping[str, Any]], panels: Sequence[Panel]
) -> dict[str, Any]:
    """Everything that the template names."""
    return {
        "title": str(summary.get("title") or "Evaluation report"),
        "created": str(summary.get("created") or ""),
        "warnings": [str(note) for note in summary.get("notes") or []],
        "sections": SECTIONS,
        "interval": str(summary.get("interval") or "its interval"),
        **_tables(summary),
        **_pictures(summary, per_slice, panels),
    }


def _tables(summary: Mapping[str, Any]) -> dict[str, Any]:
    methods = methods_of(summary)
    return {
        "methods": methods,
        "reference": methods[0].title if methods else "",
        "data": data_rows(summary),
        "values": value_table(summary),
        "definitions": by_group(metrics_of(summary)),
        "differences": difference_table(summary),
        "lesion_sizes": lesion_sizes(summary),
        "thresholds": threshold_rows(summary),
        "configuration": configuration(summary),
        "versions": {name: str(version) for name, version in part(summary, "versions").items()},
    }


def _pictures(
    summary: Mapping[str, Any], per_slice: Sequence[Mapping[str, Any]], panels: Sequence[Panel]
) -> dict[str, Any]:
    return {
        "curves": curve_pictures(summary),
        "bars": bar_picture(summary),
        "scatters": scatter_pictures(summary, per_slice),
        "scatter_omitted": scatter_omitted(summary, per_slice),
        "histograms": histogram_pictures(summary),
        "panels": panel_pictures(panels),
    }


def _environment() -> Environment:
    # Names of subjects come from files of others: everything is escaped, and an unknown name is an error here
    # rather than a hole in the page.
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
