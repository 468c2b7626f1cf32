"""Which names can be a subject's: it becomes a folder of results, the beginning of file names, and a cell of tables."""

from __future__ import annotations

import os
from collections import Counter

from ..texts import printable

MAX_NAME_BYTES = 200
"""Longest name of a subject: file systems allow 255 bytes, and names of results add up to 50."""

RESERVED_NAMES = frozenset({"scores.csv", "settings.json", "evaluation", "search", "pseudonyms.csv"})
"""What lies beside the subjects' folders in a folder of results."""


def name_problem(name: str) -> str | None:
    """Why ``name`` cannot be a subject's, in words; ``None`` when it can."""
    shown, length = printable(name), len(os.fsencode(name))
    if shown != name:
        return f"the name {shown!r} holds line breaks, control characters or bytes that are no UTF-8"
    if length > MAX_NAME_BYTES:
        return f"the name {name[:40]}... has {length} bytes, a subject's has at most {MAX_NAME_BYTES}"
    if not name.strip(" ."):
        return f"the name {name!r} is empty"
    # Some file systems do not tell cases apart.
    if name.casefold() in RESERVED_NAMES:
        return f"the name {name!r} is that of a file or folder in every folder of results"
    return None


def check_names(items: list[dict], place: str) -> None:
    """Give items whose ``subject`` cannot be one, or is another's, a ``problem`` and a name that can be printed."""
    for item in items:
        problem = name_problem(item["subject"])
        if problem:
            item.setdefault("problem", f"{place}: {problem}. Rename it.")
        item["subject"] = printable(item["subject"])
        item["patient"] = printable(item["patient"])
    counts = Counter(item["subject"] for item in items)
    for item in items:
        if counts[item["subject"]] > 1:
            item["problem"] = f"{place}: {counts[item['subject']]} subjects are named {item['subject']!r}, wanted one."
