"""Codes in place of names, so that a report can be passed on."""

from __future__ import annotations

import csv
import itertools
import secrets
from collections.abc import Sequence
from pathlib import Path

from ..files import atomic_path
from ..texts import plain_cell, safe_cell


def pseudonyms(names: Sequence[str], key_file: Path) -> dict[str, str]:
    """A code for every name, in an order that tells nothing of the names; kept in ``key_file`` for the next time.

    Args:
        names: subjects.
        key_file: CSV of name and code, which stays with the data, is part of no report and only its owner may read.

    Returns:
        name to code, ``S001`` and so on.

    Raises:
        ValueError: naming ``key_file`` when it is there and is no such file.
    """
    known = _read(key_file) if key_file.is_file() else {}
    unknown = sorted(set(names) - known.keys())
    secrets.SystemRandom().shuffle(unknown)
    # A code that is somebody's name, too, would be taken for it.
    taken = {*names, *known, *known.values()}
    free = (code for code in map("S{:03d}".format, itertools.count(1)) if code not in taken)
    known.update(zip(unknown, free, strict=False))
    if unknown:
        with (
            atomic_path(key_file, private=True) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            csv.writer(file, lineterminator="\n").writerows([("name", "code"), *_cells(known)])
    return {name: known[name] for name in names}


def _cells(known: dict[str, str]) -> list[tuple[str, str]]:
    return [(safe_cell(name), code) for name, code in sorted(known.items())]


def _read(key_file: Path) -> dict[str, str]:
    try:
        with key_file.open(newline="", encoding="utf-8") as file:
            _, *rows = csv.reader(file, strict=True)
        if any(len(row) < 2 for row in rows):
            raise ValueError("a row without a code")
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{str(key_file)!r} is no table of names and codes ({error}).") from None
    # Before cells were quoted a name with commas was several.
    return {plain_cell(",".join(row[:-1])): row[-1] for row in rows}
