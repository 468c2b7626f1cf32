"""The settings that a search goes through, checked before anything is computed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)


@dataclass(frozen=True, order=True)
class Setting:
    """One point of the grid.

    Attributes:
        noise_level: L.
        probability_threshold: P.
        steps: network evaluations, 1..L.
    """

    noise_level: int
    probability_threshold: float
    steps: int

    @property
    def name(self) -> str:
        """Name of its files, such as ``L200_P0.5_S20``; different for any two settings."""
        threshold = np.format_float_positional(self.probability_threshold, trim="-")
        return f"L{self.noise_level}_P{threshold}_S{self.steps}"


class Grid:
    """Every combination of noise level, threshold and number of steps.

    Args:
        noise_levels: values of L, whole numbers in [1, T].
        probability_thresholds: values of P, in [0, 1].
        step_counts: network evaluations, whole numbers of at least 1; ``None`` among them for all L steps. More than
            L are cut to L.
        num_train_timesteps: T.

    Raises:
        ValueError: naming every key whose list is empty, or holds a value twice or out of range.
    """

    def __init__(
        self,
        noise_levels: Sequence[int],
        probability_thresholds: Sequence[float],
        step_counts: Sequence[int | None],
        num_train_timesteps: int = 1000,
    ) -> None:
        end = num_train_timesteps
        problems = [
            *_problems("noise_levels", noise_levels, f"whole numbers in [1, {end}]", lambda v: _whole(v) and v <= end),
            *_problems("probability_thresholds", probability_thresholds, "numbers in [0, 1]", _probability),
            *_problems(
                "step_counts", step_counts, "whole numbers of at least 1, or null", lambda v: v is None or _whole(v)
            ),
        ]
        if problems:
            message = "search settings out of range: " + "; ".join(problems) + "."
            # Logged too, since MONAI's parser wraps the error in less telling ones.
            logger.error(message)
            raise ValueError(message)
        self.noise_levels = sorted(int(level) for level in noise_levels)
        self.probability_thresholds = sorted(float(threshold) for threshold in probability_thresholds)
        counts = sorted({end if count is None else int(count) for count in step_counts})
        self.step_counts = [None if None in step_counts and count == end else count for count in counts]
        self._log_cuts()

    def setting(self, noise_level: int, probability_threshold: float, step_count: int | None) -> Setting:
        """The setting at a place of the grid; a step count beyond the noise level is cut to it."""
        steps = noise_level if step_count is None else min(step_count, noise_level)
        return Setting(noise_level, probability_threshold, steps)

    @property
    def settings(self) -> list[Setting]:
        """All settings, each once, ascending in steps, noise level and threshold."""
        places = [
            self.setting(level, threshold, count)
            for count in self.step_counts
            for level in self.noise_levels
            for threshold in self.probability_thresholds
        ]
        return sorted(set(places), key=lambda s: (s.steps, s.noise_level, s.probability_threshold))

    def _log_cuts(self) -> None:
        for count in self.step_counts:
            cut = [level for level in self.noise_levels if count is not None and count > level]
            if cut:
                logger.info("step_counts: %s is cut to the noise level at %s", count, ", ".join(map(str, cut)))


def _problems(key: str, values: Any, wanted: str, fits: Any) -> list[str]:
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        return [f"{key} must be a list with at least one value, got {values!r}"]
    wrong = [value for value in values if not fits(value)]
    if wrong:
        return [f"{key} must hold {wanted}, got {', '.join(map(repr, wrong))}"]
    twice = [value for value, count in Counter(values).items() if count > 1]
    return [f"{key} holds a value twice: {', '.join(map(repr, twice))}"] if twice else []


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(value: Any) -> bool:
    return _number(value) and float(value).is_integer() and value >= 1


def _probability(value: Any) -> bool:
    return _number(value) and 0 <= value <= 1
