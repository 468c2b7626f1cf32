"""Inference and evaluation in two processes (gloo, CPU) against one: nobody lost, nobody done twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runner import CONFIGS, check_run, run_bundle, tiny_overlay, write_subject
from failing_process import MESSAGE
from torchrun import torchrun

from scripts.export_model import export_model
from scripts.results import read_rows

SUBJECTS = ["A", "B", "C"]
MAPS = ("anomaly", "reconstruction", "mask_density", "segmentation")
INFERENCE, EVALUATION = ["inference.json"], ["inference.json", "evaluation.json"]
FEW = {"bootstrap_resamples": 20, "panels": 1}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three labelled subjects, and weights that really mask."""
    folder = tmp_path_factory.mktemp("work")
    for number, name in enumerate(SUBJECTS):
        write_subject(folder / "data", name, number, shape=(56, 48, 4 + number))
    overlay = tiny_overlay(folder, "inference", anomaly_threshold=0.05, median_size=3)
    export_model(folder / "model.pt", [CONFIGS / "inference.json", overlay])
    state = torch.load(folder / "model.pt", weights_only=True)
    generator = torch.Generator().manual_seed(0)
    for value in state.values():
        # MONAI's last layer starts at zero, and nothing would be masked.
        if value.ndim > 1 and not value.any():
            value.copy_(0.2 * torch.randn(value.shape, generator=generator))
    torch.save(state, folder / "model.pt")
    return folder


def settings(run_id: str, work: Path, configs: list[str], output: Path, *overlays: str | Path, **more) -> dict:
    """Arguments of both command lines."""
    files = [
        *[CONFIGS / name for name in configs],
        *[CONFIGS / name for name in overlays],
        work / "tiny_inference.json",
    ]
    shared = {"dataset_dir": work / "data", "weights": work / "model.pt", "output_dir": output}
    return {"run_id": run_id, "configs": files, **shared, **more}


@pytest.fixture(scope="module")
def alone(work: Path) -> Path:
    """Inference and evaluation in one process."""
    check_run(run_bundle(**settings("evaluation", work, EVALUATION, work / "alone", **FEW)))
    return work / "alone"


@pytest.fixture(scope="module")
def together(work: Path) -> Path:
    """Inference and evaluation in two processes."""
    overlays = "multi_gpu_evaluation.json"
    check_run(torchrun(**settings("evaluation", work, EVALUATION, work / "together", overlays, **FEW)))
    return work / "together"


def assert_same_results(ours: Path, theirs: Path) -> None:
    """Same segmentations, maps and scores, the rows in the same order."""
    for subject in SUBJECTS:
        for name in MAPS:
            first, second = (
                np.asarray(nib.load(f / subject / f"{subject}_{name}.nii.gz").dataobj) for f in (ours, theirs)
            )
            np.testing.assert_allclose(first, second, atol=0 if name == "segmentation" else 1e-5)
    first, second = (read_rows(folder / "scores.csv") for folder in (ours, theirs))
    assert [(row["subject"], row["slice"]) for row in first] == [(row["subject"], row["slice"]) for row in second]
    for row, other in zip(first, second, strict=True):
        for key in ("mask_share", "map_mean", "map_max"):
            assert float(row[key]) == pytest.approx(float(other[key]), abs=1e-5)
    assert (ours / "settings.json").read_text() == (theirs / "settings.json").read_text()


def test_the_runs_can_be_told_apart(alone):
    # Guards the comparisons: maps of nothing would pass them.
    shares = {float(row["mask_share"]) for row in read_rows(alone / "scores.csv")}
    assert len(shares) > 10 and 0 < min(shares) < max(shares) < 1
    for subject in SUBJECTS:
        segmentation = np.asarray(nib.load(alone / subject / f"{subject}_segmentation.nii.gz").dataobj)
        assert 0 < segmentation.mean() < 0.9


def test_inference_of_three_subjects_in_two_processes(alone, together):
    assert_same_results(together, alone)
    names = [sorted(p.name for p in folder.iterdir()) for folder in (together, alone)]
    assert names[0] == names[1]


def without_cost(summary):
    """A summary without what no two runs share: times, memory, and where results lie."""
    if isinstance(summary, dict):
        hidden = ("cost", "second", "memory", "created", "folder")
        return {k: without_cost(v) for k, v in summary.items() if not any(word in k for word in hidden)}
    return [without_cost(v) for v in summary] if isinstance(summary, list) else summary


def test_evaluation_in_two_processes(alone, together):
    summaries = [json.loads((f / "evaluation" / "summary.json").read_text()) for f in (together, alone)]
    assert summaries[0]["table"].keys() == summaries[1]["table"].keys()
    assert without_cost(summaries[0]) == without_cost(summaries[1])
    for name in ("per_slice.csv", "per_subject.csv"):
        assert (together / "evaluation" / name).read_text() == (alone / "evaluation" / name).read_text()


@pytest.fixture(scope="module")
def with_failure(work: Path) -> dict:
    """Inference in two processes of data whose second subject, the second process's first, cannot be read."""
    data = work / "broken_data"
    shutil.copytree(work / "data", data)
    (data / "B" / "B_flair.nii.gz").write_bytes(b"no image")
    folder = work / "with_failure"
    overlay = "multi_gpu_inference.json"
    result = torchrun(**settings("inference", work, INFERENCE, folder, overlay, dataset_dir=data))
    return {"folder": folder, "result": result}


def test_a_failing_subject_is_reported_once_and_the_others_are_done(with_failure, alone):
    printed = with_failure["result"].stdout + with_failure["result"].stderr
    assert with_failure["result"].returncode == 1
    reports = printed.split("1 subject(s) failed:")
    assert len(reports) == 2 and "B_flair.nii.gz: cannot be read" in reports[1].splitlines()[1]
    assert printed.count("exitcode  : 1") == 2
    wanted = [row for row in read_rows(alone / "scores.csv") if row["subject"] != "B"]
    assert read_rows(with_failure["folder"] / "scores.csv") == wanted


def test_one_subject_in_two_processes_completes_the_folder(with_failure, work, alone, tmp_path):
    shutil.copytree(with_failure["folder"], tmp_path / "out")
    printed = check_run(
        torchrun(**settings("inference", work, INFERENCE, tmp_path / "out", "multi_gpu_inference.json"))
    )
    assert "2 of 3 subjects are finished already" in printed
    assert printed.count("scripts.writers.base - INFO - wrote") == 1
    assert_same_results(tmp_path / "out", alone)


def test_a_failing_process_ends_the_others_with_its_error(work, tmp_path):
    failing = tmp_path / "failing.json"
    handler = {"_target_": "failing_process.FailAt", "rank": 1, "iteration": 1}
    failing.write_text(json.dumps({"+handlers": [handler]}))
    result = torchrun(**settings("inference", work, INFERENCE, tmp_path / "out", "multi_gpu_inference.json", failing))
    printed = result.stdout + result.stderr
    assert result.returncode == 1 and f"RuntimeError: {MESSAGE}" in printed
    assert not (tmp_path / "out" / "B").exists() and not (tmp_path / "out" / "scores.csv").exists()
