"""Every configuration and overlay, tiny, end to end, through the real command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runner import (
    AFFINE,
    BUNDLE,
    CONFIGS,
    ROOT,
    base_configs,
    check_run,
    environment,
    run_bundle,
    tiny_overlay,
    write_pictures,
    write_prepared,
    write_subject,
)
from warm_process import run_module

INFERENCE = ["inference.json"]


def export(work: Path, configs: list[Path], autoencoder: Path | None = None, denoiser: Path | None = None) -> Path:
    """Join the weights of both stages, or random ones, with the real command."""
    output = work / "model.pt"
    arguments = ["--output", str(output), "--config", *map(str, configs)]
    for name, path in (("--autoencoder", autoencoder), ("--denoiser", denoiser)):
        arguments += [name, str(path)] if path else []
    check_run(run_module("scripts.export_model", arguments, BUNDLE, environment()))
    return output


def train_both(work: Path, data: Path, overlays: list[str], cwd: Path = BUNDLE, **overrides) -> Path:
    """Both stages with an overlay, and the joined model."""
    prefix = Path("configs") if cwd == BUNDLE else Path("bundle/configs")
    changes = overrides.pop("tiny", {})
    common = {"dataset_dir": data, **overrides}
    for stage, run_id in (("autoencoder", "training"), ("denoiser", "run")):
        overlay = tiny_overlay(work, stage, **changes)
        files = [*base_configs(stage, prefix), *[prefix / o for o in overlays], overlay]
        extra = {"autoencoder_weights": work / "autoencoder" / "best.pt"} if stage == "denoiser" else {}
        check_run(run_bundle(run_id, files, cwd, output_dir=work / stage, **common, **extra))
    configs = [CONFIGS / "inference.json", *[CONFIGS / o for o in overlays], tiny_overlay(work, "inference", **changes)]
    return export(work, configs, work / "autoencoder" / "best.pt", work / "denoiser" / "best.pt")


@pytest.fixture(scope="module")
def base_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Training of both stages with the base configurations: work folder, data, joined model."""
    work = tmp_path_factory.mktemp("base")
    data = work / "data"
    for number in range(4):
        write_subject(data, f"S{number}", number)
    # From the repository's root, where the bundle is one level below.
    model = train_both(work, data, [], cwd=ROOT, tiny={"code_variants": 2})
    return work, data, model


def test_training_writes_curves_pictures_split_and_checkpoints(base_run):
    work, _, model = base_run
    for stage, metric in (("autoencoder", "val_psnr"), ("denoiser", "val_bce")):
        folder = work / stage
        with (folder / "history.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        assert [int(row["epoch"]) for row in rows] == [1, 2]
        assert all(np.isfinite(float(row[key])) for row in rows for key in ("loss", metric))
        assert sorted(p.name for p in (folder / "pictures").iterdir()) == ["epoch_0001.png", "epoch_0002.png"]
        assert torch.load(folder / "last.pt", weights_only=True)["epoch"] == 2
        split = json.loads((folder / "split.json").read_text())
        assert sorted(split["training"] + split["validation"]) == ["S0", "S1", "S2", "S3"]
    # The model is made of both stages' best weights, in half precision.
    joined = torch.load(model, weights_only=True)
    for stage, prefix in (("autoencoder", "autoencoder"), ("denoiser", "denoiser")):
        best = torch.load(work / stage / "best.pt", weights_only=True)
        for key, value in best.items():
            assert torch.equal(joined[f"{prefix}.{key}"], value.half())


def test_calibration_and_inference_from_the_bundle_root(base_run, tmp_path):
    _, data, model = base_run
    overlay = tiny_overlay(tmp_path, "inference")
    calibration = tmp_path / "calibration.json"
    shared = {"weights": model, "calibration_file": calibration, "dataset_dir": data}
    files = ["configs/inference.json", "configs/calibration.json", overlay]
    check_run(run_bundle("calibration", files, output_dir=tmp_path / "calibrating", **shared))
    content = json.loads(calibration.read_text())
    assert content["realised_rate"] == pytest.approx(0.01, abs=0.002)
    calibrated = content["settings"]
    assert calibrated["method"]["noise_level"] == 6 and calibrated["sequences"] == ["t1", "flair", "t1ce"]

    files = ["configs/inference.json", overlay]
    output = tmp_path / "out"
    check_run(run_bundle("inference", files, output_dir=output, **shared))
    for subject in ("S0", "S1", "S2", "S3"):
        folder = output / subject
        segmentation = nib.load(folder / f"{subject}_segmentation.nii.gz")
        anomaly = nib.load(folder / f"{subject}_anomaly.nii.gz")
        reconstruction = nib.load(folder / f"{subject}_reconstruction.nii.gz")
        assert segmentation.shape == anomaly.shape == (56, 48, 6) and reconstruction.shape == (56, 48, 6, 3)
        assert segmentation.get_data_dtype() == np.uint8 and anomaly.get_data_dtype() == np.float32
        for image in (segmentation, anomaly, reconstruction):
            np.testing.assert_allclose(image.affine, AFFINE)
        assert (folder / f"{subject}_overview.png").stat().st_size > 10_000
    with (output / "scores.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["subject"], int(row["slice"])) for row in rows] == [(f"S{s}", i) for s in range(4) for i in range(6)]

    # Finished subjects are skipped, other settings are refused and nothing is touched.
    before = {p: p.stat().st_mtime_ns for p in output.rglob("*")}
    printed = check_run(run_bundle("inference", files, output_dir=output, **shared))
    assert "4 of 4 subjects are finished already" in printed
    other = run_bundle("inference", files, output_dir=output, probability_threshold=0.25, anomaly_threshold=1, **shared)
    assert other.returncode != 0
    assert "probability_threshold is 0.5 there, 0.25 here" in other.stdout + other.stderr
    assert {p: p.stat().st_mtime_ns for p in output.rglob("*")} == before
    # A threshold of other settings is refused as well.
    mismatch = run_bundle("inference", files, output_dir=tmp_path / "new", seed=0, noise_level=5, **shared)
    assert "method.noise_level is 6 there, 5 here" in mismatch.stdout + mismatch.stderr and mismatch.returncode != 0


def test_brats2020_overlay(tmp_path):
    data = tmp_path / "data"
    names = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"}
    for number in range(2):
        write_subject(data, f"BraTS-GLI-{number:05d}-000", number, list(names.values()), shape=(56, 56, 90))
    tiny = {"slice_range": [80, 83], "perceptual_weight": 0.0, "anomaly_threshold": 0.5}
    model = train_both(tmp_path, data, ["methods/masked_bernoulli_2024.json", "data/brats2020.json"], tiny=tiny)
    files = [
        "bundle/configs/inference.json",
        "bundle/configs/methods/masked_bernoulli_2024.json",
        "bundle/configs/data/brats2020.json",
        tiny_overlay(tmp_path, "inference", **tiny),
    ]
    output = tmp_path / "out"
    check_run(run_bundle("inference", files, ROOT, dataset_dir=data, output_dir=output, weights=model))
    anomaly = np.asarray(nib.load(next(output.glob("*/*_anomaly.nii.gz"))).dataobj)
    assert anomaly.shape == (56, 56, 90)
    assert np.flatnonzero(anomaly.any(axis=(0, 1))).tolist() == [80, 81, 82]


def test_oct2017_overlay(tmp_path):
    data = tmp_path / "data"
    write_pictures(data, "normal", 3)
    write_pictures(data, "drusen", 1, size=(64, 100))
    tiny = {"perceptual_weight": 0.0}
    model = train_both(
        tmp_path, data, ["methods/masked_bernoulli_2024.json", "data/oct2017.json"], tiny=tiny, val_fraction=0.4
    )
    files = [
        "configs/inference.json",
        "configs/methods/masked_bernoulli_2024.json",
        "configs/data/oct2017.json",
        tiny_overlay(tmp_path, "inference", **tiny),
    ]
    output = tmp_path / "out"
    check_run(run_bundle("run", files, dataset_dir=data, output_dir=output, weights=model))
    assert len(list(output.glob("*/"))) == 8
    image = nib.load(output / "DRUSEN-1000-1" / "DRUSEN-1000-1_anomaly.nii.gz")
    assert image.shape == (64, 100)
    from PIL import Image

    with Image.open(output / "NORMAL-1000-1" / "NORMAL-1000-1_segmentation.png") as picture:
        assert picture.size == (90, 70)


def test_prepared_slices_overlay(tmp_path):
    data, test_data = tmp_path / "data", tmp_path / "test"
    write_prepared(data, 4, 3, label=True)
    write_prepared(test_data, 2, 3, label=False)
    tiny = {"anomaly_threshold": 0.5}
    model = train_both(tmp_path, data, ["data/prepared_slices.json"], cwd=ROOT, tiny=tiny, val_fraction=0.5)
    files = ["configs/inference.json", "configs/data/prepared_slices.json", tiny_overlay(tmp_path, "inference", **tiny)]
    output = tmp_path / "out"
    check_run(run_bundle("inference", files, dataset_dir=test_data, output_dir=output, weights=model))
    assert nib.load(output / "000000" / "000000_anomaly.nii.gz").shape == (1, 64, 64)
    assert nib.load(output / "000001" / "000001_reconstruction.nii.gz").shape == (3, 64, 64)


def test_adversarial_training_and_mlflow_tracking(tmp_path):
    data = tmp_path / "data"
    for number in range(3):
        write_subject(data, f"S{number}", number)
    overlay = tiny_overlay(tmp_path, "autoencoder", adversarial_start_epoch=2)
    output = tmp_path / "out"
    files = [*base_configs("autoencoder"), overlay]
    check_run(run_bundle("training", files, dataset_dir=data, output_dir=output, tracking="mlflow"))
    with (output / "history.csv").open() as stream:
        first, second = csv.DictReader(stream)
    # The discriminator starts in the epoch that the configuration names.
    assert not first["discriminator_loss"] and float(second["discriminator_loss"]) > 0
    import sqlite3

    # The losses of every iteration, and the validation after every epoch.
    with sqlite3.connect(output / "mlruns.db") as database:
        keys = {row[0] for row in database.execute("select distinct key from metrics")}
    assert {"train_loss", "epoch/val_psnr"} <= keys
