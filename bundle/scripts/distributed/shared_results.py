"""One folder of results that several processes write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..results import ResultFolder
from .process_group import ProcessGroup


class SharedResultFolder(ResultFolder):
    """``ResultFolder`` of several processes, each with patients of its own.

    Args:
        output_dir: the folder.
        settings: everything that results depend on; JSON values.
        group: the processes.

    Raises:
        OSError: when the folder cannot be written.
        ValueError: when it holds results of other settings.
    """

    def __init__(self, output_dir: str, settings: Mapping[str, Any], group: ProcessGroup) -> None:
        self.group = group
        # The main process writes the settings, the others find them there.
        if not group.is_main:
            group.wait()
        super().__init__(output_dir, settings)
        if group.is_main:
            group.wait()

    def unfinished(self, datalist: Sequence[dict]) -> list[dict]:
        """This process's share of the items whose subjects have no finished results; to be called by all.

        Raises:
            ValueError: when a finished subject's results come from other files than the item's.
        """
        found = [item["subject"] for item in super().unfinished(datalist)]
        # One view for all: others may have begun to finish subjects.
        wanted = set(self.group.of_main(found))
        return deal([item for item in datalist if item["subject"] in wanted], self.group.rank, self.group.size)

    def write_scores(self) -> Path:
        """Nothing yet: other processes are still at work. See :meth:`gather`."""
        return self.folder / "scores.csv"

    def gather(self) -> None:
        """When all processes are done, write ``scores.csv``; to be called by all."""
        self.group.wait()
        if self.group.is_main:
            super().write_scores()


def deal(items: Sequence[dict], rank: int, size: int) -> list[dict]:
    """One process's share of a data list, in its order: a patient's subjects stay together.

    Each patient goes to the process with the fewest subjects so far. Together the shares are the list.
    """
    counts = Counter(_patient(item) for item in items)
    loads, owner = [0] * size, {}
    for patient, count in counts.items():
        owner[patient] = loads.index(min(loads))
        loads[owner[patient]] += count
    return [item for item in items if owner[_patient(item)] == rank]


def _patient(item: Mapping[str, Any]) -> str:
    return str(item.get("patient", item["subject"]))
