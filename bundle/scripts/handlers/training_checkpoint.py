"""Checkpoints that a stop at any moment leaves whole, and exact resuming from them."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events

from ..describe import differences
from ..files import load_checkpoint, remove_stale_partials, save_checkpoint, writable_folder

logger = logging.getLogger(__name__)


class TrainingCheckpoint:
    """Write ``last.pt`` after every epoch and ``best.pt`` when validation improved; resume from ``last.pt``.

    ``last.pt`` holds the state of every object, the epoch and the best metric; ``best.pt`` the weights alone.
    Both are replaced atomically, so a killed run leaves the one before. Everything random in an epoch follows from
    (seed, epoch), see :class:`~scripts.handlers.EpochSeed`; so the states below are all that resuming needs. Of several
    processes the first writes, and all read.

    Args:
        save_dir: folder of both files.
        objects: name to anything with ``state_dict`` and ``load_state_dict``.
        weights: the module whose weights go to ``best.pt``, such as the moving average.
        evaluator: engine of the validation; its key metric decides what is best.
        resume: go on from ``last.pt`` when it exists.
        settings: what a run must share with the one it resumes; plain values.
    """

    def __init__(
        self,
        save_dir: str,
        objects: Mapping[str, Any],
        weights: Any,
        evaluator: Engine,
        resume: bool = True,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings = dict(settings or {})
        self.folder = Path(save_dir)
        self.objects, self.weights, self.resume = dict(objects), weights, resume
        self.evaluator: Any = evaluator

    def attach(self, engine: Engine) -> None:
        """Register the handler; must come after the one that validates."""
        remove_stale_partials(writable_folder(self.folder))
        engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def load(self, engine: Engine) -> None:
        """Restore the states of the last complete epoch.

        Raises:
            ValueError: when the checkpoint holds other objects than this run, or comes from other settings.
        """
        path = self.folder / "last.pt"
        if not (self.resume and path.is_file()):
            return
        checkpoint = load_checkpoint(path, "checkpoint")
        held = sorted(checkpoint.get("objects", {}))
        if held != sorted(self.objects):
            raise ValueError(f"checkpoint {str(path)!r} holds {held}, wanted {sorted(self.objects)}.")
        there = checkpoint.get("settings", {})
        different = differences(there, self.settings)
        if different:
            raise ValueError(
                f"checkpoint {str(path)!r} comes from other settings ({different}). "
                "Choose another output_dir, or start anew with resume False."
            )
        for name, item in self.objects.items():
            item.load_state_dict(checkpoint["objects"][name])
            if isinstance(item, torch.optim.Optimizer):
                _lay_out_like_parameters(item)
        engine.state.epoch, engine.state.iteration = checkpoint["epoch"], checkpoint["iteration"]
        self.evaluator.state.best_metric = checkpoint["best_metric"]
        self.evaluator.state.best_metric_epoch = checkpoint["best_metric_epoch"]
        logger.info("resumed after epoch %d from %s", checkpoint["epoch"], path)

    def save(self, engine: Engine) -> None:
        """Write ``best.pt``, when this epoch was the best, and ``last.pt``."""
        if idist.get_rank() > 0:
            return
        best = self.evaluator.state
        if best.best_metric_epoch == engine.state.epoch:
            save_checkpoint(self.folder / "best.pt", self.weights.state_dict())
        state = {
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "best_metric": float(best.best_metric),
            "best_metric_epoch": int(best.best_metric_epoch),
            "settings": self.settings,
            "objects": {name: item.state_dict() for name, item in self.objects.items()},
        }
        save_checkpoint(self.folder / "last.pt", state)
        logger.info("epoch %d saved in %s", engine.state.epoch, os.fspath(self.folder))

    def finish(self, engine: Engine) -> None:
        """Make sure that there is a ``best.pt``: the last weights, when no validation ever ran."""
        if idist.get_rank() == 0 and not (self.folder / "best.pt").is_file():
            logger.warning("no validation ran in %d epoch(s): best.pt holds the last weights", engine.state.epoch)
            save_checkpoint(self.folder / "best.pt", self.weights.state_dict())


def _lay_out_like_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Give the optimizer's moments the strides of their parameters.

    Loaded moments keep the memory format that they were saved in. Where the parameters have another one now, a fused
    optimizer walks through both as they lie in memory and applies them to the wrong weights.
    """
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape and value.ndim:
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
