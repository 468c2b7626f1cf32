"""Both stages in two processes (gloo, CPU) against one: same weights, same history, whoever resumes."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from bundle_runner import CONFIGS, base_configs, check_run, run_bundle, tiny_overlay, write_subject
from failing_process import MESSAGE
from torchrun import torchrun

MULTI_GPU = CONFIGS / "multi_gpu_train.json"

# Some biases (of keys in attention, before a norm) have no gradient but rounding, which Adam blows up to full steps
# unless epsilon is well above it.
STEPS = {"batch_size": 4, "learning_rate": 1e-3}
STAGES = {
    # The discriminator has batch normalisation; it learns from the first step.
    "autoencoder": {**STEPS, "optimizer#eps": 1e-3, "discriminator_optimizer#eps": 1e-3, "adversarial_start_epoch": 1},
    # Encoded beforehand, so that the encoding is shared out too.
    "denoiser": {**STEPS, "optimizer#eps": 1e-5, "code_variants": 2},
}
STEP = 1e-3
"""What Adam moves a weight by in each of the six steps, about."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four subjects, of which one, with five healthy slices, is for validation: its last batch has one row."""
    folder = tmp_path_factory.mktemp("work")
    for number in range(4):
        write_subject(folder / "data", f"S{number}", number, shape=(56, 48, 5 + number % 2))
    return folder


def settings(stage: str, work: Path, output: Path, *overlays: Path) -> dict:
    """Arguments of both command lines."""
    overlay = tiny_overlay(work, stage, **STAGES[stage])
    weights = {"autoencoder_weights": work / "autoencoder" / "best.pt"} if stage == "denoiser" else {}
    configs = [*base_configs(stage), overlay, *overlays]
    return {"run_id": "training", "configs": configs, "dataset_dir": work / "data", "output_dir": output, **weights}


@pytest.fixture(scope="module")
def alone(work: Path) -> dict[str, Path]:
    """The output folder of each stage in one process."""
    for stage in STAGES:
        check_run(run_bundle(**settings(stage, work, work / stage)))
    return {stage: work / stage for stage in STAGES}


@pytest.fixture(scope="module")
def broken(work: Path) -> dict:
    """Stage 1 in two processes, of which the second fails in the middle of the second epoch."""
    failing = work / "failing.json"
    handler = {"_target_": "failing_process.FailAt", "rank": 1, "iteration": 5}
    failing.write_text(json.dumps({"+train#handlers": [handler]}))
    folder = work / "broken"
    return {
        "folder": folder,
        "result": torchrun(**settings("autoencoder", work, folder, MULTI_GPU, failing)),
    }


def tensors(content, name: str = "") -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, by their place in it."""
    if isinstance(content, torch.Tensor):
        return {name: content}
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return {k: v for key, value in pairs for k, v in tensors(value, f"{name}/{key}").items()}


def assert_same_training(ours: Path, theirs: Path) -> None:
    """Weights, averages, states of the optimizers and history agree; pictures and split are there once."""
    for name in ("last.pt", "best.pt"):
        first, second = (tensors(torch.load(folder / name, weights_only=True)) for folder in (ours, theirs))
        assert first.keys() == second.keys() and len(first) > 20
        for key in first:
            # A twentieth of a step: sums of smaller batches are rounded otherwise, and a bit of the code whose
            # probability lies at its random number may turn by that. Without shared noise or averaged gradients the
            # differences are eight steps and more.
            torch.testing.assert_close(
                first[key], second[key], atol=STEP / 20, rtol=0, msg=lambda m, k=key: f"{k}: {m}"
            )
    histories = [list(csv.DictReader((folder / "history.csv").open())) for folder in (ours, theirs)]
    assert [row.keys() for row in histories[0]] == [row.keys() for row in histories[1]] and len(histories[0]) == 2
    for first, second in zip(*histories, strict=True):
        for key in first:
            assert float(first[key]) == pytest.approx(float(second[key]), rel=1e-5), key
    assert (ours / "split.json").read_text() == (theirs / "split.json").read_text()
    names = [sorted(str(p.relative_to(folder)) for p in folder.rglob("*")) for folder in (ours, theirs)]
    assert names[0] == names[1]


def test_training_moved(alone):
    # Guards the comparisons: weights that stay where they began would pass them.
    last = torch.load(alone["autoencoder"] / "last.pt", weights_only=True)["objects"]
    network, average = tensors(last["network"]), tensors(last["ema"])
    moved = torch.cat([(network[key] - average[key]).abs().flatten() for key in network])
    # The average follows slowly, so it is where the network began.
    assert moved.median() > STEP
    assert tensors(last["discriminator"])["/0.adn.N.num_batches_tracked"] == 18


def test_a_failing_process_ends_the_others_with_its_error(broken):
    printed = broken["result"].stdout + broken["result"].stderr
    assert broken["result"].returncode == 1
    assert f"RuntimeError: {MESSAGE}" in printed
    assert "Root Cause" in printed and "rank      : 1 (local_rank: 1)" in printed
    assert torch.load(broken["folder"] / "last.pt", weights_only=True)["epoch"] == 1


@pytest.mark.parametrize("processes", [1, 2])
def test_stage_1_resumed_after_the_failure_equals_one_process(processes, broken, alone, work, tmp_path):
    shutil.copytree(broken["folder"], tmp_path / "out")
    start = run_bundle if processes == 1 else torchrun
    overlays = [] if processes == 1 else [MULTI_GPU]
    printed = check_run(start(**settings("autoencoder", work, tmp_path / "out", *overlays)))
    assert "resumed after epoch 1" in printed
    assert_same_training(tmp_path / "out", alone["autoencoder"])


def test_stage_2_equals_one_process(alone, work, tmp_path):
    printed = check_run(torchrun(**settings("denoiser", work, tmp_path / "out", MULTI_GPU)))
    assert_same_training(tmp_path / "out", alone["denoiser"])
    # All processes tell what they validate, one tells the losses.
    assert printed.count("scripts.handlers.history - INFO - epoch 2") == 1
