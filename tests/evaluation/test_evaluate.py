"""Both passes over the subjects: who is judged, with which thresholds, and that geometry does not matter."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage
from small_study import SCORE, SHAPE, Study, make_body, random_map, seen
from volume_files import LPS_AFFINE

from scripts.evaluation.summary import summarise
from scripts.evaluation.table import all_metrics
from scripts.evaluation.thresholds import patient_folds
from scripts.results.calibration import calibrated
from scripts.scores import mask_density

NAMES = ["BraTS-X-1-0", "BraTS-X-1-1", "BraTS-X-2-0", "d"]
PATIENTS = ["BraTS-X-1", "BraTS-X-1", "BraTS-X-2", "d"]


@pytest.fixture
def study(tmp_path) -> Study:
    return Study(tmp_path, [make_body(name, i, (1, 2)) for i, name in enumerate(NAMES)])


def judge(study: Study, main: str, **settings):
    evaluator = study.get("judge", main, **settings)
    evaluator.evaluate()
    return evaluator


def table(evaluator) -> dict:
    return summarise(evaluator, "title", {})["table"]


def test_subject_missing_in_one_method_is_left_out_for_all(study, tmp_path):
    maps = study.maps(0)
    main = study.results("main", maps)
    other = study.results("other", {k: v for k, v in study.maps(1).items() if k != "d"})
    evaluator = judge(study, main, comparisons={"other": other})
    assert evaluator.failures.messages == {"d": f"subject d: no finished result in {other!r}."}
    assert [item["subject"] for item in evaluator.subjects] == NAMES[:3]
    assert evaluator.patients == PATIENTS[:3]
    for run in evaluator.all_runs():
        assert len(run.statistics.regions) == 3 and "d" not in {row["subject"] for row in run.statistics.rows}
    assert "1 of 4 subjects could not be judged and are left out everywhere." in summarise(evaluator, "", {})["notes"]
    # The numbers are those of a study that never had the subject.
    small = Study(tmp_path / "small", [study.bodies[name] for name in NAMES[:3]])
    expected = table(judge(small, small.results("main", {k: maps[k] for k in NAMES[:3]})))
    found = table(evaluator)
    for metric in all_metrics(slice_scores=["mask_share"]):
        assert found["masked"][metric.key] == expected["masked"][metric.key]


def test_a_score_that_fails_late_leaves_no_trace(study):
    """A method whose map of one subject is not finite: nothing of the subject may stay in the methods before it."""

    def broken(image, reconstruction=None, evidence=None):
        values = image[:, :1] * 0 + 0.5
        return values / 0 if image.sum() == bad else values

    bad = None
    main = study.results("main", study.maps(0))
    evaluator = study.get("judge", main)
    source = evaluator.runs["bright sequence"][0].source
    source._score = broken
    subject = evaluator.reader(evaluator.datalist[1])
    bad = torch.from_numpy(np.ascontiguousarray(subject.image[..., 0]))[None].sum()
    evaluator.evaluate()
    assert list(evaluator.failures.messages) == [NAMES[1]]
    assert "480 values of" in evaluator.failures.messages[NAMES[1]]
    for run in evaluator.all_runs():
        assert len(run.statistics.regions) == len(run.statistics.detections) == 3
        assert {row["subject"] for row in run.statistics.rows} == {NAMES[0], *NAMES[2:]}


def test_broken_subjects_are_noted_and_nothing_left_is_an_error(study):
    main = study.results("main", study.maps(0))
    for name in NAMES:
        (study.data / name / f"{name}_t1.nii.gz").write_bytes(b"no image")
    evaluator = study.get("judge", main)
    with pytest.raises(ValueError, match="none of 4 subjects could be judged"):
        evaluator.evaluate()
    assert list(evaluator.failures.messages) == NAMES
    assert all("_t1.nii.gz: cannot be read" in message for message in evaluator.failures.messages.values())


def test_no_method(study):
    evaluator = study.get("judge", study.results("main", study.maps(0)))
    with pytest.raises(ValueError, match="there is no method"):
        type(evaluator)([], evaluator.reader, {}, evaluator.protocol, evaluator.failures)


def test_calibrated_thresholds_never_see_the_subjects_own_patient(study):
    """Changing all maps of a patient changes no threshold of that patient, but those of patients of the other half."""
    folds = patient_folds(PATIENTS)
    before = judge(study, study.results("before", study.maps(0))).runs["masked"][0].calibrated
    assert len(set(before)) == 2 and folds[0] == folds[1]
    for patient in set(PATIENTS):
        own = np.array([p == patient for p in PATIENTS])
        maps = {n: m * 3 if o else m for (n, m), o in zip(study.maps(0).items(), own, strict=True)}
        after = judge(study, study.results(f"changed {patient}", maps)).runs["masked"][0].calibrated
        mine = folds == folds[np.flatnonzero(own)[0]]
        np.testing.assert_array_equal(after[mine], before[mine])
        assert (after[~mine] > before[~mine]).all()


def test_lesions_do_not_enter_calibrated_thresholds(study):
    """What lies in slices with a lesion changes no threshold, even outside the lesion."""
    maps = study.maps(0)
    before = judge(study, study.results("before", maps)).runs["masked"][0].calibrated
    for anomaly in maps.values():
        anomaly[..., 1:3] *= 5
    after = judge(study, study.results("after", maps)).runs["masked"][0].calibrated
    np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("orientation", ["RAS", "AIR", "SLP"])
def test_foreign_maps_in_another_orientation_give_the_same_numbers(study, tmp_path, orientation):
    """The same body in space, whatever order the files' axes have; so for images and labels, too."""
    maps = study.maps(0)
    expected = table(judge(study, study.results("main", maps)))
    turned = Study(tmp_path / "turned", [make_body(n, i, (1, 2), orientation) for i, n in enumerate(NAMES)])
    folder = tmp_path / "foreign"
    folder.mkdir()
    for name, anomaly in maps.items():
        turned.save(folder / f"{name}.nii.gz", study.bodies[name], anomaly)
    evaluator = judge(turned, "nowhere", maps_dir={"foreign": str(folder)})
    assert evaluator.failures.messages == {} and list(evaluator.runs) == ["foreign", "bright sequence"]
    found = table(evaluator)
    for metric in all_metrics(slice_scores=["mask_share"]):
        # A score of the slices that no method has makes no row.
        if metric.key.endswith("mask_share"):
            assert metric.key not in found["foreign"] and metric.key not in found["bright sequence"]
            continue
        # Foreign maps come without a reconstruction and a threshold.
        if metric.key.endswith("deployed") or metric.key.startswith(("psnr", "ssim", "paper_psnr")):
            assert found["foreign"][metric.key]["value"] is None
        else:
            assert found["foreign"][metric.key] == expected["masked"][metric.key]
        ours, theirs = (t["bright sequence"][metric.key]["value"] for t in (expected, found))
        assert theirs == (None if ours is None else pytest.approx(ours, abs=1e-6))


def test_bad_foreign_map_fails_its_subject_alone(study, tmp_path):
    folder = tmp_path / "foreign"
    folder.mkdir()
    for name, anomaly in study.maps(0).items():
        study.save(folder / f"{name}.nii.gz", study.bodies[name], anomaly)
    nib.save(nib.Nifti1Image(np.zeros((24, 20, 5), np.float32), LPS_AFFINE), folder / "d.nii.gz")
    evaluator = judge(study, "nowhere", maps_dir={"foreign": str(folder)})
    path = str(folder / "d.nii.gz")
    assert evaluator.failures.messages == {"d": f"{path!r}: shape (24, 20, 5), the image has {SHAPE}."}
    assert len(evaluator.subjects) == 3


def test_papers_rule_through_the_whole_pipeline(tmp_path):
    """Clip at the 1st and 99th percentile, rescale to [0, 1], median of 5, above 0.5; then Dice of single slices."""
    body = make_body("s", 0, (1, 2, 4))
    body.image[body.image == 0] = 1  # everything is foreground, as nothing is cut off there
    study = Study(tmp_path, [body, make_body("t", 1)])
    maps = {"s": random_map(body, 5, contrast=1.0), "t": random_map(study.bodies["t"], 6)}
    main = study.results("main", maps)
    evaluator = judge(study, main, median_size=5, min_component_size=0)
    rows = [row for row in evaluator.runs["masked"][0].statistics.rows if row["subject"] == "s"]
    for k, row in enumerate(rows):
        raw, label = maps["s"][..., k].astype(np.float64), body.label[..., k]
        low, high = np.percentile(raw, [1, 99])
        rescaled = (np.clip(raw, low, high) - low) / (high - low)
        predicted = ndimage.median_filter(rescaled, size=5, mode="nearest") > 0.5
        assert (row["tp_paper"], row["fp_paper"]) == ((predicted & label).sum(), (predicted & ~label).sum())
    assert sum(row["tp_paper"] for row in rows) > 0 and sum(row["fp_paper"] for row in rows) > 0


def calibration_file(path: Path, settings: dict, threshold: float) -> str:
    path.write_text(json.dumps({"settings": calibrated(settings), "threshold": threshold}))
    return str(path)


def test_deployed_threshold_is_the_one_that_fits(study, tmp_path):
    settings = {"score": SCORE, "method": {"name": "Some", "noise_level": 3}, "weights": "abc"}
    maps = study.maps(0)
    ours, other = study.results("ours", maps, **settings), study.results("other", maps, **settings, anomaly_threshold=0)
    changed = study.results("changed", maps, **{**settings, "method": {"name": "Some", "noise_level": 5}})
    path = calibration_file(tmp_path / "calibration.json", settings, 0.21)
    comparisons = {"calibrating": other, "changed": changed}

    def deployed(file: str) -> dict[str, float]:
        evaluator = study.get("judge", ours, comparisons=comparisons, calibration_file=file, image_scores={})
        return {name: runs[0].deployed for name, runs in evaluator.runs.items()}

    # What inference used comes first, whatever a file says.
    with_file, without = deployed(path), deployed(str(tmp_path / "none.json"))
    assert with_file == pytest.approx({"masked": 0.35, "calibrating": 0.21, "changed": 0.35}, nan_ok=True)
    # A calibration's own inference segments with 0, which nobody chose.
    assert without == pytest.approx({"masked": 0.35, "calibrating": np.nan, "changed": 0.35}, nan_ok=True)


def test_other_scores_have_no_deployed_threshold(study):
    main = study.results("main", study.maps(0))
    runs = study.get("judge", main, image_scores={}, scores={"absolute": lambda x, y, m: (x - y).abs()[:, :1]}).runs
    assert runs["masked"][0].deployed == 0.35 and np.isnan(runs["masked, absolute"][0].deployed)


def test_values_at_the_deployed_threshold_do_not_exceed_it(tmp_path):
    """As in inference, which compares float32: 0.3 itself is not above a threshold of 0.3, though float64 has it so."""
    study = Study(tmp_path, [make_body("s", 0, (1, 2))])
    anomaly = np.full(SHAPE, 0.3, np.float32)
    evaluator = judge(study, study.results("main", {"s": anomaly}, anomaly_threshold=0.3))
    rows = evaluator.runs["masked"][0].statistics.rows
    assert all(row["tp_deployed"] + row["fp_deployed"] == 0 for row in rows)
    assert (seen(study.bodies["s"], anomaly).smooth.astype(np.float64) > 0.3).any()


def test_lesions_elsewhere_and_heights_are_warned_of(tmp_path):
    bodies = [make_body(f"s{i}", i, (0, 1, 2, 3), thin=(0,), shape=(24, 20, 9)) for i in range(5)]
    study = Study(tmp_path, bodies)
    evaluator = judge(study, study.results("main", study.maps(0)))
    notes = summarise(evaluator, "", {}, ["mine"])["notes"]
    outside = sum(int(b.label[..., 0].sum()) for b in bodies)
    total = sum(int(b.label.sum()) for b in bodies)
    assert notes[0] == "mine"
    assert f"{outside} of {total} lesion voxels lie in slices that inference leaves out." in notes
    assert any("lie at other heights than healthy ones" in note for note in notes)


def test_methods_without_scores_of_slices_are_judged(study):
    """Alone such a method has no row for them; beside one that has, it says why there is no number."""
    maps = study.maps(0)
    ours, plain = study.results("ours", maps), study.results("plain", maps, evidence=[])
    alone, both = table(judge(study, plain)), table(judge(study, ours, comparisons={"plain": plain}))
    own = {metric.key for metric in all_metrics(slice_scores=["mask_share"])} - {metric.key for metric in all_metrics()}
    assert len(own) == 6 and not own & alone["masked"].keys()
    assert alone["masked"].keys() | own == both["masked"].keys() == both["plain"].keys()
    for key in both["plain"].keys() - own:
        assert alone["masked"][key] == both["plain"][key] == both["masked"][key], key
    for key in own:
        assert both["plain"][key]["value"] is None and "the score for every one of them" in both["plain"][key]["reason"]
    assert both["masked"]["slice_auroc_mask_share"]["value"] is not None


def test_score_of_evidence_that_is_not_stored_fails_every_subject_by_name(study):
    plain = study.results("plain", study.maps(0), evidence=[])
    evaluator = study.get("judge", plain, scores={"density": mask_density})
    with pytest.raises(ValueError, match="none of 4 subjects could be judged"):
        evaluator.evaluate()
    assert list(evaluator.failures.messages) == NAMES
    assert all("needs the evidence 'mask_density'" in text for text in evaluator.failures.messages.values())
