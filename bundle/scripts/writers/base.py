"""What all writers share: one folder a subject, scores and an overview picture."""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from matplotlib.figure import Figure
from monai.data import MetaTensor
from monai.engines import IterationEvents

from ..files import write_json
from ..methods import Method
from ..results import ResultFolder, write_rows
from ..results.cost import describe_cost
from ..results.overview import draw_overview

logger = logging.getLogger(__name__)

STORED = {"anomaly_map": "anomaly", "reconstruction": "reconstruction", "pred": "segmentation"}
"""Images of the engine's output that are stored, and what their files are called: S_anomaly and so on. A method's
evidence is stored under its own names."""


def slice_scores(output: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The method's scores by name, (D,); what has none loses its empty dictionary when a batch is taken apart."""
    return dict(output.get("slice_scores") or {})


class ResultWriter:
    """Ignite handler that writes a subject's results after postprocessing.

    Expects, for each item of the engine's output: ``image`` and ``reconstruction`` (c, ...), ``anomaly_map`` and
    ``pred`` (the segmentation) (1, ...) and the method's evidence (k, ...), all in the input's own space, and
    ``processed`` (D,) and ``slice_scores``, by name (D,), in canonical order. What an output lacks is not written.

    Args:
        results: the result folder; ``None`` for one that only reads.
        threshold: of the segmentation, for the picture's colours.
        channel: which image channel the picture shows.
        overview: draw the picture.
        method: whose evidence is stored and whose passes are noted; ``None`` where nothing is written.
    """

    def __init__(
        self,
        results: ResultFolder | None,
        threshold: float,
        channel: int = 0,
        overview: bool = True,
        method: Method | None = None,
    ) -> None:
        self._results, self.threshold, self.channel, self.overview = results, threshold, channel, overview
        self.evidence = () if method is None else method.evidence
        self.passes = 0 if method is None else method.passes

    def stored_images(self, output: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Keys of an output's images that are stored, each with its name."""
        names = {**STORED, **{name: name for name in self.evidence}}
        return [(key, name) for key, name in names.items() if key in output]

    @property
    def results(self) -> ResultFolder:
        """The result folder.

        Raises:
            ValueError: when there is none.
        """
        if self._results is None:
            raise ValueError("this writer has no result folder, it only reads.")
        return self._results

    def attach(self, engine: Engine) -> None:
        """Register the handler; must come after the one that restores."""
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def __call__(self, engine: Any) -> None:
        """Write every subject of the batch."""
        counts = [int(output["processed"].sum()) for output in engine.state.output]
        seconds = time.perf_counter() - engine.state.iteration_started
        for item, output, count in zip(engine.state.batch, engine.state.output, counts, strict=True):
            # The subjects of a batch share its network calls; what a slice costs is the same for all.
            share = seconds * count / max(sum(counts), 1)
            cost = describe_cost(engine.network, torch.device(engine.state.device), share, count, self.passes)
            self.write(item["subject"], output, cost)

    def finish(self, engine: Any) -> None:
        """Gather the scores of all subjects."""
        self.results.write_scores()

    def write(self, subject: str, output: Mapping[str, Any], cost: Mapping[str, Any] | None = None) -> None:
        """Write one subject: images, scores, picture and what it cost."""
        with self.results.writing(subject) as folder:
            self.write_images(folder, subject, output)
            rows = self.scores(subject, output)
            if not rows:
                logger.warning("%s: no slice fits slice_range and min_foreground, the map is 0", subject)
            write_rows(folder / f"{subject}_scores.csv", rows)
            write_json(folder / f"{subject}_cost.json", dict(cost or {}))
            if self.overview:
                self._draw(subject, output).savefig(folder / f"{subject}_overview.png", dpi=100)
        logger.info("wrote %s", self.results.subject_folder(subject))

    def _draw(self, subject: str, output: Mapping[str, Any]) -> Figure:
        planes = {k: self.planes(output[k]) for k in ("image", "reconstruction", "anomaly_map", "pred")}
        processed = output["processed"].cpu().numpy()
        scores = {name: values.cpu().numpy() for name, values in slice_scores(output).items()}
        numbers = [self.slice_number(i, output["image"]) for i in range(len(processed))]
        return draw_overview(subject, planes, processed, numbers, self.threshold, self.channel, scores=scores)

    @abstractmethod
    def write_images(self, folder: Path, subject: str, output: Mapping[str, MetaTensor]) -> None:
        """Write map, reconstruction and segmentation in the input's own layout."""

    @abstractmethod
    def planes(self, image: MetaTensor) -> np.ndarray:
        """``image``, in the input's own space, as (c, W, H, D) float32 in the canonical orientation."""

    @abstractmethod
    def read_file(self, path: Path) -> np.ndarray:
        """An image stored as this writer does, by whomever, as :meth:`planes` gives it."""

    def read_planes(self, subject: str, name: str) -> np.ndarray:
        """A stored image of a finished subject, ``anomaly`` or another, as :meth:`planes` gives it."""
        return self.read_file(self.stored(subject, name))

    def space(self, affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """From the voxels of :meth:`planes` to space, (4, 4), of a file with this affine and shape (W, H, D).

        The unit matrix where files have no place in space.
        """
        return np.eye(4)

    def stored(self, subject: str, name: str) -> Path:
        """Path of a finished subject's NIfTI file.

        Raises:
            ValueError: when there is none.
        """
        path = self.results.subject_folder(subject) / f"{subject}_{name}.nii.gz"
        if not path.is_file():
            raise ValueError(f"subject {subject}: no finished result {str(path)!r}.")
        return path

    def scores(self, subject: str, output: Mapping[str, Any]) -> list[dict[str, Any]]:
        """A row for each slice that was processed."""
        anomaly_map, scores = self.planes(output["anomaly_map"])[0], slice_scores(output)
        rows = []
        for index in np.flatnonzero(output["processed"].cpu().numpy()):
            plane = anomaly_map[..., index]
            rows.append(
                {
                    "subject": subject,
                    "slice": self.slice_number(int(index), output["image"]),
                    **{name: f"{values[index]:.6g}" for name, values in scores.items()},
                    "map_mean": f"{plane.mean(dtype=np.float64):.6g}",
                    "map_max": f"{plane.max():.6g}",
                }
            )
        return sorted(rows, key=lambda row: row["slice"])

    def slice_number(self, index: int, image: MetaTensor) -> int:
        """Index, in the input's own file, of the slice with canonical ``index``."""
        return index
