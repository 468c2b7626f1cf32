"""Peak memory and time of an evaluation, and how they grow with the number of subjects.

Subjects are copied by links until there are as many as wanted, and every evaluation is a process of its own. From the
repository root, after an inference over labelled data:

    python benchmarks/evaluation_memory.py --dataset_dir data --results output/masked --times 1 4
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
logger = logging.getLogger("evaluation_memory")


def link_copies(source: Path, target: Path, copies: int) -> None:
    """Folders of subjects under new names; their files are links whose names begin with the new name."""
    target.mkdir()
    for number in range(copies):
        for folder in sorted(p for p in source.iterdir() if p.is_dir() and not p.name.startswith(".")):
            if not any(folder.glob(f"{folder.name}*")):
                continue
            name = f"copy{number}_{folder.name}"
            (target / name).mkdir()
            for path in folder.glob(f"{folder.name}*"):
                (target / name / path.name.replace(folder.name, name, 1)).symlink_to(path.resolve())


def copy_results(source: Path, target: Path, copies: int) -> None:
    """Result folders likewise; the note of which files they come from is left out, since the names differ."""
    link_copies(source, target, copies)
    for path in target.glob("*/*_source.json"):
        path.unlink()
    (target / "settings.json").symlink_to((source / "settings.json").resolve())


def measure(dataset: Path, results: Path, folder: Path, resamples: int) -> dict:
    """Run one evaluation and read what the system says of it."""
    command = [sys.executable, "-m", "monai.bundle", "run", "judging", "--config_file"]
    command += ["['bundle/configs/inference.json','bundle/configs/evaluation.json']", "--progress", "False"]
    command += ["--dataset_dir", str(dataset), "--output_dir", str(results), "--evaluation_dir", str(folder)]
    command += ["--bootstrap_resamples", str(resamples), "--panels", "2"]
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise RuntimeError(f"{' '.join(command)} ended with status {status}.")
    summary = json.loads((folder / "summary.json").read_text())
    return {
        "subjects": summary["data"]["subjects"],
        "slices": summary["data"]["slices"],
        "peak_memory_mb": round(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6, 1),
        "seconds": round(time.perf_counter() - start, 1),
    }


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_dir", type=Path, required=True, help="labelled subjects, a folder each")
    parser.add_argument("--results", type=Path, required=True, help="result folder of an inference over them")
    parser.add_argument("--times", type=int, nargs="+", default=[1, 4], help="how many times as many subjects")
    parser.add_argument("--bootstrap_resamples", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=Path("evaluation_memory.json"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    rows = []
    for times in arguments.times:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            link_copies(arguments.dataset_dir, folder / "data", times)
            copy_results(arguments.results, folder / "results", times)
            rows.append(measure(folder / "data", folder / "results", folder / "report", arguments.bootstrap_resamples))
        logger.info("%(subjects)5d subjects %(slices)6d slices %(peak_memory_mb)8.1f MB %(seconds)7.1f s", rows[-1])
    arguments.output.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
