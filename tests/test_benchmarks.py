"""The benchmarks run, tiny, and say of each other what must be true on any machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from bundle_runner import BUNDLE, ROOT, environment


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> dict:
    """What ``gpu.py --small`` writes: both benchmarks in a few steps, with the shipped weights on the sample."""
    path: Path = tmp_path_factory.mktemp("gpu") / "gpu.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--small", "--output", str(path)]
    env = {**environment(), "PYTHONPATH": str(BUNDLE), "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command, check=True, env=env, cwd=path.parent, timeout=900)
    return json.loads(path.read_text())


def test_every_part_ran(report):
    assert list(report["parts"]) == ["inference", "training"]
    assert not any("failed" in part for part in report["parts"].values())
    assert report["machine"]["bfloat16_gflops"] > 0


def test_float32_is_the_plain_loop_bit_for_bit(report):
    rows = [row for row in report["parts"]["inference"]["rows"] if row["precision"] == "float32"]
    assert [row["batch"] for row in rows] == [1, 2]
    assert all(row["code_bits_differing"] == 0 and row["largest_difference"] == 0 for row in rows)


def test_bfloat16_is_near(report):
    rows = [row for row in report["parts"]["inference"]["rows"] if row["precision"] == "bfloat16"]
    assert rows
    assert all(row["code_bits_differing"] < 0.05 and row["map_correlation"] > 0.95 for row in rows)


def test_training_figures_fit_together(report):
    rows = report["parts"]["training"]["rows"]
    assert {(row["stage"], row["memory_format"]) for row in rows} == {
        (stage, form) for stage in ("autoencoder", "diffusion") for form in ("contiguous", "channels_last")
    }
    for row in rows:
        assert row["images_a_second"] == pytest.approx(2 * row["iterations_a_second"])
        assert 0 <= row["loader_share"] < 1
        peak = report["parts"]["training"]["machine"]["bfloat16_gflops"]
        assert row["share_of_peak"] == pytest.approx(
            row["iterations_a_second"] * row["gflop_an_iteration"] / peak, rel=1e-6
        )


def test_goals_are_compared_with_what_was_measured(report):
    fastest = max(r["iterations_a_second"] for r in report["parts"]["training"]["rows"] if r["stage"] == "diffusion")
    assert report["reached"]["minutes_for_200000_iterations"] == pytest.approx(200_000 / fastest / 60)
    assert report["reached"]["volume_seconds"] is None, "no volume of 49 slices was measured"
