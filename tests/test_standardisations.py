"""The table of standardisations, on the shipped sample: one patient, stripped."""

from __future__ import annotations

import csv
import subprocess
import sys

import pytest
from bundle_runner import BUNDLE, ROOT, environment


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[dict[str, str]]:
    path = tmp_path_factory.mktemp("standardisations") / "table.csv"
    sample = str(BUNDLE / "sample")
    command = [sys.executable, str(ROOT / "benchmarks" / "standardisations.py"), "--dataset_dir", sample]
    command += ["--training_dir", sample, "--brain_extraction", "null", "--output", str(path)]
    env = {**environment(), "PYTHONPATH": str(BUNDLE), "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command, check=True, env=env, cwd=path.parent, timeout=600)
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_standardisation_has_a_row(rows):
    names = [row["standardisation"] for row in rows]
    assert names == ["percentile 99.5", "median", "robust range", "landmarks to 99 %", "landmarks to 75 %"]


def test_one_patient_alone_is_all_patients(rows):
    for row in rows:
        assert float(row["AP pooled"]) == pytest.approx(float(row["mean AP"]))
        assert float(row["spread of median"]) == float(row["spread of 95 %"]) == 0
        assert 0 < float(row["AP pooled"]) < float(row["oracle Dice"]) + 0.5
        assert 0 <= float(row["slice AUROC"]) <= 1


def test_lines_through_zero_keep_the_order_of_a_patients_voxels(rows):
    """Percentile and median are such lines, clipped only above: within a patient they are worth the same."""
    percentile, median = (float(row["AP pooled"]) for row in rows[:2])
    assert percentile == pytest.approx(median, abs=0.03)
    assert percentile > 0.05
