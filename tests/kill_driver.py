"""Run a workflow that is killed with -9 at a chosen moment: ``-m kill_driver MOMENT JSON`` in the bundle's folder.

MOMENT is ``inside_epoch`` (after the fifth iteration), ``inside_checkpoint`` (when half of the second ``last.pt`` is
written) or ``inside_cell`` (when half of a search's fourth cell is written). JSON holds the arguments of
``monai.bundle.run``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch
from monai.bundle import run

from scripts.files import save_checkpoint
from scripts.handlers import history, training_checkpoint
from scripts.search import cells


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_inside_epoch() -> None:
    collect, calls = history.HistoryHandler.collect, []

    def counting(self, engine):
        collect(self, engine)
        calls.append(engine.state.iteration)
        if len(calls) == 5:
            die()

    history.HistoryHandler.collect = counting


def kill_inside_checkpoint() -> None:
    def half(state: object, path: Path) -> None:
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        die()

    def saving(path: Path, state: dict) -> None:
        fatal = Path(path).name == "last.pt" and state["epoch"] == 2
        save_checkpoint(path, state, *([half] if fatal else []))

    training_checkpoint.save_checkpoint = saving


def kill_inside_cell() -> None:
    save, calls = cells.np.savez_compressed, []

    def half(stream, **content):
        calls.append(1)
        save(stream, **content)
        if len(calls) == 4:
            stream.truncate(stream.tell() // 2)
            stream.flush()
            die()

    cells.np.savez_compressed = half


MOMENTS = {
    "inside_epoch": kill_inside_epoch,
    "inside_checkpoint": kill_inside_checkpoint,
    "inside_cell": kill_inside_cell,
}

if __name__ == "__main__":
    MOMENTS[sys.argv[1]]()
    run(**json.loads(sys.argv[2]))
