"""Text from outside, made fit for logs and tables."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a cell begins with that a spreadsheet runs."""

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)", re.IGNORECASE)


def printable(text: str) -> str:
    """``text`` with line breaks, control characters and bytes that are no UTF-8 written as escapes.

    The result has one line and can be encoded.
    """
    return "".join(c if unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def safe_cell(value: Any) -> Any:
    """A CSV cell that no spreadsheet takes for a formula: an apostrophe before text that begins with = + - or @.

    Numbers, as such or as text, stay as they are; so does everything that is no text. :func:`plain_cell` undoes it.
    """
    return f"'{value}" if isinstance(value, str) and _is_formula(value) else value


def plain_cell(value: str) -> str:
    """What :func:`safe_cell` was given."""
    return value[1:] if value.startswith("'") and _is_formula(value[1:]) else value


def _is_formula(value: str) -> bool:
    """Whether text begins as a formula does and is no number; apostrophes before it change nothing."""
    bare = value.lstrip("'")
    return bare.lstrip(" ").startswith(FORMULA) and not (bare == value and NUMBER.fullmatch(value.strip()))
