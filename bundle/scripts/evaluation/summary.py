"""What the evaluation found, as one dictionary of JSON values that files, report and tracking share."""

from __future__ import annotations

import datetime
import importlib.metadata
import itertools
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..evaluation import pixel_metrics as pixels
from .evaluate import Evaluator, Run
from .image_metrics import heights_differ
from .lesions import by_size, froc
from .statistics import MethodStatistics
from .table import all_metrics, describe
from .table.compute import compute_table
from .table.cost import COST_ROWS, describe_costs
from .table.slices import titles
from .thresholds import patient_folds, threshold_for_rate

SIZE_EDGES = (30, 100, 300, 1000, 3000, 10000, 30000)
CALIBRATION_RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
PACKAGES = ("monai", "torch", "numpy", "scipy", "scikit-learn", "scikit-image", "pytorch-ignite", "nibabel")


def summarise(evaluator: Evaluator, title: str, settings: Mapping[str, Any], notes: Sequence[str] = ()) -> dict:
    """Everything but pictures and rows; the schema is in the docstrings of :mod:`scripts.report`.

    Args:
        evaluator: after :meth:`Evaluator.evaluate`.
        title: of the report.
        settings: configuration to be shown.
        notes: warnings to begin with.
    """
    protocol = evaluator.protocol
    slice_scores = list(dict.fromkeys(name for run in evaluator.all_runs() for name in run.statistics.slice_scores))
    metrics = all_metrics(protocol.paper_protocol, slice_scores)
    runs = {name: [run.statistics for run in runs] for name, runs in evaluator.runs.items()}
    reference = next(iter(runs))
    table, differences = compute_table(runs, metrics, evaluator.patients, reference, protocol.resamples, protocol.seed)
    first = runs[reference][0]
    costs = {name: describe_costs(runs) for name, runs in evaluator.runs.items()}
    for name, cost in costs.items():
        table[name].update(cost)
    return {
        "title": title,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "notes": [*notes, *_warnings(evaluator, first)],
        "data": describe_data(evaluator, first),
        "reference": reference,
        "interval": "95 % bootstrap interval over patients",
        "methods": {name: _method(runs) for name, runs in evaluator.runs.items()},
        "metrics": {**describe(metrics), **COST_ROWS},
        "table": table,
        "differences": differences,
        "curves": {name: _curves(s[0], evaluator) for name, s in runs.items()},
        "lesion_size": _lesion_size(runs),
        "thresholds": {name: _thresholds(runs[0]) for name, runs in evaluator.runs.items()},
        "score_histograms": _score_histograms(first),
        "settings": dict(settings),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}


def describe_data(evaluator: Evaluator, statistics: MethodStatistics) -> dict[str, Any]:
    """What was judged: numbers of subjects, slices and lesions, and the prevalence of lesion pixels."""
    ill = statistics.column("diseased") > 0
    number = np.bincount(statistics.groups, minlength=len(statistics.regions))
    judged = {p for p, n in zip(evaluator.patients, number, strict=True) if n}
    sick = {p for p, i in zip(evaluator.patients, _sick_subjects(statistics), strict=True) if i}
    inside = [statistics.histogram(*names).sum(axis=0) for names in (["lesion"], ["healthy_slices", "diseased_slices"])]
    outside = [statistics.histogram(name).sum(axis=0) for name in ("lesion_outside", "outside")]
    return {
        "subjects": len(evaluator.subjects),
        "patients": len(set(evaluator.patients)),
        "healthy_patients": len(judged - sick),
        "slices": len(ill),
        "diseased_slices": int(ill.sum()),
        "healthy_slices": int((~ill).sum()),
        "lesions": int(sum(len(d.sizes) for d in statistics.detections)),
        "prevalence_foreground": _json(pixels.prevalence(*inside)),
        "prevalence_image": _json(pixels.prevalence(*(a + b for a, b in zip(inside, outside, strict=True)))),
    }


def _sick_subjects(statistics: MethodStatistics) -> np.ndarray:
    return np.bincount(statistics.groups, statistics.column("diseased"), len(statistics.regions)) > 0


def _warnings(evaluator: Evaluator, statistics: MethodStatistics) -> list[str]:
    notes = []
    differ, _, effect = heights_differ(statistics.column("height"), statistics.column("diseased") > 0)
    if differ:
        notes.append(
            f"Slices with a lesion lie at other heights than healthy ones (effect {effect:.2f} standard deviations): "
            "telling them apart may only tell the height. The rows matched by height allow for that."
        )
    judged, everywhere = (sum(column) for column in zip(*evaluator.lesion_voxels, strict=True))
    if judged < everywhere:
        notes.append(f"{everywhere - judged} of {everywhere} lesion voxels lie in slices that inference leaves out.")
    failed = len(evaluator.datalist) - len(evaluator.subjects)
    if failed:
        notes.append(f"{failed} of {len(evaluator.datalist)} subjects could not be judged and are left out everywhere.")
    if not all(np.isfinite(run.calibrated).all() for run in evaluator.all_runs() if run.calibrated is not None):
        notes.append("There are too few healthy slices in other patients to calibrate a threshold on.")
    return notes


def _method(runs: Sequence[Run]) -> dict[str, Any]:
    source = runs[0].source
    seeds = [run.source.settings.get("seed") for run in runs]
    return {"score": source.score, "seeds": len(runs), "settings": dict(source.settings), "seed": seeds}


def _curves(statistics: MethodStatistics, evaluator: Evaluator) -> dict[str, Any]:
    positive = statistics.histogram("lesion").sum(axis=0)
    negative = statistics.histogram("healthy_slices", "diseased_slices").sum(axis=0)
    curve = pixels.curve(positive, negative)
    free_response = {key: values[1:].tolist() for key, values in froc(statistics.detections).items()}
    return {
        "precision_recall": {key: curve[key] for key in ("recall", "precision")},
        "froc": {**free_response, "per": "volume"} if np.isfinite(free_response["sensitivity"]).all() else {},
        "calibration": calibration_curve(statistics, evaluator),
    }


def calibration_curve(statistics: MethodStatistics, evaluator: Evaluator) -> dict[str, list[float]]:
    """Wanted against realised false positive rates: thresholds from one half of the patients, rates on the other."""
    healthy = statistics.histogram("healthy_slices")
    bins, folds = evaluator.protocol.bins, patient_folds(evaluator.patients, evaluator.protocol.seed)
    wanted, realised = [], []
    for rate in CALIBRATION_RATES:
        above, total = 0.0, 0.0
        for fold in np.unique(folds):
            threshold = threshold_for_rate(bins, healthy[folds != fold].sum(axis=0), rate)
            counts = healthy[folds == fold].sum(axis=0)
            if np.isfinite(threshold):
                above, total = above + counts[bins.lower > threshold].sum(), total + counts.sum()
        if total:
            wanted.append(rate)
            realised.append(float(above / total))
    return {"wanted": wanted, "realised": realised}


def _lesion_size(runs: Mapping[str, Sequence[MethodStatistics]]) -> dict[str, Any]:
    """Share of lesions found at the calibrated threshold, in those classes of size that have any."""
    between = [f"{low} to {high - 1}" for low, high in itertools.pairwise(SIZE_EDGES)]
    names = [f"< {SIZE_EDGES[0]}", *between, f">= {SIZE_EDGES[-1]}"]
    first = next(iter(runs.values()))[0]
    sizes = np.concatenate([d.sizes for d in first.detections])
    number = by_size(sizes, np.zeros(len(sizes), dtype=bool), SIZE_EDGES)["number"]
    there = np.flatnonzero(number)
    sensitivity = {}
    for name, (statistics, *_) in runs.items():
        hit = np.concatenate([d.hit[:, 0] for d in statistics.detections])
        known = np.repeat(statistics.calibrated, [len(d.sizes) for d in statistics.detections])
        found = by_size(sizes[known], hit[known], SIZE_EDGES)["sensitivity"]
        sensitivity[name] = [_json(found[k]) for k in there]
    return {
        "unit": "voxels",
        "classes": [names[k] for k in there],
        "lesions": [int(number[k]) for k in there],
        "sensitivity": sensitivity,
    }


def _thresholds(run: Run) -> dict[str, Any]:
    calibrated = np.asarray(run.calibrated, dtype=np.float64)
    return {
        "calibrated": list(dict.fromkeys(calibrated[np.isfinite(calibrated)].tolist())),
        "oracle": _json(run.oracle),
        "deployed": _json(run.deployed),
    }


def _score_histograms(statistics: MethodStatistics) -> dict[str, Any]:
    ill, result = statistics.column("diseased") > 0, {}
    for column, title in titles(statistics.slice_scores).items():
        values = statistics.column(column)
        if len(values) and np.isfinite(values).all():
            edges = _edges(values)
            result[title] = {
                "edges": edges.tolist(),
                "healthy": np.histogram(values[~ill], edges)[0].tolist(),
                "diseased": np.histogram(values[ill], edges)[0].tolist(),
            }
    return result


def _edges(values: np.ndarray, bins: int = 30) -> np.ndarray:
    """Edges of bins over the range of ``values``; where that is nothing but rounding, over 1 around them."""
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, bins + 1)


def _json(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
