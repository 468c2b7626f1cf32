"""Methods and metrics of a summary, in its order, with what the report needs when the summary says little."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


def part(source: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """The mapping at ``source[key][key]...``; empty where a key is missing or holds none."""
    found: Any = source
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return dict(found) if isinstance(found, Mapping) else {}


@dataclass(frozen=True)
class Method:
    """A method of the evaluation.

    Args:
        name: key in the summary.
        title: for people.
        score: how the anomaly map is made, as text.
        seeds: number of training or sampling seeds, as text; empty when not known.
    """

    name: str
    title: str
    score: str = ""
    seeds: str = ""


@dataclass(frozen=True)
class Metric:
    """A metric of the evaluation.

    Args:
        key: key in the summary.
        title: for people.
        group: heading of the rows that it belongs to.
        better: ``high``, ``low``, or empty when neither is.
        help: definition.
        anchor: id of its definition on the page.
    """

    key: str
    title: str
    group: str
    better: str
    help: str
    anchor: str


def methods_of(summary: Mapping[str, Any]) -> list[Method]:
    """Methods, the reference first, then in the summary's order."""
    named = part(summary, "methods")
    names = list(dict.fromkeys([*named, *part(summary, "table")]))
    reference = summary.get("reference")
    names.sort(key=lambda name: name != reference)
    return [_method(name, part(named, name)) for name in names]


def _method(name: str, entry: dict[str, Any]) -> Method:
    score = entry.get("score", "")
    text = score_text(score)
    seeds = entry.get("seeds")
    return Method(name, str(entry.get("title") or name), text, "" if seeds is None else str(seeds))


def metrics_of(summary: Mapping[str, Any]) -> list[Metric]:
    """Metrics in the summary's order; those that only its table has come last, under their keys."""
    named, table = part(summary, "metrics"), part(summary, "table")
    keys = [*named, *(key for name in table for key in part(table, name))]
    metrics = []
    for number, key in enumerate(dict.fromkeys(keys), start=1):
        entry = part(named, key)
        text = {name: str(entry.get(name) or "") for name in ("title", "group", "better", "help")}
        metrics.append(
            Metric(
                key,
                text["title"] or key,
                text["group"] or "other",
                text["better"],
                text["help"],
                # Numbered: keys may hold characters that an id must not.
                f"metric-{number}",
            )
        )
    return metrics


def by_group(metrics: list[Metric]) -> dict[str, list[Metric]]:
    """Metrics under their groups; groups in the order in which they first appear."""
    groups: dict[str, list[Metric]] = {}
    for metric in metrics:
        groups.setdefault(metric.group, []).append(metric)
    return groups


def score_text(score: Any) -> str:
    """A score as one would write it: ``name(keyword=value, ...)``; nested scores likewise."""
    if isinstance(score, Mapping) and "name" in score:
        keywords = ", ".join(f"{key}={score_text(value)}" for key, value in score.items() if key != "name")
        return f"{score['name']}({keywords})"
    if isinstance(score, (list, tuple)):
        return f"[{', '.join(score_text(value) for value in score)}]"
    return score if isinstance(score, str) else json.dumps(score, default=str, ensure_ascii=False)
