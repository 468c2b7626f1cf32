"""Every number of the table against a slow computation of its own, and its interval against repeated subjects."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import slow_metrics
from small_study import Study, make_body, seen

from scripts.evaluation.bootstrap import resamples
from scripts.evaluation.table import all_metrics
from scripts.evaluation.table.compute import compute_table, subject_weights
from scripts.evaluation.table.cost import COST_ROWS
from scripts.evaluation.thresholds import patient_folds

PATIENTS = {"BraTS-GLI-00001-000": "BraTS-GLI-00001", "BraTS-GLI-00001-001": "BraTS-GLI-00001"}
RATE, DEPLOYED, RESAMPLES = 0.02, 0.3, 12
KEYS = [metric.key for metric in all_metrics(slice_scores=["mask_share"])]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Six subjects of five patients, one without lesions and one with a slice that is not processed; two seeds."""
    bodies = [
        make_body("BraTS-GLI-00001-000", 0),
        make_body("BraTS-GLI-00001-001", 1, orientation="AIR", thin=(0,)),
        make_body("BraTS-GLI-00002-000", 2, (1,), "PSL"),
        make_body("other", 3, (3, 4, 5)),
        make_body("well", 4, ()),
        make_body("well, too", 5, ()),
    ]
    study = Study(tmp_path_factory.mktemp("study"), bodies)
    maps = [study.maps(seed) for seed in range(2)]
    folders = [study.results(f"run{seed}", m, seed=seed, anomaly_threshold=DEPLOYED) for seed, m in enumerate(maps)]
    evaluation = study.evaluation(
        folders[0],
        comparisons={"again": folders[0], "other": folders[1], "seeds": folders[:2]},
        false_positive_rate=RATE,
        bootstrap_resamples=RESAMPLES,
    )
    summary = evaluation.run()
    subjects = [[seen(body, m[name], PATIENTS.get(name)) for name, body in sorted(study.bodies.items())] for m in maps]
    folds = patient_folds([s.patient for s in subjects[0]])
    prepared = [slow_metrics.prepare(s, folds, RATE, DEPLOYED) for s in subjects]
    return SimpleNamespace(
        summary=summary, evaluator=evaluation.evaluator, subjects=subjects, prepared=prepared,
        slow=[slow_metrics.all_slow(s, *p) for s, p in zip(subjects, prepared, strict=True)],
    )  # fmt: skip


def test_the_slow_computation_knows_every_metric(study):
    assert set(study.slow[0]) == set(KEYS)
    assert set(study.summary["table"]["masked"]) == {*KEYS, *COST_ROWS}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(("method", "run"), [("masked", 0), ("other", 1)])
def test_every_metric_equals_the_slow_computation(study, method, run, key):
    entry = study.summary["table"][method][key]
    assert entry["value"] == pytest.approx(study.slow[run][key], rel=2e-5, abs=1e-9)
    assert entry["reason"] is None
    assert entry["low"] <= entry["high"]


def test_the_study_tells_metrics_apart(study):
    """Most numbers lie inside their range and differ between the two methods, or the comparison would see little."""
    trivial = [key for key in KEYS if study.slow[0][key] in (0, 1)]
    assert len(trivial) < 8
    # Both methods have the same reconstructions and masks.
    own = [key for key in KEYS if not key.endswith("mask_share") and not key.startswith(("psnr", "ssim", "paper_psnr"))]
    assert len(own) > 60
    # Few lesions give few values: some counts of the two methods may agree.
    assert sum(study.slow[0][key] == study.slow[1][key] for key in own) <= 5


BOOTSTRAPPED = [
    *("ap_foreground", "ap_diseased_slices", "auroc_image", "fpr95_foreground", "aupro_foreground"),
    *("best_dice_foreground", "dice_slice_paper", "dice_slice_sd_calibrated", "dice_subject_calibrated"),
    *("dice_subject_sd_oracle", "dice_subject_all_deployed", "precision_slice_paper", "fpr_healthy_calibrated"),
    *("alarms_healthy_paper", "froc_1", "froc_2", "false_positives_calibrated", "slice_auroc_map_mean"),
    *("slice_sensitivity95_mask_share", "patient_auroc_mask_share", "ssim_outside_lesion", "paper_auprc"),
]


def test_intervals_equal_those_of_subjects_that_are_repeated(study):
    subjects, (rules, curve) = study.subjects[0], study.prepared[0]
    names = sorted({s.patient for s in subjects})
    drawn = []
    for row in resamples(len(names), RESAMPLES, seed=0):
        repeated = [s for s in subjects for _ in range(row[names.index(s.patient)])]
        drawn.append(slow_metrics.all_slow(repeated, rules, curve))
    for key in BOOTSTRAPPED:
        values = np.array([d[key] for d in drawn])
        low, high = np.quantile(values[np.isfinite(values)], [0.025, 0.975])
        entry = study.summary["table"]["masked"][key]
        assert (entry["low"], entry["high"]) == (pytest.approx(low, rel=2e-5), pytest.approx(high, rel=2e-5)), key
    assert len(BOOTSTRAPPED) == len({*BOOTSTRAPPED} & {*KEYS})


def test_subjects_of_a_patient_are_drawn_together():
    weights = subject_weights(["b", "a", "b", "c"], 50, seed=3)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    np.testing.assert_array_equal(weights[:, [1, 0, 3]], resamples(3, 50, seed=3))
    assert not np.array_equal(weights[:, 0], weights[:, 1])


def test_a_method_does_not_differ_from_itself(study):
    for key in KEYS:
        same = study.summary["differences"]["again"][key]
        assert (same["value"], same["low"], same["high"], same["p_value"]) == (0, 0, 0, 1), key


@pytest.mark.parametrize("key", KEYS)
def test_differences_are_reference_minus_method(study, key):
    difference = study.summary["differences"]["other"][key]
    assert difference["value"] == pytest.approx(study.slow[0][key] - study.slow[1][key], rel=1e-4, abs=1e-5)
    assert 0 < difference["p_value"] <= 1
    assert "masked" not in study.summary["differences"]


@pytest.mark.parametrize("key", KEYS)
def test_seeds_give_their_mean_and_standard_deviation(study, key):
    entry, pair = study.summary["table"]["seeds"][key], [slow[key] for slow in study.slow]
    assert entry["value"] == pytest.approx(np.mean(pair), rel=2e-5, abs=1e-9)
    assert entry["seed_sd"] == pytest.approx(np.std(pair, ddof=1), rel=1e-3, abs=1e-5)
    assert study.summary["table"]["masked"][key]["seed_sd"] is None


def test_seeds_of_a_method_are_described(study):
    method = study.summary["methods"]["seeds"]
    assert (method["seeds"], method["seed"]) == (2, [0, 1])


def test_cost_is_that_of_the_notes(study):
    row = study.summary["table"]["masked"]
    # Six subjects of 1.5 s, one with five slices and five with six.
    assert row["seconds_a_slice"]["value"] == pytest.approx(9 / 35)
    assert row["seconds_a_volume"]["value"] == pytest.approx(1.5)
    assert row["peak_memory_gb"]["value"] == 2
    assert row["million_parameters"]["value"] == 3
    assert row["network_evaluations"]["value"] == 3
    assert all(row[key]["reason"] is None for key in COST_ROWS)
    for key in COST_ROWS:
        entry = study.summary["table"]["bright sequence"][key]
        assert entry["value"] is None and "without a note of their cost" in entry["reason"]


def test_metrics_are_described(study):
    described = study.summary["metrics"]
    assert list(described)[: len(KEYS)] == KEYS
    for metric in described.values():
        assert metric["title"] and metric["group"] and metric["help"] and metric["reason"]
        assert metric["better"] in ("high", "low", "")
    assert len({(m["group"], m["title"]) for m in described.values()}) == len(described)
    assert not {m.key for m in all_metrics(paper_protocol=False)} & {"paper_dice", "paper_auprc", "paper_psnr"}


def test_infinite_and_undefined_values_have_reasons(study):
    statistics = study.evaluator.runs["masked"][0].statistics
    metrics = {
        name: replace(all_metrics()[0], key=name, compute=lambda s, w, value=value: np.full(len(w), value))
        for name, value in (("infinite", math.inf), ("nothing", math.nan))
    }
    runs = {"a": [statistics], "b": [statistics]}
    table, differences = compute_table(runs, list(metrics.values()), study.evaluator.patients, "a", 5)
    assert table["a"]["infinite"] == {"value": None, "low": None, "high": None, "reason": "infinite", "seed_sd": None}
    assert table["a"]["nothing"]["reason"] == "no lesion pixel"
    assert differences["b"]["infinite"] == differences["b"]["nothing"] == {"reason": "no lesion pixel"}
    json.dumps([table, differences], allow_nan=False)
