from __future__ import annotations

import csv
import json
import time
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate
from PIL import Image
from volume_files import LPS_AFFINE, ORIENTATIONS, SHAPE, configured, head, oblique, save_volume, stored_as

from scripts.methods.masked_bernoulli import MaskedBernoulli
from scripts.results import ResultFolder
from scripts.schedulers import BernoulliScheduler
from scripts.transforms import LoadGreyImaged, LoadPreparedSliced, LoadSubjectd
from scripts.writers import ImageWriter, PreparedSliceWriter, VolumeWriter
from scripts.writers.volume import space_code

NAMES = {
    "anomaly_map": "anomaly",
    "reconstruction": "reconstruction",
    "mask_density": "mask_density",
    "pred": "segmentation",
}


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape).astype(np.float32)


METHOD = MaskedBernoulli(scheduler=BernoulliScheduler(20), noise_level=8, num_inference_steps=5)


def writer(cls, folder, **kwargs):
    return cls(ResultFolder(str(folder / "out"), {}), threshold=0.5, **{"overview": False, "method": METHOD, **kwargs})


def of_slices(shares: torch.Tensor) -> dict:
    """What an output holds of its slices; those without a share were not processed."""
    return {"processed": ~shares.isnan(), "slice_scores": {"mask_share": shares}}


def read_scores(path) -> list[dict]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


class Volume:
    """A subject in an orientation of its own, with known maps in the canonical one."""

    def __init__(self, folder, orientation: str, channels: int = 2) -> None:
        self.orientation, self.affine = orientation, oblique(LPS_AFFINE)
        paths = []
        for i in range(channels):
            stored, self.matrix = stored_as(head(i), self.affine, orientation)
            paths.append(save_volume(folder / f"S_{i}.nii.gz", stored, self.matrix))
        image = LoadSubjectd([str(i) for i in range(channels)])({"image": paths})["image"]
        self.maps = {"anomaly_map": random(1, *SHAPE), "reconstruction": random(channels, *SHAPE, seed=1)}
        self.maps["mask_density"] = random(1, *SHAPE, seed=2)
        self.maps["pred"] = (self.maps["anomaly_map"] > 0.7).astype(np.float32)
        self.shares = np.array([np.nan, 0.25, 0.0, np.nan, 1 / 3], dtype=np.float32)
        self.output = {"image": image, **of_slices(torch.from_numpy(self.shares))}
        for key, maps in self.maps.items():
            self.output[key] = MetaTensor(torch.from_numpy(self.stored(maps)), meta=image.meta)

    def stored(self, maps: np.ndarray) -> np.ndarray:
        return np.stack([stored_as(channel, self.affine, self.orientation)[0] for channel in maps])


@pytest.mark.parametrize("orientation", ORIENTATIONS)
class TestVolumes:
    def test_files_lie_where_the_input_lies(self, tmp_path, orientation):
        volume = Volume(tmp_path, orientation)
        writer(VolumeWriter, tmp_path).write("S", volume.output)
        for key, name in NAMES.items():
            written = nib.load(tmp_path / "out" / "S" / f"S_{name}.nii.gz")
            wanted = volume.stored(volume.maps[key])
            wanted = np.moveaxis(wanted, 0, -1) if key == "reconstruction" else wanted[0]
            assert written.shape == wanted.shape
            assert np.array_equal(np.asarray(written.dataobj), wanted)
            assert written.get_data_dtype() == (np.uint8 if key == "pred" else np.float32)
            assert np.allclose(written.affine, volume.matrix, atol=1e-5)
            assert np.allclose(written.get_qform(), volume.matrix, atol=1e-4)
            # what nibabel writes on its own: sform "aligned"
            assert (int(written.header["sform_code"]), int(written.header["qform_code"])) == (2, 2)
            assert written.header.get_xyzt_units()[0] == "mm"

    def test_read_back_in_the_canonical_orientation(self, tmp_path, orientation):
        volume = Volume(tmp_path, orientation)
        writing = writer(VolumeWriter, tmp_path)
        writing.write("S", volume.output)
        for key, name in NAMES.items():
            read = writing.read_planes("S", name)
            assert read.dtype == np.float32
            assert np.array_equal(read, volume.maps[key])
            assert np.array_equal(writing.planes(volume.output[key]), volume.maps[key])
        assert np.array_equal(writing.planes(volume.output["image"]), np.stack([head(0), head(1)]))

    def test_slice_numbers_point_into_the_file(self, tmp_path, orientation):
        writing, axis = writer(VolumeWriter, tmp_path), ORIENTATIONS[orientation][0].index(2)
        for index in range(SHAPE[2]):
            marked = np.zeros(SHAPE, dtype=np.float32)
            marked[..., index] = 1
            stored, affine = stored_as(marked, oblique(LPS_AFFINE), orientation)
            image = MetaTensor(torch.from_numpy(stored)[None], affine=torch.from_numpy(affine))
            number = writing.slice_number(index, image)
            assert np.take(stored, number, axis=axis).all()
            assert writing.slice_number(number, image) == index

    def test_scores(self, tmp_path, orientation):
        volume = Volume(tmp_path, orientation)
        writer(VolumeWriter, tmp_path).write("S", volume.output)
        rows = read_scores(tmp_path / "out" / "S" / "S_scores.csv")
        axis = ORIENTATIONS[orientation][0].index(2)
        stored = nib.load(tmp_path / "out" / "S" / "S_anomaly.nii.gz").get_fdata()
        numbers = [int(row["slice"]) for row in rows]
        assert numbers == sorted(numbers)
        assert len(rows) == 3
        for row in rows:
            plane = np.take(stored, int(row["slice"]), axis=axis)
            assert float(row["map_mean"]) == pytest.approx(plane.mean(), rel=1e-5)
            assert float(row["map_max"]) == pytest.approx(plane.max(), rel=1e-5)
            (index,) = [k for k in range(5) if volume.maps["anomaly_map"][..., k].max() == np.float32(plane.max())]
            assert float(row["mask_share"]) == pytest.approx(volume.shares[index], rel=1e-5)
            assert row["subject"] == "S"

    def test_through_the_whole_configuration(self, tmp_path, orientation):
        """File to canonical planes, a map drawn there, and back: the map's file overlays the input's."""
        volume = Volume(tmp_path, orientation)
        settings = {"image_size": 16, "sequences": ["a", "b"], "threshold": 0.7, "median_size": 1}
        settings["min_component_size"] = 0
        preprocessing = configured("preprocessing", **settings)
        paths = [str(tmp_path / f"S_{i}.nii.gz") for i in range(2)]
        batch = list_data_collate([preprocessing({"subject": "S", "image": paths})])
        for key, name in (("pred", "anomaly_map"), ("mask_density", "mask_density")):
            fitted = torch.zeros(1, 1, 16, 16, SHAPE[2])
            fitted[:, :, 2:14, 3:13] = torch.from_numpy(volume.maps[name])
            batch[key] = MetaTensor(fitted, meta=batch["image"].meta)
            batch[key].applied_operations = batch["image"].applied_operations
        batch["reconstruction"] = batch["image"]
        output = configured("postprocessing", **settings, preprocessing=preprocessing)(decollate_batch(batch)[0])
        writing = writer(VolumeWriter, tmp_path)
        writing.write("S", {**output, **of_slices(torch.from_numpy(volume.shares))})
        assert np.array_equal(writing.read_planes("S", "anomaly"), volume.maps["anomaly_map"])
        inside = head(0) > 0
        assert (volume.maps["pred"][0] > inside).any()
        assert np.array_equal(writing.read_planes("S", "segmentation"), volume.maps["pred"] * inside)
        for name in ("anomaly_map", "mask_density"):
            written = nib.load(tmp_path / "out" / "S" / f"S_{NAMES[name]}.nii.gz")
            assert np.allclose(written.affine, volume.matrix, atol=1e-4)
            assert np.array_equal(np.asarray(written.dataobj), volume.stored(volume.maps[name])[0])


class TestSpaceCode:
    @pytest.mark.parametrize(("sform", "qform", "wanted"), [(4, 1, 4), (0, 2, 2), (2, 0, 2), (1, 1, 1)])
    def test_of_the_input_is_kept(self, tmp_path, sform, qform, wanted):
        volume = Volume(tmp_path, "RAS")
        image = nib.load(tmp_path / "S_0.nii.gz")
        image.set_sform(volume.matrix, sform)
        image.set_qform(volume.matrix, qform)
        nib.save(image, tmp_path / "coded.nii.gz")
        item = {"subject": "S", "image": [str(tmp_path / "coded.nii.gz"), str(tmp_path / "S_1.nii.gz")]}
        settings = {"image_size": 16, "sequences": ["a", "b"], "threshold": 0.7, "median_size": 1}
        preprocessing = configured("preprocessing", **settings)
        batch = list_data_collate([preprocessing(item)])
        batch |= {"pred": batch["image"][:, :1], "reconstruction": batch["image"]}
        batch["mask_density"] = batch["image"][:, 1:]
        output = configured("postprocessing", **settings, preprocessing=preprocessing)(decollate_batch(batch)[0])
        writer(VolumeWriter, tmp_path).write("S", {**output, **of_slices(torch.from_numpy(volume.shares))})
        for name in NAMES.values():
            written = nib.load(tmp_path / "out" / "S" / f"S_{name}.nii.gz")
            assert (int(written.header["sform_code"]), int(written.header["qform_code"])) == (wanted, wanted)
            assert np.allclose(written.affine, volume.matrix, atol=1e-4)

    def test_unknown_is_the_scanners(self, tmp_path):
        assert space_code(MetaTensor(torch.zeros(1, 2, 2, 2))) == 1


class TestAllWriters:
    def test_one_sequence_is_written_as_3d(self, tmp_path):
        volume = Volume(tmp_path, "RAS", channels=1)
        writing = writer(VolumeWriter, tmp_path)
        writing.write("S", volume.output)
        assert nib.load(tmp_path / "out" / "S" / "S_reconstruction.nii.gz").ndim == 3
        assert np.array_equal(writing.read_planes("S", "reconstruction"), volume.maps["reconstruction"])

    def test_a_subject_without_results(self, tmp_path):
        with pytest.raises(ValueError, match=r"subject X: no finished result '.*X_anomaly\.nii\.gz'"):
            writer(VolumeWriter, tmp_path).read_planes("X", "anomaly")

    @pytest.mark.parametrize("processed", [True, False])
    def test_the_picture(self, tmp_path, processed):
        volume = Volume(tmp_path, "AIR")
        if not processed:
            volume.output |= of_slices(torch.full((SHAPE[2],), torch.nan))
        writer(VolumeWriter, tmp_path, overview=True, channel=1).write("S", volume.output)
        with Image.open(tmp_path / "out" / "S" / "S_overview.png") as picture:
            assert min(picture.size) > 100
            assert len(np.unique(np.asarray(picture.convert("L")))) > 20
        assert len(read_scores(tmp_path / "out" / "S" / "S_scores.csv")) == (3 if processed else 0)

    def test_a_crash_while_writing_leaves_nothing(self, tmp_path):
        volume = Volume(tmp_path, "LPS")
        del volume.output["anomaly_map"]
        with pytest.raises(KeyError, match="anomaly_map"):
            writer(VolumeWriter, tmp_path).write("S", volume.output)
        assert [p.name for p in (tmp_path / "out").iterdir()] == ["settings.json"]

    def test_as_a_handler(self, tmp_path):
        writing = writer(VolumeWriter, tmp_path)
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        volumes = [Volume(tmp_path / "a", "LPS"), Volume(tmp_path / "b", "AIR")]
        volumes[1].output |= of_slices(torch.tensor([torch.nan, torch.nan, 0.5, torch.nan, torch.nan]))
        state = SimpleNamespace(
            batch=[{"subject": "a"}, {"subject": "b"}],
            output=[v.output for v in volumes],
            device=torch.device("cpu"),
            iteration_started=time.perf_counter() - 100,
        )
        network = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.Linear(4, 5))
        writing(SimpleNamespace(state=state, network=network))
        writing.finish(None)
        costs = [json.loads((tmp_path / "out" / s / f"{s}_cost.json").read_text()) for s in "ab"]
        assert [cost["slices"] for cost in costs] == [3, 1]
        # What the batch took is shared out by the slices.
        assert [cost["seconds"] for cost in costs] == [pytest.approx(75, abs=1), pytest.approx(25, abs=1)]
        assert all(cost["parameters"] == 2 * 3 * 9 + 3 + 4 * 5 + 5 for cost in costs)
        assert all(cost["passes"] == 5 for cost in costs)
        assert all(cost["device"] == "cpu" and cost["peak_memory_bytes"] > 0 for cost in costs)
        rows = read_scores(tmp_path / "out" / "scores.csv")
        assert [(r["subject"], r["slice"]) for r in rows] == [
            *[("a", n) for n in "124"],
            ("b", "2"),
        ]

    def test_a_batch_of_which_nothing_was_processed_costs_nothing_a_slice(self, tmp_path):
        volume, writing = Volume(tmp_path, "LPS"), writer(VolumeWriter, tmp_path)
        volume.output |= of_slices(torch.full((SHAPE[2],), torch.nan))
        state = SimpleNamespace(batch=[{"subject": "S"}], output=[volume.output], device="cpu", iteration_started=0.0)
        writing(SimpleNamespace(state=state, network=torch.nn.Linear(1, 1)))
        cost = json.loads((tmp_path / "out" / "S" / "S_cost.json").read_text())
        assert (cost["slices"], cost["seconds"], cost["parameters"]) == (0, 0, 2)

    def test_what_an_output_lacks_is_not_written(self, tmp_path):
        volume = Volume(tmp_path, "LPS")
        del volume.output["mask_density"], volume.output["reconstruction"]
        writer(VolumeWriter, tmp_path).write("S", volume.output)
        images = sorted(p.name for p in (tmp_path / "out" / "S").glob("*.nii.gz"))
        assert images == ["S_anomaly.nii.gz", "S_segmentation.nii.gz"]


class TestAnyMethod:
    """Slices are those processed, columns and files are those of the method, whatever it finds."""

    def test_neither_scores_nor_evidence(self, tmp_path):
        volume = Volume(tmp_path, "AIR")
        volume.output |= {"slice_scores": {}, "processed": torch.tensor([False, True, False, False, True])}
        writing = writer(VolumeWriter, tmp_path, method=None, overview=True)
        writing.write("S", volume.output)
        with (tmp_path / "out" / "S" / "S_scores.csv").open(newline="") as stream:
            header, *rows = list(csv.reader(stream))
        assert header == ["subject", "slice", "map_mean", "map_max"]
        numbers = sorted(writing.slice_number(index, volume.output["image"]) for index in (1, 4))
        assert [int(row[1]) for row in rows] == numbers
        images = {path.name for path in (tmp_path / "out" / "S").glob("*.nii.gz")}
        assert images == {"S_anomaly.nii.gz", "S_reconstruction.nii.gz", "S_segmentation.nii.gz"}

    def test_several_scores_and_kinds_of_evidence(self, tmp_path):
        volume = Volume(tmp_path, "PSL")
        maps = random(3, *SHAPE, seed=7)
        image = volume.output["image"]
        volume.output["kl_map"] = MetaTensor(torch.from_numpy(volume.stored(maps)), meta=image.meta)
        scores = {"kl": torch.arange(5.0), "cosine": torch.tensor([0.5, torch.nan, 0.25, 0.125, 1])}
        volume.output |= {"slice_scores": scores, "processed": torch.tensor([True, False, True, True, True])}
        writing = writer(VolumeWriter, tmp_path, overview=True)
        writing.evidence = ("kl_map",)
        writing.write("S", volume.output)
        rows = read_scores(tmp_path / "out" / "S" / "S_scores.csv")
        assert list(rows[0]) == ["subject", "slice", "kl", "cosine", "map_mean", "map_max"]
        by_number = {writing.slice_number(index, image): index for index in (0, 2, 3, 4)}
        assert {int(row["slice"]): (float(row["kl"]), float(row["cosine"])) for row in rows} == {
            number: (scores["kl"][index], scores["cosine"][index]) for number, index in by_number.items()
        }
        # Evidence of several channels is 4D, and read back in the canonical orientation; other methods' is not stored.
        assert np.array_equal(writing.read_planes("S", "kl_map"), maps)
        assert not (tmp_path / "out" / "S" / "S_mask_density.nii.gz").exists()

    def test_a_processed_slice_may_score_nothing(self, tmp_path):
        """Whether a slice was processed is said by itself, not by its score."""
        volume = Volume(tmp_path, "LPS")
        volume.output |= {"processed": torch.tensor([True, False, False, False, False])}
        writer(VolumeWriter, tmp_path).write("S", volume.output)
        (row,) = read_scores(tmp_path / "out" / "S" / "S_scores.csv")
        assert (row["slice"], row["mask_share"]) == ("0", "nan")


class TestPreparedSlices:
    AFFINE = np.diag([2.0, 3, 4, 1])

    @pytest.fixture
    def array(self, tmp_path) -> np.ndarray:
        array = random(2, 12, 10)
        save_volume(tmp_path / "x.nii.gz", array, self.AFFINE)
        return array

    def test_laid_out_as_the_input(self, tmp_path, array):
        """Through the configured preprocessing, a batch and back: the identity must give the input's own file."""
        settings = {"image_size": 16, "sequences": ["a", "b"], "threshold": 0.5, "median_size": 1}
        preprocessing = configured("preprocessing", "data/prepared_slices", **settings)
        batch = list_data_collate([preprocessing({"subject": "x", "image": str(tmp_path / "x.nii.gz")})] * 2)
        batch |= {"reconstruction": batch["image"], "pred": batch["image"][:, :1]}
        batch["mask_density"] = batch["image"][:, 1:]
        for key in ("pred", "mask_density"):
            batch[key].applied_operations = batch["image"].applied_operations
        settings |= {"preprocessing": preprocessing, "min_component_size": 0}
        output = configured("postprocessing", "data/prepared_slices", **settings)(decollate_batch(batch)[1])
        writing = writer(PreparedSliceWriter, tmp_path)
        writing.write("x", {**output, **of_slices(torch.tensor([0.125]))})
        wanted = {"anomaly": array[:1], "reconstruction": array, "mask_density": array[1:]}
        wanted["segmentation"] = array[:1] > 0.5
        for name, values in wanted.items():
            written = nib.load(tmp_path / "out" / "x" / f"x_{name}.nii.gz")
            assert np.array_equal(np.asarray(written.dataobj), values)
            assert np.allclose(written.affine, self.AFFINE)
            assert written.get_data_dtype() == (np.uint8 if name == "segmentation" else np.float32)
            planes = writing.read_planes("x", name)
            assert np.array_equal(planes, values.transpose(0, 2, 1)[..., None])
        (row,) = read_scores(tmp_path / "out" / "x" / "x_scores.csv")
        assert (row["slice"], row["mask_share"]) == ("0", "0.125")
        assert float(row["map_max"]) == pytest.approx(array[0].max(), rel=1e-5)

    def test_planes_are_as_loaded(self, tmp_path, array):
        image = LoadPreparedSliced(["a", "b"])({"image": str(tmp_path / "x.nii.gz")})["image"]
        assert np.array_equal(writer(PreparedSliceWriter, tmp_path).planes(image), array.transpose(0, 2, 1)[..., None])


class TestPictures:
    WIDTH, HEIGHT = 9, 6

    @pytest.fixture
    def output(self, tmp_path) -> dict:
        Image.fromarray((random(self.HEIGHT, self.WIDTH) * 255).astype(np.uint8)).save(tmp_path / "x.png")
        image = LoadGreyImaged()({"image": str(tmp_path / "x.png")})["image"]
        anomaly = random(1, self.WIDTH, self.HEIGHT, seed=1) * 2
        anomaly[0, 0, 0], anomaly[0, 1, 0], anomaly[0, 2, 0] = 0, 1, 0.5
        reconstruction = random(1, self.WIDTH, self.HEIGHT, seed=2) * 1.2 - 0.1
        maps = {"anomaly_map": anomaly, "reconstruction": reconstruction, "pred": (anomaly > 1).astype(np.float32)}
        maps["mask_density"] = random(1, self.WIDTH, self.HEIGHT, seed=3)
        output = {key: MetaTensor(torch.from_numpy(value)) for key, value in maps.items()}
        return output | {"image": image, **of_slices(torch.tensor([0.5]))}

    def test_pngs(self, tmp_path, output):
        writer(ImageWriter, tmp_path).write("x", output)
        for key, name in NAMES.items():
            with Image.open(tmp_path / "out" / "x" / f"x_{name}.png") as picture:
                assert picture.size == (self.WIDTH, self.HEIGHT)
                pixels = np.asarray(picture)
            for x in range(self.WIDTH):
                for y in range(self.HEIGHT):
                    value = float(output[key][0, x, y])
                    top = 255 if key == "pred" else 65535
                    assert int(pixels[y, x]) == pytest.approx(min(max(value, 0), 1) * top, abs=0.51)
        assert pixels.dtype == np.uint8
        assert set(np.unique(pixels)) == {0, 255}

    def test_niftis_hold_the_exact_values(self, tmp_path, output):
        writing = writer(ImageWriter, tmp_path)
        writing.write("x", output)
        for key, name in NAMES.items():
            written = nib.load(tmp_path / "out" / "x" / f"x_{name}.nii.gz")
            assert written.shape == (self.WIDTH, self.HEIGHT)
            assert np.array_equal(np.asarray(written.dataobj), output[key][0].numpy())
            assert np.array_equal(writing.read_planes("x", name), output[key].numpy()[..., None])
            assert np.array_equal(writing.planes(output[key]), output[key].numpy()[..., None])

    def test_written_pngs_are_pictures_to_load(self, tmp_path, output):
        """An input, its reconstruction and its map go through the same door in the same orientation."""
        writer(ImageWriter, tmp_path).write("x", output | {"reconstruction": output["image"]})
        again = LoadGreyImaged()({"image": str(tmp_path / "out" / "x" / "x_reconstruction.png")})["image"]
        assert torch.allclose(again.as_tensor(), output["image"].as_tensor(), atol=1e-5)

    def test_the_configured_round_trip(self, tmp_path):
        """Any size goes to the network's and comes back to its own."""
        Image.fromarray((random(40, 52) * 255).astype(np.uint8)).save(tmp_path / "x.png")
        settings = {"image_size": 32, "threshold": 0.5, "median_size": 1, "min_component_size": 0}
        preprocessing = configured("preprocessing", "data/oct2017", **settings)
        batch = list_data_collate([preprocessing({"subject": "x", "image": str(tmp_path / "x.png"), "healthy": True})])
        assert batch["image"].shape == batch["label"].shape == (1, 1, 32, 32)
        halves = torch.zeros(1, 1, 32, 32)
        halves[:, :, 16:] = 1
        pred = MetaTensor(halves, meta=batch["image"].meta, applied_operations=batch["image"].applied_operations)
        outputs = decollate_batch({"image": batch["image"], "pred": pred, "reconstruction": batch["image"]})[0]
        output = configured("postprocessing", "data/oct2017", **settings, preprocessing=preprocessing)(outputs)
        writing = writer(ImageWriter, tmp_path)
        writing.write("x", {**output, **of_slices(torch.tensor([0.5]))})
        segmentation = writing.read_planes("x", "segmentation")[0, ..., 0]
        assert segmentation.shape == (52, 40)
        assert segmentation[26:].all()
        assert not segmentation[:26].any()
