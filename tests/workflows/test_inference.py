"""The inference workflow against the inferer that MONAI Label and Deploy call, and against itself."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runner import AFFINE, BUNDLE, CONFIGS, tiny_overlay, write_subject
from monai.bundle import ConfigWorkflow
from monai.data import MetaTensor, list_data_collate
from scipy import ndimage

from scripts.export_model import export_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    export_model(folder / "model.pt", [CONFIGS / "inference.json", tiny_overlay(folder, "inference")])
    return folder / "model.pt"


def infer(folder: Path, data: Path, model: Path, **overrides) -> ConfigWorkflow:
    """An initialised inference workflow with results in ``folder / "out"``."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"dataset_dir": str(data), "weights": str(model), "anomaly_threshold": 0.5, **overrides}
    files = [str(CONFIGS / "inference.json"), str(tiny_overlay(folder, "inference"))]
    flow = ConfigWorkflow(
        files,
        workflow_type="infer",
        run_id="inference",
        bundle_root=str(BUNDLE),
        output_dir=str(folder / "out"),
        **settings,
    )
    flow.initialize()
    return flow


def result(folder: Path, subject: str, name: str) -> np.ndarray:
    return np.asarray(nib.load(folder / "out" / subject / f"{subject}_{name}.nii.gz").dataobj)


def test_all_required_properties_are_there(tmp_path, model):
    write_subject(tmp_path / "data", "S", 1)
    assert infer(tmp_path, tmp_path / "data", model).check_properties() == []


def test_workflow_equals_the_inferer(tmp_path, model):
    """What the handler writes is what the inferer returns for the preprocessed volume, as MONAI Label calls it."""
    data = tmp_path / "data"
    write_subject(data, "S", 1)
    flow = infer(tmp_path, data, model)
    flow.run()
    parser = flow.parser
    item = parser.get_parsed_content("preprocessing")(parser.get_parsed_content("datalist")[0])
    batch = list_data_collate([{"image": item["image"]}])
    network = parser.get_parsed_content("network")
    inputs = batch["image"]
    outputs = parser.get_parsed_content("inferer")(inputs, network)
    assert outputs.shape == (1, 1, *inputs.shape[2:])
    density = MetaTensor(parser.get_parsed_content("inferer").run_volumes(inputs, network)[0].evidence["mask_density"])
    density.copy_meta_from(inputs[0])
    processed = parser.get_parsed_content("postprocessing")(
        {"image": inputs[0], "pred": outputs[0], "mask_density": density}
    )
    shares = [float(row["mask_share"]) for row in csv.DictReader((tmp_path / "out" / "scores.csv").open())]
    assert all(0 < share < 1 for share in shares)
    np.testing.assert_array_equal(processed["pred"][0].numpy(), result(tmp_path, "S", "segmentation"))
    np.testing.assert_allclose(processed["anomaly_map"][0].numpy(), result(tmp_path, "S", "anomaly"), atol=1e-5)
    np.testing.assert_allclose(processed["pred"].affine.numpy(), AFFINE)
    np.testing.assert_allclose(processed["mask_density"][0].numpy(), result(tmp_path, "S", "mask_density"), atol=1e-5)
    assert 0 < result(tmp_path, "S", "mask_density").mean() < 1
    assert nib.load(tmp_path / "out" / "S" / "S_mask_density.nii.gz").affine == pytest.approx(AFFINE)


def test_batches_names_order_and_neighbours_do_not_matter(tmp_path, model):
    alone, crowd = tmp_path / "alone", tmp_path / "crowd"
    write_subject(alone / "data", "S", 1)
    write_subject(crowd / "data", "A_before", 2)
    write_subject(crowd / "data", "Z_same_images_other_name", 1)
    infer(alone, alone / "data", model, sw_batch_size=1).run()
    infer(crowd, crowd / "data", model, sw_batch_size=5).run()
    ours, theirs = result(alone, "S", "anomaly"), result(crowd, "Z_same_images_other_name", "anomaly")
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert not np.allclose(ours, result(crowd, "A_before", "anomaly"), atol=1e-2)


@pytest.mark.parametrize("codes", ["RAS", "LAS", "SPR"])
def test_results_lie_in_the_inputs_own_space(codes, tmp_path, model):
    """The same anatomy stored in other orientations gives the same anatomy of results."""
    data = tmp_path / "data"
    folder = write_subject(data, "S", 1)
    infer(tmp_path / "own", data, model).run()
    expected = nib.load(tmp_path / "own" / "out" / "S" / "S_anomaly.nii.gz")
    turn = nib.orientations.ornt_transform(nib.io_orientation(AFFINE), nib.orientations.axcodes2ornt(codes))
    other = tmp_path / "other"
    for path in folder.glob("*.nii.gz"):
        (other / "S").mkdir(parents=True, exist_ok=True)
        nib.save(nib.load(path).as_reoriented(turn), other / "S" / path.name)
    infer(tmp_path / "turned", other, model).run()
    turned = nib.load(tmp_path / "turned" / "out" / "S" / "S_anomaly.nii.gz")
    reference = nib.load(next((other / "S").glob("*_t1.nii.gz")))
    assert turned.shape == reference.shape
    np.testing.assert_allclose(turned.affine, reference.affine, atol=1e-5)
    wanted = expected.as_reoriented(turn)
    np.testing.assert_allclose(np.asarray(turned.dataobj), np.asarray(wanted.dataobj), atol=1e-4)


def test_slices_outside_the_range_are_zero_and_scores_name_file_slices(tmp_path, model):
    data = tmp_path / "data"
    # Stored head to foot: slice 0 of the file is the highest of the body.
    upside_down = AFFINE @ np.diag([1, 1, -1, 1])
    write_subject(data, "S", 1, affine=upside_down, shape=(56, 48, 6))
    flow = infer(tmp_path, data, model, slice_range=[1, 3])
    flow.run()
    anomaly = result(tmp_path, "S", "anomaly")
    assert np.flatnonzero(anomaly.any(axis=(0, 1))).tolist() == [3, 4]
    density = result(tmp_path, "S", "mask_density")
    assert np.flatnonzero(density.any(axis=(0, 1))).tolist() == [3, 4]
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").open()))
    assert [int(row["slice"]) for row in rows] == [3, 4]
    for row in rows:
        plane = anomaly[..., int(row["slice"])]
        assert float(row["map_max"]) == pytest.approx(float(plane.max()), rel=1e-4)
        assert float(row["map_mean"]) == pytest.approx(float(plane.mean()), rel=1e-4)


def test_larger_images_are_resampled_and_come_back_in_their_own_size(tmp_path, model):
    data = tmp_path / "data"
    write_subject(data, "S", 1, shape=(100, 80, 3))
    infer(tmp_path, data, model).run()
    assert result(tmp_path, "S", "anomaly").shape == (100, 80, 3)
    assert result(tmp_path, "S", "segmentation").shape == result(tmp_path, "S", "mask_density").shape == (100, 80, 3)
    assert set(np.unique(result(tmp_path, "S", "segmentation"))) <= {0, 1}
    image = np.stack([nib.load(data / "S" / f"S_{s}.nii.gz").get_fdata() for s in ("t1", "flair", "t1ce")], -1)
    assert result(tmp_path, "S", "reconstruction").shape == image.shape


def test_one_4d_file_equals_its_sequences(tmp_path, model):
    folder = write_subject(tmp_path / "folders", "S", 1, lesion_slices=None)
    volumes = [np.asarray(nib.load(folder / f"S_{s}.nii.gz").dataobj) for s in ("t1", "flair", "t1ce")]
    (tmp_path / "files").mkdir()
    nib.save(nib.Nifti1Image(np.stack(volumes, axis=-1), AFFINE), tmp_path / "files" / "S.nii.gz")
    infer(tmp_path / "a", tmp_path / "folders", model).run()
    infer(tmp_path / "b", tmp_path / "files", model).run()
    np.testing.assert_array_equal(result(tmp_path / "a", "S", "anomaly"), result(tmp_path / "b", "S", "anomaly"))


def test_interrupted_inference_goes_on_and_equals_an_undisturbed_one(tmp_path, model, monkeypatch):
    data = tmp_path / "data"
    for number in range(3):
        write_subject(data, f"S{number}", number)
    infer(tmp_path / "whole", data, model).run()

    flow = infer(tmp_path / "parts", data, model)
    writer = flow.parser.get_parsed_content("writer")
    write = writer.write

    def stop(subject: str, *results: dict) -> None:
        if subject == "S1":
            raise KeyboardInterrupt
        write(subject, *results)

    monkeypatch.setattr(writer, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        flow.run()
    assert sorted(p.name for p in (tmp_path / "parts" / "out").glob("*/")) == ["S0"]
    infer(tmp_path / "parts", data, model).run()
    for number in range(3):
        np.testing.assert_array_equal(
            result(tmp_path / "whole", f"S{number}", "anomaly"), result(tmp_path / "parts", f"S{number}", "anomaly")
        )
    scores = [(tmp_path / kind / "out" / "scores.csv").read_text() for kind in ("whole", "parts")]
    assert scores[0] == scores[1]


def test_mask_and_grad_modes_are_restored(tmp_path, model):
    data = tmp_path / "data"
    write_subject(data, "S", 1)
    flow = infer(tmp_path, data, model)
    flow.parser.get_parsed_content("network").train()
    flow.run()
    assert torch.is_grad_enabled()


def test_a_volume_without_any_slice_to_process_gets_an_empty_map(tmp_path, model):
    write_subject(tmp_path / "data", "S", 1)
    flow = infer(tmp_path, tmp_path / "data", model, slice_range=[80, 129])
    flow.run()
    assert not result(tmp_path, "S", "anomaly").any() and not result(tmp_path, "S", "segmentation").any()
    assert (tmp_path / "out" / "scores.csv").read_text().count("\n") == 1


def large(binary: np.ndarray, least: int) -> np.ndarray:
    """Components of at least so many pixels or voxels, connected over corners."""
    components, _ = ndimage.label(binary, structure=np.ones((3,) * binary.ndim))
    return binary & (np.bincount(components.ravel())[components] >= least)


@pytest.mark.parametrize("codes", ["RAS", "SPR"])
def test_the_segmentation_follows_from_the_stored_map(codes, tmp_path, model):
    """In the file's own pixels and its axial slices, however it is stored; that is what calibration relies on."""
    folder = write_subject(tmp_path / "first", "S", 1)
    turn = nib.orientations.ornt_transform(nib.io_orientation(AFFINE), nib.orientations.axcodes2ornt(codes))
    (tmp_path / "data" / "S").mkdir(parents=True)
    for path in folder.glob("*.nii.gz"):
        nib.save(nib.load(path).as_reoriented(turn), tmp_path / "data" / "S" / path.name)
    settings = {"median_size": 3, "foreground_erosion": 6, "min_component_size": 8, "min_component_voxels": 30}
    # Without the Gaussian the map is rough, and small components are found too.
    settings["score_sigma"] = 0.0
    infer(tmp_path / "maps", tmp_path / "data", model, **settings).run()
    threshold = float(np.quantile(result(tmp_path / "maps", "S", "anomaly"), 0.8))
    infer(tmp_path, tmp_path / "data", model, anomaly_threshold=threshold, **settings).run()

    axis = codes.index("S")
    anomaly = np.moveaxis(result(tmp_path, "S", "anomaly"), axis, -1)
    image = np.stack([nib.load(p).get_fdata() for p in (tmp_path / "data" / "S").glob("*_[tf]*.nii.gz")])
    foreground = np.moveaxis((image > 0).any(axis=0), axis, -1)
    wanted = np.zeros(anomaly.shape, dtype=bool)
    counts = np.zeros(3)
    for index in range(anomaly.shape[-1]):
        filled = np.pad(ndimage.binary_fill_holes(foreground[..., index]), 1)
        inside = (ndimage.distance_transform_edt(filled) > 6)[1:-1, 1:-1]
        above = ndimage.median_filter(anomaly[..., index], size=3, mode="nearest") > threshold
        wanted[..., index] = large(above & inside, 8)
        counts += above.sum(), (above & inside).sum(), wanted[..., index].sum()
    found = np.moveaxis(result(tmp_path, "S", "segmentation"), axis, -1)
    np.testing.assert_array_equal(found, large(wanted, 30))
    # Every step has changed something.
    assert counts[0] > counts[1] > counts[2] >= found.sum() > 0


def test_what_subjects_cost(tmp_path, model):
    data = tmp_path / "data"
    write_subject(data, "A", 1)
    write_subject(data, "B", 2)
    # Of the same shape, but with two slices that are empty.
    for path in (data / "B").glob("*.nii.gz"):
        image = nib.load(path)
        array = np.asarray(image.dataobj).copy()
        array[..., :2] = 0
        nib.save(nib.Nifti1Image(array, image.affine), path)
    flow = infer(tmp_path, data, model, subject_batch_size=2)
    start = time.perf_counter()
    flow.run()
    seconds = time.perf_counter() - start
    costs = [json.loads((tmp_path / "out" / s / f"{s}_cost.json").read_text()) for s in "AB"]
    assert [cost["slices"] for cost in costs] == [6, 4]
    assert 0 < costs[1]["seconds"] < costs[0]["seconds"]
    assert costs[0]["seconds"] + costs[1]["seconds"] < seconds
    assert costs[1]["seconds"] / costs[0]["seconds"] == pytest.approx(4 / 6, rel=0.05)
    weights = torch.load(model, weights_only=True)
    for cost in costs:
        assert cost["parameters"] == sum(weight.numel() for weight in weights.values())
        assert cost["device"] == "cpu"
        assert 50e6 < cost["peak_memory_bytes"] < 50e9
