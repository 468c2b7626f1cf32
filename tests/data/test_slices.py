from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, RandAffined, RandFlipd, RandGaussianNoised, RandScaleIntensityd
from torch.utils.data import DataLoader

from scripts.data.selection import SliceSelector
from scripts.data.slices import DrawSampler, SliceDataset, classed_slices
from scripts.failures import SubjectFailures

ALL = SliceSelector()
SHAPE = (2, 8, 6, 5)


def subject(number: int, lesions=(), shape=SHAPE, **more) -> dict:
    """A subject whose every voxel is a multiple of 1 / 1024, exact in half precision, and tells its slice."""
    generator = torch.Generator().manual_seed(number)
    image = torch.randint(1, 1024, shape, generator=generator) / 1024
    label = torch.zeros(1, *shape[1:])
    for index in lesions:
        label[0, 3, 2, index] = 1
    return {"subject": f"s{number}", "image": MetaTensor(image), "label": MetaTensor(label), **more}


def plain(image: torch.Tensor) -> np.ndarray:
    return np.asarray(image)


def healthy_slices(item: dict, selector: SliceSelector, all_healthy: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Those of class 0 and their indices."""
    slices, indices, classes = classed_slices(item, selector, all_healthy)
    assert classes.dtype == torch.int64 and set(classes.tolist()) <= {0, 1}
    assert len(slices) == len(indices) == len(classes)
    return slices[classes == 0], indices[classes == 0]


def dataset(data: list[dict], **kwargs) -> SliceDataset:
    kwargs = {"preprocessing": lambda item: item, "slice_selector": ALL, "progress": False} | kwargs
    return SliceDataset(data, **kwargs)


def images(data: SliceDataset, order=None) -> dict[int, np.ndarray]:
    return {i: plain(data[i]["image"]).copy() for i in (range(len(data)) if order is None else order)}


class TestHealthySlices:
    def test_slices_whose_label_is_empty(self):
        item = subject(0, lesions=(1, 4))
        slices, indices = healthy_slices(item, ALL)
        assert indices.tolist() == [0, 2, 3]
        assert np.array_equal(plain(slices), np.stack([plain(item["image"])[..., i] for i in (0, 2, 3)]))

    def test_one_voxel_makes_a_slice_ill(self):
        item = subject(0)
        item["label"][0, -1, -1, 2] = 1e-3
        assert healthy_slices(item, ALL)[1].tolist() == [0, 1, 3, 4]

    def test_the_selector_comes_first(self):
        item = subject(0, lesions=(1,))
        assert healthy_slices(item, SliceSelector((1, 4)))[1].tolist() == [2, 3]
        item["image"][..., 3] = 0
        assert healthy_slices(item, SliceSelector((1, 5), 0.5))[1].tolist() == [2, 4]

    def test_all_healthy_ignores_the_label(self):
        assert healthy_slices(subject(0, lesions=(1,)), ALL, all_healthy=True)[1].tolist() == [0, 1, 2, 3, 4]
        item = subject(0)
        del item["label"]
        assert len(healthy_slices(item, ALL, all_healthy=True)[0]) == 5

    def test_every_slice_ill(self):
        slices, indices = healthy_slices(subject(0, lesions=range(5)), ALL)
        assert len(slices) == len(indices) == 0

    @pytest.mark.parametrize("ill", [False, True])
    def test_2d(self, ill):
        item = subject(0, lesions=(0,) if ill else (), shape=(1, 8, 6, 1))
        item |= {"image": item["image"][..., 0], "label": item["label"][..., 0]}
        slices, indices = healthy_slices(item, ALL)
        assert indices.tolist() == ([] if ill else [0])
        assert ill or np.array_equal(plain(slices[0]), plain(item["image"]))

    @pytest.mark.parametrize("all_healthy", [False, True])
    def test_known_to_be_ill(self, all_healthy):
        assert len(healthy_slices(subject(0, healthy=False), ALL, all_healthy)[0]) == 0

    @pytest.mark.parametrize("label", [None, "absent"])
    def test_no_label(self, label):
        item = subject(7)
        item["label"] = None
        if label == "absent":
            del item["label"]
        with pytest.raises(ValueError, match=r"s7: no label tells .* all_healthy"):
            healthy_slices(item, ALL)


class TestReading:
    def test_healthy_slices_of_all_subjects_in_order(self):
        data = [subject(0, lesions=(0, 1, 2)), subject(1, lesions=range(5)), subject(2), subject(3, healthy=False)]
        slices = dataset(data, num_workers=3)
        wanted = [plain(data[0]["image"])[..., i] for i in (3, 4)] + [plain(data[2]["image"])[..., i] for i in range(5)]
        assert len(slices) == 7
        assert all(np.array_equal(slices[i]["image"], wanted[i]) for i in range(7))
        assert slices.failures.messages == {}

    def test_plain_single_precision(self):
        for transform in (None, [RandFlipd("image", prob=1)]):
            image = dataset([subject(0)], transform=transform)[0]["image"]
            assert type(image) is torch.Tensor
            assert image.dtype == torch.float32
            assert image.shape == SHAPE[:-1]

    def test_half_precision_costs_little(self):
        item = subject(0)
        item["image"] = torch.rand(SHAPE, generator=torch.Generator().manual_seed(1))
        slices = dataset([item])
        wanted = item["image"].movedim(-1, 0)
        assert float((torch.stack([slices[i]["image"] for i in range(5)]) - wanted).abs().max()) < 1 / 2048

    def test_preprocessing_and_selector_are_used(self):
        slices = dataset(
            [{"subject": "s0", "number": 4}],
            preprocessing=lambda item: subject(item["number"]),
            slice_selector=SliceSelector((2, 3)),
        )
        assert len(slices) == 1
        assert np.array_equal(slices[0]["image"], plain(subject(4)["image"])[..., 2])

    def test_a_failing_subject_is_noted_and_the_others_go_on(self):
        failures = SubjectFailures()

        def preprocessing(item):
            if item["subject"] == "s1":
                try:
                    raise ValueError("s1_t1.nii.gz: cannot be read")
                except ValueError as error:
                    raise RuntimeError("applying transform") from error
            return item

        unlabelled = subject(3)
        del unlabelled["label"]
        data = [subject(0), subject(1), subject(2), unlabelled]
        slices = dataset(data, preprocessing=preprocessing, failures=failures, num_workers=4)
        assert len(slices) == 10
        assert failures.messages.keys() == {"s1", "s3"}
        assert failures.messages["s1"] == "s1_t1.nii.gz: cannot be read"
        assert "no label" in failures.messages["s3"]
        with pytest.raises(SystemExit):
            failures.raise_if_any()

    def test_what_is_known_to_be_ill_is_not_read(self):
        def preprocessing(item):
            assert item["subject"] != "s1"
            return item

        slices = dataset([subject(0), subject(1, healthy=False)], preprocessing=preprocessing)
        assert len(slices) == 5
        assert slices.failures.messages == {}

    def test_no_healthy_slice(self):
        with pytest.raises(ValueError, match=r"no healthy slice in 2 subject\(s\)"):
            dataset([subject(0, lesions=range(5)), subject(1, lesions=range(5))])

    def test_no_healthy_slice_because_of_failures(self):
        item = subject(4)
        del item["label"]
        with pytest.raises(ValueError, match=r"no healthy slice in 1 subject\(s\): .*s4.*no label"):
            dataset([item])


def augmentation() -> list:
    return [
        RandFlipd("image", prob=0.5, spatial_axis=0),
        RandAffined("image", prob=0.9, rotate_range=0.5, padding_mode="zeros"),
        RandScaleIntensityd("image", prob=0.9, factors=0.3, channel_wise=True),
        RandGaussianNoised("image", prob=0.9, std=0.1),
    ]


class TestClasses:
    def test_all_slices_with_their_class(self):
        data = [subject(0, lesions=(0, 3)), subject(1, healthy=False), subject(2)]
        kept = dataset(data, keep="all")
        assert [int(kept[i]["class"]) for i in range(len(kept))] == [1, 0, 0, 1, 0] + [1] * 5 + [0] * 5
        wanted = np.concatenate([np.moveaxis(plain(item["image"]), -1, 0) for item in data])
        assert np.array_equal(np.stack(list(images(kept).values())), wanted)

    def test_the_class_stays_with_the_augmented_slice(self):
        kept = dataset([subject(0, lesions=(2,))], keep="all", transform=augmentation())
        assert [int(kept[i + 5]["class"]) for i in range(5)] == [0, 0, 1, 0, 0]

    def test_healthy_slices_have_no_class(self):
        assert "class" not in dataset([subject(0)])[0]

    def test_both_classes_are_wanted(self):
        with pytest.raises(ValueError, match=r"no diseased slice in 1 subject\(s\)"):
            dataset([subject(0)], keep="all")
        with pytest.raises(ValueError, match=r"no healthy slice in 1 subject\(s\)"):
            dataset([subject(0, lesions=range(5))], keep="all")

    def test_unknown(self):
        with pytest.raises(ValueError, match="keep must be 'healthy' or 'all', got 'ill'"):
            dataset([subject(0)], keep="ill")


class TestAugmentation:
    def test_depends_on_seed_epoch_and_place_only(self):
        first, second = dataset([subject(0)], transform=augmentation()), dataset([subject(0)], transform=augmentation())
        first.set_epoch(3)
        wanted = images(first)
        # another past, another order, other global random states
        second.set_epoch(1)
        images(second, [4, 1])
        torch.manual_seed(99)
        np.random.seed(99)
        second.set_epoch(3)
        for order in ([4, 2, 0, 3, 1], [2, 2, 2]):
            for index, image in images(second, order).items():
                assert np.array_equal(image, wanted[index])

    def test_a_compose_is_as_good_as_a_list(self):
        first = dataset([subject(0)], transform=augmentation())
        second = dataset([subject(0)], transform=Compose(augmentation()))
        assert np.array_equal(first[2]["image"], second[2]["image"])

    def test_workers_see_the_same(self):
        data = dataset([subject(0), subject(1)], transform=augmentation())
        data.set_epoch(5)
        wanted = images(data)
        loaded = [batch["image"].numpy() for batch in DataLoader(data, batch_size=3, num_workers=2)]
        assert np.array_equal(np.concatenate(loaded), np.stack(list(wanted.values())))

    def test_a_copy_goes_on_alike(self):
        data = dataset([subject(0)], transform=augmentation())
        other = copy.deepcopy(data)
        images(data)
        assert np.array_equal(other[1]["image"], data[1]["image"])

    def test_changes_with_the_epoch(self):
        data = dataset([subject(0)], transform=augmentation())
        seen = []
        for epoch in range(4):
            data.set_epoch(epoch)
            seen.append(plain(data[1]["image"]))
        assert len({image.tobytes() for image in seen}) == 4

    def test_changes_with_the_seed(self):
        seen = [plain(dataset([subject(0)], transform=augmentation(), seed=s)[1]["image"]) for s in range(4)]
        assert len({image.tobytes() for image in seen}) == 4

    def test_equal_slices_at_different_places_differ(self):
        data = dataset([subject(0), subject(0)], transform=augmentation())
        assert not np.array_equal(data[0]["image"], data[5]["image"])

    def test_draws_of_an_epoch_differ_in_their_augmentation_alone(self):
        data = dataset([subject(0)], transform=augmentation())
        plain_data = dataset([subject(0)])
        drawn = [plain(data[2 + draw * len(data)]["image"]) for draw in range(4)]
        assert len({image.tobytes() for image in drawn}) == 4
        assert np.array_equal(drawn[0], data[2]["image"])
        for draw in range(4):
            assert np.array_equal(plain_data[2 + draw * 5]["image"], plain_data[2]["image"])

    def test_stays_in_range_and_leaves_the_slices_alone(self):
        data = dataset([subject(0)], transform=augmentation())
        before = plain(data.slices).copy()
        for epoch in range(3):
            data.set_epoch(epoch)
            for image in images(data).values():
                assert image.min() >= 0
                assert image.max() <= 1
        assert np.array_equal(before, plain(data.slices))

    def test_none(self):
        data = dataset([subject(0)])
        first = images(data)
        data.set_epoch(1)
        assert all(np.array_equal(first[i], image) for i, image in images(data).items())


class TestDrawSampler:
    @pytest.mark.parametrize(("count", "samples"), [(5, 5), (5, 3), (5, 13), (1, 4), (7, 14)])
    def test_every_slice_once_before_any_again(self, count, samples):
        torch.manual_seed(0)
        sampler = DrawSampler(range(count), samples)
        draws = list(sampler)
        assert len(sampler) == len(draws) == samples == len(set(draws))
        for start in range(0, samples, count):
            part = draws[start : start + count]
            assert {d // count for d in part} == {start // count}
            assert len({d % count for d in part}) == len(part)
        assert set(draws[: samples // count * count]) == set(range(samples // count * count))

    def test_order_is_torchs_random_state(self):
        sampler = DrawSampler(range(50), 70)
        orders = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            orders.append(list(sampler))
        assert orders[0] == orders[1] != orders[2]
        assert orders[0] != sorted(orders[0])
        # a short epoch takes any of them, not the first
        torch.manual_seed(3)
        assert {n for _ in range(60) for n in DrawSampler(range(5), 1)} == set(range(5))
