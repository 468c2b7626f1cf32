"""Find the threshold of the segmentation on healthy slices alone, and check it on other patients.

The label serves to pick healthy slices, nothing else. Two kinds of rates are known: of pixels, the share of the
foreground of healthy slices whose smoothed map exceeds the threshold; and of images, the share of healthy slices in
which anything is left after small components are dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from .evaluation import Protocol, SubjectReader
from .evaluation.bins import Bins
from .evaluation.bootstrap import interval
from .evaluation.sources import MapSource
from .evaluation.table.compute import subject_weights
from .evaluation.thresholds import patient_folds, threshold_for_rate
from .files import write_json
from .results.calibration import calibrated

logger = logging.getLogger(__name__)

BINS = Bins(mantissa_bits=12)
"""Fine enough that a threshold is off by less than 0.03 %."""


@dataclass(eq=False)
class HealthySide:
    """What is kept of the healthy slices; one entry a subject.

    Attributes:
        patients: names.
        counts: (subjects, bins) foreground pixels by their value in the smoothed map.
        alarms: for each subject the lowest thresholds that leave its slices without alarm, (slices of it,).
    """

    patients: list[str]
    counts: np.ndarray
    alarms: list[np.ndarray]

    def subset(self, chosen: np.ndarray) -> HealthySide:
        """Some of the subjects, by a boolean for each."""
        pick = np.flatnonzero(chosen)
        return HealthySide([self.patients[i] for i in pick], self.counts[pick], [self.alarms[i] for i in pick])

    def pixel_threshold(self, rate: float, weights: np.ndarray | None = None) -> float:
        """Lowest threshold that at most ``rate`` of the pixels exceed."""
        counts = self.counts.sum(axis=0) if weights is None else weights @ self.counts
        return threshold_for_rate(BINS, counts, rate)

    def image_threshold(self, rate: float, weights: np.ndarray | None = None) -> float:
        """Lowest threshold at which at most ``rate`` of the slices raise an alarm."""
        repeats = np.ones(len(self.alarms), dtype=int) if weights is None else weights.astype(int)
        levels = np.sort(np.concatenate([np.repeat(a, n) for a, n in zip(self.alarms, repeats, strict=True)]))
        if not len(levels):
            return float("nan")
        allowed = int(rate * len(levels) + 1e-9)
        return float(levels[len(levels) - 1 - allowed]) if allowed < len(levels) else 0.0

    def pixel_rate(self, threshold: float, weights: np.ndarray | None = None) -> float:
        """Share of the pixels above ``threshold``; NaN without any."""
        counts = self.counts.sum(axis=0) if weights is None else weights @ self.counts
        total = counts.sum()
        return float(counts[BINS.lower > threshold].sum() / total) if total else float("nan")

    def image_rate(self, threshold: float, weights: np.ndarray | None = None) -> float:
        """Share of the slices with an alarm at ``threshold``; NaN without any."""
        repeats = np.ones(len(self.alarms)) if weights is None else weights
        above = sum(n * np.count_nonzero(a > threshold) for a, n in zip(self.alarms, repeats, strict=True))
        total = sum(n * len(a) for a, n in zip(self.alarms, repeats, strict=True))
        return float(above / total) if total else float("nan")


KINDS: dict[str, tuple[Callable, Callable]] = {
    "pixels": (HealthySide.pixel_threshold, HealthySide.pixel_rate),
    "images": (HealthySide.image_threshold, HealthySide.image_rate),
}


class Calibration:
    """Calibrate a method on the stored maps of subjects with labels.

    Args:
        datalist: the subjects; pictures known to be ill are passed over.
        reader: reads them.
        source: their maps.
        protocol: smoothing, restriction and components, as in inference.
        output_file: where the calibration is written.
        false_positive_rate: wanted share, in (0, 1), of healthy foreground pixels above the threshold, or of healthy
            slices with an alarm.
        kind: ``pixels`` or ``images``, what the rate counts.
        rates: further rates that are reported, with the rates realised on other patients.
        data: what the subjects are, in words, for the file.
        progress: show a progress bar.

    Raises:
        ValueError: when a rate or the kind is outside its range.
    """

    def __init__(
        self,
        datalist: Sequence[Mapping[str, Any]],
        reader: SubjectReader,
        source: MapSource,
        protocol: Protocol,
        output_file: str,
        false_positive_rate: float = 0.01,
        kind: str = "pixels",
        rates: Sequence[float] = (0.005, 0.01, 0.05),
        data: str = "",
        progress: bool = True,
    ) -> None:
        for rate in (false_positive_rate, *rates):
            if not 0 < rate < 1:
                raise ValueError(f"false_positive_rate and rates must lie in (0, 1), got {rate}.")
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {sorted(KINDS)}, got {kind!r}.")
        self.datalist = [item for item in datalist if item.get("healthy") is not False]
        self.reader, self.source, self.protocol, self.output_file = reader, source, protocol, output_file
        self.false_positive_rate, self.kind, self.rates = false_positive_rate, kind, list(rates)
        self.data, self.progress = data, progress

    def run(self) -> dict[str, Any]:
        """Read the maps, find the threshold, check it, write the file; returns its content.

        Raises:
            ValueError: when a subject has no results or label, or no slice is healthy.
        """
        side = self.healthy_side()
        pixels = int(side.counts.sum())
        if not pixels:
            raise ValueError(f"no healthy slice among the {len(self.datalist)} subjects to calibrate on.")
        find, measure = KINDS[self.kind]
        threshold = find(side, self.false_positive_rate)
        calibration = {
            "threshold": threshold,
            "threshold_interval": self._interval(side, lambda w: find(side, self.false_positive_rate, w)),
            "false_positive_rate": self.false_positive_rate,
            "rate_of": self.kind,
            "realised_rate": measure(side, threshold),
            "settings": calibrated({**self.source.settings, "score": self.source.score}),
            "data": self.data,
            "subjects": len(side.patients),
            "healthy_slices": sum(len(a) for a in side.alarms),
            "foreground_pixels": pixels,
            "other_patients": [check for kind in KINDS for check in self.cross_check(side, kind)],
        }
        write_json(self.output_file, calibration)
        logger.info(
            "threshold %.6g for %g of healthy %s: %s", threshold, self.false_positive_rate, self.kind, self.output_file
        )
        for check in calibration["other_patients"]:
            logger.info("%(rate_of)s: wanted %(wanted)g, realised on other patients %(realised)s", check)
        return calibration

    def healthy_side(self) -> HealthySide:
        """Read the healthy slices of all subjects."""
        patients, counts, alarms = [], [], []
        for item in tqdm(self.datalist, desc="calibrating", unit="subject", leave=False, disable=not self.progress):
            subject = self.reader(item)
            healthy = np.flatnonzero(~subject.diseased)
            anomaly_map = self.source.read(subject).anomaly_map
            processed = self.protocol.process(anomaly_map, subject.image)[..., healthy]
            patients.append(subject.patient)
            counts.append(BINS.histogram(processed[subject.foreground[..., healthy]]))
            alarms.append(np.array([self.alarm_level(processed[..., k]) for k in range(len(healthy))]))
        return HealthySide(patients, np.stack(counts) if counts else np.zeros((0, BINS.count), dtype=np.int64), alarms)

    def alarm_level(self, plane: np.ndarray) -> float:
        """Lowest threshold that leaves nothing of a slice's map (W, H) after small components are dropped.

        What is above a threshold only shrinks as it rises, so halving finds the level among the map's own values.
        """
        values = np.unique(plane)
        low, high = -1, len(values) - 1
        # Nothing lies above the highest value; find the first one above which nothing is left.
        while high - low > 1:
            middle = (low + high) // 2
            if self.protocol.drop((plane > values[middle])[..., None]).any():
                low = middle
            else:
                high = middle
        return float(values[high])

    def cross_check(self, side: HealthySide, kind: str) -> list[dict[str, Any]]:
        """For every rate: the threshold from one half of the patients, the rate on the other half, both ways round."""
        find, measure = KINDS[kind]
        folds = patient_folds(side.patients, self.protocol.seed) if side.patients else np.zeros(0, dtype=int)
        if len(set(side.patients)) < 2:
            return []
        checks = []
        for rate in sorted({*self.rates, self.false_positive_rate}):
            halves = [self._half(side.subset(folds != f), side.subset(folds == f), find, measure, rate) for f in (0, 1)]
            realised = " and ".join(_percent(half["realised"]) for half in halves)
            checks.append({"rate_of": kind, "wanted": rate, "realised": realised, "halves": halves})
        return checks

    def _half(
        self, found_on: HealthySide, checked_on: HealthySide, find: Callable, measure: Callable, rate: float
    ) -> dict[str, Any]:
        threshold = find(found_on, rate)
        realised = measure(checked_on, threshold)
        return {
            "patients": len(set(found_on.patients)),
            "threshold": _json(threshold),
            "other_patients": len(set(checked_on.patients)),
            "realised": _json(realised),
            "realised_interval": self._interval(checked_on, lambda w: measure(checked_on, threshold, w)),
        }

    def _interval(self, side: HealthySide, function: Callable[[np.ndarray], float]) -> list[float | None]:
        """95 % interval by resampling of patients; [None, None] for fewer than 2."""
        if len(set(side.patients)) < 2:
            return [None, None]
        weights = subject_weights(side.patients, self.protocol.resamples, self.protocol.seed)
        low, high = interval(np.array([function(row) for row in weights]))
        return [_json(low), _json(high)]


def _json(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _percent(value: float | None) -> str:
    return "not defined" if value is None else f"{100 * value:.2f} %"
