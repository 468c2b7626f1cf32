"""Settings that a user overrides, checked before anything is read or computed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

logger = logging.getLogger(__name__)

Range = tuple[float, float, bool]
"""Smallest and largest value allowed, and whether the setting counts (must be an integer)."""

MANY = float("inf")


def check_settings(
    settings: Mapping[str, Any], num_train_timesteps: int = 1000, known_sequences: Sequence[str] = ()
) -> None:
    """Refuse settings outside their range.

    Args:
        settings: key to value, as configured; ``None`` means not set.
        num_train_timesteps: T, the upper end of ``noise_level``.
        known_sequences: names that ``sequences`` may hold.

    Raises:
        ValueError: naming every wrong key with its value and range.
    """
    level: Any = settings.get("noise_level")
    steps_end = float(level) if _is_number(level) else num_train_timesteps
    ranges: dict[str, Range] = {
        "noise_level": (1, num_train_timesteps, True),
        "max_noise_level": (1, num_train_timesteps, True),
        "probability_threshold": (0, 1, False),
        "num_inference_steps": (1, steps_end, True),
        "sw_batch_size": (1, MANY, True),
        "batch_size": (1, MANY, True),
        "epoch_length": (1, MANY, True),
        "max_epochs": (1, MANY, True),
        "seed": (0, MANY, True),
        "anomaly_threshold": (0, MANY, False),
        "val_fraction": (0, 1, False),
        "min_foreground": (0, 1, False),
    }
    problems = [
        problem
        for key, value in settings.items()
        if key in ranges and value is not None and (problem := _outside(key, value, *ranges[key]))
    ]
    problems += _wrong_sequences(settings.get("sequences"), known_sequences)
    if problems:
        message = "settings out of range: " + "; ".join(problems) + "."
        # Logged too, since MONAI's parser wraps the error in less telling ones.
        logger.error(message)
        raise ValueError(message)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _outside(key: str, value: Any, low: float, high: float, integer: bool) -> str | None:
    kind = "a whole number" if integer else "a number"
    fits = _is_number(value) and (not integer or float(value).is_integer()) and low <= value <= high
    return None if fits else f"{key} must be {kind} in [{low:g}, {high:g}], got {value!r}"


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
    return _outside(key, value, low, high, whole)
