"""Everything that is worth measuring on a GPU, within ten minutes: ceilings, inference, training, against the goals.

From the repository root:

    PYTHONPATH=bundle python benchmarks/gpu.py --output gpu.json
    PYTHONPATH=bundle python benchmarks/gpu.py --small --output gpu.json   # the same on any machine, to see it run

The parts run one after the other, each in a process of its own with the time that is left; one that fails or takes too
long is noted, and the others go on.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from machine import ceilings

HERE = Path(__file__).resolve().parent
GOALS = {"volume_seconds": 0.5, "batch_1_gb": 1.47, "minutes_for_200000_iterations": 15.0}
INFERENCE = ["--paper", "--plain_slices", "1", "--slices"]
TRAINING = ["--paper", "--stages"]
logger = logging.getLogger("gpu")


def parts(small: bool) -> dict[str, list[str]]:
    """Name of each part and its command, the most wanted first."""
    if small:
        tiny = ["2", "--steps", "2", "--plain_slices", "1"]
        return {
            "inference": ["inference_speed.py", "--slices", *tiny, "--batches", "1", "2"],
            "training": ["training_speed.py", "--iterations", "1", "--batch", "2", "--crop_size", "64"],
        }
    stage_2 = ["training_speed.py", *TRAINING, "denoiser", "--batch", "32"]
    compiled = ["--compile_modes", "reduce-overhead"]
    return {
        "inference": ["inference_speed.py", *INFERENCE, "49", "--batches", "1", "49"],
        "inference compiled": ["inference_speed.py", *INFERENCE, "49", "--batches", "49", *compiled],
        "training": [*stage_2, "--iterations", "300"],
        "training compiled": [*stage_2, "--iterations", "1000", "--compile_modes", "default"],
        "training stage 1": ["training_speed.py", *TRAINING, "autoencoder", "--batch", "6", "--iterations", "100"],
        "inference, four volumes": ["inference_speed.py", *INFERENCE, "196", "--batches", "98", *compiled],
        "shipped model": ["inference_speed.py", "--slices", "49", "--plain_slices", "1", "--batches", "1", "49"],
    }


def run_part(command: list[str], seconds: float) -> dict:
    """What a part wrote, or why it wrote nothing."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result.json"
        call = [sys.executable, str(HERE / command[0]), *command[1:], "--output", str(output)]
        try:
            subprocess.run(call, check=True, timeout=seconds)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            return {"failed": str(error)}
        return json.loads(output.read_text())


def trains(row: dict) -> bool:
    """Whether the gradients are right: a compiled network that loses some may be fast, but does not train."""
    return not row.get("parameters_without_gradient") and row.get("gradient_cosine", 1.0) > 0.99


def judge(results: dict[str, dict]) -> dict[str, float | None]:
    """The best figure found for each goal; ``None`` where nothing was measured."""
    rows = [row for result in results.values() for row in result.get("rows", [])]
    volumes = [r["seconds"] for r in rows if r.get("batch") == 49 and "seconds" in r]
    single = [r["peak_memory_gb"] for r in rows if r.get("batch") == 1 and r.get("precision")]
    rates = [r["iterations_a_second"] for r in rows if r.get("stage") == "denoiser" and trains(r)]
    return {
        "volume_seconds": min(volumes, default=None),
        "batch_1_gb": min(single, default=None),
        "minutes_for_200000_iterations": 200_000 / max(rates) / 60 if rates else None,
    }


def main() -> None:
    """Measure, print, write JSON after every part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a few tiny runs with the shipped model, on any machine")
    parser.add_argument("--minutes", type=float, default=9.5, help="for everything")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    end = time.monotonic() + 60 * arguments.minutes
    if not (arguments.small or torch.cuda.is_available()):
        parser.error("no GPU is there: the full measurement would take hours; try --small.")
    limits = ceilings(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    logger.info("%s: %.0f GFLOP/s in bfloat16, %.0f GB/s copied", *limits.values())
    results: dict[str, dict] = {}
    for name, command in parts(arguments.small).items():
        left = end - time.monotonic()
        logger.info("== %s (%.0f s left)", name, left)
        results[name] = run_part(command, left) if left > 10 else {"failed": "no time left"}
        report = {"machine": limits, "goals": GOALS, "reached": judge(results), "parts": results}
        arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    for name, goal in GOALS.items():
        value = judge(results)[name]
        logger.info("%-32s %s, goal %g", name, "not measured" if value is None else f"{value:.3g}", goal)


if __name__ == "__main__":
    main()
