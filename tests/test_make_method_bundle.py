"""A bundle folder of another method."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bundle_runner import BUNDLE, CONFIGS, check_run, run_bundle, write_subject
from contract_cases import save_weights, tiny_file

from scripts.make_method_bundle import main, make_method_bundle

OVERLAY = CONFIGS / "methods" / "denoising_autoencoder.json"


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in path.parts}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"weights")
    return path


def test_a_folder_that_holds_anything_is_refused(tmp_path: Path, weights: Path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"output: '.*new' is not empty"):
        make_method_bundle(str(tmp_path / "new"), [str(OVERLAY)], str(weights))
    assert names(tmp_path / "new") == {"notes.txt"}


@pytest.mark.parametrize("missing", ["overlay", "weights", "calibration"])
def test_a_missing_file_is_named_before_anything_is_written(missing: str, tmp_path: Path, weights: Path):
    files = {"overlay": str(OVERLAY), "weights": str(weights), "calibration": str(weights)}
    files[missing] = str(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"no file '.*none'"):
        make_method_bundle(str(tmp_path / "new"), [files["overlay"]], files["weights"], files["calibration"])
    assert not (tmp_path / "new").exists()


def test_the_command_line_says_what_is_wrong(tmp_path: Path, weights: Path, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--overlay", str(OVERLAY), "--weights", str(tmp_path / "none"), "--output", str(tmp_path / "new")])
    assert caught.value.code == 1 and "error: no file" in capsys.readouterr().err


def test_what_is_copied(tmp_path: Path, weights: Path):
    calibration = tmp_path / "mine.json"
    calibration.write_text("{}")
    target = make_method_bundle(str(tmp_path / "new"), [str(OVERLAY)], str(weights), str(calibration))
    for folder in ("configs", "docs", "sample", "scripts"):
        assert names(target / folder) == names(BUNDLE / folder)
    assert (target / "LICENSE").read_bytes() == (BUNDLE / "LICENSE").read_bytes()
    assert names(target / "models") == {"LICENSE", "model.pt", "calibration.json"}
    assert (target / "models" / "model.pt").read_bytes() == b"weights"
    assert not list(target.rglob("__pycache__"))


def test_overlays_are_merged_in_order(tmp_path: Path, weights: Path):
    (tmp_path / "mine.json").write_text(json.dumps({"image_size": 32, "extra": 1}))
    overlays = [str(OVERLAY), str(tmp_path / "mine.json")]
    merged = json.loads(
        (make_method_bundle(str(tmp_path / "new"), overlays, str(weights)) / "configs" / "inference.json").read_text()
    )
    base, method = json.loads((CONFIGS / "inference.json").read_text()), json.loads(OVERLAY.read_text())
    assert merged["image_size"] == 32 and merged["extra"] == 1
    assert merged["method"] == method["method"] and merged["displayable_configs"] == method["displayable_configs"]
    assert merged["sequences"] == base["sequences"]
    # Whatever files the overlay names, those of the new folder are read.
    assert merged["weights"] == base["weights"] and merged["calibration_file"] == base["calibration_file"]


def test_its_inference_is_the_methods(tmp_path: Path):
    """From the command line in the new folder, without overlays and without naming weights."""
    write_subject(tmp_path / "data", "S1", 1)
    tiny = tiny_file(tmp_path, OVERLAY)
    save_weights(tmp_path / "weights.pt", CONFIGS / "inference.json", OVERLAY, tiny)
    target = make_method_bundle(str(tmp_path / "new"), [str(OVERLAY), str(tiny)], str(tmp_path / "weights.pt"))
    data = {"dataset_dir": tmp_path / "data"}
    check_run(run_bundle("inference", ["configs/inference.json"], cwd=target, output_dir=tmp_path / "own", **data))
    configs = [CONFIGS / "inference.json", OVERLAY, tiny]
    whole = {**data, "output_dir": tmp_path / "overlaid", "weights": tmp_path / "weights.pt"}
    check_run(run_bundle("inference", configs, **whole))
    for name in ("anomaly", "reconstruction", "segmentation"):
        own, overlaid = (
            np.asarray(nib.load(tmp_path / run / "S1" / f"S1_{name}.nii.gz").dataobj) for run in ("own", "overlaid")
        )
        assert own.any()
        np.testing.assert_array_equal(own, overlaid)
    own, overlaid = (json.loads((tmp_path / run / "settings.json").read_text()) for run in ("own", "overlaid"))
    assert own == overlaid and own["method"]["name"] == "DenoisingAutoencoder"
