"""Rows of the table about time, memory and size, as the inference that made the maps noted them; no intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..evaluate import Run
from ..values import estimate

REASON = "the maps come without a note of their cost"


def _row(title: str, text: str) -> dict[str, str]:
    return {"title": title, "group": "cost", "better": "low", "help": text, "reason": REASON}


COST_ROWS = {
    "seconds_a_slice": _row("seconds a slice", "From the slice on the device to its files, on the machine it ran on."),
    "seconds_a_volume": _row("seconds a volume", "Mean over volumes."),
    "peak_memory_gb": _row("peak memory (GB)", "Of the GPU, or of the whole process on a CPU."),
    "million_parameters": _row("million parameters", "Of all networks together."),
    "network_evaluations": _row("network evaluations a slice", "Passes of the method's loop."),
}


def describe_costs(runs: Sequence[Run]) -> dict[str, Any]:
    """An entry for each of :data:`COST_ROWS`, over all runs of a method."""
    costs = [cost for run in runs for cost in run.statistics.costs]
    slices = sum(c["slices"] for c in costs)
    if not slices:
        return {key: {**estimate(math.nan, reason=REASON).as_dict(), "seed_sd": None} for key in COST_ROWS}
    seconds = sum(c["seconds"] for c in costs)
    # Results of version 0.4 and before note it among the settings.
    passes = costs[0].get("passes", runs[0].source.settings.get("num_inference_steps"))
    values = {
        "seconds_a_slice": seconds / slices,
        "seconds_a_volume": seconds / len(costs),
        "peak_memory_gb": max(c["peak_memory_bytes"] for c in costs) / 1e9,
        "million_parameters": costs[0]["parameters"] / 1e6,
        "network_evaluations": math.nan if passes is None else passes,
    }
    return {
        key: {**estimate(value, reason=REASON if math.isnan(value) else "").as_dict(), "seed_sd": None}
        for key, value in values.items()
    }
