"""Slices to look at: drawn at random, and the best and worst by Dice of the main method."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..report import Panel
from .evaluate import Evaluator

MOST_METHODS = 4


def choose_panels(evaluator: Evaluator, number: int, codes: Mapping[str, str], channel: int = 0) -> list[Panel]:
    """``number`` slices of each kind among those with a lesion.

    Args:
        evaluator: after both passes.
        number: of slices a kind.
        codes: from subject to the name that is shown.
        channel: image channel that is shown.
    """
    statistics = next(iter(evaluator.runs.values()))[0].statistics
    dice = np.array([row.get("dice_calibrated", np.nan) for row in statistics.rows])
    candidates = np.flatnonzero((statistics.column("diseased") > 0) & np.isfinite(dice))
    order = candidates[np.argsort(dice[candidates], kind="stable")]
    number = min(number, len(candidates))
    drawn = np.random.default_rng(evaluator.protocol.seed).permutation(candidates)[:number]
    # The worst slices mostly have Dice 0; among equals the largest lesions tell most.
    missed = sorted(candidates, key=lambda row: (dice[row], -statistics.rows[row]["lesion_pixels"]))
    chosen = {"random": np.sort(drawn), "best": order[::-1][:number], "worst": np.array(missed[:number], dtype=int)}
    wanted = sorted({int(row) for rows in chosen.values() for row in rows})
    panels = _read_panels(evaluator, wanted, codes, channel)
    return [Panel(group=group, **panels[int(row)]) for group, rows in chosen.items() for row in rows]


def _read_panels(evaluator: Evaluator, rows: list[int], codes: Mapping[str, str], channel: int) -> dict[int, dict]:
    statistics = next(iter(evaluator.runs.values()))[0].statistics
    by_subject: dict[int, list[int]] = {}
    for row in rows:
        by_subject.setdefault(statistics.rows[row]["index"], []).append(row)
    panels = {}
    for index, members in by_subject.items():
        subject = evaluator.reader(evaluator.subjects[index])
        shown = {name: runs[0] for name, runs in list(evaluator.runs.items())[:MOST_METHODS]}
        maps = {name: evaluator.maps(run, subject) for name, run in shown.items()}
        main = next(iter(maps))
        thresholds = evaluator.rules(shown[main], index, maps[main][0])["calibrated"]
        segmentation = evaluator.protocol.drop(maps[main][1] > thresholds)
        for row in members:
            entry = statistics.rows[row]
            k = int(np.flatnonzero(subject.numbers == entry["slice"])[0])
            reconstruction = maps[main][0].reconstruction
            panels[row] = {
                "title": f"{codes.get(subject.name, subject.name)}, slice {entry['slice']}, "
                f"Dice {entry['dice_calibrated']:.2f}",
                "image": subject.image[channel, ..., k],
                "reconstruction": None if reconstruction is None else reconstruction[channel, ..., k],
                "maps": {name: processed[..., k] for name, (_, processed) in maps.items()},
                "label": subject.label[..., k],
                "segmentation": segmentation[..., k],
            }
    return panels
