"""What a labelling server reads of the configuration, run as MONAI Label does, without the server."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runner import AFFINE, BUNDLE, CONFIGS, check_run, run_bundle, tiny_overlay, write_subject
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from scripts.export_model import export_model
from scripts.methods.masked_bernoulli import MaskedBernoulli
from scripts.schedulers import BernoulliScheduler
from scripts.serving import CheckRequestd, DescribeResultd, TakeSliceScoresd, optional_number, save_map, summarise
from scripts.writers import VolumeWriter

EXPOSED = ["noise_level", "probability_threshold", "num_inference_steps", "anomaly_threshold"]


@pytest.mark.parametrize(("value", "number"), [(None, None), ("", None), (" ", None), ("0.25", 0.25), (3, 3)])
def test_numbers_as_clients_send_them(value: object, number: object):
    assert optional_number(value) == number


@pytest.mark.parametrize("value", ["high", [], -1, "-0.5", True])
def test_what_is_no_threshold_is_refused(value: object):
    with pytest.raises(ValueError, match=r"anomaly_threshold must be a number in \[0, inf\]"):
        optional_number(value)


def test_every_part_of_the_configuration_follows_the_request():
    """A reference past ``displayable_configs`` would keep the default whatever a client asks for."""
    config = json.loads((CONFIGS / "inference.json").read_text())
    assert config["displayable_configs"] == {key: f"@{key}" for key in EXPOSED}
    others = json.dumps({key: value for key, value in config.items() if key != "displayable_configs"})
    for key in EXPOSED:
        assert f"@{key}" not in others, key
        assert f"@displayable_configs#{key}" in others, key


class TinyServer:
    """A tiny model, a volume of its sequences, and requests as MONAI Label runs them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.studies = folder, folder / "studies"
        source = write_subject(folder, "source", 1, lesion_slices=None)
        names = [source / f"source_{name}.nii.gz" for name in ("t1", "flair", "t1ce")]
        self.studies.mkdir()
        self.image = self.studies / "S.nii.gz"
        array = np.stack([np.asarray(nib.load(name).dataobj) for name in names], axis=-1)
        nib.save(nib.Nifti1Image(array, AFFINE), self.image)
        self.weights = folder / "model.pt"
        self.overlay = tiny_overlay(folder, "inference", weights=str(self.weights), anomaly_threshold=0.4)
        self.configs = [CONFIGS / "inference.json", self.overlay]
        export_model(self.weights, self.configs)
        self.parser = ConfigParser(ConfigParser.load_config_files([str(path) for path in self.configs]))
        self.parser["bundle_root"] = str(BUNDLE)
        self.network = self.parser.get_parsed_content("network_def").eval()
        self.network.load_state_dict(torch.load(self.weights, weights_only=True), strict=False)
        self.defaults = self.parser.get_parsed_content("displayable_configs")

    def infer(self, **request) -> dict:
        data = {**self.defaults, "image": str(self.image), "image_path": str(self.image), **request}
        self.parser["displayable_configs"].update({key: data[key] for key in self.defaults})
        self.parser.parse()
        for transform in self.parser.get_parsed_content("pre_transforms").transforms:
            data = transform(data)
        data["pred"] = self.parser.get_parsed_content("inferer")(data["image"][None], self.network)[0]
        for transform in self.parser.get_parsed_content("post_transforms").transforms:
            data = transform(data)
        return data


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> TinyServer:
    return TinyServer(tmp_path_factory.mktemp("server"))


def test_a_request_gives_what_the_workflow_writes(server: TinyServer, tmp_path: Path):
    check_run(run_bundle("inference", server.configs, dataset_dir=server.studies, output_dir=tmp_path / "out"))
    data = server.infer()
    assert data["pred"].dtype == torch.uint8
    for key, name in (("pred", "segmentation"), ("anomaly_map", "anomaly")):
        written = nib.load(tmp_path / "out" / "S" / f"S_{name}.nii.gz")
        np.testing.assert_allclose(data[key][0].numpy(), np.asarray(written.dataobj), rtol=0, atol=1e-5)
        np.testing.assert_allclose(data[key].affine, written.affine)
    assert 0 < data["pred"].sum() < data["pred"].numel()
    json.dumps(data["result"], allow_nan=False)
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    # What clients may set is the method's, but for the threshold.
    stored = {**settings["method"], **settings}
    assert data["result"]["settings"] == {key: stored[key] for key in data["result"]["settings"]}
    lines = (tmp_path / "out" / "S" / "S_scores.csv").read_text().splitlines()[1:]
    rows = [[float(x) for x in line.split(",")[1:]] for line in lines]
    np.testing.assert_allclose([list(row.values()) for row in data["result"]["slices"]], rows, rtol=0, atol=1e-5)
    assert data["result"]["image_score"] == pytest.approx(np.mean([row[1] for row in rows]), abs=1e-5)


def test_settings_of_a_request_hold_for_it_alone(server: TinyServer):
    usual = server.infer()
    assert server.infer(probability_threshold=0)["result"]["image_score"] == 1
    assert server.infer(probability_threshold=1)["result"]["image_score"] == 0
    assert server.infer(noise_level=4)["result"]["image_score"] != usual["result"]["image_score"]
    assert server.infer(num_inference_steps=2)["result"]["image_score"] != usual["result"]["image_score"]
    few, many = (server.infer(anomaly_threshold=value)["pred"].as_tensor() for value in ("0.6", 0.1))
    assert 0 < few.sum() < usual["pred"].sum() < many.sum() and not (few > many).any()
    assert torch.equal(server.infer()["pred"], usual["pred"])


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"noise_level": 0}, r"noise_level must be a whole number in \[1, 1000\], got 0"),
        ({"num_inference_steps": "many"}, "num_inference_steps must be a whole number"),
        ({"anomaly_threshold": ""}, "is for other settings"),
        ({"image": ""}, "image: the server's folder has no image of that name"),
        ({"model_filename": ["a.pt", "model.pt"]}, "'a.pt' would be loaded, the configuration .* wants 'model.pt'"),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_computed(server: TinyServer, request_: dict, reason: str):
    (server.folder / "a.pt").touch()
    with pytest.raises((ValueError, RuntimeError)) as caught:
        server.infer(**request_)
    error: BaseException = caught.value
    while error.__cause__ is not None:
        error = error.__cause__
    assert isinstance(error, ValueError)
    with pytest.raises(ValueError, match=reason):
        raise error


def test_missing_weights_are_refused(server: TinyServer):
    server.weights.rename(server.folder / "kept")
    try:
        with pytest.raises(RuntimeError) as caught:
            server.infer()
    finally:
        (server.folder / "kept").rename(server.weights)
    error: BaseException = caught.value
    while error.__cause__ is not None:
        error = error.__cause__
    assert isinstance(error, FileNotFoundError) and str(error).startswith("weights: no file")


@pytest.mark.parametrize("names", ["model.pt", ["model.pt", "longer.pt"], "not_there.pt", None, []])
def test_the_configured_weights_may_be_asked_for(names: object, tmp_path: Path):
    for name in ("model.pt", "longer.pt"):
        (tmp_path / name).touch()
    checked = CheckRequestd(str(tmp_path / "model.pt"))({"image": "x", "label": "y", "model_filename": names})
    assert checked == {"image": "x", "model_filename": names}


def test_a_sheared_image_gets_no_straightened_label(server: TinyServer):
    """ITK's NIfTI writer makes the axes orthogonal without a word to the client; its NRRD writer keeps them."""
    affine = AFFINE.copy()
    affine[0, 1] = 0.2
    path = server.studies.parent / "sheared.nii.gz"
    image = nib.load(server.image)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), path)
    request = {"image": str(path), "image_path": str(path)}
    with pytest.raises(ValueError, match=r"sheared\.nii\.gz: its axes are not at right angles \(cosine 0\.13"):
        server.infer(**request)
    assert server.infer(**request, result_extension=".nrrd")["result"]["image_score"] > 0


def volume() -> MetaTensor:
    return MetaTensor(torch.rand(1, 4, 5, 3), affine=torch.as_tensor(AFFINE), meta={"sform_code": 4})


def test_what_is_known_of_slices_is_taken_from_the_map():
    tensor = volume()
    tensor.meta |= {
        "processed": torch.tensor([[True, False]]),
        "slice_scores": {"share": torch.tensor([[0.1, torch.nan]])},
    }
    taken = TakeSliceScoresd()({"pred": tensor})
    assert taken["processed"].tolist() == [True, False]
    assert taken["slice_scores"]["share"].shape == (2,) and taken["slice_scores"]["share"][0] == pytest.approx(0.1)


def test_a_volume_is_summed_up_by_the_methods_own_scores():
    slices = [{"share": 0.2, "map_mean": 1.0, "map_max": 3.0}, {"share": 0.4, "map_mean": 2.0, "map_max": 5.0}]
    assert summarise(slices, ["share"]) == pytest.approx(
        {"slices": 2, "share": 0.3, "share_max": 0.4, "map_mean": 1.5, "map_max": 5.0}
    )
    assert summarise([], ["share"]) == {
        "slices": 0,
        "share": None,
        "share_max": None,
        "map_mean": None,
        "map_max": None,
    }


@pytest.mark.parametrize("name", ["S.1.nii.gz", "S.1.nrrd"])
def test_the_map_lies_among_the_servers_labels(name: str, tmp_path: Path):
    (tmp_path / "datastore_v2.json").touch()
    for _ in range(2):
        tensor = volume()
        told = save_map(tensor, tensor, tmp_path / name)
        path = tmp_path / "labels" / "anomaly_map" / "S.1.nii.gz"
        assert told == {"path": str(path), "image": "S.1", "tag": "anomaly_map"}
        assert os.listdir(path.parent) == [path.name]
        image = nib.load(path)
        assert np.array_equal(np.asarray(image.dataobj), tensor[0].numpy()) and image.get_data_dtype() == np.float32
        np.testing.assert_allclose(image.affine, AFFINE)
        assert int(image.header["sform_code"]) == 4


def test_maps_of_uploads_do_not_replace_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Sessions of several clients may hold files of one name."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    tensors = [volume(), volume()]
    paths = [save_map(tensor, tensor, tmp_path / "S.nii.gz")["path"] for tensor in tensors]
    for tensor, path in zip(tensors, paths, strict=True):
        assert Path(path).parent == tmp_path / "temporary"
        assert np.array_equal(np.asarray(nib.load(path).dataobj), tensor[0].numpy())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "datastore_v2.json").touch()
    (tmp_path / "labels").touch()
    with pytest.raises(OSError, match=r"anomaly_map: cannot write in .*labels/anomaly_map"):
        save_map(volume(), volume(), tmp_path / "S.nii.gz")


def test_a_volume_without_processed_slices_has_no_scores(tmp_path: Path):
    (tmp_path / "datastore_v2.json").touch()
    data = {"image": volume(), "anomaly_map": volume(), "pred": volume(), "image_path": str(tmp_path / "S.nii.gz")}
    nothing = {
        "processed": torch.zeros(3, dtype=torch.bool),
        "slice_scores": {"mask_share": torch.full((3,), torch.nan)},
    }
    method = MaskedBernoulli(scheduler=BernoulliScheduler(), noise_level=2)
    described = DescribeResultd(VolumeWriter(None, 0.0), method, {"seed": 0})({**data, **nothing})["result"]
    assert described["image_score"] is None and described["slices"] == []
    assert described["volume"] == summarise([], ["mask_share"]) and described["volume"]["slices"] == 0
