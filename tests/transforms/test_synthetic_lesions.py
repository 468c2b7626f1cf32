from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import binary_dilation, label
from volume_files import LPS_AFFINE

from scripts.transforms.synthetic_lesions import EDGE, LesionLooks, SyntheticLesionsd, add_synthetic_lesions

LOOKS = LesionLooks(signs=[-1, 1, 0], size=(20, 300), foreign=0, count=(1, 1))


def healthy(seed: int = 0, size: int = 48) -> torch.Tensor:
    """A disc of tissue, 3 channels, values around 0.4."""
    rows, columns = np.indices((size, size))
    disc = np.hypot(rows - size / 2, columns - size / 2) < size * 0.42
    tissue = np.random.default_rng(seed).uniform(0.35, 0.45, (3, size, size))
    return torch.from_numpy(tissue * disc).float()


@pytest.mark.parametrize("foreign", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(8))
def test_the_label_is_where_the_image_changed(seed, foreign):
    image = healthy(seed)
    looks = dataclasses.replace(LOOKS, foreign=foreign, count=(1, 3))
    changed, where = add_synthetic_lesions(image, looks, seed)
    assert torch.equal(where[0] > 0, (changed != image).any(dim=0))
    assert where.any()
    assert set(where.unique().tolist()) <= {0.0, 1.0}
    assert changed.dtype == where.dtype == torch.float32
    # foreground only, and all of it stays foreground
    assert torch.equal((changed > 0).any(dim=0), (image > 0).any(dim=0))
    assert torch.equal(changed > 0, image > 0)
    assert changed.max() <= 1


def test_the_size_is_the_one_drawn():
    """One blob a slice and a contrast that nothing clips: sizes fill the range that was stated, evenly in logarithm."""
    looks = dataclasses.replace(LOOKS, size=(25, 250), contrast=(0.2, 0.4))
    sizes = np.array([int(add_synthetic_lesions(healthy(), looks, seed)[1].sum()) for seed in range(300)])
    assert sizes.min() >= 25
    assert sizes.max() <= 250
    assert abs(np.log(sizes).mean() - np.log(25 * 250) / 2) < 5 * np.log(10) / np.sqrt(12 * 300)
    fixed = dataclasses.replace(looks, size=(70, 70))
    assert {int(add_synthetic_lesions(healthy(), fixed, seed)[1].sum()) for seed in range(20)} == {70}


@pytest.mark.parametrize("seed", range(6))
def test_signs_are_honoured(seed):
    image = healthy(seed)
    changed, where = add_synthetic_lesions(image, LOOKS, seed)
    inside, difference = where[0] > 0, changed - image
    assert (difference[0][inside] < 0).all()
    assert (difference[1][inside] > 0).all()
    assert not difference[2].any()


def test_a_sign_of_none_is_either():
    looks = dataclasses.replace(LOOKS, signs=[None, 1, 1])
    signs = set()
    for seed in range(20):
        changed, where = add_synthetic_lesions(healthy(), looks, seed)
        difference = (changed - healthy())[0][where[0] > 0]
        assert (difference > 0).all() or (difference < 0).all()
        signs.add(bool((difference > 0).all()))
    assert signs == {True, False}


def test_contrast_is_in_units_of_the_median():
    """Without texture the middle changes by contrast * median, the border by the share that is stated."""
    looks = dataclasses.replace(LOOKS, contrast=(0.5, 0.5), texture=0.0)
    for seed in range(5):
        image = healthy()
        changed, where = add_synthetic_lesions(image, looks, seed)
        medians = image[:, (image > 0).any(dim=0)].median(dim=1).values
        change = (changed - image)[1][where[0] > 0] / medians[1]
        assert float(change.max()) == pytest.approx(0.5, abs=1e-3)
        assert float(change.min()) == pytest.approx(0.5 * EDGE, abs=1e-3)
    # twice as bright an image gets twice the change
    scaled, _ = add_synthetic_lesions(image * 0.5, looks, seed)
    torch.testing.assert_close(scaled * 2, changed, atol=1e-5, rtol=0)


def test_a_foreign_patch_is_made_of_the_donor():
    looks = dataclasses.replace(LOOKS, foreign=1.0)
    image, donor = healthy(1), healthy(2) * 2
    changed, where = add_synthetic_lesions(image, looks, 5, donor)
    inside = where[0] > 0
    share = ((changed - image) / (donor - image))[:, inside]
    # the same mixture in all channels, from EDGE to 1
    assert EDGE - 1e-3 <= float(share.min()) < 0.5
    assert 0.9 < float(share.max()) <= 1 + 1e-3
    torch.testing.assert_close(share[0], share[1], atol=1e-3, rtol=0)


def test_a_donor_of_nothing_changes_nothing():
    looks = dataclasses.replace(LOOKS, foreign=1.0)
    changed, where = add_synthetic_lesions(healthy(), looks, 5, torch.zeros(3, 48, 48))
    assert torch.equal(changed, healthy())
    assert not where.any()


def test_a_seed_replays_and_another_does_not():
    looks = dataclasses.replace(LOOKS, foreign=0.5)
    first, again, other = (add_synthetic_lesions(healthy(), looks, seed) for seed in ((3, 4), (3, 4), (3, 5)))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


def test_blobs_are_mostly_one_piece():
    pieces = [label(add_synthetic_lesions(healthy(), LOOKS, s)[1][0].numpy())[1] for s in range(40)]
    assert np.median(pieces) == 1


def test_no_foreground_no_lesion():
    changed, where = add_synthetic_lesions(torch.zeros(3, 16, 16), LOOKS, 0)
    assert not changed.any()
    assert not where.any()


def test_saturated_pixels_are_no_lesion():
    looks = dataclasses.replace(LOOKS, signs=[0, 1, 0])
    image = healthy()
    image[1] = (image[1] > 0).float()
    changed, where = add_synthetic_lesions(image, looks, 0)
    assert torch.equal(changed, image)
    assert not where.any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": (0, 5)}, r"size\[0\] must be a number in \[1, 5\], got 0"),
        ({"size": (9, 5)}, r"size\[0\] must be a number in \[1, 5\], got 9"),
        ({"count": (1.5, 2)}, r"count\[0\] must be a whole number"),
        ({"texture": 0.4}, r"texture must be a number in \[0, 0.3\], got 0.4"),
        ({"signs": [2]}, r"signs\[0\] must be a whole number in \[-1, 1\], got 2"),
        ({"foreign": -1, "ragged": -1}, r"ragged .*; foreign"),
    ],
)
def test_wrong_settings(values, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(LOOKS, **values)


def test_wrong_channels_and_donors():
    with pytest.raises(ValueError, match=r"2 channels .* got 3 signs"):
        add_synthetic_lesions(healthy()[:2], LOOKS, 0)
    with pytest.raises(ValueError, match=r"donor of shape \(3, 48, 48\)"):
        add_synthetic_lesions(healthy(), LOOKS, 0, healthy()[:, :5])


# The transform


def subject(depth: int = 12, diseased: tuple[int, ...] = (), name: str = "A") -> dict:
    image = torch.stack([healthy(index) for index in range(depth)], dim=-1)
    image[..., 0] = 0
    true = torch.zeros(1, *image.shape[1:])
    for index in diseased:
        true[0, 20:25, 20:25, index] = 1
    return {
        "subject": name,
        "image": MetaTensor(image, affine=torch.from_numpy(LPS_AFFINE)),
        "label": MetaTensor(true, affine=torch.from_numpy(LPS_AFFINE)),
    }


def test_slices_with_true_lesions_are_emptied():
    made = SyntheticLesionsd(LOOKS, share=1.0)(subject(diseased=(3, 7)))
    for index in range(12):
        empty = index in (0, 3, 7)
        assert bool(made["label"][..., index].any()) is not empty
        assert bool(made["image"][..., index].any()) is not empty
    changed = (made["image"] != subject()["image"]).any(dim=0, keepdim=True).as_tensor()
    changed[..., [3, 7]] = False
    assert torch.equal(changed, made["label"].as_tensor() > 0)
    assert torch.equal(made["image"].affine, torch.from_numpy(LPS_AFFINE))
    assert isinstance(made["label"], MetaTensor)


def test_each_slice_depends_on_seed_subject_and_index_alone():
    """Cutting the volume or drawing for fewer slices changes nothing in a slice that has lesions anyway."""
    looks = dataclasses.replace(LOOKS, foreign=0.0)
    whole = SyntheticLesionsd(looks, seed=1, share=1.0)(subject())
    some = SyntheticLesionsd(looks, seed=1, share=0.5)(subject())
    with_lesion = [i for i in range(12) if some["label"][..., i].any()]
    assert 2 <= len(with_lesion) <= 10
    for index in with_lesion:
        assert torch.equal(some["image"][..., index], whole["image"][..., index])
    again = SyntheticLesionsd(looks, seed=1, share=1.0)(subject())
    assert torch.equal(whole["image"], again["image"])
    for seed, name in ((2, "A"), (1, "B")):
        other = SyntheticLesionsd(looks, seed=seed, share=1.0)(subject(name=name))
        assert not torch.equal(whole["label"], other["label"])


def test_untouched_slices_and_the_given_subject_stay():
    given = subject()
    made = SyntheticLesionsd(LOOKS, share=0.0)(given)
    assert torch.equal(made["image"], given["image"])
    assert not made["label"].any()
    before = subject()["image"]
    SyntheticLesionsd(LOOKS, share=1.0)(given)
    assert torch.equal(given["image"], before)


def test_pictures_and_no_label():
    made = SyntheticLesionsd(LOOKS, share=1.0)({"subject": "p", "image": healthy()})
    assert made["image"].shape == (3, 48, 48)
    assert made["label"].shape == (1, 48, 48)
    assert made["label"].any()
    assert type(made["image"]) is torch.Tensor


def test_little_foreground_gets_none():
    item = subject(depth=3)
    item["image"][:, :, :20, 1] = 0
    item["image"][:, :, 28:, 1] = 0
    made = SyntheticLesionsd(LOOKS, share=1.0, min_foreground=0.3)(item)
    assert [bool(made["label"][..., i].any()) for i in range(3)] == [False, False, True]


def test_foreign_patches_stay_in_the_foreground():
    looks = dataclasses.replace(LOOKS, foreign=1.0)
    given = subject()
    made = SyntheticLesionsd(looks, share=1.0)(given)
    foreground = (given["image"] > 0).any(dim=0)
    assert not made["label"][0][~foreground].any()
    assert made["label"].any()
    assert not binary_dilation(made["label"][0, ..., 0].numpy()).any()
