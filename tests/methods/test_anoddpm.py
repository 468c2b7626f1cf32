"""The loop against one written out by hand, closed forms, and the task against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from method_properties import assert_contract, images_of, run
from monai.networks.nets import DiffusionModelUNet
from recorded_noise import RecordedNoise
from torch import nn
from unet_sizes import tiny_unet

from scripts.methods.anoddpm import AnoDDPM, NoiseTask
from scripts.networks import Parts
from scripts.noise import Draws, GaussianNoise, SimplexNoise, SliceGenerator
from scripts.schedulers import GaussianScheduler

IMAGES = images_of(2, 2, 8)


def method_of(**settings):
    steps = {"num_train_timesteps": 50, "beta_end": 0.2} | settings.pop("process", {})
    return AnoDDPM(scheduler=GaussianScheduler(**steps), **({"noise_level": 10} | settings))


@pytest.fixture(scope="module")
def network():
    return Parts(denoiser=tiny_unet(2))


class Perfect(nn.Module):
    """Knows the image, and so the noise: eps = (x_t - sqrt(abar) x) / sqrt(1 - abar)."""

    def __init__(self, image, scheduler):
        super().__init__()
        self.image, self.scheduler, self.seen = image, scheduler, []

    def forward(self, x, timesteps):
        self.seen.append(timesteps.tolist())
        return self.scheduler.predict_noise(2 * self.image - 1, x, timesteps)


@pytest.mark.parametrize(
    "settings", [{}, {"num_inference_steps": 3}, {"eta": 0.0}, {"eta": 0.7, "num_inference_steps": 4}]
)
def test_batch_equals_singles_and_seed_replays(settings, network):
    assert_contract(method_of(**settings), IMAGES, network)


def test_simplex_noise_in_the_loop(network):
    pytest.importorskip("opensimplex")
    assert_contract(method_of(noise=SimplexNoise(), noise_level=3), IMAGES, network)


@pytest.mark.parametrize("variance", ["fixed_large", "fixed_small"])
def test_loop_is_the_authors_written_out(variance, network):
    level, betas = 6, np.linspace(1e-4, 0.2, 50)
    abar = np.cumprod(1 - betas)
    draws = torch.randn((level + 1, *IMAGES.shape), generator=torch.Generator().manual_seed(3))
    method = method_of(noise=RecordedNoise(draws), noise_level=level, variance=variance)
    x = math.sqrt(abar[level - 1]) * (2 * IMAGES - 1) + math.sqrt(1 - abar[level - 1]) * draws[0]
    for number, t in enumerate(range(level - 1, -1, -1), start=1):
        with torch.no_grad():
            eps = network.denoiser(x, timesteps=torch.tensor([t, t]))
        x0 = ((x - math.sqrt(1 - abar[t]) * eps) / math.sqrt(abar[t])).clamp(-1, 1)
        before = abar[t - 1] if t else 1.0
        mean = (betas[t] * math.sqrt(before) * x0 + (1 - before) * math.sqrt(1 - betas[t]) * x) / (1 - abar[t])
        spread = betas[t] if variance == "fixed_large" else betas[t] * (1 - before) / (1 - abar[t])
        x = mean + (math.sqrt(spread) * draws[number] if t else 0)
    restored = run(method, IMAGES, network, [0, 1])
    torch.testing.assert_close(restored.reconstruction, (x + 1) / 2, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "settings", [{}, {"num_inference_steps": 2}, {"eta": 0.0}, {"eta": 1.0, "num_inference_steps": 5}]
)
def test_network_that_knows_the_image_returns_it(settings):
    method = method_of(**settings)
    denoiser = Perfect(IMAGES, method.scheduler)
    restored = run(method, IMAGES, Parts(denoiser=denoiser), [0, 1])
    torch.testing.assert_close(restored.reconstruction, IMAGES, rtol=0, atol=1e-5)
    method.scheduler.set_timesteps(method.num_inference_steps, 10)
    assert denoiser.seen == [[t, t] for t in method.scheduler.timesteps.tolist()]
    assert denoiser.seen[0] == [9, 9]


def test_reconstructions_are_averaged_and_each_has_noise_of_its_own(network):
    averaged = run(method_of(num_reconstructions=3), IMAGES, network, [0, 1]).reconstruction
    first = run(method_of(), IMAGES, network, [0, 1]).reconstruction
    level = 10
    draws = [GaussianNoise()(IMAGES.shape, SliceGenerator(0, [0, 1], n), 0) for n in range(3 * (level + 1))]
    singles = [
        run(method_of(noise=RecordedNoise(draws[n * (level + 1) :])), IMAGES, network, [0, 1]).reconstruction
        for n in range(3)
    ]
    torch.testing.assert_close(singles[0], first)
    assert (singles[0] - singles[1]).abs().max() > 1e-3
    torch.testing.assert_close(averaged, torch.stack(singles).mean(dim=0))


def test_noise_level_and_kind_change_the_result(network):
    pytest.importorskip("opensimplex")
    results = [
        run(method_of(**settings), IMAGES, network, [0, 1]).reconstruction
        for settings in ({}, {"noise_level": 11}, {"noise": SimplexNoise()}, {"variance": "fixed_small"}, {"eta": 0.5})
    ]
    assert all((a - b).abs().max() > 1e-3 for n, a in enumerate(results) for b in results[:n])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise_level": 0}, "noise_level must be a whole number in [1, 50], got 0"),
        ({"noise_level": 51}, "got 51"),
        ({"noise_level": 2.5}, "got 2.5"),
        ({"num_inference_steps": 11}, "num_inference_steps must be a whole number in [1, 10], got 11"),
        ({"num_reconstructions": 0}, "num_reconstructions must be"),
        ({"eta": 1.5}, "eta must be a number in [0, 1], got 1.5"),
        ({"variance": "learned"}, "got 'learned'"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError) as error:
        method_of(**settings)
    assert message in str(error.value)
    with pytest.raises(ValueError) as error:
        method_of().replace(**settings)
    assert message in str(error.value)


def test_description_tells_every_setting():
    changed = [
        {"noise_level": 11},
        {"num_inference_steps": 4},
        {"variance": "fixed_small"},
        {"eta": 0.1},
        {"num_reconstructions": 2},
        {"noise": SimplexNoise()},
        {"process": {"beta_end": 0.3}},
    ]
    assert all(method_of(**settings).describe() != method_of().describe() for settings in changed)


# Training


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample"])
@pytest.mark.parametrize("image_range", [(-1, 1), (0, 1)])
def test_example_is_the_noised_image(prediction_type, image_range):
    scheduler = GaussianScheduler(100, prediction_type=prediction_type)
    noise = torch.randn(IMAGES.shape)
    task = NoiseTask(scheduler, RecordedNoise(noise[None]), max_noise_level=80, image_range=image_range)
    sample, target, keywords = task.example(IMAGES, None, Draws())
    clean = IMAGES if image_range == (0, 1) else 2 * IMAGES - 1
    abar = torch.from_numpy(np.cumprod(1 - np.linspace(1e-4, 0.02, 100)))[keywords["timesteps"]].float()
    abar = abar[:, None, None, None]
    torch.testing.assert_close(sample, abar.sqrt() * clean + (1 - abar).sqrt() * noise)
    assert torch.equal(target, noise if prediction_type == "epsilon" else clean)


@pytest.mark.parametrize(("level", "end"), [(80, 80), (None, 100)])
def test_times_lie_below_the_level(level, end):
    task = NoiseTask(GaussianScheduler(100), max_noise_level=level)
    torch.manual_seed(0)
    many = torch.zeros(5000, 1, 1, 1)
    times = task.example(many, None, Draws())[2]["timesteps"]
    assert (times.min(), times.max()) == (0, end - 1)
    spread = task.example(many, None, Draws(stratified=True))[2]["timesteps"]
    assert spread.float().mean() == pytest.approx((end - 1) / 2, abs=0.5)


@pytest.mark.parametrize(
    ("arguments", "message"), [({"max_noise_level": 101}, "max_noise_level"), ({"image_range": (1, 0)}, "image_range")]
)
def test_wrong_task_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        NoiseTask(GaussianScheduler(100), **arguments)


# Sizes


@pytest.mark.parametrize(
    ("size", "channels", "parameters"), [(256, 1, 131_649_793), (256, 4, 131_656_708), (128, 1, 99_937_409)]
)
def test_published_network_has_the_published_parameters(size, channels, parameters):
    widths = {256: (128, 128, 256, 256, 512, 512), 128: (128, 128, 256, 384, 512)}[size]
    levels = len(widths)
    with torch.device("meta"):
        network = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=channels,
            out_channels=channels,
            channels=widths,
            num_res_blocks=2,
            attention_levels=[n >= levels - 3 for n in range(levels)],
            num_head_channels=[width // 2 for width in widths],
            norm_num_groups=32,
            norm_eps=1e-5,
            resblock_updown=True,
        )
    assert sum(p.numel() for p in network.parameters()) == parameters
