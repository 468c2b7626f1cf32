"""Maps from stored results, from scores of them, from other methods' files and from the image alone."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from small_study import SCORE, Study, make_body, mask_shares, reconstruction, scaled
from volume_files import LPS_AFFINE, save_volume

from scripts.evaluation.sources import ForeignMaps, ImageScore, StoredResults, apply_score
from scripts.scores import bright_sequence, evidence_map, mask_density, signed_residual, squared_residual
from scripts.writers import VolumeWriter

LAYOUT = VolumeWriter(None, 0.0)
CONFIGURED = functools.partial(signed_residual, weights=[-0.5, 1.0], sigma=2.0)


@pytest.fixture
def study(tmp_path) -> Study:
    bodies = [make_body("a", 0, thin=(0,)), make_body("b", 1, orientation="AIR"), make_body("c", 2, orientation="PSL")]
    return Study(tmp_path, bodies)


def subject_of(study: Study, name: str):
    items = {item["subject"]: item for item in study.get("datalist", "unused")}
    return study.get("reader", "unused")(items[name])


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_stored_map_of_the_configured_score_is_read_as_it_is(study, name):
    maps, body = study.maps(0), study.bodies[name]
    found = StoredResults(study.results("main", maps), LAYOUT, CONFIGURED).read(subject_of(study, name))
    kept = slice(1, None) if name == "a" else slice(None)
    np.testing.assert_array_equal(found.anomaly_map, maps[name][..., kept])
    np.testing.assert_allclose(found.reconstruction, reconstruction(body)[..., kept], atol=1e-7)
    assert list(found.slice_scores) == ["mask_share"]
    assert found.slice_scores["mask_share"].tolist() == mask_shares(body)
    assert found.cost["parameters"] == 3_000_000


@pytest.mark.parametrize("name", ["a", "b"])
def test_another_score_is_computed_from_the_reconstruction(study, name):
    source = StoredResults(study.results("main", study.maps(0)), LAYOUT, squared_residual)
    body, subject = study.bodies[name], subject_of(study, name)
    expected = ((scaled(body) - reconstruction(body)) ** 2).sum(axis=0)[..., subject.slices]
    np.testing.assert_allclose(source.read(subject).anomaly_map, expected, atol=1e-5)
    # The same folder under yet another score.
    density = source.with_score(mask_density).read(subject).anomaly_map
    np.testing.assert_array_equal(density, np.full_like(density, 0.5))
    assert source.score == "squared_residual" and source.with_score(mask_density).score == "mask_density"


def test_score_computed_anew_equals_the_stored_one(study):
    """What inference stores for a score is what evaluation computes for it from the stored reconstruction."""
    maps = {}
    for name, body in study.bodies.items():
        image = torch.from_numpy(scaled(body).astype(np.float32)).movedim(-1, 0)
        rebuilt = torch.from_numpy(reconstruction(body)).movedim(-1, 0)
        maps[name] = CONFIGURED(image, rebuilt)[:, 0].movedim(0, -1).numpy()
    stored = StoredResults(study.results("stored", maps), LAYOUT, CONFIGURED)
    anew = StoredResults(study.results("anew", maps, score="something else"), LAYOUT, CONFIGURED)
    for name in study.bodies:
        subject = subject_of(study, name)
        np.testing.assert_allclose(anew.read(subject).anomaly_map, stored.read(subject).anomaly_map, atol=1e-5)
    zeros = {name: np.zeros_like(anomaly) for name, anomaly in maps.items()}
    assert not StoredResults(study.results("zeros", zeros), LAYOUT, CONFIGURED).read(subject).anomaly_map.any()
    assert stored.score == SCORE


def test_results_without_evidence_and_scores_of_slices_are_read(study):
    maps = study.maps(0)
    source = StoredResults(study.results("plain", maps, evidence=[]), LAYOUT, CONFIGURED)
    for name, kept in {"a": slice(1, None), "b": slice(None)}.items():
        found = source.read(subject_of(study, name))
        np.testing.assert_array_equal(found.anomaly_map, maps[name][..., kept])
        np.testing.assert_allclose(found.reconstruction, reconstruction(study.bodies[name])[..., kept], atol=1e-7)
        assert found.slice_scores == {} and found.cost["passes"] == 3


@pytest.mark.parametrize(
    ("stored", "score", "wanted", "there"),
    [
        ([], mask_density, "mask_density", "none"),
        (["mask_density"], functools.partial(evidence_map, name="attention"), "attention", "mask_density"),
        (["uncertainty", "attention"], mask_density, "mask_density", "uncertainty, attention"),
    ],
)
def test_score_that_wants_other_evidence_names_it(study, stored, score, wanted, there):
    source = StoredResults(study.results("main", study.maps(0), evidence=stored), LAYOUT, score)
    with pytest.raises(ValueError, match=rf"needs the evidence '{wanted}'; .* have {there}\.$"):
        source.read(subject_of(study, "b"))


def test_evidence_goes_to_the_score_by_its_name(study):
    """Of two kinds of evidence the score sees the one it asks for."""
    folder, body = study.results("main", study.maps(0), evidence=["uncertainty", "attention"]), study.bodies["b"]
    attention = np.random.default_rng(3).random(body.label.shape).astype(np.float32)
    study.save(Path(folder) / "b" / "b_attention.nii.gz", body, attention)
    found = {}
    for name in ("uncertainty", "attention"):
        source = StoredResults(folder, LAYOUT, functools.partial(evidence_map, name=name))
        found[name] = source.read(subject_of(study, "b")).anomaly_map
    np.testing.assert_array_equal(found["attention"], attention)
    np.testing.assert_array_equal(found["uncertainty"], np.full_like(attention, 0.5))


def test_results_that_do_not_say_their_evidence_have_the_mask(study):
    """Version 0.4 and before stored the mask's density, and said nothing of it."""
    folder = Path(study.results("main", study.maps(0)))
    settings = json.loads((folder / "settings.json").read_text())
    del settings["evidence"]
    (folder / "settings.json").write_text(json.dumps(settings))
    density = StoredResults(str(folder), LAYOUT, mask_density).read(subject_of(study, "b")).anomaly_map
    np.testing.assert_array_equal(density, np.full_like(density, 0.5))


def test_scores_without_slices():
    assert apply_score(squared_residual, np.zeros((2, 5, 4, 0)), np.zeros((2, 5, 4, 0))).shape == (5, 4, 0)


def test_folder_without_results(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no results of an inference: there is no settings\.json"):
        StoredResults(str(tmp_path), LAYOUT, CONFIGURED)
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(ValueError, match=r"settings\.json' is broken"):
        StoredResults(str(tmp_path), LAYOUT, CONFIGURED)


def break_stored(folder: Path, what: str) -> None:
    path = folder / "b" / f"b_{what}.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:-1], image.affine), path)


@pytest.mark.parametrize("what", ["anomaly", "reconstruction", "mask_density"])
def test_stored_image_of_another_shape_is_named(study, what):
    folder = Path(study.results("main", study.maps(0)))
    break_stored(folder, what)
    with pytest.raises(ValueError, match=rf"b_{what}\.nii\.gz': shape .* the image has"):
        StoredResults(str(folder), LAYOUT, CONFIGURED).read(subject_of(study, "b"))


def test_missing_and_foreign_results_are_named(study):
    folder = Path(study.results("main", {"a": study.maps(0)["a"], "b": study.maps(0)["b"]}))
    source = StoredResults(str(folder), LAYOUT, CONFIGURED)
    with pytest.raises(ValueError, match="subject c: no finished result in"):
        source.read(subject_of(study, "c"))
    (folder / "b" / "b_reconstruction.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"subject b: there is no .*b_reconstruction\.nii\.gz"):
        source.read(subject_of(study, "b"))
    (folder / "a" / "a_source.json").write_text(json.dumps([["other.nii.gz", 5]]))
    with pytest.raises(ValueError, match=r"a_source\.json' is of other files"):
        source.read(subject_of(study, "a"))


def test_slices_that_were_not_processed_are_named(study):
    """A folder that was made with another range of slices."""
    folder = Path(study.results("main", study.maps(0)))
    path = folder / "b" / "b_scores.csv"
    path.write_text("".join(line for line in path.open() if not line.startswith("b,3,")))
    with pytest.raises(ValueError, match=r"b_scores\.csv: slices \[3\] were not processed"):
        StoredResults(str(folder), LAYOUT, CONFIGURED).read(subject_of(study, "b"))


@pytest.mark.parametrize(
    "place", ["b/b_anomaly.nii.gz", "b_anomaly.nii.gz", "b/anomaly.nii", "b.nii.gz", "b.nii", "b/b_anomaly.nii"]
)
@pytest.mark.parametrize("orientation", ["LPS", "RIA"])
def test_foreign_map_in_any_place_and_orientation(study, tmp_path, place, orientation):
    anomaly, folder = study.maps(0)["b"], tmp_path / "foreign"
    (folder / place).parent.mkdir(parents=True)
    body = make_body("b", 1, orientation=orientation)
    study.save(folder / place, body, anomaly)
    found = ForeignMaps(str(folder), LAYOUT).read(subject_of(study, "b"))
    np.testing.assert_array_equal(found.anomaly_map, anomaly)
    assert found.reconstruction is None and found.slice_scores == {} and found.cost is None


def foreign(tmp_path, array: np.ndarray, affine: np.ndarray = LPS_AFFINE) -> ForeignMaps:
    (tmp_path / "foreign").mkdir()
    save_volume(tmp_path / "foreign" / "a.nii.gz", array, affine)
    return ForeignMaps(str(tmp_path / "foreign"), LAYOUT)


BAD = {
    "shape": (np.zeros((24, 20, 5), np.float32), LPS_AFFINE, r"shape \(24, 20, 5\), the image has \(24, 20, 6\)"),
    "turned": (np.zeros((20, 24, 6), np.float32), LPS_AFFINE, r"shape \(20, 24, 6\)"),
    "channels": (np.zeros((24, 20, 6, 2), np.float32), LPS_AFFINE, "has 2 channels, a map has one"),
    "plane": (np.zeros((24, 20), np.float32), LPS_AFFINE, "fewer dimensions"),
    "nan": (np.full((24, 20, 6), np.nan, np.float32), LPS_AFFINE, "2400 values are NaN or infinite"),
    "infinite": (np.full((24, 20, 6), np.inf, np.float32), LPS_AFFINE, "2400 values are NaN or infinite"),
    "negative": (np.full((24, 20, 6), -2, np.float32), LPS_AFFINE, "values from -2, maps are at least 0"),
    "moved": (np.zeros((24, 20, 6), np.float32), LPS_AFFINE + np.eye(4)[:, [3, 0, 1, 2]] * 0.5, "its affine is"),
    "spacing": (np.zeros((24, 20, 6), np.float32), LPS_AFFINE * 1.1, "its affine is"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_foreign_map_is_named(study, tmp_path, case):
    array, affine, message = BAD[case]
    with pytest.raises(ValueError, match=rf"foreign/a\.nii\.gz'.*({message})"):
        foreign(tmp_path, array, affine).read(subject_of(study, "a"))


def test_file_that_is_no_image_is_named(study, tmp_path):
    source = foreign(tmp_path, np.zeros((24, 20, 6), np.float32))
    (tmp_path / "foreign" / "a.nii.gz").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"foreign/a\.nii\.gz'.*cannot be read"):
        source.read(subject_of(study, "a"))


def test_missing_foreign_map_and_folder(study, tmp_path):
    source = foreign(tmp_path, np.zeros((24, 20, 6), np.float32))
    with pytest.raises(ValueError, match=r"maps_dir: no map of b in .*foreign"):
        source.read(subject_of(study, "b"))
    with pytest.raises(FileNotFoundError, match=r"maps_dir: no folder .*nowhere"):
        ForeignMaps(str(tmp_path / "nowhere"), LAYOUT)


def test_score_of_the_image_alone(study):
    subject = subject_of(study, "a")
    found = ImageScore(functools.partial(bright_sequence, channel=1, sigma=0)).read(subject)
    for k in range(5):
        flair, foreground = subject.image[1, ..., k], subject.foreground[..., k]
        # torch's median of an even number is the lower one of the two in the middle.
        median = np.sort(flair[foreground])[(foreground.sum() - 1) // 2]
        np.testing.assert_allclose(found.anomaly_map[..., k], np.clip(flair - median, 0, None) * foreground, atol=1e-6)
