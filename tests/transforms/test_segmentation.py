from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from scipy import ndimage
from volume_files import LPS_AFFINE, laid_out, oblique

from scripts.transforms import DropSmalld, RestrictForegroundd, SmoothSlicesd, ThresholdMapd
from scripts.transforms.segmentation import by_slices, drop_small, eroded_foreground, slice_dimension

PLANES = (15, 13, 7)
ORDERS = list(permutations(range(3)))
FLIPS = list(product((False, True), repeat=3))
SAGITTAL = (1, 2, 0)
"""Axes of a volume that is stored as a stack of sagittal slices: back, up, left."""


def random_map(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def blobs(*shape: int, seed: int = 0) -> torch.Tensor:
    """Values from 0 to 1 that vary smoothly, so that what exceeds a threshold has components of many sizes."""
    noise = np.random.default_rng(seed).random(shape[1:])
    smooth = ndimage.gaussian_filter(noise, [0.9, 0.9, 0.5][: noise.ndim])
    ranks = smooth.ravel().argsort().argsort().reshape(smooth.shape)
    return torch.from_numpy(ranks / ranks.max()).float()[None]


def body(*shape: int, channels: int = 2, seed: int = 0) -> torch.Tensor:
    """An image with an odd shape of its own in each slice, with holes, and of which the second slice is empty."""
    inside = (blobs(1, *shape, seed=seed) > 0.4) * (random_map(1, *shape, seed=seed) > 0.03)
    if len(shape) == 3:
        inside[..., 1] = False
    parts = torch.rand((channels, *shape), generator=torch.Generator().manual_seed(seed)) * inside
    parts[0] *= random_map(*shape, seed=seed + 1) > 0.2
    return parts


def smooth(anomaly_map: torch.Tensor, median_size: int) -> torch.Tensor:
    return SmoothSlicesd("pred", median_size)({"pred": anomaly_map})["pred"]


def restrict(anomaly_map: torch.Tensor, image: torch.Tensor, erosion: float = 0.0) -> torch.Tensor:
    return RestrictForegroundd("pred", "image", erosion)({"pred": anomaly_map, "image": image})["pred"]


def segment(anomaly_map: torch.Tensor, threshold: float = 0.5, min_size: int = 0, min_voxels: int = 0) -> torch.Tensor:
    return segmenting(threshold, min_size, min_voxels)({"pred": anomaly_map})["pred"]


def segmenting(threshold: float = 0.5, min_size: int = 0, min_voxels: int = 0) -> Compose:
    return Compose([ThresholdMapd("pred", threshold), DropSmalld("pred", min_size, min_voxels)])


def in_slices(function, *arrays: np.ndarray) -> np.ndarray:
    """``function`` of every slice (W, H) of arrays (W, H, D)."""
    return np.stack([function(*planes) for planes in zip(*[np.moveaxis(a, -1, 0) for a in arrays], strict=True)], -1)


def large(binary: np.ndarray, least: int) -> np.ndarray:
    """Components of at least so many pixels or voxels, connected over corners, by scipy."""
    components, _ = ndimage.label(binary, structure=np.ones((3,) * binary.ndim))
    return binary & (np.bincount(components.ravel())[components] >= least)


def wanted_segmentation(values: np.ndarray, threshold: float, min_size: int, min_voxels: int) -> np.ndarray:
    return large(in_slices(lambda plane: large(plane > threshold, min_size), values), min_voxels)


def wanted_foreground(plane: np.ndarray, erosion: float) -> np.ndarray:
    """Filled foreground less a margin, by the distance to each pixel outside; a frame around the image is outside."""
    filled = np.pad(ndimage.binary_fill_holes(plane), 1)
    outside = np.argwhere(~filled)
    kept = np.zeros_like(filled)
    for place in np.argwhere(filled):
        kept[tuple(place)] = np.sqrt(((outside - place) ** 2).sum(axis=1)).min() > erosion
    return kept[1:-1, 1:-1]


def meta_tensor(array: np.ndarray, affine: np.ndarray) -> MetaTensor:
    return MetaTensor(
        torch.from_numpy(array),
        affine=torch.from_numpy(affine),
        meta={"filename_or_obj": "x.nii"},
        applied_operations=[{"class": "SpatialPad", "id": 1}],
    )


class TestSmoothing:
    @pytest.mark.parametrize("median_size", [3, 5, 7])
    def test_2d_against_scipy(self, median_size):
        plane = random_map(1, 20, 17)
        wanted = ndimage.median_filter(plane[0].numpy(), size=median_size, mode="nearest")
        assert np.array_equal(smooth(plane, median_size)[0].numpy(), wanted)

    @pytest.mark.parametrize("median_size", [3, 5])
    def test_slices_against_scipy(self, median_size):
        volume = random_map(1, *PLANES)
        volume[..., 1] = 0
        wanted = in_slices(lambda p: ndimage.median_filter(p, size=median_size, mode="nearest"), volume[0].numpy())
        assert np.array_equal(smooth(volume, median_size)[0].numpy(), wanted)

    @pytest.mark.parametrize("shape", [(1, 6, 5), (1, 6, 5, 3)])
    def test_1_changes_nothing(self, shape):
        assert torch.equal(smooth(random_map(*shape), 1), random_map(*shape))

    @pytest.mark.parametrize("median_size", [0, -3, 2, 4])
    def test_bad_windows(self, median_size):
        with pytest.raises(ValueError, match=rf"median_size must be odd and at least 1, got {median_size}"):
            SmoothSlicesd("pred", median_size)


class TestForeground:
    @pytest.mark.parametrize("erosion", [0, 0.5, 1, 1.5, 2])
    def test_2d_against_distances(self, erosion):
        image, plane = body(21, 18), random_map(1, 21, 18) + 1
        inside = wanted_foreground((image > 0).any(dim=0).numpy(), erosion)
        assert 0 < inside.sum() < inside.size
        assert np.array_equal(restrict(plane, image, erosion)[0].numpy(), plane[0].numpy() * inside)

    @pytest.mark.parametrize("erosion", [0, 1, 2.5])
    def test_slices_against_distances(self, erosion):
        image, volume = body(*PLANES), random_map(1, *PLANES) + 1
        foreground = (image > 0).any(dim=0).numpy()
        inside = in_slices(lambda plane: wanted_foreground(plane, erosion), foreground)
        assert 0 < inside.sum() < inside.size
        assert (inside & ~foreground).any(), "no hole is filled"
        assert np.array_equal(restrict(volume, image, erosion)[0].numpy(), volume[0].numpy() * inside)

    def test_any_channel_makes_foreground(self):
        image = torch.zeros(2, 6, 6)
        image[0, 2, 2] = image[1, 3, 4] = 0.1
        image[0, 5, 5] = -1
        assert eroded_foreground(image, 0).nonzero().tolist() == [[0, 2, 2], [0, 3, 4]]

    def test_holes_are_filled_within_the_slice_alone(self):
        ring = torch.zeros(1, 7, 7, 2)
        ring[0, 1:6, 1:6] = 1
        # The hole of the first slice is open to the outside of the second, and closed in its own.
        ring[0, 2:5, 2:5, 0] = 0
        ring[0, 1:4, 3, 1] = 0
        inside = eroded_foreground(ring, 0)
        assert int(inside[..., 0].sum()) == 25
        assert torch.equal(inside[..., 1], ring[..., 1] > 0)

    def test_the_images_border_is_an_edge_too(self):
        kept = eroded_foreground(torch.ones(1, 8, 9, 2), 2)
        assert kept[:, 2:-2, 2:-2].all()
        assert int(kept.sum()) == 4 * 5 * 2

    def test_a_margin_wider_than_the_body_leaves_nothing(self):
        assert not restrict(torch.ones(1, *PLANES), torch.ones(1, *PLANES), 7).any()

    def test_every_key_and_nothing_else(self):
        image = body(*PLANES)
        data = {"a": random_map(1, *PLANES), "b": random_map(1, *PLANES, seed=1), "c": random_map(1, 2), "image": image}
        result = RestrictForegroundd(["a", "b"])(data)
        inside = eroded_foreground(image, 0)
        assert torch.equal(result["a"], data["a"] * inside)
        assert torch.equal(result["b"], data["b"] * inside)
        assert result["c"] is data["c"]
        assert result["image"] is image

    def test_errors(self):
        with pytest.raises(ValueError, match=r"foreground_erosion must be a number in \[0, inf\], got -0\.5"):
            RestrictForegroundd("pred", erosion=-0.5)
        with pytest.raises(KeyError, match="brain"):
            RestrictForegroundd("pred", "brain")({"pred": random_map(1, 4, 4)})


class TestSegmentation:
    @pytest.mark.parametrize("min_size", [0, 1, 2, 5, 12])
    def test_2d_against_scipy(self, min_size):
        plane = blobs(1, 40, 31)
        binary = plane[0].numpy() > 0.8
        wanted = large(binary, min_size)
        assert (wanted.sum() < binary.sum()) == (min_size > 1)
        result = segment(plane, 0.8, min_size)
        assert result.dtype == torch.float32
        assert np.array_equal(result[0].numpy(), wanted)
        # In a picture both sizes count the same pixels.
        assert np.array_equal(segment(plane, 0.8, 0, min_size)[0].numpy(), wanted)

    @pytest.mark.parametrize("min_voxels", [0, 1, 12, 40])
    @pytest.mark.parametrize("min_size", [0, 4])
    def test_3d_against_scipy(self, min_size, min_voxels):
        volume = blobs(1, 20, 18, 8)
        volume[..., 3] = 0
        wanted = wanted_segmentation(volume[0].numpy(), 0.9, min_size, min_voxels)
        counts = [wanted_segmentation(volume[0].numpy(), 0.9, *sizes).sum() for sizes in ((0, 0), (4, 0), (0, 40))]
        assert min(counts[1:]) > 0 and max(counts[1:]) < counts[0]
        assert np.array_equal(segment(volume, 0.9, min_size, min_voxels)[0].numpy(), wanted)

    def test_of_min_size_is_kept_below_is_not(self):
        volume = torch.zeros(1, 12, 12, 2)
        volume[0, 1:4, 1:4, 0] = 1  # 9
        volume[0, 6:8, 1:6, 0] = 1  # 10
        volume[0, 10, 0:11, 0] = 1  # 11
        volume[0, 2:5, 2:5, 1] = 1  # 9 again, and 9 below each other's slice are not 18
        volume[0, 1:4, 1:4, 1] = 1  # overlapping: 14
        kept = segment(volume, min_size=10)
        assert [int(kept[..., d].sum()) for d in range(2)] == [21, 14]
        assert not kept[0, 1:4, 1:4, 0].any()

    def test_pixels_are_counted_in_the_slice_voxels_in_the_volume(self):
        volume = torch.zeros(1, 8, 8, 5)
        volume[0, 2:4, 2:4] = 1
        assert not segment(volume, min_size=5).any()
        assert int(segment(volume, min_size=4).sum()) == 20
        assert int(segment(volume, min_voxels=20).sum()) == 20
        assert not segment(volume, min_voxels=21).any()

    def test_slices_are_cleaned_before_the_volume(self):
        volume = torch.zeros(1, 8, 8, 3)
        volume[0, 1:4, 1:4, 0] = 1
        volume[0, 2, 2, 1] = 1  # joins the two others, but is too small in its own slice
        volume[0, 1:4, 1:4, 2] = 1
        assert int(segment(volume, min_voxels=19).sum()) == 19
        assert not segment(volume, min_size=2, min_voxels=10).any()
        assert int(segment(volume, min_size=2, min_voxels=9).sum()) == 18

    @pytest.mark.parametrize("shape", [(12, 12), (12, 12, 12)])
    def test_corners_connect(self, shape):
        diagonal = torch.zeros(1, *shape)
        for i in range(12):
            diagonal[(0, *[i] * len(shape))] = 1
        assert torch.equal(segment(diagonal, min_voxels=12), diagonal)
        assert not segment(diagonal, min_voxels=13).any()
        assert segment(diagonal, min_size=12).any() == (len(shape) == 2)

    def test_at_the_threshold_is_not_anomalous(self):
        plane = torch.full((1, 6, 6), 0.25)
        assert not segment(plane, 0.25).any()
        assert segment(plane, 0.2499).all()

    def test_small_components_alone_are_dropped_of_what_was_cut_elsewhere(self):
        """The two steps are one another's: cutting first, then dropping, whoever cuts."""
        volume = blobs(1, 20, 18, 8)
        cut = ThresholdMapd("pred", 0.9)({"pred": volume})["pred"]
        assert np.array_equal(cut[0].numpy(), volume[0].numpy() > 0.9)
        dropped = DropSmalld("pred", 4, 12)({"pred": cut})["pred"]
        assert torch.equal(dropped, segment(volume, 0.9, 4, 12)) and not torch.equal(dropped, cut)

    @pytest.mark.parametrize(
        ("sizes", "messages"),
        [
            ((-1, 0), [r"min_component_size must be a whole number in [0, inf], got -1"]),
            ((0, 2.5), [r"min_component_voxels must be a whole number in [0, inf], got 2.5"]),
            (("3", None), ["min_component_size must be", "got '3'", "min_component_voxels must be", "got None"]),
        ],
    )
    def test_wrong_sizes_are_named_together(self, sizes, messages):
        with pytest.raises(ValueError, match="post-processing: ") as caught:
            DropSmalld("pred", *sizes)
        assert all(message in str(caught.value) for message in messages)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
    def test_the_binary_map_stays_as_it_was(self, dtype):
        binary = torch.zeros(1, 6, 6, 2, dtype=dtype)
        binary[0, 2, 2] = 1
        kept = drop_small(binary, 2)
        assert kept.dtype == dtype and not kept.any()
        assert int(binary.sum()) == 2


TRANSFORMS = {
    "smooth": SmoothSlicesd("pred", 3),
    "restrict": RestrictForegroundd("pred", erosion=1),
    "segment": segmenting(0.8, 4, 9),
}


def apply(name: str, anomaly_map: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return TRANSFORMS[name]({"pred": anomaly_map, "image": image})["pred"]


@pytest.mark.parametrize("name", TRANSFORMS)
class TestAnyOrientation:
    @pytest.mark.parametrize("order", ORDERS, ids=str)
    def test_slices_are_axial_however_a_volume_is_stored(self, name, order):
        anomaly_map, image, affine = blobs(1, *PLANES), body(*PLANES), oblique(LPS_AFFINE)
        wanted = apply(name, anomaly_map, image)[0].numpy()
        assert wanted.any() and not np.array_equal(wanted, anomaly_map[0].numpy())
        for flips in FLIPS:
            stored_map, matrix = laid_out(anomaly_map[0].numpy(), affine, order, flips)
            stored_image = np.stack([laid_out(channel, affine, order, flips)[0] for channel in image.numpy()])
            result = apply(name, meta_tensor(stored_map[None], matrix), meta_tensor(stored_image, matrix))
            assert result.shape == (1, *stored_map.shape)
            assert np.array_equal(result.as_tensor()[0].numpy(), laid_out(wanted, affine, order, flips)[0])

    def test_it_is_the_affine_that_tells(self, name):
        """The same numbers, once as a stack of sagittal slices and once of axial ones."""
        anomaly_map, image = blobs(1, *PLANES), body(*PLANES)
        _, sagittal = laid_out(anomaly_map[0].numpy(), LPS_AFFINE, SAGITTAL, (False,) * 3)
        results = [
            apply(name, meta_tensor(anomaly_map.numpy(), affine), meta_tensor(image.numpy(), affine)).as_tensor()
            for affine in (LPS_AFFINE, sagittal)
        ]
        assert torch.equal(results[0], apply(name, anomaly_map, image))
        assert not torch.equal(results[0], results[1])

    @pytest.mark.parametrize("shape", [PLANES[:2], PLANES])
    def test_meta_data_and_operations_are_kept(self, name, shape):
        size = len(shape) + 1
        affine = np.diag([*[2.0] * (size - 1), 1])
        anomaly_map = meta_tensor(blobs(1, *shape).numpy(), affine)
        image = MetaTensor(body(*shape), affine=torch.eye(size), meta={"filename_or_obj": "another.nii"})
        result = apply(name, anomaly_map, image)
        assert isinstance(result, MetaTensor)
        assert result.dtype == torch.float32
        assert np.array_equal(result.affine.numpy(), affine)
        assert result.meta["filename_or_obj"] == "x.nii"
        assert result.applied_operations == [{"class": "SpatialPad", "id": 1}]
        plain = apply(name, anomaly_map.as_tensor(), image.as_tensor())
        assert type(plain) is torch.Tensor
        assert torch.equal(result.as_tensor(), plain)

    def test_the_inputs_stay_as_they_were(self, name):
        anomaly_map = meta_tensor(blobs(1, *PLANES).numpy(), LPS_AFFINE)
        image = meta_tensor(body(*PLANES).numpy(), LPS_AFFINE)
        before = anomaly_map.as_tensor().clone(), image.as_tensor().clone()
        result = apply(name, anomaly_map, image)
        result.applied_operations.clear()
        result.zero_()
        assert torch.equal(anomaly_map.as_tensor(), before[0])
        assert torch.equal(image.as_tensor(), before[1])
        assert len(anomaly_map.applied_operations) == 1

    def test_one_slice_of_a_volume_is_a_picture(self, name):
        anomaly_map, image = blobs(1, *PLANES), body(*PLANES)
        alone = apply(name, anomaly_map[..., 3], image[..., 3])
        assert torch.equal(apply(name, anomaly_map[..., 3:4], image[..., 3:4])[..., 0], alone)

    @pytest.mark.parametrize("as_meta", [False, True])
    @pytest.mark.parametrize("axis", range(3))
    def test_no_slices(self, name, axis, as_meta):
        """Whichever axis has no extent, and whether or not slices are counted along it."""
        shape = [5, 4, 3]
        shape[axis] = 0
        kind = MetaTensor if as_meta else torch.Tensor
        empty, image = kind(torch.zeros(1, *shape)), kind(torch.zeros(2, *shape))
        assert apply(name, empty, image).shape == (1, *shape)

    @pytest.mark.parametrize("shape", [PLANES[:2], PLANES])
    def test_an_empty_and_a_full_image(self, name, shape):
        zeros, ones = torch.zeros(1, *shape), torch.ones(1, *shape)
        assert not apply(name, zeros, zeros).any()
        assert not apply(name, zeros, ones).any()
        full, empty = apply(name, ones, ones), apply(name, ones, zeros)
        if name == "restrict":
            assert not empty.any()
            assert full[:, 1:-1, 1:-1].all() and int(full.sum()) == (13 * 11) * (7 if len(shape) == 3 else 1)
        else:
            assert full.all() and empty.all()

    def test_missing_key(self, name):
        transform = TRANSFORMS[name]
        data = {"image": body(*PLANES)}
        for step in transform.transforms if isinstance(transform, Compose) else [transform]:
            with pytest.raises(KeyError, match="pred"):
                step(data)
            arguments = {"threshold": 0.5} if isinstance(step, ThresholdMapd) else {}
            assert type(step)("pred", **arguments, allow_missing_keys=True)(data) == data


class TestSlices:
    @pytest.mark.parametrize("order", ORDERS, ids=str)
    def test_are_counted_along_head_and_foot(self, order):
        for flips, affine in product(FLIPS, (LPS_AFFINE, oblique(LPS_AFFINE), oblique(LPS_AFFINE, 30))):
            stored, matrix = laid_out(np.zeros(PLANES, dtype=np.float32), affine, order, flips)
            assert slice_dimension(meta_tensor(stored[None], matrix)) == 1 + order.index(2)

    def test_of_a_plain_tensor_lie_along_its_last_axis(self):
        assert slice_dimension(torch.zeros(1, 2, 3, 4)) == 3

    def test_function_sees_plain_planes_and_may_change_their_number(self):
        seen = []

        def first_channel(planes: torch.Tensor) -> torch.Tensor:
            seen.append((type(planes), tuple(planes.shape)))
            return planes[:1] + 1

        stored, matrix = laid_out(np.zeros(PLANES, dtype=np.float32), LPS_AFFINE, SAGITTAL, (False,) * 3)
        volume = meta_tensor(np.stack([stored, stored + 5]), matrix)
        result = by_slices(volume, first_channel)
        assert seen == [(torch.Tensor, (2, 13, 15, 7))]
        assert isinstance(result, MetaTensor)
        assert torch.equal(result.as_tensor(), torch.ones(1, *stored.shape))
