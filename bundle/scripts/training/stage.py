"""A stage of a training: which part of the network is taught what, and how it is judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ignite.metrics import Metric
from torch import nn

from ..describe import describe
from ..files import file_hash
from ..methods import Task


@dataclass(frozen=True, eq=False)
class Stage:
    """What a part of the network is taught.

    Attributes:
        task: from clean slices to inputs and targets.
        loss: of the network's output and the target.
        metrics: of the validation; the first decides which weights are best.
        lower_is_better: for the first metric.
        slices: ``healthy``, or ``all`` with their class.
    """

    task: Task
    loss: nn.Module
    metrics: Mapping[str, Metric]
    lower_is_better: bool = True
    slices: str = "healthy"

    def better(self, current: float, best: float) -> bool:
        """Whether a value of the first metric is better than the best so far."""
        return current < best if self.lower_is_better else current > best


def choose_stage(stages: Mapping[str, Stage], part: str) -> Stage:
    """The stage that trains ``part``.

    Raises:
        ValueError: when there is none; names the parts that there are stages for.
    """
    if part not in stages:
        raise ValueError(f"part: nothing trains {part!r} here, wanted one of {', '.join(stages) or 'none'}.")
    return stages[part]


def training_settings(
    stage: Stage | None = None, files: Mapping[str, str | None] | None = None, **things: Any
) -> dict[str, Any]:
    """What a training depends on, in JSON values: a run that resumes it must share them.

    Args:
        stage: of the training.
        files: by name weights that it starts from or needs; told by their hash, ``None`` for none.
        things: by name whatever else it depends on.

    Raises:
        FileNotFoundError: naming a file that is not there.
    """
    for name, path in (files or {}).items():
        if path is not None and not Path(path).is_file():
            raise FileNotFoundError(f"{name}: no file {path!r}.")
    hashes = {name: None if path is None else file_hash(path) for name, path in (files or {}).items()}
    said = {} if stage is None else {"task": describe(stage.task), "loss": describe(stage.loss)}
    return {**said, **hashes, **describe(things)}
