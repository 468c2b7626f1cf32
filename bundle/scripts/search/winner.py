"""The best setting of a search, and the warning that goes with it: on the subjects searched on it is optimistic."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .tables import SettingSummary


def winner_record(summary: SettingSummary, metric: str, subjects: Sequence[str], seed: int) -> dict[str, Any]:
    """Content of ``winner.json``."""
    return {
        "setting": {"name": summary.setting.name, **summary.setting.values},
        "metric": metric,
        "value": summary.row[metric],
        "subjects": list(subjects),
        "seed": seed,
        "note": "chosen on these subjects: optimistic on them",
    }


def searched_note(path: str | None, names: bool = True) -> list[str]:
    """The warning that an evaluation of searched settings begins with.

    Args:
        path: ``winner.json`` of the search; ``None`` when nothing was searched.
        names: name the subjects; a report that is passed on says only how many.

    Returns:
        one sentence with the subjects (or their number) that were searched on; none for ``None``.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is not what a search wrote.
    """
    if path is None:
        return []
    if not Path(path).is_file():
        raise FileNotFoundError(f"winner of a search: no file {path!r}, wanted the search's winner.json.")
    try:
        winner = json.loads(Path(path).read_text())
        name, metric = winner["setting"]["name"], winner["metric"]
        subjects = [str(subject) for subject in winner["subjects"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"winner of a search: {path!r} is no winner.json of a search ({error!r}).") from error
    listed = f": {', '.join(subjects)}" if names else ""
    return [
        f"The setting {name} was chosen by {metric.replace('_', ' ')} on {count_text(len(subjects))}{listed}. "
        "Results on them are optimistic."
    ]


def count_text(subjects: int) -> str:
    """``1 subject``, ``6 subjects``."""
    return f"{subjects} subject{'' if subjects == 1 else 's'}"
