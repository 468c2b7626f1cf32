"""Inference on DICOM through the real command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
from bundle_runner import CONFIGS, run_bundle, tiny_overlay, write_subject
from synthetic_study import new_study, write_study

from scripts.export_model import export_model

DESCRIPTIONS = {"t1": "MPRAGE", "flair": "dark fluid", "t1ce": "T1 post"}
SETTINGS = {"anomaly_threshold": 0.1, "seed": 3}


def test_dicom_gives_what_nifti_gives_and_bad_subjects_are_named(tmp_path: Path):
    export_model(tmp_path / "model.pt", [CONFIGS / "inference.json", tiny_overlay(tmp_path, "inference")])
    nifti, studies = tmp_path / "nifti", tmp_path / "studies"
    study = new_study()
    for number, name in enumerate(("A_missing", "B_good", "C_other", "D_good")):
        write_study(write_subject(nifti, name, number, lesion_slices=None), studies / name, DESCRIPTIONS, study=study)
    shutil.rmtree(studies / "A_missing" / "02_flair")
    shutil.rmtree(studies / "C_other" / "03_t1ce")
    write_study(nifti / "C_other", tmp_path / "fewer", DESCRIPTIONS, slices=(1, 6), study=study)
    (tmp_path / "fewer" / "03_t1ce").rename(studies / "C_other" / "03_t1ce")

    common = {"weights": tmp_path / "model.pt", **SETTINGS}
    files = [CONFIGS / "inference.json", CONFIGS / "data/dicom.json", tiny_overlay(tmp_path, "inference")]
    own = {"dataset_dir": studies, "output_dir": tmp_path / "of_dicom", "series_patterns#t1": "['^mprage$']"}
    result = run_bundle("inference", files, **own, **common)
    printed = result.stdout + result.stderr
    assert result.returncode == 1 and "2 subject(s) failed" in printed, printed[-4000:]
    assert "A_missing: no series for sequence 'flair'" in printed
    assert "C_other: series 'T1 post' has another geometry than 'MPRAGE': size 56 x 48 x 5" in printed
    files.remove(CONFIGS / "data/dicom.json")
    run_bundle("inference", files, dataset_dir=nifti, output_dir=tmp_path / "of_nifti", **common)

    assert sorted(p.name for p in (tmp_path / "of_dicom").glob("*/")) == ["B_good", "D_good"]
    for name in ("B_good", "D_good"):
        for kind in ("anomaly", "segmentation", "reconstruction", "mask_density"):
            ours, theirs = (nib.load(tmp_path / f / name / f"{name}_{kind}.nii.gz") for f in ("of_dicom", "of_nifti"))
            np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-5)
            np.testing.assert_allclose(ours.get_fdata(), theirs.get_fdata(), atol=1e-6)
            assert len(np.unique(ours.get_fdata())) > 1
    scores = [(tmp_path / folder / "scores.csv").read_text().splitlines() for folder in ("of_dicom", "of_nifti")]
    assert scores[0] == [row for row in scores[1] if row.startswith(("subject", "B_good", "D_good"))]
