"""Thresholds from healthy slices, against quantiles and loops over pixels; no network."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import label as components
from small_study import SCORE, SEQUENCES, Body, Study, make_body, random_map, seen

from scripts.calibrate import BINS, HealthySide
from scripts.evaluation.bootstrap import resamples
from scripts.evaluation.thresholds import patient_folds
from scripts.results.calibration import calibrated, read_threshold
from scripts.scores import squared_residual

NAMES = ["BraTS-X-1-0", "BraTS-X-1-1", "BraTS-X-2-0", "d", "e"]
PATIENTS = ["BraTS-X-1", "BraTS-X-1", "BraTS-X-2", "d", "e"]
LESIONS = [(2,), (0, 1), (), (3, 4, 5), (5,)]
SETTINGS = {
    "method": {"name": "Some", "noise_level": 200},
    "weights": "abc",
    "sequences": SEQUENCES,
    "score": SCORE,
    "map_postprocessing": [{"name": "SmoothSlicesd", "median_size": 3}],
}
COMPONENT = 4


def build(folder: Path, orientations=("LPS",) * 5) -> Study:
    bodies = [
        make_body(name, i, lesions, orientation, thin=(0,) if i == 2 else ())
        for i, (name, lesions, orientation) in enumerate(zip(NAMES, LESIONS, orientations, strict=True))
    ]
    return Study(folder, bodies)


@pytest.fixture
def study(tmp_path) -> Study:
    return build(tmp_path)


def calibrate(study: Study, maps: dict | None = None, name: str = "main", **settings) -> dict:
    main = study.results(name, study.maps(0) if maps is None else maps, **SETTINGS)
    path = study.folder / f"{name}.json"
    calibration = study.get("calibrated", main, "calibration", calibration_file=str(path), **settings)
    result = calibration.run()
    assert json.loads(path.read_text()) == json.loads(json.dumps(result, allow_nan=False))
    return result


def healthy_slices(study: Study, maps: dict) -> list[list[np.ndarray]]:
    """For each subject its healthy slices: the smoothed map, NaN outside the foreground."""
    result = []
    for name, body in study.bodies.items():
        s = seen(body, maps[name])
        planes = np.where(s.foreground, s.smooth, np.nan)
        result.append([planes[..., k] for k in range(planes.shape[2]) if not s.label[..., k].any()])
    return result


def pixels_of(slices: list[list[np.ndarray]]) -> np.ndarray:
    values = np.concatenate([plane.ravel() for subject in slices for plane in subject])
    return values[np.isfinite(values)]


def alarm(plane: np.ndarray, threshold: float) -> bool:
    """Whether a component of enough pixels lies above the threshold."""
    numbers = components(np.nan_to_num(plane) > threshold, connectivity=2)
    return bool((np.bincount(numbers.ravel())[1:] >= COMPONENT).any())


@pytest.mark.parametrize("rate", [0.002, 0.01, 0.1, 0.5])
def test_pixel_threshold_is_the_quantile(study, rate):
    result, maps = calibrate(study, false_positive_rate=rate), study.maps(0)
    slices = healthy_slices(study, maps)
    values = pixels_of(slices)
    # Maps have ties, so the wanted rate can be missed, but never exceeded.
    expected = np.sort(values)[::-1][int(rate * len(values))]
    assert result["threshold"] == pytest.approx(expected, rel=2**-11)
    assert result["realised_rate"] == np.mean(values > np.float32(result["threshold"])) <= rate
    assert np.mean(values > result["threshold"] * (1 - 2**-10)) > rate
    assert result["foreground_pixels"] == len(values)
    assert (result["subjects"], result["healthy_slices"]) == (5, sum(map(len, slices)))
    assert (result["false_positive_rate"], result["rate_of"]) == (rate, "pixels")


def test_threshold_of_maps_without_ties_is_numpys_quantile(study):
    maps = {n: np.random.default_rng(i).gamma(2, 0.1, (24, 20, 6)).astype(np.float32) for i, n in enumerate(NAMES)}
    values = pixels_of(healthy_slices(study, maps))
    for rate in (0.01, 0.2):
        result = calibrate(study, maps, f"rate {rate}", false_positive_rate=rate)
        assert result["threshold"] == pytest.approx(np.quantile(values, 1 - rate), rel=5e-3)


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.6])
def test_image_threshold_is_the_lowest_of_a_loop(study, rate):
    result, maps = calibrate(study, false_positive_rate=rate, rate_of="images"), study.maps(0)
    slices = [plane for subject in healthy_slices(study, maps) for plane in subject]
    rates = {t: np.mean([alarm(p, t) for p in slices]) for t in np.unique(np.nan_to_num(slices))}
    assert result["threshold"] == pytest.approx(min(t for t, r in rates.items() if r <= rate))
    assert result["realised_rate"] == pytest.approx(rates[np.float32(result["threshold"])])
    assert 0 < result["realised_rate"] <= rate
    assert result["rate_of"] == "images"


@pytest.mark.parametrize("kind", ["pixels", "images"])
def test_rates_on_the_other_half_of_the_patients(study, kind):
    """Thresholds of one half, rates on the other, both ways round, for every rate of both kinds."""
    result = calibrate(study, false_positive_rate=0.2, calibration_rates=[0.05, 0.4], rate_of=kind)
    slices, folds = healthy_slices(study, study.maps(0)), patient_folds(PATIENTS)
    checks = {(c["rate_of"], c["wanted"]): c for c in result["other_patients"]}
    assert set(checks) == {(k, rate) for k in ("pixels", "images") for rate in (0.05, 0.2, 0.4)}
    for (rate_of, wanted), check in checks.items():
        for fold, half in enumerate(check["halves"]):
            ours = [s for s, f in zip(slices, folds, strict=True) if f != fold]
            others = [s for s, f in zip(slices, folds, strict=True) if f == fold]
            threshold = half["threshold"]
            if rate_of == "pixels":
                found, realised = (np.mean(pixels_of(side) > threshold) for side in (ours, others))
                lower = np.mean(pixels_of(ours) > threshold * (1 - 2**-10))
            else:
                found, realised = (np.mean([alarm(p, threshold) for s in side for p in s]) for side in (ours, others))
                lower = np.mean([alarm(p, threshold - 1e-4) for s in ours for p in s])
            # As low as this half allows.
            assert found <= wanted < lower
            assert half["realised"] == pytest.approx(realised)
            low, high = half["realised_interval"]
            assert low <= realised <= high
            mine = [{p for p, f in zip(PATIENTS, folds, strict=True) if (f == fold) == side} for side in (False, True)]
            assert [half["patients"], half["other_patients"]] == [len(m) for m in mine]
        assert check["realised"].count("%") == 2


def test_interval_is_that_of_repeated_patients(study):
    result = calibrate(study, false_positive_rate=0.05, bootstrap_resamples=30, calibration_rates=[])
    slices, names = healthy_slices(study, study.maps(0)), sorted(set(PATIENTS))
    drawn = []
    for row in resamples(len(names), 30, seed=0):
        repeated = [s for s, p in zip(slices, PATIENTS, strict=True) for _ in range(row[names.index(p)])]
        values = np.sort(pixels_of(repeated))[::-1]
        drawn.append(values[int(0.05 * len(values))])
    low, high = result["threshold_interval"]
    assert [low, high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), rel=2**-10)
    assert low < result["threshold"] < high


def test_labels_only_pick_slices(study):
    """Where the lesion lies in its slice, and what the map is there, changes nothing."""
    before, maps = calibrate(study), study.maps(0)
    for name, body in study.bodies.items():
        ill = body.label.any(axis=(0, 1))
        body.label[..., ill] = False
        body.label[3, 7, ill] = True
        study.write_body(body)
        maps[name][..., ill] = 9
    assert calibrate(study, maps, "other") == before
    # One more slice with a lesion is one healthy slice fewer.
    study.bodies["d"].label[11, 9, 0] = True
    study.write_body(study.bodies["d"])
    assert calibrate(study, maps, "fewer")["healthy_slices"] == before["healthy_slices"] - 1


def test_orientation_does_not_matter(study, tmp_path):
    turned = build(tmp_path / "turned", ("RAS", "AIR", "PSL", "SLP", "LPI"))
    assert calibrate(turned, study.maps(0)) == calibrate(study)


def test_file_belongs_to_its_settings(study):
    result = calibrate(study, calibration_data="five heads")
    assert result["settings"] == SETTINGS
    assert result["data"] == "five heads"
    assert read_threshold(str(study.folder / "main.json"), {**SETTINGS, "seed": 7}) == result["threshold"]
    with pytest.raises(ValueError, match=r"\(method\.noise_level is 200 there, 3 here\)"):
        read_threshold(str(study.folder / "main.json"), {**SETTINGS, "method": {"name": "Some", "noise_level": 3}})
    assert calibrated(SETTINGS) == SETTINGS


def test_file_belongs_to_the_score_that_it_was_found_for(study):
    """Maps of another score than inference's are computed anew, and so is the file theirs."""
    result = calibrate(study, anomaly_map=squared_residual)
    assert result["settings"] == {**SETTINGS, "score": "squared_residual"}
    with pytest.raises(ValueError, match=r"\(score is 'squared_residual' there"):
        read_threshold(str(study.folder / "main.json"), SETTINGS)


def test_one_patient_has_no_interval_and_no_other_half(tmp_path):
    study = Study(tmp_path, [make_body(name, i) for i, name in enumerate(NAMES[:2])])
    result = calibrate(study)
    assert result["threshold_interval"] == [None, None]
    assert result["other_patients"] == []


def test_half_without_healthy_slices_says_so(tmp_path):
    """All of one half is ill: there is no threshold from it, and no rate on it."""
    folds = patient_folds(["a", "b"]).tolist()
    ill, well = ("a", "b") if folds == [0, 1] else ("b", "a")
    study = Study(tmp_path, [make_body(ill, 0, range(6)), make_body(well, 1, ())])
    for check in calibrate(study)["other_patients"]:
        from_ill, from_well = sorted(check["halves"], key=lambda half: half["threshold"] is not None)
        assert from_ill["threshold"] is None and from_well["threshold"] > 0 and from_well["realised"] is None
        assert "not defined" in check["realised"]


def test_no_healthy_slice_writes_nothing(tmp_path):
    study = Study(tmp_path, [make_body("a", 0, range(6))])
    with pytest.raises(ValueError, match="no healthy slice among the 1 subjects to calibrate on"):
        calibrate(study)
    assert not (tmp_path / "main.json").exists()


def test_missing_label_and_results_are_named(study):
    with pytest.raises(ValueError, match="subject e: no finished result in"):
        calibrate(study, {name: anomaly for name, anomaly in study.maps(0).items() if name != "e"})
    (study.data / "d" / "d_seg.nii.gz").unlink()
    with pytest.raises(ValueError, match="subject d: no label to judge by"):
        calibrate(study, name="other")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"false_positive_rate": 0}, r"must lie in \(0, 1\), got 0"),
        ({"false_positive_rate": 1.0}, r"must lie in \(0, 1\), got 1"),
        ({"calibration_rates": [0.1, -0.5]}, r"must lie in \(0, 1\), got -0.5"),
        ({"rate_of": "voxels"}, r"kind must be one of \['images', 'pixels'\], got 'voxels'"),
    ],
)
def test_bad_settings(study, settings, message):
    # The configuration wraps what goes wrong with one of its parts.
    with pytest.raises(RuntimeError) as caught:
        calibrate(study, **settings)
    assert isinstance(caught.value.__cause__, ValueError) and re.search(message, str(caught.value.__cause__))


def test_ill_pictures_are_passed_over(study):
    main = study.results("main", study.maps(0), **SETTINGS)
    items = [*study.get("datalist", main), {"subject": "ill", "image": "none.png", "healthy": False}]
    path = str(study.folder / "main.json")
    calibration = study.get("calibrated", main, "calibration", calibration_file=path, datalist=items)
    assert [item["subject"] for item in calibration.datalist] == NAMES


def test_alarm_level_is_where_the_last_component_goes(study):
    calibration = study.get("calibrated", study.results("main", study.maps(0)), "calibration")
    body = Body("x", *(getattr(study.bodies["d"], k) for k in ("image", "label")))
    for seed in range(6):
        plane = ndimage.median_filter(random_map(body, seed)[..., 0], 3)
        levels = np.unique(plane)
        expected = min(t for t in levels if not alarm(plane, t))
        assert calibration.alarm_level(plane) == expected > levels[0]
    assert calibration.alarm_level(np.zeros((8, 8), np.float32)) == 0
    # Three pixels are no component, at whatever height.
    plane = np.zeros((8, 8), np.float32)
    plane[2, 2:5] = 5
    assert calibration.alarm_level(plane) == 0
    plane[3, 3] = 2
    assert calibration.alarm_level(plane) == 2


def test_rates_without_slices_are_not_defined():
    side = HealthySide(["a"], np.zeros((1, BINS.count), dtype=np.int64), [np.empty(0)])
    for value in (side.pixel_threshold(0.1), side.image_threshold(0.1), side.pixel_rate(0.1), side.image_rate(0.1)):
        assert np.isnan(value)
