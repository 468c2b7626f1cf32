"""A forked ``python -m`` against a real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bundle_runner import environment
from warm_process import run_module

PROBE = """
import atexit, json, multiprocessing, os, sys
atexit.register(print, "the end")
said = {"arguments": sys.argv, "folder": os.getcwd(), "path": sys.path, "environment": dict(os.environ)}
said |= {"name": __name__, "start": multiprocessing.get_start_method()}
print(json.dumps({"ours": sorted({"scripts", "conftest"} & sys.modules.keys()), **said}))
print("an error", file=sys.stderr)
ending = sys.argv[1]
if ending == "raises":
    raise KeyError("wrong")
if ending == "killed":
    os.kill(os.getpid(), 9)
sys.exit({"well": None, "status": 3, "text": "no use"}[ending])
"""
DRAWS = """
import json, random
import numpy as np
from monai.transforms import Randomizable
print(json.dumps([random.random(), np.random.random(), Randomizable.R.random()]))
"""


def ways(folder: Path, ending: str) -> list[subprocess.CompletedProcess]:
    """The probe in a real process and in a forked one."""
    (folder / "probe.py").write_text(PROBE)
    env = environment() | {"PYTHONPATH": str(folder / "more"), "OWN": "1"}
    command = [sys.executable, "-m", "probe", ending]
    real = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    return [real, run_module("probe", [ending], folder, env)]


@pytest.mark.parametrize(("ending", "status"), [("well", 0), ("status", 3), ("text", 1), ("raises", 1), ("killed", -9)])
def test_it_ends_as_a_real_process_does(ending: str, status: int, tmp_path: Path):
    for process in ways(tmp_path, ending):
        assert process.returncode == status
        assert ("the end" in process.stdout) == (ending != "killed")
        assert "an error" in process.stderr
        assert ("KeyError: 'wrong'" in process.stderr) == (ending == "raises")
        assert ("no use" in process.stderr) == (ending == "text")


def test_the_program_sees_what_it_would_see(tmp_path: Path):
    real, forked = (json.loads(process.stdout.splitlines()[0]) for process in ways(tmp_path, "well"))
    assert forked == real
    assert real["ours"] == [] and real["environment"]["OWN"] == "1" and os.environ.get("OWN") is None


def test_unseeded_numbers_differ(tmp_path: Path):
    (tmp_path / "draws.py").write_text(DRAWS)
    first, second = (json.loads(run_module("draws", [], tmp_path, environment()).stdout) for _ in range(2))
    assert len(first) == 3 and all(a != b for a, b in zip(first, second, strict=True))
