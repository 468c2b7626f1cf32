"""The search itself: cells that are missing, then tables and figures of all of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from ..evaluation import Protocol, SubjectReader
from ..evaluation.outputs import write_table
from ..failures import SubjectFailures
from ..files import write_json
from .cells import make_cell, merge_cells
from .figures import heat_maps, save_figure, score_boxes
from .folder import SearchFolder
from .grid import Grid, Setting
from .maps import SettingRunner
from .tables import Row, SettingSummary, best_setting, metric_columns, metric_names, summarise_setting
from .tables import without_nan as cleaned
from .winner import count_text, winner_record

logger = logging.getLogger(__name__)


class Search:
    """Try every setting on every subject and write what is best.

    Subjects are the outer loop: each is read and encoded once for all settings that it still lacks. What is finished
    is kept cell by cell, so that a run that was killed loses at most one.

    Args:
        grid: the settings.
        items: subjects to search on, as :func:`scripts.search.draw_subjects` returns them.
        reader: reads subjects with their labels.
        runner: encodes and restores them.
        protocol: how maps are processed; its ``false_positive_rate`` is that of the threshold found on healthy slices.
        folder: where everything is kept.
        failures: where subjects that could not be searched on are noted.
        seed: with which subjects were drawn, for the record.
        metric: what the best setting is chosen by, one of :func:`scripts.search.tables.metric_names`.
        progress: show progress bars.

    Raises:
        ValueError: when there is no such metric.
    """

    def __init__(
        self,
        grid: Grid,
        items: Sequence[Mapping[str, Any]],
        reader: SubjectReader,
        runner: SettingRunner,
        protocol: Protocol,
        folder: SearchFolder,
        failures: SubjectFailures,
        seed: int = 0,
        metric: str = "average_precision",
        progress: bool = True,
    ) -> None:
        known = metric_names(runner.inferer.method.slice_scores)
        if metric not in known:
            raise ValueError(f"search_metric must be one of {', '.join(known)}, got {metric!r}.")
        self.grid, self.items, self.reader, self.runner = grid, list(items), reader, runner
        self.protocol, self.folder, self.failures = protocol, folder, failures
        self.seed, self.metric, self.progress = seed, metric, progress

    def run(self) -> list[SettingSummary]:
        """Compute the cells that are missing, then write tables, figures and the winner.

        Returns:
            a summary a setting.

        Raises:
            ValueError: when cells in the folder come from other files, or no subject could be finished.
        """
        self.folder.write_subjects(self.items, self.seed)
        missing = {str(item["subject"]): self._missing(str(item["subject"])) for item in self.items}
        total = sum(map(len, missing.values()))
        logger.info("%d of %d cells are to be computed", total, len(self.items) * len(self.grid.settings))
        with tqdm(total=total, desc="search", unit="setting", disable=not self.progress) as bar:
            for item in self.items:
                self._guarded(item, missing[str(item["subject"])], bar)
        return self.write()

    def _missing(self, subject: str) -> list[Setting]:
        return [s for s in self.grid.settings if self.folder.cell(subject, s, self.protocol.bins) is None]

    def _guarded(self, item: Mapping[str, Any], settings: Sequence[Setting], bar: tqdm) -> None:
        try:
            if settings:
                self._search(item, settings, bar)
        except Exception as error:
            if not isinstance(error, (ValueError, OSError)):
                logger.exception("unexpected error")
            self.failures.add(str(item["subject"]), error)

    def _search(self, item: Mapping[str, Any], settings: Sequence[Setting], bar: tqdm) -> None:
        subject = self.reader(item)
        encoded = self.runner.encode(item)
        for setting in settings:
            result = self.runner.run(encoded, subject, setting)
            processed = self.protocol.process(result.anomaly_map, subject.image)
            cell = make_cell(subject, processed, result.slice_scores, result.seconds, self.protocol.bins)
            self.folder.save(subject.name, setting, cell)
            bar.update()

    def finished(self) -> list[str]:
        """Subjects with all settings of the grid: settings are compared on the same subjects, or not at all."""
        names = [str(item["subject"]) for item in self.items]
        return [name for name in names if name not in self.failures.messages]

    def write(self) -> list[SettingSummary]:
        """Write ``cells.csv``, ``search.csv``, the figures and ``winner.json`` of the finished subjects.

        Raises:
            ValueError: when there is none.
        """
        subjects = self.finished()
        if not subjects:
            failed = "; ".join(f"{name}: {message}" for name, message in self.failures.messages.items())
            raise ValueError(f"none of {len(self.items)} subjects could be searched on ({failed}).")
        summaries, cell_rows = [], []
        for setting in self.grid.settings:
            summary, rows = self._aggregate(setting, subjects)
            summaries.append(summary)
            cell_rows += rows
        write_table(self.folder.folder / "cells.csv", cleaned(sorted(cell_rows, key=lambda r: str(r["subject"]))))
        write_table(self.folder.folder / "search.csv", cleaned(summary.row for summary in summaries))
        self._draw(summaries, subjects)
        self._choose(summaries, subjects)
        return summaries

    def _aggregate(self, setting: Setting, subjects: Sequence[str]) -> tuple[SettingSummary, list[Row]]:
        """One setting at a time, which bounds memory."""
        bins, rate = self.protocol.bins, self.protocol.false_positive_rate
        found = [self.folder.cell(subject, setting, bins) for subject in subjects]
        cells = [cell for cell in found if cell is not None]
        rows = [
            {"subject": subject, "setting": setting.name, **setting.columns, **metric_columns(cell, bins, rate)}
            for subject, cell in zip(subjects, cells, strict=True)
        ]
        return summarise_setting(setting, merge_cells(cells), len(cells), bins, rate), rows

    def _draw(self, summaries: Sequence[SettingSummary], subjects: Sequence[str]) -> None:
        by_setting = {summary.setting.name: summary for summary in summaries}
        caption = f"searched on {count_text(len(subjects))}; the best setting is optimistic on them"
        save_figure(self.folder.folder / "heat_map.png", heat_maps(by_setting, self.grid, caption))
        for name in self.runner.inferer.method.slice_scores:
            save_figure(self.folder.folder / f"{name}.png", score_boxes(by_setting, self.grid, name, caption))

    def _choose(self, summaries: Sequence[SettingSummary], subjects: Sequence[str]) -> None:
        path, best = self.folder.folder / "winner.json", best_setting(summaries, self.metric)
        if best is None:
            # That of an earlier run would not belong to these tables.
            path.unlink(missing_ok=True)
            logger.warning("no setting is best: %s is not defined on these subjects", self.metric)
            return
        write_json(path, winner_record(best, self.metric, subjects, self.seed))
        logger.info(
            "best %s %.4g: %s, chosen on %s (%s) and optimistic on them; tables and figures: %s",
            self.metric.replace("_", " "),
            best.row[self.metric],
            best.setting.name,
            count_text(len(subjects)),
            ", ".join(subjects),
            self.folder.folder,
        )
