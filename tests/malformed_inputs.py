"""Malformed inputs of every class through data list, loading and preprocessing, each in a process of its own.

From the repository root:

    python tests/malformed_inputs.py --count 1000

Prints, for each class, how many were tried and how many survived: the run neither ended, hung nor took more than
``MEMORY_MB`` more memory, the good subject beside the bad one was read, and the bad one was either refused with a
``ValueError`` or ``OSError`` that names it, or read to the very voxels that were written (where damage must not pass).
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "bundle"), str(ROOT / "tests"), str(ROOT / "deploy" / "tests")]

import torch  # noqa: E402
from malformed_classes import CLASSES, VOXELS, Read, write_good  # noqa: E402
from numpy.random import default_rng  # noqa: E402

from scripts.texts import printable  # noqa: E402

logger = logging.getLogger("malformed_inputs")

MEMORY_MB, SECONDS = 200, 20


def judge(folder: Path, read: Read, exact: bool) -> str:
    """Empty when all is well, else what is wrong; runs in a process of its own."""
    seen = {}
    for item in read[0](str(folder)):
        try:
            data = read[1][0](item)
            loaded = data["image"].as_tensor().clone()
            for transform in read[1][1:]:
                data = transform(data)
            seen[item["subject"]] = loaded
        except (ValueError, OSError) as error:
            named = any(text in str(error) for text in (printable(str(folder)), item["subject"]))
            seen[item["subject"]] = "" if named and str(error).isprintable() else f"not named: {error}"
        except Exception as error:
            return f"{item['subject']}: {type(error).__name__}: {error}"
    if not isinstance(seen.pop("good", None), torch.Tensor):
        return "the good subject was lost"
    if not seen:
        return "the bad subject was lost"
    wrong = [v for v in seen.values() if isinstance(v, str) and v]
    read_well = [v for v in seen.values() if isinstance(v, torch.Tensor)]
    whole = torch.from_numpy(VOXELS).float()[None]
    if exact and any(v.shape != whole.shape or not torch.equal(v, whole) for v in read_well):
        wrong.append("damage that reads well")
    return wrong[0] if wrong else ""


def run_case(name: str, seed: int) -> str:
    """What is wrong with one case; empty when it survived."""
    make, read, exact = CLASSES[name]
    with tempfile.TemporaryDirectory() as temporary:
        folder, told = Path(temporary) / "data", Path(temporary) / "told"
        folder.mkdir()
        write_good(folder, read)
        make(default_rng(seed), folder)
        child = os.fork()
        if not child:
            signal.alarm(SECONDS)
            os.dup2(os.open(os.devnull, os.O_RDWR), 2)
            logging.disable()
            try:
                told.write_text(judge(folder, read, exact) or "well")
            except BaseException as error:
                told.write_text(f"the run ended: {type(error).__name__}: {error}"[:300], errors="replace")
            os._exit(0)
        _, status, usage = os.wait4(child, 0)
        if status:
            return f"killed by signal {os.WTERMSIG(status)} (14: it hung)"
        more = (usage.ru_maxrss - baseline()) / 1024
        if more > MEMORY_MB:
            return f"{more:.0f} MB more memory"
        return "" if (text := told.read_text()) == "well" else text


def baseline() -> int:
    """Memory of a fork of this process that does nothing, in kB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def main() -> None:
    """Try, print a table; ends with 1 when a case did not survive."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="cases, over all classes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--classes", nargs="+", choices=list(CLASSES), default=list(CLASSES))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    start, lost = time.perf_counter(), 0
    logger.info("%-15s %6s %9s", "class", "tried", "survived")
    for place, name in enumerate(arguments.classes):
        count = len(range(place, arguments.count, len(arguments.classes)))
        failures = [(seed, text) for seed in range(count) if (text := run_case(name, arguments.seed + seed))]
        lost += len(failures)
        logger.info("%-15s %6d %9d", name, count, count - len(failures))
        for seed, text in failures[:5]:
            logger.info("    seed %d: %s", arguments.seed + seed, text[:300])
    logger.info("%d tried, %d survived, %.0f s", arguments.count, arguments.count - lost, time.perf_counter() - start)
    sys.exit(bool(lost))


if __name__ == "__main__":
    main()
