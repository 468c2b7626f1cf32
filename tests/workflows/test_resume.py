"""Trainings that are stopped at any moment and resumed end as if nothing had happened."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from bundle_runner import (
    BUNDLE,
    ROOT,
    base_configs,
    bundle_command,
    check_run,
    environment,
    run_bundle,
    tiny_overlay,
    write_subject,
)
from warm_process import run_module

STAGES = ("autoencoder", "denoiser")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for number in range(3):
        write_subject(folder, f"S{number}", number)
    return folder


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The output folder of each stage after three epochs that nobody disturbed, in real processes."""
    work = tmp_path_factory.mktemp("undisturbed")
    folders = {stage: work / stage for stage in STAGES}
    for stage, folder in folders.items():
        check_run(run_bundle("training", fork=False, **arguments(stage, data, folder, folders["autoencoder"])))
    return folders


def arguments(stage: str, data: Path, output: Path, autoencoder: Path) -> dict:
    """Arguments of :func:`run_bundle`; three epochs of three iterations."""
    output.mkdir(parents=True, exist_ok=True)
    overlay = tiny_overlay(output, stage, max_epochs=3, adversarial_start_epoch=2)
    weights = {"autoencoder_weights": str(autoencoder / "best.pt")} if stage == "denoiser" else {}
    configs = [*map(str, base_configs(stage)), str(overlay)]
    return {"configs": configs, "dataset_dir": str(data), "output_dir": str(output), **weights}


def kill(moment: str, stage_arguments: dict) -> None:
    """Run the training in a process that dies by SIGKILL at ``moment``."""
    settings = {**stage_arguments, "run_id": "training", "config_file": stage_arguments["configs"]}
    del settings["configs"]
    env = {**environment(), "PYTHONPATH": str(ROOT / "tests")}
    result = run_module("kill_driver", [moment, json.dumps(settings)], BUNDLE, env)
    assert result.returncode == -signal.SIGKILL, (result.stdout + result.stderr)[-4000:]


def assert_same(first, second) -> None:
    """Two nested checkpoints hold the same numbers to the last bit."""
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            assert_same(a, b)
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    else:
        assert first == second


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("moment", ["inside_epoch", "inside_checkpoint"])
def test_killed_and_resumed_equals_undisturbed(stage, moment, data, undisturbed, tmp_path):
    output = tmp_path / "out"
    settings = arguments(stage, data, output, undisturbed["autoencoder"])
    kill(moment, settings)
    # What is there can be loaded, and is the epoch before.
    assert torch.load(output / "last.pt", weights_only=True)["epoch"] == 1
    printed = check_run(run_bundle("training", **settings))
    assert "resumed after epoch 1" in printed
    for name in ("last.pt", "best.pt"):
        ours, theirs = (torch.load(f / name, weights_only=True) for f in (output, undisturbed[stage]))
        assert_same(ours, theirs)
    histories = [list(csv.DictReader((f / "history.csv").open())) for f in (output, undisturbed[stage])]
    assert histories[0] == histories[1]


def test_epochs_differ(undisturbed):
    # Guards the comparison above: training that never moved would pass it.
    rows = list(csv.DictReader((undisturbed["autoencoder"] / "history.csv").open()))
    assert len({row["loss"] for row in rows}) == 3


def test_sigterm_leaves_a_loadable_checkpoint(data, tmp_path):
    settings = arguments("autoencoder", data, tmp_path / "out", tmp_path)
    command = bundle_command("training", **{**settings, "max_epochs": 500})
    process = subprocess.Popen(
        command, cwd=BUNDLE, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    last = tmp_path / "out" / "last.pt"
    deadline = time.monotonic() + 300
    while not last.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.terminate()
    assert process.wait(timeout=60) != 0
    assert torch.load(last, weights_only=True)["epoch"] >= 1
