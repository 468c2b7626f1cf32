"""The file that holds the threshold of the segmentation, and the settings that it belongs to.

``models/calibration.json`` holds ``threshold`` (in units of the smoothed anomaly map), ``false_positive_rate`` (share
of foreground pixels of healthy slices above it), the ``settings`` it belongs to, and how it was found
(:mod:`scripts.calibrate`). A threshold for other settings or weights is worth nothing, so a mismatch is an error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..describe import describe, differences
from ..files import file_hash
from ..methods import Method

INDEPENDENT = ("seed", "amp", "slices", "evidence", "anomaly_threshold")
"""Settings that a threshold does not depend on: it is found over many slices, whichever they are."""


def run_settings(weights: str, method: Method, **things: Any) -> dict[str, Any]:
    """Everything that results depend on, in JSON values: what each thing says of itself, the weights by their hash.

    Args:
        weights: file of weights.
        method: what restores.
        things: by name whatever else has a part in it: score, preprocessing, slice selection, post-processing, seed.

    Raises:
        FileNotFoundError: when there is no file of weights.
    """
    if not Path(weights).is_file():
        raise FileNotFoundError(f"weights: no file {weights!r}.")
    said = {"method": describe(method), "evidence": list(method.evidence), **describe(things)}
    return {**json.loads(json.dumps(said)), "weights": file_hash(weights)}


def calibrated(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a threshold depends on."""
    return {key: value for key, value in settings.items() if key not in INDEPENDENT}


def read_threshold(path: str, settings: Mapping[str, Any], anomaly_threshold: float | None = None) -> float:
    """The threshold to segment with: the one given, else the calibrated one.

    Args:
        path: calibration file.
        settings: of the run, as :func:`run_settings` returns them.
        anomaly_threshold: a threshold that needs no calibration, at least 0.

    Raises:
        FileNotFoundError: when neither is there.
        ValueError: when the file is broken or belongs to other settings; names them.
    """
    if anomaly_threshold is not None:
        return float(anomaly_threshold)
    advice = "give anomaly_threshold, or calibrate for these settings"
    if not Path(path).is_file():
        raise FileNotFoundError(f"calibration_file: no file {path!r}; {advice}.")
    try:
        calibration = json.loads(Path(path).read_text())
        threshold, there = float(calibration["threshold"]), dict(calibration["settings"])
        if not math.isfinite(threshold):
            raise ValueError(f"threshold is {threshold}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"calibration_file: {path!r} is broken ({error!r}); {advice}.") from error
    different = differences(there, calibrated(json.loads(json.dumps(dict(settings)))))
    if different:
        raise ValueError(f"calibration_file: {path!r} is for other settings ({different}); {advice}.")
    return threshold
