"""Compare a method with a folder of golden numbers: ``python tests/golden.py METHOD FOLDER``.

The folder is laid out like the authors' reference of that method; sizes, seeds, levels and other constants are read
from its files. ``tests/golden_checks/METHOD.py`` has a function ``check(folder)`` that yields a :class:`Compared` for
every array. Each is printed with its largest difference beside its tolerance; the exit code is 1 when one is beyond it.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "bundle")]

from golden_checks import Compared  # noqa: E402


def methods() -> list[str]:
    """Methods that have golden numbers."""
    return sorted(p.stem for p in (HERE / "golden_checks").glob("*.py") if p.stem != "__init__")


def main(arguments: list[str]) -> int:
    """Compare, print, and return the exit code."""
    if len(arguments) != 2 or arguments[0] not in methods() or not Path(arguments[1]).is_dir():
        sys.stderr.write(f"usage: python tests/golden.py METHOD FOLDER, METHOD one of {', '.join(methods())}\n")
        return 2
    compared: list[Compared] = list(importlib.import_module(f"golden_checks.{arguments[0]}").check(Path(arguments[1])))
    for row in compared:
        sys.stdout.write(f"{row.name:32} {row.difference:10.3g}  tolerance {row.tolerance:g}{row.verdict}\n")
    return int(not compared or any(not row.passed for row in compared))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
