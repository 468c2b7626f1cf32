"""The run's curves as a table and a picture."""

from __future__ import annotations

import csv
import logging
from collections import defaultdict
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from matplotlib.figure import Figure

from ..files import atomic_path, writable_folder

logger = logging.getLogger(__name__)


class HistoryHandler:
    """Write ``history.csv``, a row an epoch: means of the training losses and the validation metrics.

    Of several processes the first writes, the means are those of all.
    After a resumed start the rows of epochs that are repeated are dropped. ``history.png`` shows the columns.

    Args:
        output_dir: folder of both files.
        evaluator: engine of the validation.
    """

    def __init__(self, output_dir: str, evaluator: Engine) -> None:
        self.folder, self.evaluator = Path(output_dir), evaluator
        self.rows: list[dict[str, Any]] = []
        self._sums: dict[str, Any] = defaultdict(float)
        self._iterations = 0
        self._started = False

    def attach(self, engine: Engine) -> None:
        """Register the handler; must come after the one that validates and before the one that writes
        checkpoints: a row of an epoch that is repeated is replaced, one that is missing would stay so."""
        writable_folder(self.folder)
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)

    def start(self, engine: Engine) -> None:
        """When the first epoch of this run starts, keep the rows of the epochs before it."""
        if self._started:
            return
        self._started = True
        path = self.folder / "history.csv"
        if engine.state.epoch > 1 and path.is_file():
            with path.open(newline="") as stream:
                # Kept as written, so that the file does not change where it is not new.
                rows = [{k: v for k, v in row.items() if v} for row in csv.DictReader(stream)]
            self.rows = [row for row in rows if int(row["epoch"]) < engine.state.epoch]

    def collect(self, engine: Engine) -> None:
        """Add the scalars of an iteration's output."""
        output: Any = engine.state.output
        output = output[0] if isinstance(output, list) else output
        for name, value in output.items():
            if isinstance(value, torch.Tensor) and value.numel() == 1:
                # Left on its device: to read it would make the host wait in every iteration.
                self._sums[str(name)] += value.detach().double().sum()
            elif isinstance(value, (int, float)):
                self._sums[str(name)] += value
        self._iterations += 1

    def write(self, engine: Engine) -> None:
        """Write the epoch's row and the picture."""
        means = {
            name: _mean_of_processes(float(total) / max(1, self._iterations)) for name, total in self._sums.items()
        }
        # Validation may run every few epochs only; its old results belong to the epoch they were made in.
        validated = self.evaluator.state.epoch == engine.state.epoch
        metrics = {f"val_{k}": float(v) for k, v in self.evaluator.state.metrics.items()} if validated else {}
        row = {"epoch": engine.state.epoch, "iteration": engine.state.iteration, **means, **metrics}
        self._sums.clear()
        self._iterations = 0
        if idist.get_rank() > 0:
            return
        self.rows.append(row)
        logger.info(", ".join(f"{k} {v:.5g}" for k, v in row.items()))
        columns = list(dict.fromkeys(k for r in self.rows for k in r))
        with atomic_path(self.folder / "history.csv") as path, path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, columns)
            writer.writeheader()
            writer.writerows(self.rows)
        self._draw(columns[2:])

    def _draw(self, columns: list[str]) -> None:
        figure = Figure(figsize=(4 * max(1, len(columns)), 3), layout="constrained")
        for axis, name in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
            points = [(int(row["epoch"]), float(row[name])) for row in self.rows if name in row]
            axis.plot(*zip(*points, strict=True), marker=".")
            axis.set(title=name, xlabel="epoch")
        with atomic_path(self.folder / "history.png") as path:
            figure.savefig(path, format="png", dpi=80)


def _mean_of_processes(value: float) -> float:
    reduced: Any = idist.all_reduce(value)
    return float(reduced / idist.get_world_size())
