"""Two passes over the subjects: scores first, then, with thresholds that follow from them, segmentations and lesions.

One subject at a time is in memory, with the maps of all methods; what stays is in :class:`MethodStatistics`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ..failures import SubjectFailures
from ..results.calibration import read_threshold
from .bins import Bins
from .pixel_metrics import best_dice
from .sources import MapSource, SubjectMaps
from .statistics import MethodStatistics, slice_quality
from .subjects import LabelledSubject, SubjectReader
from .thresholds import above, crossfitted, papers_rule, patient_folds, rate_thresholds

logger = logging.getLogger(__name__)

FROC_RATES = tuple(np.geomspace(1e-5, 0.2, 20).tolist())
"""Shares of lesion-free foreground pixels at which the free-response curve is computed."""


@dataclass(frozen=True)
class Protocol:
    """How maps are judged, the same for every method.

    Attributes:
        map_postprocessing: from ``pred``, a map (1, W, H, n), and ``image`` to the map that is cut by a threshold.
        segmentation_postprocessing: from ``pred``, a segmentation (1, W, H, n) of 0 and 1, to a cleaner one.
        min_lesion_voxels: components of fewer voxels are not counted as detections.
        false_positive_rate: wanted share of healthy foreground pixels above the calibrated threshold.
        seed: of everything drawn: folds, resamples, slices that are shown.
        resamples: of the bootstrap.
        paper_protocol: add the protocol of the paper's Table 1.
        bins: quantisation of scores.
    """

    map_postprocessing: Callable[[dict], dict]
    segmentation_postprocessing: Callable[[dict], dict] = dict
    min_lesion_voxels: int = 10
    false_positive_rate: float = 0.01
    seed: int = 0
    resamples: int = 1000
    paper_protocol: bool = True
    bins: Bins = Bins()  # noqa: RUF009

    def process(self, anomaly_map: np.ndarray, image: np.ndarray) -> np.ndarray:
        """The map (W, H, n) after smoothing and restriction to the foreground."""
        data = {"pred": torch.from_numpy(anomaly_map)[None], "image": torch.from_numpy(image)}
        return np.asarray(self.map_postprocessing(data)["pred"][0].numpy(), dtype=np.float32)

    def drop(self, segmentation: np.ndarray) -> np.ndarray:
        """A boolean segmentation (W, H, n) as it is cleaned after inference."""
        binary = torch.from_numpy(segmentation)[None].float()
        return np.asarray(self.segmentation_postprocessing({"pred": binary})["pred"][0].numpy() > 0)


@dataclass(eq=False)
class Run:
    """One method under one sampling seed.

    Attributes:
        source: where its maps come from.
        statistics: what is known of them.
        deployed: threshold of its own calibration file, NaN without one.
        calibrated: threshold of each subject, from healthy slices of other patients.
        oracle: best threshold of all.
        curve: thresholds of the free-response curve.
    """

    source: MapSource
    statistics: MethodStatistics
    deployed: float = float("nan")
    calibrated: np.ndarray | None = None
    oracle: float = float("nan")
    curve: np.ndarray | None = None


def deployed_threshold(source: MapSource, calibration_file: str | None) -> float:
    """Threshold that inference used; after a calibration's own inference, which uses none, the file's where it fits.

    NaN where maps come from another score than inference's own, or nobody set a threshold.
    """
    settings = source.settings
    if settings.get("score") != source.score:
        return float("nan")
    # Calibration itself runs inference with a threshold of 0.
    if settings.get("anomaly_threshold"):
        return float(settings["anomaly_threshold"])
    if calibration_file is not None:
        try:
            return read_threshold(calibration_file, settings)
        except (ValueError, FileNotFoundError) as error:
            logger.debug("no calibrated threshold: %s", error)
    return float("nan")


class Evaluator:
    """Judge several methods on the same slices of the same subjects.

    A subject that any method has no map of is left out for all, so that methods stay comparable, and noted.

    Args:
        datalist: subjects with labels.
        reader: reads them.
        methods: by name the sources of a method's maps, one for each sampling seed.
        protocol: how maps are judged.
        failures: where subjects that could not be judged are noted.
        progress: show progress bars.
        calibration_file: threshold of the methods that it was made for.

    Raises:
        ValueError: when there is no method.
    """

    def __init__(
        self,
        datalist: Sequence[Mapping[str, Any]],
        reader: SubjectReader,
        methods: Mapping[str, Sequence[MapSource]],
        protocol: Protocol,
        failures: SubjectFailures,
        progress: bool = True,
        calibration_file: str | None = None,
    ) -> None:
        if not methods:
            raise ValueError("there is no method to evaluate.")
        self.datalist, self.reader, self.protocol = list(datalist), reader, protocol
        self.failures, self.progress, self.calibration_file = failures, progress, calibration_file
        self.runs = {name: [self._run(source) for source in sources] for name, sources in methods.items()}
        self.subjects: list[Mapping[str, Any]] = []
        self.lesion_voxels: list[tuple[int, int]] = []

    def _run(self, source: MapSource) -> Run:
        return Run(source, MethodStatistics(self.protocol.bins), deployed_threshold(source, self.calibration_file))

    @property
    def patients(self) -> list[str]:
        """Patient of each subject that was judged."""
        return [str(item.get("patient", item["subject"])) for item in self.subjects]

    def evaluate(self) -> None:
        """Both passes.

        Raises:
            ValueError: when no subject could be judged.
        """
        for item in tqdm(self.datalist, desc="scores", unit="subject", leave=False, disable=not self.progress):
            self._guarded(item, self._first_pass)
        if not self.subjects:
            raise ValueError(f"none of {len(self.datalist)} subjects could be judged.")
        folds = patient_folds(self.patients, self.protocol.seed)
        for run in self.all_runs():
            self._find_thresholds(run, folds)
        subjects = tqdm(self.subjects, desc="segmentations", unit="subject", leave=False, disable=not self.progress)
        for index, item in enumerate(subjects):
            self._second_pass(index, self.reader(item))

    def all_runs(self) -> Iterator[Run]:
        """Every run of every method."""
        for runs in self.runs.values():
            yield from runs

    def _guarded(self, item: Mapping[str, Any], function: Callable[[LabelledSubject], None]) -> None:
        try:
            function(self.reader(item))
        except Exception as error:
            if not isinstance(error, (ValueError, OSError)):
                logger.exception("unexpected error")
            self.failures.add(str(item["subject"]), error)

    def maps(self, run: Run, subject: LabelledSubject) -> tuple[SubjectMaps, np.ndarray]:
        """What a run says of a subject, and its map as it is cut by thresholds.

        Raises:
            ValueError: when there is no map, or its values are not finite.
        """
        maps = run.source.read(subject)
        bad = np.count_nonzero(~np.isfinite(maps.anomaly_map))
        if bad:
            raise ValueError(f"subject {subject.name}: {bad} values of {run.source.score} are NaN or infinite.")
        return maps, self.protocol.process(maps.anomaly_map, subject.image)

    def _first_pass(self, subject: LabelledSubject) -> None:
        runs = list(self.all_runs())
        # All is read before any is added: a subject counts for all methods or for none.
        found = [self.maps(run, subject) for run in runs]
        # Scores of the same folder share its reconstructions.
        rebuilt = {id(maps.reconstruction): maps.reconstruction for maps, _ in found}
        qualities = {key: slice_quality(subject, reconstruction) for key, reconstruction in rebuilt.items()}
        for run, (maps, processed) in zip(runs, found, strict=True):
            run.statistics.add(subject, maps, processed, qualities[id(maps.reconstruction)])
        self.subjects.append(subject.item)
        self.lesion_voxels.append((int(subject.label.sum()), subject.lesion_voxels))

    def _find_thresholds(self, run: Run, folds: np.ndarray) -> None:
        bins, statistics = self.protocol.bins, run.statistics
        healthy = statistics.histogram("healthy_slices")
        run.calibrated = crossfitted(bins, healthy, folds, self.protocol.false_positive_rate)
        positive = statistics.histogram("lesion").sum(axis=0)
        negative = statistics.histogram("healthy_slices", "diseased_slices").sum(axis=0)
        index = int(best_dice(positive, negative)[1])
        run.oracle = above(bins, index) if index >= 0 else float("nan")
        run.curve = rate_thresholds(bins, negative, FROC_RATES)

    def rules(self, run: Run, index: int, maps: SubjectMaps) -> dict[str, np.ndarray]:
        """Thresholds of every rule for the slices of one subject, (n,) each."""
        count = maps.anomaly_map.shape[-1]
        assert run.calibrated is not None
        constant = {"calibrated": run.calibrated[index], "deployed": run.deployed, "oracle": run.oracle}
        # As float32, which is what inference compares: a value that equals the threshold does not exceed it.
        thresholds = {name: np.full(count, value, dtype=np.float32) for name, value in constant.items()}
        return {**thresholds, "paper": papers_rule(maps.anomaly_map)}

    def _second_pass(self, index: int, subject: LabelledSubject) -> None:
        for run in self.all_runs():
            maps, processed = self.maps(run, subject)
            statistics = run.statistics
            rules = self.rules(run, index, maps)
            for rule, thresholds in rules.items():
                statistics.add_overlaps(index, processed, subject.label, rule, thresholds, self.protocol.drop)
            assert run.calibrated is not None and run.curve is not None
            calibrated, minimum = float(run.calibrated[index]), self.protocol.min_lesion_voxels
            statistics.add_detections(processed, subject.label, calibrated, run.curve, minimum)
