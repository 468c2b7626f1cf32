"""Time against quality of fewer steps: quality from an evaluation, time measured here; CSV and a picture.

The evaluation compares inferences with several ``num_inference_steps``, named by their number of steps; the model card
has the commands. From the repository root:

    PYTHONPATH=bundle python benchmarks/steps_curve.py --summary bundle/output/steps/evaluation/summary.json \
        --names masked=50 10=10 20=20 100=100 200=200
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure
from models import build_network, make_slices, masked_inferer

from scripts.inferers import bfloat16_pays

logger = logging.getLogger("steps_curve")
METRICS = {
    "ap_foreground": "average precision, foreground",
    "dice_slice_calibrated": "Dice a slice, calibrated threshold",
    "psnr_healthy": "PSNR of healthy slices (dB)",
}


def seconds_a_slice(network: torch.nn.Module, images: torch.Tensor, level: int, threshold: float, steps: int) -> float:
    """Of the bundle's inferer with its own batch size and precision."""
    run = masked_inferer(level, threshold, steps, None, bfloat16_pays(images.device))
    start = time.perf_counter()
    run.run_volume(images.movedim(0, -1), network).anomaly_map.cpu()
    return (time.perf_counter() - start) / len(images)


def read_rows(summary: Path, names: dict[str, int]) -> list[dict]:
    """A row for each number of steps: metrics with their intervals."""
    table = json.loads(summary.read_text())["table"]
    rows = []
    for name, steps in sorted(names.items(), key=lambda pair: pair[1]):
        cells = {key: table[name][key] for key in METRICS}
        columns = {f"{key}{end}": cell[part] for key, cell in cells.items() for end, part in ENDS.items()}
        rows.append({"steps": steps, **columns})
    return rows


ENDS = {"": "value", "_low": "low", "_high": "high"}


def draw(rows: list[dict], path: Path) -> None:
    """Each metric over the seconds a slice, a point named by each number of steps, with 95 % intervals."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for axis, (key, title) in zip(figure.subplots(1, len(METRICS)), METRICS.items(), strict=True):
        seconds = [row["seconds_a_slice"] for row in rows]
        values = [row[key] for row in rows]
        errors = [[row[key] - row[f"{key}_low"] for row in rows], [row[f"{key}_high"] - row[key] for row in rows]]
        axis.errorbar(seconds, values, errors, marker="o", capsize=3, color="tab:blue")
        for row, x, y in zip(rows, seconds, values, strict=True):
            axis.annotate(str(row["steps"]), (x, y), textcoords="offset points", xytext=(4, 6), fontsize=9)
        axis.set(title=title, xlabel="seconds a slice", xscale="log")
        axis.set_xticks(seconds, [f"{x:.2f}" for x in seconds])
        axis.minorticks_off()
    figure.savefig(path, format="png", dpi=90)


def main() -> None:
    """Measure, print, write CSV and PNG."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--summary", type=Path, required=True, help="summary.json of the evaluation")
    parser.add_argument("--names", nargs="+", required=True, help="method=steps of the evaluation's methods")
    parser.add_argument("--noise_level", type=int, default=300)
    parser.add_argument("--probability_threshold", type=float, default=0.3)
    parser.add_argument("--slices", type=int, default=16)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=Path("steps_curve.csv"), help="and .png beside it")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    names = {name: int(steps) for name, steps in (pair.rsplit("=", 1) for pair in arguments.names)}
    network = build_network(False, torch.device(arguments.device))
    images = make_slices(False, arguments.slices, network.autoencoder.in_channels).to(arguments.device)
    level, threshold = arguments.noise_level, arguments.probability_threshold
    seconds_a_slice(network, images, level, threshold, 1)
    rows = read_rows(arguments.summary, names)
    for row in rows:
        row["seconds_a_slice"] = round(seconds_a_slice(network, images, level, threshold, row["steps"]), 3)
        logger.info("  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    with arguments.output.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, arguments.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
