"""The file that holds the threshold of the segmentation, and the settings that it belongs to.

``models/calibration.json`` holds ``threshold`` (in units of the smoothed anomaly map), ``false_positive_rate`` (share
of foreground pixels of healthy slices above it), the settings it belongs to, and how it was found
(:mod:`scripts.calibrate`). A threshold for other settings or weights is worth nothing, so a mismatch is an error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import file_hash
from ..schedulers import BernoulliScheduler

CALIBRATED = (
    "method",
    "sequences",
    "image_size",
    "upper_percentile",
    "noise_process",
    "noise_level",
    "probability_threshold",
    "num_inference_steps",
    "score",
    "post_processing",
    "weights",
)
"""Settings that a threshold depends on."""


def describe_method(
    weights: str, scheduler: BernoulliScheduler, noise_level: int, num_inference_steps: int | None, **settings: Any
) -> dict[str, Any]:
    """Settings that results depend on, in JSON values: the weights by their file's hash, the noise by its end.

    Raises:
        FileNotFoundError: when there is no file of weights.
    """
    if not Path(weights).is_file():
        raise FileNotFoundError(f"weights: no file {weights!r}.")
    noise_level = int(noise_level)
    steps = noise_level if num_inference_steps is None else int(num_inference_steps)
    noise_process = {
        "scheduler": type(scheduler).__name__,
        "num_train_timesteps": scheduler.num_train_timesteps,
        "alphas_cumprod": [float(f"{scheduler.alphas_cumprod[i]:.5g}") for i in (0, noise_level - 1, -1)],
    }
    return {
        **settings,
        "noise_process": noise_process,
        "noise_level": noise_level,
        "num_inference_steps": steps,
        "weights": file_hash(weights),
    }


def read_threshold(path: str, settings: Mapping[str, Any], anomaly_threshold: float | None = None) -> float:
    """The threshold to segment with: the one given, else the calibrated one.

    Args:
        path: calibration file.
        settings: of the run, as :func:`describe_method` returns them.
        anomaly_threshold: a threshold that needs no calibration.

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
        threshold = float(calibration["threshold"])
        if not math.isfinite(threshold):
            raise ValueError(f"threshold is {threshold}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"calibration_file: {path!r} is broken ({error!r}); {advice}.") from error
    wanted = json.loads(json.dumps(dict(settings)))
    wrong = [k for k in CALIBRATED if calibration.get(k) != wanted.get(k)]
    if wrong:
        different = "; ".join(f"{k} is {calibration.get(k)!r} there, {wanted.get(k)!r} here" for k in wrong)
        raise ValueError(f"calibration_file: {path!r} is for other settings ({different}); {advice}.")
    return threshold
