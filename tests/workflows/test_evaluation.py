"""Evaluation and calibration through the real command line, with tiny networks that really mask."""

from __future__ import annotations

import csv
import json
import sqlite3
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runner import CONFIGS, check_run, run_bundle, tiny_overlay, write_prepared, write_subject

from scripts.export_model import export_model
from scripts.results import read_rows

SUBJECTS = ["Doe_Jane", "Roe_Richard", "Poe_Edgar"]
CONFIG = "configs/inference.json"
SQUARED = {"_target_": "scripts.scores.squared_residual", "_mode_": "callable", "weights": [1.0, 1.0, 1.0]}
"""In numbers the squared residual of ``scores.json``, by its keywords another score, so that it is computed anew."""

FEW = {"bootstrap_resamples": 20, "panels": 1}


def make_model(folder: Path, overlays: list[str], **changes) -> tuple[Path, Path]:
    """A tiny overlay, and weights of which none is zero: MONAI's last layer starts so, and nothing would be masked."""
    overlay = tiny_overlay(folder, "inference", median_size=3, **changes)
    path = folder / "model.pt"
    export_model(path, [CONFIGS / "inference.json", *[CONFIGS / name for name in overlays], overlay])
    state = torch.load(path, weights_only=True)
    generator = torch.Generator().manual_seed(0)
    for value in state.values():
        if value.ndim > 1 and not value.any():
            value.copy_(0.2 * torch.randn(value.shape, generator=generator))
    torch.save(state, path)
    return overlay, path


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three labelled subjects, one of them without a lesion, one in another orientation."""
    folder = tmp_path_factory.mktemp("work")
    data = folder / "data"
    write_subject(data, SUBJECTS[0], 1, lesion_slices=(1, 2))
    affine = np.array([[0, 1.5, 0, 1], [0, 0, -4, 2], [1.5, 0, 0, 3], [0, 0, 0, 1]], dtype=np.float64)
    write_subject(data, SUBJECTS[1], 2, lesion_slices=(5,), shape=(40, 44, 40), affine=affine)
    write_subject(data, SUBJECTS[2], 3, lesion_slices=())
    overlay, model = make_model(folder, [], anomaly_map=SQUARED)
    return {"folder": folder, "data": data, "overlay": overlay, "model": model, "out": folder / "out"}


def run(work: dict[str, Path], run_id: str, configs: list[str], output: Path, **overrides) -> str:
    files = [CONFIG, *[f"configs/{name}.json" for name in configs], work["overlay"]]
    shared = {"dataset_dir": work["data"], "weights": work["model"], "output_dir": output}
    return check_run(run_bundle(run_id, files, **{**shared, **overrides}))


@pytest.fixture(scope="module")
def calibrated(work: dict[str, Path]) -> Path:
    """The file of the calibration workflow."""
    path = work["folder"] / "calibration.json"
    settings = {"calibration_file": path, "bootstrap_resamples": 20, "false_positive_rate": 0.05}
    run(work, "calibration", ["calibration"], work["folder"] / "calibrating", **settings)
    return path


@pytest.fixture(scope="module")
def evaluated(work: dict[str, Path], calibrated: Path) -> str:
    """Inference and evaluation in one command, tracked; what it printed."""
    return run(work, "evaluation", ["evaluation"], work["out"], calibration_file=calibrated, tracking="mlflow", **FEW)


def summary_of(folder: Path) -> dict:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return json.loads((folder / "summary.json").read_text(), parse_constant=refuse)


def test_calibration_is_read_by_inference(work, calibrated, evaluated):
    threshold = json.loads(calibrated.read_text())["threshold"]
    content = json.loads(calibrated.read_text())
    assert 0 < content["realised_rate"] <= 0.05 and content["subjects"] == 3
    settings = json.loads((work["out"] / "settings.json").read_text())
    assert settings["anomaly_threshold"] == threshold > 0
    assert {key: settings[key] for key in content["settings"]} == content["settings"]
    assert {"weights", "score", "method", "map_postprocessing"} <= content["settings"].keys()
    # The segmentations that inference stored are those that evaluation judges under this threshold.
    summary = summary_of(work["out"] / "evaluation")
    assert summary["thresholds"]["masked"]["deployed"] == threshold
    key = dict(csv.reader((work["out"] / "evaluation" / "pseudonyms.csv").open()))
    total = 0
    for subject in SUBJECTS:
        stored = nib.load(work["out"] / subject / f"{subject}_segmentation.nii.gz")
        rows = [
            row
            for row in csv.DictReader((work["out"] / "evaluation" / "per_slice.csv").open())
            if row["subject"] == key[subject] and row["method"] == "masked"
        ]
        positives = sum(int(row["tp_deployed"]) + int(row["fp_deployed"]) for row in rows)
        assert positives == np.asarray(stored.dataobj).sum()
        total += positives
    assert total > 0


def test_evaluation_writes_a_report_with_every_section(work, evaluated):
    folder = work["out"] / "evaluation"
    assert (folder / "report.html").stat().st_size > 100_000
    summary = summary_of(folder)
    assert summary["data"]["subjects"] == summary["data"]["patients"] == 3
    assert summary["data"]["healthy_patients"] == 1
    row = summary["table"]["masked"]
    for key in (
        "ap_foreground",
        "dice_subject_calibrated",
        "dice_slice_deployed",
        "slice_auroc_mask_share",
        "psnr_healthy",
    ):
        assert row[key]["value"] is not None, key
    assert row["million_parameters"]["value"] > 0 and row["seconds_a_slice"]["value"] > 0
    assert row["network_evaluations"]["value"] == 3
    assert sorted(summary["methods"]) == ["bright sequence", "masked"]


def test_tracking_has_numbers_and_files_but_no_names(work, evaluated):
    with sqlite3.connect(work["out"] / "mlruns.db") as database:
        metrics = dict(database.execute("select key, value from metrics").fetchall())
        uris = [uri for (uri,) in database.execute("select artifact_uri from runs where status = 'FINISHED'")]
    summary = summary_of(work["out"] / "evaluation")
    assert metrics["masked/ap_foreground"] == pytest.approx(summary["table"]["masked"]["ap_foreground"]["value"])
    artifacts = [p for p in (work["out"] / "mlruns").rglob("*") if p.is_file()]
    assert {"report.html", "summary.json", "per_slice.csv", "per_subject.csv"} <= {p.name for p in artifacts}
    assert "pseudonyms.csv" not in {p.name for p in artifacts}
    assert all(str(work["out"]) in uri for uri in uris)
    for path in (*artifacts, work["out"] / "mlruns.db"):
        assert not [name for name in SUBJECTS if name.encode() in path.read_bytes()], path


def test_results_are_judged_again_without_inference(work, calibrated, evaluated):
    """With other methods beside it: two made with overlays, other scores, and foreign maps in another orientation."""
    shared = {"calibration_file": calibrated, "anomaly_threshold": 0.5}
    unmasked, residual = work["folder"] / "unmasked", work["folder"] / "residual"
    # A file named later wins, and the tiny overlay sets the noise level and P itself.
    for name, folder in (("methods/unmasked", unmasked), ("methods/autoencoder_residual", residual)):
        files = [CONFIG, work["overlay"], f"configs/{name}.json"]
        given = {"dataset_dir": work["data"], "weights": work["model"], "output_dir": folder, **shared}
        check_run(run_bundle("inference", files, **given))
    assert json.loads((residual / "settings.json").read_text())["method"]["noise_level"] == 1
    rows = {name: read_rows(folder / "scores.csv") for name, folder in (("unmasked", unmasked), ("residual", residual))}
    # P = 0 masks whatever is not certain, P = 1 nothing.
    assert all(float(row["mask_share"]) > 0.9 for row in rows["unmasked"])
    assert all(float(row["mask_share"]) == 0 for row in rows["residual"])

    foreign = work["folder"] / "foreign"
    foreign.mkdir()
    for subject in SUBJECTS:
        image = nib.load(work["out"] / subject / f"{subject}_anomaly.nii.gz")
        turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt("SAR"))
        nib.save(image.as_reoriented(turn), foreign / f"{subject}.nii.gz")

    before = {p: p.stat().st_mtime_ns for p in work["out"].rglob("*") if "evaluation" not in p.parts}
    comparisons = {"unmasked": str(unmasked), "autoencoder residual": str(residual)}
    run(
        work,
        "evaluation",
        ["evaluation", "scores"],
        work["out"],
        calibration_file=calibrated,
        comparisons=comparisons,
        maps_dir={"same maps": str(foreign)},
        evaluation_dir=work["folder"] / "evaluation",
        **FEW,
    )
    # Nothing of the inference was done again; only the folder's list of scores is put together anew.
    after = {p: p.stat().st_mtime_ns for p in work["out"].rglob("*") if "evaluation" not in p.parts}
    folders = {work["out"], work["out"] / "scores.csv"}
    assert {p: t for p, t in after.items() if p not in folders} == {p: t for p, t in before.items() if p not in folders}

    summary, first = summary_of(work["folder"] / "evaluation"), summary_of(work["out"] / "evaluation")
    assert list(summary["methods"])[:5] == ["masked", *comparisons, "same maps", "bright sequence"]
    assert len(summary["methods"]) == 5 + 7
    table = summary["table"]
    for key in ("ap_foreground", "dice_subject_calibrated", "froc_2", "slice_auroc_map_mean", "psnr_outside_lesion"):
        assert table["masked"][key] == first["table"]["masked"][key], key
    for key in ("ap_foreground", "aupro_foreground", "paper_dice", "dice_slice_oracle", "froc_4"):
        assert table["same maps"][key] == table["masked"][key], key
        assert summary["differences"]["same maps"][key].get("value", 0) == 0
    # The score of stored reconstructions is what inference stored.
    for key in ("ap_foreground", "aupro_foreground", "dice_slice_calibrated", "slice_auroc_map_mean", "paper_auprc"):
        again = table["masked, squared residual"][key]["value"]
        assert again == pytest.approx(table["masked"][key]["value"], rel=0.02), key
    for name in ("unmasked", "autoencoder residual", "masked, absolute residual", "bright sequence"):
        assert table[name]["ap_foreground"]["value"] != table["masked"]["ap_foreground"]["value"], name
    assert table["masked"]["ap_foreground"]["value"] != summary["data"]["prevalence_foreground"]
    assert table["autoencoder residual"]["network_evaluations"]["value"] == 1
    assert not (work["folder"] / "evaluation" / "pseudonyms.csv").exists()
    assert SUBJECTS[0] in (work["folder"] / "evaluation" / "per_slice.csv").read_text()


def test_maps_of_another_method_alone(work, evaluated, tmp_path):
    """``judging`` needs no results of this bundle, and no weights."""
    for subject in SUBJECTS[:2]:
        image = nib.load(work["out"] / subject / f"{subject}_anomaly.nii.gz")
        nib.save(image, tmp_path / f"{subject}_anomaly.nii.gz")
    files = [CONFIG, "configs/evaluation.json", work["overlay"]]
    settings = {"dataset_dir": work["data"], "output_dir": tmp_path / "out", "maps_dir": tmp_path, "weights": "none.pt"}
    result = run_bundle("judging", files, **settings, **FEW)
    printed = result.stdout + result.stderr
    # One subject has no map: the others are judged, and the command says so at its end.
    assert result.returncode == 1
    assert f"no map of {SUBJECTS[2]} in" in printed and "1 subject(s) failed" in printed
    summary = summary_of(tmp_path / "out" / "evaluation")
    assert list(summary["methods"]) == ["maps_dir", "bright sequence"]
    assert summary["data"]["subjects"] == 2
    assert any("1 of 3 subjects could not be judged" in note for note in summary["notes"])


def test_prepared_slices_end_to_end(tmp_path):
    data = tmp_path / "data"
    write_prepared(data, 4, 3, label=True)
    overlay, model = make_model(tmp_path, ["data/prepared_slices.json"], anomaly_threshold=0.1)
    files = [CONFIG, "configs/evaluation.json", "configs/data/prepared_slices.json", overlay]
    given = {"dataset_dir": data, "weights": model, "output_dir": tmp_path / "out", **FEW}
    check_run(run_bundle("evaluation", files, **given))
    summary = summary_of(tmp_path / "out" / "evaluation")
    assert summary["data"]["subjects"] == summary["data"]["slices"] == 4
    assert summary["data"]["diseased_slices"] == 2 and summary["data"]["lesions"] == 2
    rows = list(csv.DictReader((tmp_path / "out" / "evaluation" / "per_subject.csv").open()))
    assert [int(row["lesion_pixels"]) for row in rows[:4]] == [0, 160, 0, 160]
    for row in rows[:4]:
        # What inference stored as a segmentation is what was judged.
        stored = np.asarray(
            nib.load(tmp_path / "out" / row["subject"] / f"{row['subject']}_segmentation.nii.gz").dataobj
        )
        label = np.asarray(nib.load(data / f"{row['subject']}.nii.gz").dataobj)[3:] > 0
        overlap = 2 * (stored.astype(bool) & label).sum() / (stored.sum() + label.sum()) if label.any() else None
        expected = float(stored.sum() == 0) if overlap is None else overlap
        assert float(row["dice_deployed"]) == pytest.approx(expected)
