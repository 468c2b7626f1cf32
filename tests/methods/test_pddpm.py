"""Boxes by hand, the patches' way through a network, and the task with its loss."""

from __future__ import annotations

import pytest
import torch
from method_properties import assert_contract, images_of, run
from recorded_noise import RecordedNoise
from torch import nn
from unet_sizes import tiny_unet

from scripts.methods.pddpm import PatchedDDPM, PatchLoss, PatchTask, grid_boxes, inside
from scripts.networks import Parts, ScaleShiftUNet
from scripts.noise import Draws, GaussianNoise
from scripts.schedulers import GaussianScheduler

IMAGES = images_of(2, 1, 8)


def scheduler_of(**options):
    return GaussianScheduler(100, "cosine", **({"prediction_type": "sample", "clip_range": None} | options))


def method_of(**settings):
    defaults = {"noise": GaussianNoise(), "noise_level": 50, "image_size": (8, 8), "patch_size": 4}
    return PatchedDDPM(scheduler=scheduler_of(), **(defaults | settings))


@pytest.fixture(scope="module")
def network():
    return Parts(denoiser=tiny_unet(build=ScaleShiftUNet, attention_levels=(False, False)))


class Marking(nn.Module):
    """Says which pass it is, and remembers what it saw."""

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[torch.Tensor, list[int]]] = []

    def forward(self, x, timesteps):
        self.seen.append((x, timesteps.tolist()))
        return torch.full_like(x, 2.0 * len(self.seen) - 1)


# Boxes


@pytest.mark.parametrize(
    ("size", "patch", "overlap", "boxes"),
    [
        ((4, 4), 2, False, [(0, 0, 2, 2), (2, 0, 4, 2), (0, 2, 2, 4), (2, 2, 4, 4)]),
        ((4, 6), 4, False, [(0, 0, 4, 4), (4, 0, 8, 4)]),
        ((6, 4), 4, False, [(0, 0, 4, 4), (0, 4, 4, 8)]),
        ((4, 7), 4, True, [(0, 0, 4, 4), (3, 0, 7, 4)]),
        ((3, 3), 4, True, [(0, 0, 4, 4)]),
        ((3, 11), 4, True, [(0, 0, 4, 4), (3, 0, 7, 4), (7, 0, 11, 4)]),
    ],
)
def test_boxes(size, patch, overlap, boxes):
    assert grid_boxes(size, patch, overlap) == boxes


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (3, 5)])
def test_boxes_cover_the_image_once_or_with_overlap_at_least_once(size):
    count = inside(grid_boxes(size, 4), size).sum(dim=0)
    assert torch.equal(count, torch.ones(1, *size, dtype=torch.long))
    assert inside(grid_boxes(size, 4, overlap=True), size).any(dim=0).all()


# Inference


@pytest.mark.parametrize("settings", [{}, {"overlap": "mean", "patch_size": 5}, {"overlap": "cut", "patch_size": 5}])
def test_batch_equals_singles_and_seed_replays(settings, network):
    assert_contract(method_of(**settings), IMAGES, network)


def test_each_pass_sees_one_noised_patch_and_gives_that_patch():
    noise = torch.randn((1, *IMAGES.shape))
    method, marking = method_of(noise=RecordedNoise(noise)), Marking()
    restored = run(method, IMAGES, Parts(denoiser=marking), [0, 1]).reconstruction
    abar = method.scheduler.alpha_bar(49)
    u = 2 * IMAGES - 1
    noised = abar**0.5 * u + (1 - abar) ** 0.5 * noise[0]
    assert len(marking.seen) == 4
    for number, (x, times) in enumerate(marking.seen):
        rows, columns = (slice(4 * n, 4 * n + 4) for n in divmod(number, 2))
        expected = u.clone()
        expected[..., rows, columns] = noised[..., rows, columns]
        torch.testing.assert_close(x, expected)
        assert times == [49, 49]
        assert (restored[..., rows, columns] == number + 1).all()


@pytest.mark.parametrize(("overlap", "row"), [("mean", [1, 1, 1, 1.5, 2, 2, 2]), ("cut", [1, 1, 1, 1, 2, 2, 2])])
def test_overlapping_patches(overlap, row):
    images = torch.rand(1, 1, 4, 7)
    method, marking = method_of(overlap=overlap, image_size=(4, 7)), Marking()
    restored = run(method, images, Parts(denoiser=marking), [0]).reconstruction
    assert restored[0, 0, 0].tolist() == row
    changed = [(x != 2 * images - 1).any(dim=2)[0, 0].tolist() for x, _ in marking.seen]
    assert changed == [[True] * 4 + [False] * 3, [False] * 3 + [True] * 4]


def test_whole_image_is_one_patch(network):
    method = method_of(patch_size=8)
    assert method.passes == 1
    assert_contract(method, IMAGES, network)


def test_images_of_another_size_are_refused(network):
    with pytest.raises(ValueError, match=r"image_size: images are \(8, 8\), the method is set to \(8, 16\)"):
        run(method_of(image_size=(8, 16)), IMAGES, network, [0, 1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise_level": 101}, "noise_level must be a whole number in [1, 100], got 101"),
        ({"noise_level": 0}, "got 0"),
        ({"patch_size": 0}, "patch_size must be"),
        ({"image_size": (8,)}, "image_size must be (H, W)"),
        ({"image_size": (8, 0)}, "image_size must be a whole number"),
        ({"overlap": "some"}, "overlap must be one of"),
        ({"scheduler": scheduler_of(prediction_type="epsilon")}, "prediction_type must be 'sample', got 'epsilon'"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError) as error:
        method_of().replace(**settings)
    assert message in str(error.value)


def test_defaults_are_the_authors():
    method = PatchedDDPM(scheduler=GaussianScheduler(schedule="cosine", prediction_type="sample", clip_range=None))
    assert (method.passes, method.noise_level, method.noise.shared, method.noise.with_time) == (4, 500, True, False)
    assert method.scheduler.alpha_bar(499) == pytest.approx(0.4938436, abs=1e-7)


# Training


def test_example_noises_one_patch_of_each_image():
    noise = torch.randn((1, 64, 1, 8, 8))
    images, task = torch.rand(64, 1, 8, 8), PatchTask(scheduler_of(), RecordedNoise(noise), patch_size=4)
    torch.manual_seed(0)
    sample, target, keywords = task.example(images, None, Draws())
    u, held = target[:, :1], target[:, 1:]
    assert torch.equal(u, 2 * images - 1)
    noised = task.scheduler.add_noise(u, noise[0], keywords["timesteps"])
    assert torch.equal(sample, torch.where(held > 0, noised, u))
    patches = torch.stack([held[:, 0, y : y + 4, x : x + 4].mean(dim=(1, 2)) for y in (0, 4) for x in (0, 4)], dim=1)
    assert torch.equal(patches.sum(dim=1), torch.ones(64)) and set(patches.flatten().tolist()) == {0.0, 1.0}
    assert patches.sum(dim=0).min() > 5
    assert len(keywords["timesteps"].unique()) > 20


def test_loss_counts_the_patch_over_the_whole_image():
    task = PatchTask(scheduler_of(), GaussianNoise(), patch_size=4)
    _, target, _ = task.example(IMAGES, None, Draws())
    output = torch.rand(IMAGES.shape)
    held = target[:, -1:] > 0
    composed = torch.where(held, output, target[:, :-1])
    assert PatchLoss()(output, target) == pytest.approx(float((composed - target[:, :-1]).abs().mean()), rel=1e-6)
    assert PatchLoss()(output, target) == pytest.approx(
        float((output - target[:, :-1]).abs()[held].mean()) * 0.25, rel=1e-5
    )


@pytest.mark.parametrize(
    ("arguments", "message"), [({"patch_size": 0}, "patch_size"), ({"prediction_type": "epsilon"}, "prediction_type")]
)
def test_wrong_task_settings_are_refused(arguments, message):
    scheduler = scheduler_of(**{k: v for k, v in arguments.items() if k == "prediction_type"})
    with pytest.raises(ValueError, match=message):
        PatchTask(scheduler, GaussianNoise(), arguments.get("patch_size", 4))
