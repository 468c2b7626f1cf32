"""Bad input through the workflows: a clear error that names file or key, and the other subjects go on."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runner import AFFINE, BUNDLE, CONFIGS, base_configs, run_bundle, tiny_overlay, write_subject
from monai.bundle import ConfigWorkflow

from scripts.export_model import export_model

GOOD = "A_good"


@contextmanager
def raises_because(pattern: str) -> Iterator[None]:
    """An error whose first cause matches ``pattern``: MONAI's configuration parser wraps what it runs."""
    with pytest.raises(Exception) as ending:
        yield
    error = ending.value
    while error.__cause__ is not None:
        error = error.__cause__
    assert isinstance(error, (ValueError, OSError)), repr(error)
    assert re.search(pattern, str(error)), str(error)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    export_model(folder / "model.pt", [CONFIGS / "inference.json", tiny_overlay(folder, "inference")])
    return folder / "model.pt"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_subject(tmp_path / "data", GOOD, 1)
    return tmp_path / "data"


def workflow(stage: str, folder: Path, run_id: str, **overrides) -> ConfigWorkflow:
    files = [*map(str, base_configs(stage)), str(tiny_overlay(folder, stage))]
    overrides = {"bundle_root": str(BUNDLE), "output_dir": str(folder / "out"), **overrides}
    # Without the bundle's logging.conf, which would take the handlers of pytest's caplog away.
    return ConfigWorkflow(files, workflow_type="infer", run_id=run_id, logging_file=False, **overrides)


def infer(tmp_path: Path, data: Path, model: Path, **overrides) -> ConfigWorkflow:
    settings = {"dataset_dir": str(data), "weights": str(model), "anomaly_threshold": 0.5, **overrides}
    flow = workflow("inference", tmp_path, "inference", **settings)
    flow.initialize()
    return flow


def change(path: Path, edit) -> None:
    """Rewrite a NIfTI file with its array edited."""
    image = nib.load(path)
    array, affine = edit(np.asarray(image.dataobj).astype(np.float32), image.affine.copy())
    nib.save(nib.Nifti1Image(array, affine), path)


def missing_sequence(folder: Path) -> str:
    (folder / "B_bad_flair.nii.gz").unlink()
    return "no file for sequence 'flair'"


def other_shape(folder: Path) -> str:
    change(folder / "B_bad_flair.nii.gz", lambda a, f: (a[:-2], f))
    return "B_bad_flair.nii.gz: shape (54, 48, 6)"


def other_affine(folder: Path) -> str:
    change(folder / "B_bad_t1ce.nii.gz", lambda a, f: (a, f + np.eye(4) * [0.5, 0, 0, 0]))
    return "B_bad_t1ce.nii.gz: its affine differs"


def truncated(folder: Path) -> str:
    path = folder / "B_bad_t1.nii.gz"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return "B_bad_t1.nii.gz: cannot be read"


def not_nifti(folder: Path) -> str:
    with gzip.open(folder / "B_bad_t1.nii.gz", "wb") as stream:
        stream.write(b"this is a letter, not an image")
    return "B_bad_t1.nii.gz: cannot be read"


def nan_voxels(folder: Path) -> str:
    change(folder / "B_bad_t1.nii.gz", lambda a, f: (np.where(a == a.max(), np.nan, a), f))
    return "B_bad_t1.nii.gz: 1 voxels are NaN or infinite"


def infinite_voxels(folder: Path) -> str:
    change(folder / "B_bad_t1.nii.gz", lambda a, f: (np.where(a == a.max(), np.inf, a), f))
    return "B_bad_t1.nii.gz: 1 voxels are NaN or infinite"


def constant_volume(folder: Path) -> str:
    change(folder / "B_bad_flair.nii.gz", lambda a, f: (np.full_like(a, 7), f))
    return "B_bad_flair.nii.gz: empty or constant, every voxel is 7"


def empty_volume(folder: Path) -> str:
    change(folder / "B_bad_flair.nii.gz", lambda a, f: (np.zeros_like(a), f))
    return "B_bad_flair.nii.gz: empty or constant, every voxel is 0"


def flat_file(folder: Path) -> str:
    change(folder / "B_bad_t1.nii.gz", lambda a, f: (a[..., 0], f))
    return "B_bad_t1.nii.gz: holds a 2D image, a 3D volume is wanted"


def wrong_channels(folder: Path) -> str:
    volume = np.stack([np.asarray(nib.load(p).dataobj) for p in sorted(folder.glob("*_t1*.nii.gz"))], axis=-1)
    nib.save(nib.Nifti1Image(volume, AFFINE), folder.parent / "B_bad.nii.gz")
    shutil.rmtree(folder)
    return "B_bad.nii.gz: has 2 channel(s), 3 are wanted"


DAMAGES = [
    missing_sequence,
    other_shape,
    other_affine,
    truncated,
    not_nifti,
    nan_voxels,
    infinite_voxels,
    constant_volume,
    empty_volume,
    flat_file,
    wrong_channels,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_inference_names_the_file_and_finishes_the_others(damage, tmp_path, data, model, caplog):
    message = damage(write_subject(data, "B_bad", 2))
    write_subject(data, "C_good", 3)
    flow = infer(tmp_path, data, model)
    with pytest.raises(SystemExit) as ending:
        flow.run()
    assert ending.value.code == 1
    listed = [r.getMessage() for r in caplog.records if "subject(s) failed" in r.getMessage()]
    assert len(listed) == 1 and message in listed[0] and "1 subject(s)" in listed[0]
    assert sorted(p.name for p in (tmp_path / "out").glob("*/")) == [GOOD, "C_good"]
    assert (tmp_path / "out" / "scores.csv").read_text().count("C_good") == 6


def test_label_of_another_shape_stops_only_its_subject_in_training(tmp_path, data, caplog):
    change(write_subject(data, "B_bad", 2) / "B_bad_seg.nii.gz", lambda a, f: (a[..., :-1], f))
    write_subject(data, "C_good", 3)
    flow = train(tmp_path, data, split_file=split(tmp_path, [GOOD, "B_bad"], ["C_good"]))
    with pytest.raises(SystemExit):
        flow.run()
    assert any("B_bad_seg.nii.gz: shape (56, 48, 5)" in r.getMessage() for r in caplog.records)
    assert torch.load(tmp_path / "out" / "last.pt", weights_only=True)["epoch"] == 2


def train(tmp_path: Path, data: Path, **overrides) -> ConfigWorkflow:
    flow = workflow("autoencoder", tmp_path, "training", dataset_dir=str(data), **overrides)
    flow.initialize()
    return flow


def split(tmp_path: Path, training: list[str], validation: list[str]) -> str:
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"training": training, "validation": validation}))
    return str(path)


def test_no_healthy_slice(tmp_path, data):
    write_subject(data, "B_all_lesion", 2, lesion_slices=range(6))
    flow = train(tmp_path, data, split_file=split(tmp_path, ["B_all_lesion"], [GOOD]))
    with raises_because("no healthy slice"):
        flow.run()


@pytest.mark.parametrize("content", [[], ["notes.txt"]])
def test_no_subjects_in_the_folder(content, tmp_path, model):
    folder = tmp_path / "empty"
    folder.mkdir()
    for name in content:
        (folder / name).write_text("nothing")
    with raises_because(r"no subjects in .*empty"):
        infer(tmp_path, folder, model).run()


def test_missing_folder(tmp_path, model):
    with raises_because(r"dataset_dir .*nowhere"):
        infer(tmp_path, tmp_path / "nowhere", model).run()


def test_missing_weights(tmp_path, data):
    with raises_because(r"weights: no file .*no\.pt"):
        infer(tmp_path, data, tmp_path / "no.pt").run()


def test_weights_of_another_model(tmp_path, data, model):
    state = torch.load(model, weights_only=True)
    state["stranger"] = state.pop("denoiser.conv_in.conv.bias")
    torch.save(state, tmp_path / "foreign.pt")
    with raises_because(r"1 keys missing .*denoiser.conv_in.conv.bias.*stranger"):
        infer(tmp_path, data, tmp_path / "foreign.pt").run()


def test_weights_that_are_no_weights(tmp_path, data):
    (tmp_path / "letter.pt").write_text("not a checkpoint")
    with raises_because(r"weights: .*letter\.pt' is not a readable checkpoint"):
        infer(tmp_path, data, tmp_path / "letter.pt").run()


def test_missing_calibration(tmp_path, data, model):
    with raises_because(r"calibration_file: no file .*no\.json.*give anomaly_threshold"):
        infer(tmp_path, data, model, anomaly_threshold=None, calibration_file=str(tmp_path / "no.json")).run()


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("noise_level", 0, r"noise_level must be a whole number in \[1, 1000\], got 0"),
        ("noise_level", 1001, r"noise_level must be a whole number in \[1, 1000\], got 1001"),
        ("probability_threshold", 1.2, r"probability_threshold must be a number in \[0, 1\], got 1.2"),
        ("probability_threshold", -0.1, r"probability_threshold must be a number in \[0, 1\], got -0.1"),
        ("num_inference_steps", 7, r"num_inference_steps must be a whole number in \[1, 6\], got 7"),
        ("sequences", ["t1", "pet"], "sequences holds unknown 'pet', known are t1, t1ce, t2, flair"),
    ],
)
def test_settings_out_of_range_are_refused_first(key, value, wanted, tmp_path):
    # Neither data nor weights exist: the check must come before anything looks for them.
    flow = workflow("inference", tmp_path, "inference", dataset_dir="nowhere", weights="nothing", **{key: value})
    with raises_because(wanted):
        flow.initialize()
    assert not (tmp_path / "out").exists()


def test_command_line_reports_and_ends_with_exit_code_1(tmp_path, data, model):
    truncated(write_subject(data, "B_bad", 2))
    files = [CONFIGS / "inference.json", tiny_overlay(tmp_path, "inference")]
    output = tmp_path / "out"
    result = run_bundle("inference", files, dataset_dir=data, output_dir=output, weights=model, anomaly_threshold=0.5)
    assert result.returncode == 1
    assert "B_bad_t1.nii.gz: cannot be read" in result.stdout + result.stderr
    assert (output / GOOD / f"{GOOD}_anomaly.nii.gz").is_file()


def test_command_line_refuses_an_unwritable_folder(tmp_path, data, model):
    (tmp_path / "file").write_text("in the way")
    files = [CONFIGS / "inference.json", tiny_overlay(tmp_path, "inference")]
    output = tmp_path / "file" / "out"
    result = run_bundle("inference", files, dataset_dir=data, output_dir=output, weights=model, anomaly_threshold=0.5)
    assert result.returncode == 1
    assert "output_dir: cannot write in" in result.stdout + result.stderr


def test_errors_from_worker_processes_name_the_file_too(tmp_path, data, model, caplog):
    message = truncated(write_subject(data, "B_bad", 2))
    flow = infer(tmp_path, data, model, num_workers=1)
    with pytest.raises(SystemExit):
        flow.run()
    assert any(message in r.getMessage() for r in caplog.records if "subject(s) failed" in r.getMessage())
    assert (tmp_path / "out" / GOOD).is_dir()


def test_a_folder_that_holds_no_results_is_neither_finished_nor_overwritten(tmp_path, data, model):
    # Results among the data: the subject's own folder is in the way.
    flow = infer(tmp_path, data, model, output_dir=str(data))
    with pytest.raises(SystemExit):
        flow.run()
    assert sorted(p.name for p in (data / GOOD).iterdir()) == [
        f"{GOOD}_{s}.nii.gz" for s in ("flair", "seg", "t1", "t1ce")
    ]


def test_another_subject_of_the_same_name_is_refused(tmp_path, data, model):
    infer(tmp_path, data, model).run()
    write_subject(tmp_path / "other", GOOD, 5)
    with raises_because(f"holds results of another '{GOOD}'"):
        infer(tmp_path, tmp_path / "other", model).run()


def test_resuming_with_other_settings_is_refused(tmp_path, data):
    write_subject(data, "B_second", 2)
    train(tmp_path, data).run()
    with raises_because("comes from other settings .max_epochs is 2 there, 4 here"):
        train(tmp_path, data, max_epochs=4).run()


def test_training_without_any_validation_leaves_a_best_model(tmp_path, data):
    write_subject(data, "B_second", 2)
    train(tmp_path, data, val_interval=5).run()
    last, best = (torch.load(tmp_path / "out" / name, weights_only=True) for name in ("last.pt", "best.pt"))
    assert all(torch.equal(best[key], value) for key, value in last["objects"]["ema"].items())
