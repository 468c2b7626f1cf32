"""A folder of results that all come from the same settings, finished subject by finished subject."""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..describe import differences
from ..files import atomic_path, remove_stale_partials, writable_folder, write_json

logger = logging.getLogger(__name__)

FIRST_COLUMNS, LAST_COLUMNS = ("subject", "slice"), ("map_mean", "map_max")
"""Columns of ``scores.csv`` that every method has; those of its slice scores stand between."""


class ResultFolder:
    """``output_dir`` of an inference: a folder a subject, ``scores.csv`` and the ``settings.json`` of it all.

    A subject's folder appears when everything in it is written, so what is there is finished.

    Args:
        output_dir: the folder.
        settings: everything that results depend on; JSON values.

    Raises:
        OSError: when the folder cannot be written.
        ValueError: when it holds results of other settings.
    """

    def __init__(self, output_dir: str, settings: Mapping[str, Any]) -> None:
        self.folder = writable_folder(output_dir)
        remove_stale_partials(self.folder)
        self.sources: dict[str, list] = {}
        self.settings = json.loads(json.dumps(dict(settings)))
        path = self.folder / "settings.json"
        if path.is_file():
            self._refuse_others(json.loads(path.read_text()))
        else:
            write_json(path, self.settings)

    def _refuse_others(self, there: dict[str, Any]) -> None:
        different = differences(there, self.settings)
        if different:
            raise ValueError(
                f"output_dir {str(self.folder)!r} holds results of other settings ({different}). "
                "Choose another output_dir, or empty it."
            )

    def _refuse_other_source(self, subject: str) -> None:
        path, here = self.subject_folder(subject) / f"{subject}_source.json", self.sources[subject]
        there = json.loads(path.read_text()) if path.is_file() else here
        if there not in (None, here):
            raise ValueError(
                f"output_dir {str(self.folder)!r} holds results of another {subject!r}, made from {there}, here it is "
                f"{here} (names and sizes of files). Choose another output_dir."
            )

    def subject_folder(self, subject: str) -> Path:
        """Where the finished results of ``subject`` are."""
        return self.folder / subject

    def is_finished(self, subject: str) -> bool:
        """Whether there are results of ``subject``; a folder of that name alone does not make them."""
        return (self.subject_folder(subject) / f"{subject}_scores.csv").is_file()

    def unfinished(self, datalist: Sequence[dict]) -> list[dict]:
        """The items of a data list whose subjects have no finished results.

        Raises:
            ValueError: when a finished subject's results come from other files than the item's.
        """
        self.sources = {item["subject"]: source_of(item) for item in datalist}
        for item in datalist:
            self._refuse_other_source(item["subject"])
        items = [item for item in datalist if not self.is_finished(item["subject"])]
        if len(items) < len(datalist):
            logger.info("%d of %d subjects are finished already", len(datalist) - len(items), len(datalist))
        return items

    @contextmanager
    def writing(self, subject: str) -> Iterator[Path]:
        """A folder to write one subject's files in; it becomes the subject's when the block ends well."""
        temporary = self.folder / f".{subject}.{os.getpid()}.partial"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
            write_json(temporary / f"{subject}_source.json", self.sources.get(subject))
            target = self.subject_folder(subject)
            if target.exists() and not self.is_finished(subject):
                raise OSError(f"output_dir: {str(target)!r} exists and holds no results of this bundle.")
            shutil.rmtree(target, ignore_errors=True)
            os.replace(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def write_scores(self) -> Path:
        """Gather the scores of all finished subjects, a row a slice, in ``scores.csv``."""
        rows: list[dict[str, str]] = []
        for path in sorted(self.folder.glob("*/*_scores.csv")):
            # What an interrupted run left behind starts with a dot, which pathlib's * matches.
            rows += [] if path.parent.name.startswith(".") else read_rows(path)
        target = self.folder / "scores.csv"
        with atomic_path(target) as temporary:
            write_rows(temporary, rows)
        logger.info("scores of all finished subjects: %s", target)
        return target


def source_of(item: Mapping[str, Any]) -> list:
    """Names and sizes of an item's image files: enough to tell two subjects of the same name apart."""
    files = item.get("image", [])
    paths = [Path(p) for p in ([files] if isinstance(files, str) else files)]
    return [[path.name, path.stat().st_size] for path in paths if path.is_file()]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV: subject and slice, the method's own scores as they come, then those of the map."""
    own = [key for row in rows for key in row if key not in (*FIRST_COLUMNS, *LAST_COLUMNS)]
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [*FIRST_COLUMNS, *dict.fromkeys(own), *LAST_COLUMNS], restval="")
        writer.writeheader()
        writer.writerows(rows)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read what :func:`write_rows` wrote."""
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))
