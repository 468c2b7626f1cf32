"""The report's small tables, as plain text: data, thresholds, sensitivity by lesion size, configuration."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .names import methods_of, part
from .numbers import count_text, finite, number_text, numbers

_DATA_TITLES = {
    "subjects": "Subjects",
    "patients": "Patients",
    "healthy_patients": "Healthy patients",
    "slices": "Slices",
    "diseased_slices": "Slices with a lesion",
    "healthy_slices": "Slices without a lesion",
    "lesions": "Lesions",
    "prevalence_foreground": "Share of lesion pixels in the foreground",
    "prevalence_image": "Share of lesion pixels in the whole image",
}


def data_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Title and number of what was evaluated."""
    rows = part(summary, "data").items()
    return [(_DATA_TITLES.get(key, key.replace("_", " ").capitalize()), count_text(value)) for key, value in rows]


@dataclass(frozen=True)
class ThresholdRow:
    """Thresholds of a method as text; ``folds`` lists the calibrated ones, empty when there is just one."""

    title: str
    calibrated: str
    folds: str
    oracle: str
    deployed: str


def threshold_rows(summary: Mapping[str, Any]) -> list[ThresholdRow]:
    """Thresholds of the methods that have any."""
    thresholds = part(summary, "thresholds")
    rows = []
    for method in methods_of(summary):
        if entry := part(thresholds, method.name):
            folds = numbers(entry.get("calibrated"))
            known = folds[np.isfinite(folds)]
            middle = float(np.median(known)) if len(known) else None
            listed = ", ".join(_or_missing(value) for value in folds) if len(folds) > 1 else ""
            single = (_or_missing(middle), listed, _or_missing(entry.get("oracle")), _or_missing(entry.get("deployed")))
            rows.append(ThresholdRow(method.title, *single))
    return rows


def _or_missing(value: Any, missing: str = "not available") -> str:
    number = finite(value)
    return missing if number is None else number_text(number)


@dataclass(frozen=True)
class LesionSizes:
    """Sensitivity by lesion size.

    Args:
        unit: of the classes.
        classes: their names.
        lesions: lesions in each; NaN where not known.
        sensitivity: method title to sensitivity in each; NaN where not defined.
    """

    unit: str
    classes: list[str]
    lesions: np.ndarray
    sensitivity: dict[str, np.ndarray]

    def headings(self) -> list[str]:
        """Class with its number of lesions."""
        known = zip(self.classes, self.lesions, strict=True)
        return [
            name if math.isnan(count) else f"{name} (n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{int(count)})"
            for name, count in known
        ]

    def rows(self) -> list[tuple[str, list[str]]]:
        """Method title and the numbers in each class as text."""
        return [
            (title, [_or_missing(value, "not defined") for value in line]) for title, line in self.sensitivity.items()
        ]


def lesion_sizes(summary: Mapping[str, Any]) -> LesionSizes | None:
    """Sensitivity by lesion size; ``None`` when the summary has none."""
    entry = part(summary, "lesion_size")
    classes = [str(name) for name in entry.get("classes") or []]
    found = part(entry, "sensitivity")
    lines = {
        method.title: _fitted(found[method.name], len(classes))
        for method in methods_of(summary)
        if method.name in found
    }
    if not classes or not lines:
        return None
    return LesionSizes(str(entry.get("unit") or ""), classes, _fitted(entry.get("lesions"), len(classes)), lines)


def _fitted(values: Any, length: int) -> np.ndarray:
    """Numbers of exactly ``length``: a missing one is NaN."""
    padded = np.full(length, math.nan)
    found = numbers(values)[:length]
    padded[: len(found)] = found
    return padded


def configuration(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Title and JSON text of the settings, the methods' own settings and the sampling seeds, where there are any."""
    methods = part(summary, "methods")
    own = {name: part(methods, name, "settings") for name in methods}
    blocks = {
        "Settings of the evaluation": part(summary, "settings"),
        "Settings of the methods": {name: settings for name, settings in own.items() if settings},
        "Sampling seeds": part(summary, "sampling_seeds"),
    }
    return [(title, _json(content)) for title, content in blocks.items() if content]


def _json(content: object) -> str:
    return json.dumps(content, indent=2, default=str, ensure_ascii=False)
