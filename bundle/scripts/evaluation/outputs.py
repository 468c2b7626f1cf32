"""The evaluation as a workflow runs it: judge, then write ``summary.json``, tables and ``report.html``."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import atomic_path, writable_folder, write_json
from ..report import write_report
from .evaluate import Evaluator
from .overlap import Confusion
from .panels import choose_panels
from .pseudonyms import pseudonyms
from .summary import summarise
from .tracking import MLflowTracking

logger = logging.getLogger(__name__)

SUBJECT_COLUMNS = ("tp", "fp", "fn", "tn")


class EvaluationWriter:
    """Run an evaluation and write what it found.

    Args:
        evaluator: what judges.
        output_dir: where the files go.
        title: of the report.
        settings: configuration to be shown in it.
        notes: warnings to begin with, such as which subjects settings were chosen on.
        panels: slices of each kind to show.
        channel: image channel to show.
        pseudonymise: put codes in place of names everywhere but in ``pseudonyms.csv``.
        tracking: where numbers and files go, too; never with names, so that it implies ``pseudonymise``.

    Raises:
        OSError: when the folder cannot be written.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        output_dir: str,
        title: str = "Evaluation",
        settings: Mapping[str, Any] | None = None,
        notes: Sequence[str] = (),
        panels: int = 4,
        channel: int = 0,
        pseudonymise: bool = False,
        tracking: MLflowTracking | None = None,
    ) -> None:
        self.evaluator, self.title, self.settings, self.notes = evaluator, title, dict(settings or {}), list(notes)
        self.folder, self.panels, self.channel = Path(output_dir), panels, channel
        self.pseudonymise, self.tracking = pseudonymise or tracking is not None, tracking

    def run(self) -> dict[str, Any]:
        """Judge and write; returns the summary.

        Raises:
            ValueError: when no subject could be judged.
        """
        writable_folder(str(self.folder))
        self.evaluator.evaluate()
        # Notes may name subjects that could not be judged, too.
        names = [str(item["subject"]) for item in self.evaluator.datalist]
        codes = pseudonyms(names, self.folder / "pseudonyms.csv") if self.pseudonymise else {}
        notes = [_replace(note, codes) for note in self.notes]
        summary = summarise(self.evaluator, self.title, self.settings, notes)
        slices = slice_rows(self.evaluator, codes)
        write_json(self.folder / "summary.json", summary)
        write_table(self.folder / "per_slice.csv", slices)
        write_table(self.folder / "per_subject.csv", subject_rows(self.evaluator, codes))
        panels = choose_panels(self.evaluator, self.panels, codes, self.channel)
        write_report(self.folder / "report.html", summary, slices, panels)
        logger.info("report: %s", self.folder / "report.html")
        if self.tracking is not None:
            self.tracking.log(summary, self.folder, panels)
        return summary


def slice_rows(evaluator: Evaluator, codes: Mapping[str, str]) -> list[dict[str, Any]]:
    """A row a slice of every method; empty where a value is not defined."""
    rows = []
    for name, runs in evaluator.runs.items():
        for number, run in enumerate(runs):
            for row in run.statistics.rows:
                kept = {k: v for k, v in row.items() if k != "index"}
                own = {"method": name, "run": number, **kept, "subject": codes.get(row["subject"], row["subject"])}
                rows.append({k: "" if _missing(v) else v for k, v in own.items()})
    return _by_code(rows) if codes else rows


def subject_rows(evaluator: Evaluator, codes: Mapping[str, str]) -> list[dict[str, Any]]:
    """A row a subject of every method and rule."""
    rows = []
    for name, runs in evaluator.runs.items():
        for number, run in enumerate(runs):
            for index, item in enumerate(evaluator.subjects):
                members = [row for row in run.statistics.rows if row["index"] == index]
                subject = str(item["subject"])
                row = {
                    "method": name,
                    "run": number,
                    "subject": codes.get(subject, subject),
                    "slices": len(members),
                    "diseased_slices": sum(member["diseased"] for member in members),
                    "lesion_pixels": sum(member["lesion_pixels"] for member in members),
                    "lesions": len(run.statistics.detections[index].sizes),
                }
                rows.append({**row, **_subject_overlaps(members)})
    return _by_code(rows) if codes else rows


def _by_code(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in the order of the codes: that of the data list would tell the names again."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    return sorted(rows, key=lambda row: (methods.index(row["method"]), row["run"], row["subject"]))


def _subject_overlaps(members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for rule in ("calibrated", "deployed", "paper", "oracle"):
        if not members or any(f"tp_{rule}" not in member for member in members):
            continue
        confusion = Confusion(*(sum(member[f"{name}_{rule}"] for member in members) for name in SUBJECT_COLUMNS))
        measures = {
            "dice": confusion.dice(),
            "precision": confusion.precision(),
            "sensitivity": confusion.sensitivity(),
        }
        columns.update({f"{key}_{rule}": "" if _missing(v) else v for key, v in measures.items()})
    return columns


def _replace(text: str, codes: Mapping[str, str]) -> str:
    if not codes:
        return text
    # Longer names first: one may be the beginning of another. All at once: one may be part of another's code.
    names = sorted(codes, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, names)), lambda match: codes[match.group()], text)


def _missing(value: Any) -> bool:
    return isinstance(value, float) and not np.isfinite(value)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as CSV, atomically; columns in the order in which they first appear."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_path(path) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
