"""Codes in place of names, so that a report can be passed on."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Sequence
from pathlib import Path

from ..files import atomic_path


def pseudonyms(names: Sequence[str], key_file: Path) -> dict[str, str]:
    """A code for every name, in an order that tells nothing of the names; kept in ``key_file`` for the next time.

    Args:
        names: subjects.
        key_file: CSV of name and code, which stays with the data and is part of no report.

    Returns:
        name to code, ``S001`` and so on.
    """
    known = dict(line.rsplit(",", 1) for line in key_file.read_text().splitlines()[1:]) if key_file.is_file() else {}
    unknown = sorted(set(names) - known.keys())
    secrets.SystemRandom().shuffle(unknown)
    # A code that is somebody's name, too, would be taken for it.
    taken = {*names, *known, *known.values()}
    free = (code for code in map("S{:03d}".format, itertools.count(1)) if code not in taken)
    known.update(zip(unknown, free, strict=False))
    if unknown:
        with atomic_path(key_file) as temporary:
            temporary.write_text("\n".join(["name,code", *(f"{n},{c}" for n, c in sorted(known.items()))]) + "\n")
    return {name: known[name] for name in names}
