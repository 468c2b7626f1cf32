"""Ranges of settings: each is checked where it is owned, all at once as the first thing a run does."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

logger = logging.getLogger(__name__)

MANY = float("inf")


def refuse(what: str, problems: Sequence[str | None]) -> None:
    """Raise one error for all ``problems`` of ``what``; nothing when there is none.

    Raises:
        ValueError: naming all of them.
    """
    found = [problem for problem in problems if problem]
    if found:
        raise ValueError(f"{what}: {'; '.join(found)}.")


def outside(key: str, value: Any, low: float, high: float, whole: bool = False) -> str | None:
    """A sentence when ``value`` is no (``whole``) number in [low, high]; ``None`` when it is."""
    kind = "a whole number" if whole else "a number"
    fits = _is_number(value) and (not whole or float(value).is_integer()) and low <= value <= high
    return None if fits else f"{key} must be {kind} in [{low:g}, {high:g}], got {value!r}"


def check_counts(shares: Mapping[str, Any] | None = None, **counts: Any) -> None:
    """Check settings that no class of ours owns: ``counts`` are whole numbers of at least 1, ``shares`` in [0, 1].

    ``None`` means not set.

    Raises:
        ValueError: naming every wrong key with its value and range.
    """
    problems = [outside(key, value, 1, MANY, whole=True) for key, value in counts.items() if value is not None]
    refuse("settings", problems + [outside(key, value, 0, 1) for key, value in (shares or {}).items()])


def check_sequences(sequences: Any, known: Sequence[str]) -> None:
    """Check the names of the sequences.

    Raises:
        ValueError: naming every unknown or repeated one, and the ``known`` ones.
    """
    refuse("sequences", _wrong_sequences(sequences, known))


def moved(old: str, new: str) -> None:
    """Say where a configuration of an earlier version is now.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"{old} is no longer there: {new}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _wrong_sequences(sequences: Any, known: Sequence[str]) -> list[str]:
    if sequences is None:
        return []
    names = [sequences] if isinstance(sequences, str) else list(sequences)
    problems = [f"sequences holds unknown {n!r}, known are {', '.join(known)}" for n in names if n not in known]
    if isinstance(sequences, str) or not names:
        problems.append(f"sequences must be a list with at least one name, got {sequences!r}")
    if len(set(names)) < len(names):
        problems.append(f"sequences holds a name twice: {names}")
    return problems
