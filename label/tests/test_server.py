"""What a client of the real MONAI Label server gets, against the command line of the bundle."""

from __future__ import annotations

import csv
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bundle_runner import BUNDLE, check_run, run_bundle
from monai.transforms import LoadImage
from scipy import ndimage

from .conftest import LabelServer, save

FEW = {"num_inference_steps": 3, "anomaly_threshold": 0.15}
"""Enough where the result itself is not looked at closely."""


@pytest.fixture(scope="module")
def server(serve: Callable[..., LabelServer], volume: Path) -> LabelServer:
    started = serve(BUNDLE, "masked_bernoulli")
    shutil.copy(volume, started.studies)
    wait_for(started, [volume.name.removesuffix(".nii.gz")])
    return started


def wait_for(server: LabelServer, images: list[str]) -> None:
    """Until the server has seen the files."""
    for _ in range(600):
        if set(images) <= json.loads(server.get("datastore/?output=all"))["objects"].keys():
            return
        time.sleep(0.1)
    raise AssertionError(f"the server does not see {images}")


@pytest.fixture(scope="module")
def reference(volume: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of ``run inference`` with the shipped settings, the calibrated threshold among them."""
    folder = tmp_path_factory.mktemp("reference")
    (folder / "data").mkdir()
    shutil.copy(volume, folder / "data")
    settings = {"dataset_dir": folder / "data", "output_dir": folder / "out", "device": "cpu"}
    check_run(run_bundle("inference", ["configs/inference.json"], **settings))
    return folder / "out" / volume.name.removesuffix(".nii.gz")


def read(folder: Path, name: str) -> nib.Nifti1Image:
    return nib.load(folder / f"{folder.name}_{name}.nii.gz")


def voxels(image: nib.Nifti1Image) -> np.ndarray:
    return np.asarray(image.dataobj)


def test_the_shipped_model_answers_as_the_command_line_does(server: LabelServer, volume: Path, reference: Path):
    name = reference.name
    described = server.described(image=name, save_label=True)
    label = nib.load(server.studies / "labels" / "original" / f"{name}.nii.gz")
    source, segmentation = nib.load(volume), read(reference, "segmentation")
    assert label.get_data_dtype() == np.uint8 and 0 < voxels(label).sum() < voxels(label).size / 2
    assert label.shape == source.shape[:3] and np.array_equal(voxels(label), voxels(segmentation))
    np.testing.assert_allclose(label.affine, source.affine, atol=1e-4)

    anomaly_map = nib.load(described["anomaly_map"]["path"])
    assert anomaly_map.get_data_dtype() == np.float32
    np.testing.assert_allclose(voxels(anomaly_map), voxels(read(reference, "anomaly")), rtol=0, atol=1e-5)
    np.testing.assert_allclose(anomaly_map.affine, source.affine, atol=1e-6)
    with (reference / f"{name}_scores.csv").open() as stream:
        rows = [{k: float(v) for k, v in row.items() if k != "subject"} for row in csv.DictReader(stream)]
    assert [list(row) for row in described["slices"]] == [list(row) for row in rows]
    table = [list(row.values()) for row in rows]
    np.testing.assert_allclose([list(row.values()) for row in described["slices"]], table, rtol=0, atol=1e-5)
    columns = dict(zip(rows[0], np.transpose(table), strict=True))
    assert described["image_score"] == pytest.approx(columns["mask_share"].mean(), abs=1e-5)
    assert described["volume"]["slices"] == len(rows)
    assert described["volume"]["map_max"] == pytest.approx(columns["map_max"].max(), abs=1e-5)
    kept = json.loads((reference.parent / "settings.json").read_text())
    settings = {**kept["method"], **kept}
    assert {key: settings[key] for key in described["settings"]} == described["settings"]
    assert {"noise_level", "anomaly_threshold", "seed"} <= described["settings"].keys()


def test_the_map_is_among_the_labels(server: LabelServer, volume: Path):
    """The client gets it by name and tag, from wherever it asks."""
    name = volume.name.removesuffix(".nii.gz")
    described = server.described(image=name, save_label=True, **FEW)["anomaly_map"]
    assert (described["image"], described["tag"]) == (name, "anomaly_map")
    stored = Path(described["path"])
    assert stored == server.studies / "labels" / "anomaly_map" / volume.name
    for _ in range(100):
        if "anomaly_map" in json.loads(server.get("datastore/?output=all"))["objects"][name]["labels"]:
            break
        time.sleep(0.1)
    assert server.get(f"datastore/label?label={name}&tag=anomaly_map") == stored.read_bytes()
    # No image counts as labelled by it.
    assert json.loads(server.get("info/"))["datastore"]["completed"] == 0


def segmented(anomaly_map: np.ndarray, image: np.ndarray, threshold: float) -> np.ndarray:
    """The segmentation of the map, worked out slice by slice with SciPy."""
    result = np.zeros(anomaly_map.shape, dtype=np.uint8)
    for k in range(anomaly_map.shape[2]):
        inside = ndimage.binary_fill_holes((image[:, :, k] != 0).any(axis=-1))
        smooth = ndimage.median_filter(anomaly_map[..., k], size=5, mode="constant")
        parts, count = ndimage.label((smooth > threshold) & inside, structure=np.ones((3, 3)))
        sizes = ndimage.sum_labels(np.ones_like(parts), parts, range(1, count + 1))
        result[..., k] = np.isin(parts, 1 + np.flatnonzero(sizes >= 10))
    return result


@pytest.mark.parametrize("threshold", [0.1, "0.3"])
def test_the_threshold_of_the_request_makes_the_label(server: LabelServer, volume: Path, threshold: float | str):
    """A text, as a client's form sends it, counts as the number."""
    request = {**FEW, "image": volume.name.removesuffix(".nii.gz"), "anomaly_threshold": threshold}
    label = voxels(server.labelled(**request))
    anomaly_map = voxels(nib.load(server.studies / "labels" / "anomaly_map" / volume.name))
    expected = segmented(anomaly_map, voxels(nib.load(volume)), float(threshold))
    assert np.array_equal(label, expected) and 0 < label.sum() < label.size
    assert not np.array_equal(expected, segmented(anomaly_map, voxels(nib.load(volume)), 0.2))


def test_settings_of_the_request_are_used_for_it_alone(server: LabelServer, volume: Path):
    request = {"image": volume.name.removesuffix(".nii.gz"), "anomaly_threshold": 0.15}
    usual = server.described(**request, num_inference_steps=3)
    others = [
        server.described(**request, noise_level=100, num_inference_steps=3),
        server.described(**request, probability_threshold=0.6, num_inference_steps=3),
        server.described(**request, num_inference_steps=4),
    ]
    scores = [answer["image_score"] for answer in (usual, *others)]
    assert len(set(scores)) == len(scores)
    assert others[0]["settings"]["noise_level"] == 100 and others[2]["settings"]["num_inference_steps"] == 4
    # P = 1 masks nothing, P = 0 everything.
    assert server.described(**request, probability_threshold=1, num_inference_steps=1)["image_score"] == 0
    assert server.described(**request, probability_threshold=0, num_inference_steps=1)["image_score"] == 1
    assert server.described(**request, num_inference_steps=3)["slices"] == usual["slices"]


def test_an_uploaded_volume_lies_as_it_did(server: LabelServer, volume: Path, tmp_path: Path):
    """Rotated in space, with its axes in another order and one turned round, and slices along the first axis."""
    array = voxels(nib.load(volume))[:, :, :2].transpose(2, 0, 1, 3)[:, ::-1]
    turn = np.array([[np.cos(0.3), -np.sin(0.3), 0], [np.sin(0.3), np.cos(0.3), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.array([[0, 1.1, 0], [0, 0, 0.9], [3.3, 0, 0]])
    affine[:3, 3] = 11.5, -20.25, 7
    save(np.ascontiguousarray(array), affine, tmp_path / "rotated.nii.gz")
    label = server.labelled(upload=tmp_path / "rotated.nii.gz", **FEW)
    assert label.shape == array.shape[:3] and voxels(label).sum() > 0
    np.testing.assert_allclose(label.affine, affine, atol=1e-5)
    maps = sorted((server.folder / "temporary").glob("*_anomaly_map_*.nii.gz"))
    kept = nib.load(maps[-1])
    np.testing.assert_allclose(kept.affine, affine, atol=1e-6)
    flat = np.moveaxis(voxels(kept), 0, -1)
    expected = segmented(flat, np.moveaxis(array, 0, 2), FEW["anomaly_threshold"])
    assert np.array_equal(np.moveaxis(voxels(label), 0, -1), expected)


def test_a_session_as_slicer_uses_it(server: LabelServer, volume: Path, tmp_path: Path):
    """The volume is sent once; settings come as the panel holds them; the label is wanted as NRRD."""
    status, body = server.send("PUT", "session/", {}, {"files": volume})
    assert status == 200, body
    params = {**json.loads(server.get("info/"))["models"][server.name]["config"], "anomaly_threshold": "0.15"}
    params |= {"device": "cpu", "model_filename": "model.pt", "num_inference_steps": 3}
    params |= {"result_extension": ".nrrd", "result_dtype": "uint8"}
    status, body = server.infer("name", session=json.loads(body)["session_id"], output="image", **params)
    assert status == 200, body
    (tmp_path / "label.nrrd").write_bytes(body)
    label = LoadImage(image_only=True)(tmp_path / "label.nrrd")
    expected = server.labelled(image=volume.name.removesuffix(".nii.gz"), **FEW)
    assert np.array_equal(label.numpy(), voxels(expected))
    np.testing.assert_allclose(label.affine, nib.load(volume).affine, atol=1e-4)


def test_wrong_volumes_are_refused_and_the_server_goes_on(server: LabelServer, volume: Path):
    source = nib.load(volume)
    array = voxels(source)[:, :, :2]
    broken = array.astype(np.float32)
    broken[5, 6, 1, 2] = np.nan
    cases = {"two": array[..., :2], "flat": array[..., 0], "broken": broken}
    for name, wrong in cases.items():
        save(wrong, source.affine, server.studies / f"{name}.nii.gz")
    (server.studies / "junk.nii.gz").write_bytes(b"no image")
    wait_for(server, [*cases, "junk"])
    wanted = r"{}.nii.gz: has {} channel(s), 3 are wanted: t1, flair, t1ce."
    assert server.refused(image="two", **FEW).endswith(wanted.format("two", 2))
    assert server.refused(image="flat", **FEW).endswith(wanted.format("flat", 1))
    assert server.refused(image="broken", **FEW).endswith(
        "broken.nii.gz: 1 voxels are NaN or infinite, all must be finite."
    )
    assert "junk.nii.gz: cannot be read as an image" in server.refused(image="junk", **FEW)
    assert server.refused(image="unheard_of", **FEW) == "image: the server's folder has no image of that name."
    assert server.described(image=volume.name.removesuffix(".nii.gz"), **FEW)["volume"]["slices"] > 0


def test_wrong_settings_are_refused_and_the_server_goes_on(server: LabelServer, volume: Path):
    name = volume.name.removesuffix(".nii.gz")
    assert "noise_level must be a whole number in [1, 1000], got 5000" in server.refused(image=name, noise_level=5000)
    assert "anomaly_threshold must be a number in [0, inf], got 'high'" in server.refused(
        image=name, anomaly_threshold="high"
    )
    # The calibrated threshold is for other settings; an empty field is no threshold.
    reason = server.refused(image=name, noise_level=200, anomaly_threshold="")
    assert "noise_level is 300 there, 200 here" in reason and "give anomaly_threshold" in reason
    assert server.described(image=name, **FEW)["volume"]["slices"] > 0


def test_a_request_carries_no_code(server: LabelServer, volume: Path):
    """MONAI Label writes a request's settings into a configuration whose strings may be Python."""
    name, proof = volume.name.removesuffix(".nii.gz"), server.folder / "proof"
    attempts = [
        ("noise_level", f"$__import__('pathlib').Path('{proof}').touch()"),
        ("num_inference_steps", {"_target_": "os.mkdir", "path": str(proof)}),
        ("probability_threshold", "@seed"),
        ("device", f"$__import__('pathlib').Path('{proof}').touch()"),
    ]
    for key, value in attempts:
        request = {**FEW, key: value}
        assert server.refused(image=name, **request).startswith(f"{key}: a number or a plain word is wanted, got")
    assert server.described(image=name, **FEW)["settings"]["noise_level"] == 300
    assert not proof.exists()
