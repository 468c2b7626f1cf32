"""Tables of metrics by methods: values, and paired differences from the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .names import Method, Metric, by_group, methods_of, metrics_of, part
from .numbers import finite, interval_text, number_text, p_value_text


@dataclass(frozen=True)
class Cell:
    """What stands in a field.

    Args:
        text: the value, or why there is none in two words.
        details: lines in smaller type.
        note: number of the footnote with ``reason``; ``None`` without one.
        reason: why there is no value, or a remark on it.
        defined: whether there is a value.
        best: whether no other method's value is better.
    """

    text: str
    details: tuple[str, ...] = ()
    note: int | None = None
    reason: str = ""
    defined: bool = True
    best: bool = False


@dataclass
class Footnotes:
    """Reasons in the order in which they were first needed; the same reason keeps its number."""

    reasons: list[str] = field(default_factory=list)

    def number(self, reason: str) -> int:
        """Number of a reason, from 1."""
        if reason not in self.reasons:
            self.reasons.append(reason)
        return self.reasons.index(reason) + 1


@dataclass(frozen=True)
class MetricTable:
    """Methods in columns, metrics in rows under their groups.

    Args:
        methods: the columns.
        groups: group to rows, each a metric and its cells.
        notes: footnotes.
    """

    methods: Sequence[Method]
    groups: Mapping[str, list[tuple[Metric, list[Cell]]]]
    notes: list[str]


def _cell(entry: Mapping[str, Any], details: Sequence[str], notes: Footnotes) -> Cell:
    if not entry:
        return Cell("not computed", defined=False)
    value, reason = finite(entry.get("value")), str(entry.get("reason") or "")
    if value is None:
        reason = reason or "no reason was given"
        return Cell("not defined", (), notes.number(reason), reason, defined=False)
    note = notes.number(reason) if reason else None
    return Cell(number_text(value), tuple(detail for detail in details if detail), note, reason)


def value_cell(entry: Mapping[str, Any], notes: Footnotes) -> Cell:
    """Cell of an entry of the summary's ``table``."""
    spread = finite(entry.get("seed_sd"))
    seeds = "" if spread is None else f"± {number_text(spread)} by seed"
    return _cell(entry, (interval_text(entry.get("low"), entry.get("high")), seeds), notes)


def difference_cell(entry: Mapping[str, Any], notes: Footnotes) -> Cell:
    """Cell of an entry of the summary's ``differences``."""
    details = interval_text(entry.get("low"), entry.get("high")), p_value_text(entry.get("p_value"))
    return _cell(entry, details, notes)


def mark_best(cells: Sequence[Cell], values: Sequence[float | None], better: str) -> list[Cell]:
    """Mark the best of the defined values, and all that read the same as it.

    Nothing is marked where fewer than two methods have a value: there is nothing to be better than.
    """
    defined = [value for value in values if value is not None]
    if better not in ("high", "low") or len(defined) < 2:
        return list(cells)
    best = number_text(max(defined) if better == "high" else min(defined))
    return [replace(cell, best=cell.defined and cell.text == best) for cell in cells]


def value_table(summary: Mapping[str, Any]) -> MetricTable | None:
    """The main table; ``None`` without methods or metrics."""
    table, notes, methods = part(summary, "table"), Footnotes(), methods_of(summary)

    def row(metric: Metric) -> list[Cell]:
        entries = [part(table, method.name, metric.key) for method in methods]
        cells = [value_cell(entry, notes) for entry in entries]
        return mark_best(cells, [finite(entry.get("value")) for entry in entries], metric.better)

    return _table(methods, metrics_of(summary), row, notes)


def difference_table(summary: Mapping[str, Any]) -> MetricTable | None:
    """Reference minus every other method, of the metrics that were compared; ``None`` when none was."""
    differences, notes = part(summary, "differences"), Footnotes()
    methods = [method for method in methods_of(summary) if part(differences, method.name)]
    compared = {key for name in differences for key in part(differences, name)}
    metrics = [metric for metric in metrics_of(summary) if metric.key in compared]

    def row(metric: Metric) -> list[Cell]:
        return [difference_cell(part(differences, method.name, metric.key), notes) for method in methods]

    return _table(methods, metrics, row, notes)


def _table(
    methods: list[Method], metrics: list[Metric], row: Callable[[Metric], list[Cell]], notes: Footnotes
) -> MetricTable | None:
    if not methods or not metrics:
        return None
    groups = {group: [(metric, row(metric)) for metric in members] for group, members in by_group(metrics).items()}
    return MetricTable(methods, groups, notes.reasons)
