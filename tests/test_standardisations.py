"""The table of standardisations, on patients that are made so that one must know what it says."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bundle_runner import ROOT

LESION = {"A": 9, "B": 2}
"""Half the width of the lesion in pixels: a large one takes the 99.5th percentile with it, a small one does not."""


def write_patient(folder: Path, name: str, gain: float) -> None:
    """Brain of 40 x 40 pixels with the same tissue in every patient but for the gain; the first slice is healthy."""
    random, size = np.random.default_rng(0), LESION[name]
    volume, label = np.zeros((48, 48, 3), dtype=np.float32), np.zeros((48, 48, 3), dtype=np.float32)
    volume[4:44, 4:44] = random.normal(100, 12, (40, 40, 3))
    label[24 - size : 24 + size, 24 - size : 24 + size, 1:] = 1
    volume += (label > 0) * random.uniform(40, 300, volume.shape)
    (folder / name).mkdir()
    for sequence, values in (("t1", volume[::-1] * gain), ("flair", volume * gain), ("seg", label)):
        path = folder / name / f"{name}_{sequence}.nii.gz"
        nib.save(nib.Nifti1Image(np.ascontiguousarray(values), np.diag([-1, -1, 5, 1.0])), path)


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> dict[str, dict[str, float]]:
    folder = tmp_path_factory.mktemp("standardisations")
    (folder / "data").mkdir()
    write_patient(folder / "data", "A", 1.0)
    write_patient(folder / "data", "B", 3.0)
    path, data = folder / "table.csv", str(folder / "data")
    command = ["standardisations.py", "--dataset_dir", data, "--training_dir", data, "--brain_extraction", "null"]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        patch.setattr(sys, "argv", [*command, "--sequences", "t1", "flair", "--sigma", "0", "--output", str(path)])
        import standardisations

        standardisations.main()
    with path.open(newline="") as stream:
        table = {row.pop("standardisation"): row for row in csv.DictReader(stream)}
    return {name: {key: float(value) for key, value in row.items()} for name, row in table.items()}


def test_every_standardisation_has_a_row(rows):
    assert list(rows) == ["percentile 99.5", "median", "robust range", "landmarks to 99 %", "landmarks to 75 %"]
    for row in rows.values():
        assert 0.5 < row["AP pooled"] <= 1
        assert 0.5 < row["oracle Dice"] <= 1
        assert row["slice AUROC"] == 1


def test_a_lesion_moves_the_percentile_and_not_the_median(rows):
    """Then patients lie apart, and one threshold does not fit both."""
    percentile, median, robust = (rows[name] for name in ("percentile 99.5", "median", "robust range"))
    assert percentile["mean AP"] - percentile["AP pooled"] > 0.05
    for row in (median, robust):
        assert abs(row["mean AP"] - row["AP pooled"]) < 0.02
        assert row["spread of median"] < percentile["spread of median"] / 4
        assert row["AP pooled"] > percentile["AP pooled"]


def test_within_a_patient_the_order_of_voxels_is_all(rows):
    """No standardisation changes it but by clipping."""
    means = [row["mean AP"] for row in rows.values()]
    assert max(means) - min(means) < 0.05
