"""The settings that a search goes through: every combination of values of the method's own fields."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..checks import refuse
from ..describe import PLAIN
from ..methods import Method

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Axis:
    """A field of the method and the values that are tried.

    Attributes:
        field: its name.
        values: in ascending order, ``None`` last.
        symbol: short name, for the names of settings.
        label: name in figures.
        column: name in tables.
    """

    field: str
    values: tuple[Any, ...]
    symbol: str
    label: str
    column: str


@dataclass(frozen=True, eq=False)
class Setting:
    """One point of the grid.

    Attributes:
        method: with the values of the point.
        values: by field, as the method takes them.
        name: of its files, such as ``L200_P0.5_S20``; different for any two settings.
        columns: by column, for tables.
    """

    method: Method
    values: Mapping[str, Any]
    name: str
    columns: Mapping[str, Any]


class Grid:
    """Every combination of the axes' values, each checked by the method itself.

    Args:
        method: of the inference; its other settings stay.
        axes: by field of the method a list of values.

    Raises:
        ValueError: naming every axis that the method has not, whose list is empty or holds a value twice, and what the
            method refuses.
    """

    def __init__(self, method: Method, axes: Mapping[str, Sequence[Any]]) -> None:
        # Results do not depend on what a method leaves out of its description.
        fields = {f.name: f for f in dataclasses.fields(method) if f.metadata.get("describe", True)}
        problems = [_problem(name, values, fields, method) for name, values in axes.items()]
        refuse(
            "search_axes",
            [*problems, None if axes else f"{type(method).__name__} can be searched over {_known(fields)}"],
        )
        self.axes = [_axis(fields[name], values) for name, values in axes.items()]
        self._settings: dict[tuple[Any, ...], Setting] = {}
        named: dict[str, Setting] = {}
        for place in itertools.product(*(axis.values for axis in self.axes)):
            made = self._make(method, place)
            self._settings[place] = named.setdefault(made.name, made)

    def setting(self, *place: Any) -> Setting:
        """The setting at a place of the grid, a value an axis; places that the method makes equal share one."""
        return self._settings[place]

    @property
    def settings(self) -> list[Setting]:
        """All settings, each once; the cheapest first, then in the order of the axes."""
        unique = dict.fromkeys(self._settings.values())
        return sorted(unique, key=lambda s: s.method.passes)

    def _make(self, method: Method, place: tuple[Any, ...]) -> Setting:
        wanted = {axis.field: value for axis, value in zip(self.axes, place, strict=True)}
        there = method.replace(**wanted)
        said = there.describe()
        values = {axis.field: said[axis.field] for axis in self.axes}
        cut = [f"{k} {wanted[k]} is taken as {v}" for k, v in values.items() if wanted[k] not in (None, v)]
        if cut:
            logger.info("%s: %s", wanted, ", ".join(cut))
        name = "_".join(f"{axis.symbol}{_text(values[axis.field])}" for axis in self.axes)
        return Setting(there, values, name, {axis.column: values[axis.field] for axis in self.axes})


def _axis(field: dataclasses.Field, values: Sequence[Any]) -> Axis:
    """Numbers in ascending order, other values as they come."""
    numbers = [v for v in values if isinstance(v, (int, float))]
    ordered = sorted(numbers) + [v for v in values if v not in numbers]
    meta = field.metadata
    return Axis(
        field.name,
        tuple(ordered),
        meta.get("symbol") or f"{field.name}-",
        meta.get("label") or field.name.replace("_", " "),
        meta.get("column") or field.name,
    )


def _problem(name: str, values: Any, fields: Mapping[str, dataclasses.Field], method: Method) -> str | None:
    """What is wrong with an axis, in one sentence or several."""
    if name not in fields:
        return f"{type(method).__name__} has no setting {name!r} to search over, it has {_known(fields)}"
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        return f"{name} must be a list with at least one value, got {values!r}"
    nested = [value for value in values if value is not None and not isinstance(value, PLAIN)]
    if nested:
        return f"{name} must hold numbers, texts or null, got {', '.join(map(repr, nested))}"
    # Equal numbers are one value: 100 and 100.0.
    counts = Counter(values)
    twice = [repr(value) for value, count in counts.items() if count > 1]
    problems = [_refused(method, name, value) for value in counts]
    problems.append(f"{name} holds a value twice: {', '.join(twice)}" if twice else None)
    return "; ".join(problem for problem in problems if problem)


def _refused(method: Method, name: str, value: Any) -> str | None:
    try:
        method.replace(**{name: value})
    except ValueError as error:
        return str(error).rstrip(".")
    return None


def _known(fields: Mapping[str, dataclasses.Field]) -> str:
    """Fields that are meant to be searched over: those with a short name."""
    named = [name for name, field in fields.items() if field.metadata.get("symbol")]
    return ", ".join(named) or "nothing"


def _text(value: Any) -> str:
    return np.format_float_positional(value, trim="-") if isinstance(value, float) else str(value)
