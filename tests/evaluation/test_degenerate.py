"""Studies in which much is not defined: every number is finite or says why it is not, and the files are written."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from small_study import Body, Study, make_body

from scripts.evaluation.table import all_metrics
from scripts.evaluation.table.cost import COST_ROWS


def refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def read_strictly(path: Path) -> dict:
    return json.loads(path.read_text(), parse_constant=refuse)


def check_entry(entry: dict) -> None:
    """A finite value, or none and a reason; ends of an interval only with a value."""
    if entry["value"] is None:
        assert entry["reason"] and entry["low"] is None and entry["high"] is None
    else:
        assert math.isfinite(entry["value"])
    if (entry["low"] is None) != (entry["high"] is None):
        raise AssertionError(f"half an interval: {entry}")


def evaluate(
    study: Study,
    maps: dict[str, np.ndarray] | None = None,
    slice_scores: Sequence[str] = ("mask_share",),
    **settings,
) -> dict:
    """Judge a study, check what must hold of any, and return the summary."""
    main = study.results("main", study.maps(0) if maps is None else maps)
    evaluation = study.evaluation(main, bootstrap_resamples=10, **settings)
    evaluation.run()
    assert evaluation.evaluator.failures.messages == {}
    folder = Path(main) / "evaluation"
    summary = read_strictly(folder / "summary.json")
    keys = {metric.key for metric in all_metrics(slice_scores=slice_scores)} | COST_ROWS.keys()
    for method in ("masked", "bright sequence"):
        assert summary["table"][method].keys() == keys
        for key, entry in summary["table"][method].items():
            try:
                check_entry(entry)
            except AssertionError as error:
                raise AssertionError(f"{method} {key}: {entry}") from error
    for difference in summary["differences"]["bright sequence"].values():
        assert difference.get("reason") or math.isfinite(difference["value"])
    page = (folder / "report.html").read_text()
    assert "</html>" in page and ">nan<" not in page.lower()
    assert (folder / "per_slice.csv").is_file() and (folder / "per_subject.csv").is_file()
    return summary


def undefined(summary: dict) -> set[str]:
    return {key for key, entry in summary["table"]["masked"].items() if entry["value"] is None}


def make(folder: Path, *lesions: tuple[int, ...], **kwargs) -> Study:
    return Study(folder, [make_body(f"subject{i}", i, slices, **kwargs) for i, slices in enumerate(lesions)])


def test_no_lesion_at_all(tmp_path):
    summary = evaluate(make(tmp_path, (), (), ()))
    missing = undefined(summary)
    assert {"ap_foreground", "ap_diseased_slices", "auroc_foreground", "aupro_foreground", "best_dice_foreground"} <= (
        missing
    )
    assert {"dice_subject_calibrated", "froc_1", "lesion_sensitivity_calibrated", "paper_dice"} <= missing
    assert {"slice_auroc_map_mean", "patient_auroc_map_mean", "dice_slice_all_oracle"} <= missing
    # What needs healthy slices alone is there.
    assert (
        not {"fpr_healthy_calibrated", "alarms_healthy_paper", "false_positives_calibrated", "psnr_healthy"} & missing
    )
    assert summary["data"]["healthy_patients"] == 3
    assert summary["thresholds"]["masked"]["oracle"] is None


def test_all_foreground_is_lesion(tmp_path):
    bodies = [make_body(f"subject{i}", i) for i in range(3)]
    bodies = [Body(b.name, b.image, (b.image > 0).any(axis=0)) for b in bodies]
    summary = evaluate(Study(tmp_path, bodies))
    row = summary["table"]["masked"]
    assert row["ap_foreground"]["value"] == 1 and row["best_dice_foreground"]["value"] == pytest.approx(1)
    assert {"auroc_foreground", "fpr95_foreground", "aupro_foreground", "fpr_healthy_oracle"} <= undefined(summary)
    # No lesion-free pixel, no false positive: whatever is found costs nothing.
    assert row["froc_1"]["value"] == 1
    assert "too few healthy slices" in " ".join(summary["notes"])


def test_no_healthy_slice(tmp_path):
    summary = evaluate(make(tmp_path, range(6), range(6), range(6)))
    missing = undefined(summary)
    # Nothing is calibrated, which is not the same as nothing found.
    assert {"lesion_sensitivity_calibrated", "false_positives_calibrated", "dice_slice_calibrated"} <= missing
    assert {"fpr_healthy_paper", "alarms_healthy_oracle", "psnr_healthy", "slice_auroc_map_mean"} <= missing
    assert not {"dice_subject_oracle", "dice_slice_deployed", "froc_1", "ap_foreground"} & missing
    assert summary["thresholds"]["masked"]["calibrated"] == []
    assert set(summary["lesion_size"]["sensitivity"]["masked"]) == {None}
    assert sum(summary["lesion_size"]["lesions"]) == summary["data"]["lesions"] > 0


def test_healthy_slices_in_one_patient_only(tmp_path):
    """That patient itself has no threshold from others, and is left out where one is needed."""
    summary = evaluate(make(tmp_path, range(6), (2,)))
    row = summary["table"]["masked"]
    assert "dice_slice_calibrated" not in undefined(summary)
    assert {"fpr_healthy_calibrated", "alarms_healthy_calibrated"} <= undefined(summary)
    assert row["lesion_sensitivity_calibrated"]["value"] is not None
    assert row["dice_subject_sd_calibrated"]["value"] is None


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_constant_map(tmp_path, value):
    study = make(tmp_path, (2,), (1, 2), (3,), ())
    summary = evaluate(
        study, {name: np.full(body.label.shape, value, np.float32) for name, body in study.bodies.items()}
    )
    row = summary["table"]["masked"]
    for key in ("auroc_foreground", "slice_auroc_map_mean", "slice_auroc_map_quantile", "patient_auroc_map_mean"):
        assert row[key]["value"] == pytest.approx(0.5), key
    assert row["ap_foreground"]["value"] == pytest.approx(summary["data"]["prevalence_foreground"])
    # The paper's rescaling has no contrast to work with.
    assert row["paper_dice"]["value"] == 0
    assert row["alarms_healthy_paper"]["value"] == 0


def test_one_subject(tmp_path):
    summary = evaluate(make(tmp_path, (2, 3)))
    for key, entry in summary["table"]["masked"].items():
        assert entry["low"] is None and entry["high"] is None
        if entry["value"] is not None and key not in COST_ROWS:
            assert entry["reason"] == "fewer than 2 patients: no interval", key
    difference = summary["differences"]["bright sequence"]["ap_foreground"]
    assert difference["p_value"] is None and "fewer than 2 patients" in difference["reason"]
    assert {"dice_slice_calibrated", "lesion_sensitivity_calibrated"} <= undefined(summary)
    assert not {"ap_foreground", "dice_slice_oracle", "froc_4"} & undefined(summary)


@pytest.mark.parametrize("lesions", [(), (0,)])
def test_one_slice(tmp_path, lesions):
    summary = evaluate(make(tmp_path, lesions, shape=(24, 20, 1)))
    assert summary["data"]["slices"] == 1
    assert ("ap_foreground" in undefined(summary)) == (lesions == ())


def test_no_processed_slice_in_one_subject(tmp_path):
    """A subject of which nothing is known counts neither as healthy nor as found."""
    bodies = [make_body("subject0", 0), make_body("subject1", 1), make_body("well", 2, ())]
    maps = Study(tmp_path / "a", bodies).maps(0)
    with_empty = Study(tmp_path / "b", [*bodies, make_body("empty", 3, (2,), thin=range(6))])
    first = evaluate(Study(tmp_path / "a", bodies), maps)
    second = evaluate(with_empty, {**maps, "empty": np.ones((24, 20, 6), np.float32)})
    assert second["data"]["subjects"] == 4 and second["data"]["slices"] == first["data"]["slices"]
    assert second["data"]["healthy_patients"] == first["data"]["healthy_patients"] == 1
    for key in ("ap_foreground", "dice_subject_all_oracle", "slice_auroc_map_mean", "patient_auroc_map_mean"):
        assert second["table"]["masked"][key]["value"] == first["table"]["masked"][key]["value"], key
    assert any("lesion voxels lie in slices that inference leaves out" in note for note in second["notes"])


def test_no_processed_slice_anywhere(tmp_path):
    # Without a slice there are no scores of slices, so nobody knows their names.
    summary = evaluate(make(tmp_path, (2,), (2,), thin=range(6)), slice_scores=())
    assert summary["data"]["slices"] == 0
    assert {metric.key for metric in all_metrics()} <= undefined(summary)


def test_nearly_equal_scores_are_drawn(tmp_path):
    """Scores that differ by rounding alone have no range that could be cut in bins."""
    from scripts.evaluation.summary import _edges

    for values in ([0.3, np.nextafter(0.3, 1)], [0.0, 0.0], [5.0, 5.0]):
        edges = _edges(np.array(values))
        assert len(edges) == 31 and (np.diff(edges) > 0).all()
        assert np.histogram(values, edges)[0].sum() == len(values)
    edges = _edges(np.array([1.0, 4.0]))
    assert (edges[0], edges[-1]) == (1, 4)
