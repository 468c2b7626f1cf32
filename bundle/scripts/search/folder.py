"""The folder of a search: its settings, the subjects it looked at, and a cell a subject and setting."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..describe import differences
from ..evaluation.bins import Bins
from ..files import remove_stale_partials, writable_folder, write_json
from ..methods import Method
from ..results import source_of
from .cells import Cell, load_cell, save_cell
from .draw import patient_of
from .grid import Setting

logger = logging.getLogger(__name__)


def describe_search(settings: Mapping[str, Any], method: Method, axes: Sequence[str]) -> dict[str, Any]:
    """Settings that cells depend on, beside those that are searched, in JSON values.

    Args:
        settings: of the inference, as :func:`scripts.results.run_settings` gives them.
        method: of the inference; its fields are told as they are given, since what a method makes of one may depend on
            another that is searched.
        axes: fields of the method that are searched.
    """
    # Cells hold processed maps, no segmentations.
    kept = {key: value for key, value in settings.items() if key != "segmentation_postprocessing"}
    return {**kept, "method": {key: value for key, value in Method.describe(method).items() if key not in axes}}


class SearchFolder:
    """``search_dir``: cells that all come from the same weights and settings, finished cell by finished cell.

    A cell's file appears when it is whole, so what is there is finished.

    Args:
        search_dir: the folder.
        settings: everything that cells depend on but the setting and the subject; JSON values.

    Raises:
        OSError: when the folder cannot be written.
        ValueError: when it holds cells of other settings, or its ``settings.json`` is broken.
    """

    def __init__(self, search_dir: str, settings: Mapping[str, Any]) -> None:
        self.folder = writable_folder(search_dir, "search_dir")
        remove_stale_partials(self.folder)
        self.settings = json.loads(json.dumps(dict(settings)))
        path = self.folder / "settings.json"
        if path.is_file():
            self._refuse_others(_read_json(path))
        else:
            write_json(path, self.settings)

    def _refuse_others(self, there: dict[str, Any]) -> None:
        different = differences(there, self.settings)
        if different:
            raise self._refusal(f"holds a search under other settings ({different})")

    def _refusal(self, reason: str) -> ValueError:
        message = f"search_dir {str(self.folder)!r} {reason}. Choose another search_dir, or empty it."
        # Logged too, since MONAI's parser wraps the error in less telling ones.
        logger.error(message)
        return ValueError(message)

    def write_subjects(self, items: Sequence[Mapping[str, Any]], seed: int) -> None:
        """Note which subjects are searched on, and with them the files that their cells come from.

        Raises:
            ValueError: when there are cells of a subject of the same name, but of other files.
        """
        for item in items:
            self._refuse_other_source(item)
        for item in items:
            write_json(self._subject_folder(str(item["subject"]), create=True) / "source.json", _source(item))
        content = {
            "seed": seed,
            "subjects": [str(item["subject"]) for item in items],
            "patients": sorted({patient_of(item) for item in items}),
        }
        write_json(self.folder / "subjects.json", content)

    def _refuse_other_source(self, item: Mapping[str, Any]) -> None:
        path, here = self._subject_folder(str(item["subject"])) / "source.json", _source(item)
        there = _read_json(path) if path.is_file() else here
        if there != here:
            reason = f"holds cells of another {item['subject']!r}, made from {there}, here it is {here}"
            raise self._refusal(f"{reason} (names and sizes of files)")

    def cell(self, subject: str, setting: Setting, bins: Bins) -> Cell | None:
        """The cell of a subject and setting; ``None`` when it is not finished."""
        return load_cell(self._cell_path(subject, setting), bins)

    def save(self, subject: str, setting: Setting, cell: Cell) -> None:
        """Store a finished cell."""
        save_cell(self._cell_path(subject, setting), cell)

    def _cell_path(self, subject: str, setting: Setting) -> Path:
        return self._subject_folder(subject) / f"{setting.name}.npz"

    def _subject_folder(self, subject: str, create: bool = False) -> Path:
        folder = self.folder / "cells" / subject
        if create:
            folder.mkdir(parents=True, exist_ok=True)
            remove_stale_partials(folder)
        return folder


def _source(item: Mapping[str, Any]) -> list:
    """Names and sizes of an item's files, the label's too."""
    images = item.get("image", [])
    files = [images] if isinstance(images, str) else list(images)
    return source_of({"image": files + ([item["label"]] if "label" in item else [])})


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is broken: {error}.") from error
