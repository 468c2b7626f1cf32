"""The search through the real command line, killed with -9 in the middle of a cell and resumed."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
from bundle_runner import BUNDLE, ROOT, check_run, environment, run_bundle
from warm_process import run_module

GRID = {"noise_levels": [4, 8], "probability_thresholds": [0.4, 0.6], "step_counts": [3], "search_seed": 1}


def files(prefix: str, overlay: Path) -> list[str]:
    return [f"{prefix}configs/inference.json", f"{prefix}configs/search.json", str(overlay)]


def arrays(folder: Path) -> dict[str, np.ndarray]:
    found = {}
    for path in folder.glob("cells/*/*.npz"):
        with np.load(path, allow_pickle=False) as content:
            found |= {f"{path.parent.name}/{path.name}/{k}": content[k] for k in content.files if k != "seconds"}
    return found


def test_killed_and_resumed_equals_undisturbed(
    tmp_path: Path, overlay: Path, model: Path, data: Path, no_seconds: Callable, read_json: Callable
):
    settings = {"dataset_dir": str(data), "weights": str(model), **GRID, "calibration_file": "/nowhere.json"}
    whole = tmp_path / "whole" / "search"
    settings_of_whole = {"output_dir": whole.parent, "search_subjects": 2, **settings}
    printed = check_run(run_bundle("search", files("bundle/", overlay), ROOT, fork=False, **settings_of_whole))
    assert "searching on 2 of 2 labelled subjects (3 in all): A, B" in printed
    assert "chosen on 2 subjects (A, B) and optimistic on them" in printed

    folder = tmp_path / "killed" / "search"
    arguments = {"run_id": "search", "config_file": files("", overlay), "output_dir": str(folder.parent), **settings}
    env = {**environment(), "PYTHONPATH": str(ROOT / "tests")}
    killed = run_module("kill_driver", ["inside_cell", json.dumps(arguments)], BUNDLE, env)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    assert len(list(folder.glob("cells/*/*.npz"))) == 3 and len(list(folder.glob("cells/*/.*.partial"))) == 1
    printed = check_run(run_bundle("search", files("", overlay), output_dir=folder.parent, **settings))
    assert "5 of 8 cells are to be computed" in printed
    assert not list(folder.glob("cells/*/.*.partial"))

    first, second = arrays(folder), arrays(whole)
    assert first.keys() == second.keys() and len({key.rsplit("/", 1)[0] for key in first}) == 8
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key], err_msg=key)
    for name in ("search.csv", "cells.csv"):
        assert no_seconds(folder / name) == no_seconds(whole / name)
    assert read_json(folder / "winner.json") == read_json(whole / "winner.json")
    assert all((folder / name).stat().st_size > 10_000 for name in ("heat_map.png", "mask_share.png"))


def test_wrong_grids_end_the_command_with_the_reason(tmp_path: Path, overlay: Path, model: Path, data: Path):
    result = run_bundle(
        "search",
        files("", overlay),
        dataset_dir=data,
        weights=model,
        output_dir=tmp_path / "out",
        noise_levels=[0, 2000],
        probability_thresholds=[1.5],
    )
    printed = result.stdout + result.stderr
    assert result.returncode != 0 and not (tmp_path / "out").exists()
    for level in (0, 2000):
        assert f"noise_level must be a whole number in [1, 1000], got {level}" in printed
    assert "probability_threshold must be a number in [0, 1], got 1.5" in printed
