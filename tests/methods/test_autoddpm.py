"""The two diffusions against the algorithm written out by hand, and its parts one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from method_properties import assert_contract, images_of, run
from monai.networks.nets import DiffusionModelUNet
from recorded_noise import RecordedNoise
from scipy.ndimage import binary_dilation
from torch import nn
from unet_sizes import tiny_unet

from scripts.methods.autoddpm import AutoDDPM, residual_by_likelihood
from scripts.networks import Parts
from scripts.schedulers import GaussianScheduler

IMAGES = images_of(2, 2, 8)
SMALL = {"noise_level": 4, "inpainting_level": 3, "num_resamplings": 2, "mask_threshold": 0.6}


def method_of(**settings):
    return AutoDDPM(scheduler=GaussianScheduler(50, beta_end=0.2), **(SMALL | settings))


@pytest.fixture(scope="module")
def network():
    return Parts(denoiser=tiny_unet(2, include_fc=False))


class Distance(nn.Module):
    """Stands for a perceptual distance."""

    def forward(self, image, other):
        return 1 + (image - other).square().sum(dim=1, keepdim=True)


@pytest.mark.parametrize(
    "settings", [{}, {"mask_threshold": None, "quantile": 0.7}, {"num_inference_steps": 2}, {"perceptual": Distance()}]
)
def test_batch_equals_singles_and_seed_replays(settings, network):
    restored = assert_contract(method_of(**settings), IMAGES, network)
    mask = restored.evidence["inpainting_mask"]
    assert 0 < mask.mean() < 1
    assert (restored.reconstruction >= 0).all() and (restored.reconstruction <= 1).all()


def by_hand(x, network, draws, level, inpainting, repeats, threshold):
    """The authors' algorithm with indices L = level - 1 and M = inpainting - 1; one draw after the other."""
    betas = np.linspace(1e-4, 0.2, 50)
    abar, taken = np.cumprod(1 - betas), iter(draws)

    def q(clean, t):
        return math.sqrt(abar[t]) * clean + math.sqrt(1 - abar[t]) * next(taken)

    def step(y, t):
        eps = network.denoiser(y, timesteps=torch.full((len(y),), t))
        x0 = ((y - math.sqrt(1 - abar[t]) * eps) / math.sqrt(abar[t])).clamp(-1, 1)
        a = abar[t - 1] if t else 1.0
        mean = math.sqrt(a) * betas[t] / (1 - abar[t]) * x0 + math.sqrt(1 - betas[t]) * (1 - a) / (1 - abar[t]) * y
        return mean + (math.sqrt(betas[t] * (1 - a) / (1 - abar[t])) * next(taken) if t else 0)

    y = q(x, level - 1)
    for t in range(level - 1, -1, -1):
        y = step(y, t)
    r = y.clamp(0, 1)
    d = (x - r).abs().mean(dim=1, keepdim=True)
    p95 = np.percentile(d.flatten(1).numpy(), 95, axis=1)
    c = (d / torch.from_numpy(p95).reshape(-1, 1, 1, 1).float()).clamp(0, 1)
    m = np.stack([binary_dilation(row, np.ones((3, 3)))[None] for row in (c > threshold)[:, 0].numpy()])
    m = torch.from_numpy(m).float()
    y = q(r, inpainting - 1)
    for t in range(inpainting - 1, 0, -1):
        for u in range(repeats):
            held = q((1 - m) * x, t - 1)
            y = step(y, t) * m + held * (1 - m)
            if u < repeats - 1:
                y = math.sqrt(1 - betas[t - 1]) * y + math.sqrt(betas[t - 1]) * next(taken)
    return (m * y + (1 - m) * x).clamp(0, 1), c, m, sum(1 for _ in taken)


@pytest.mark.parametrize("repeats", [1, 3])
def test_method_is_the_algorithm_written_out(repeats, network):
    level, inpainting, threshold = 5, 4, 0.6
    count = 2 + (level - 1) + (inpainting - 1) * (3 * repeats - 1)
    draws = torch.randn((count, *IMAGES.shape), generator=torch.Generator().manual_seed(5))
    noise = RecordedNoise(draws)
    with torch.no_grad():
        final, c, m, unused = by_hand(IMAGES, network, draws, level, inpainting, repeats, threshold)
    assert unused == 0 and 0 < m.mean() < 1
    method = method_of(noise=noise, noise_level=level, inpainting_level=inpainting, num_resamplings=repeats)
    restored = run(method, IMAGES, network, [0, 1])
    assert noise.taken == list(range(count))
    torch.testing.assert_close(restored.evidence["likelihood"], c, rtol=0, atol=1e-4)
    assert torch.equal(restored.evidence["inpainting_mask"], m)
    torch.testing.assert_close(restored.reconstruction, final, rtol=0, atol=1e-4)


def test_outside_the_mask_is_the_image(network):
    restored = run(method_of(), IMAGES, network, [0, 1])
    mask = restored.evidence["inpainting_mask"].bool().expand_as(IMAGES)
    assert torch.equal(restored.reconstruction[~mask], IMAGES[~mask])
    assert (restored.reconstruction[mask] - IMAGES[mask]).abs().mean() > 1e-2


def test_mask_is_dilated_by_one_pixel_and_an_empty_one_stays_empty():
    likelihood = torch.zeros(2, 1, 7, 7)
    likelihood[0, 0, 0, 2], likelihood[0, 0, 4, 4] = 0.7, 0.6
    mask = method_of().mask(likelihood)
    expected = binary_dilation(likelihood[0, 0].numpy() > 0.6, np.ones((3, 3)))
    assert np.array_equal(mask[0, 0].numpy(), expected) and mask[0].sum() == 6
    assert not mask[1].any()


def test_likelihood_is_the_residual_over_its_quantile_times_the_distance():
    first = IMAGES + torch.linspace(-0.1, 0.3, 64).reshape(8, 8)
    residual = (IMAGES - first).abs().mean(dim=1)
    scaled = np.clip(residual.numpy() / np.percentile(residual.numpy(), 95, axis=(1, 2), keepdims=True), 0, 1)
    np.testing.assert_allclose(method_of().likelihood(IMAGES, first)[:, 0].numpy(), scaled, atol=1e-5)
    weighted = method_of(perceptual=Distance()).likelihood(IMAGES, first)[:, 0]
    np.testing.assert_allclose(weighted, scaled * Distance()(IMAGES, first)[:, 0].numpy(), atol=1e-5)
    assert not method_of().likelihood(IMAGES, IMAGES).any()


def test_score_is_the_residual_times_the_likelihood():
    other, c = IMAGES.flip(0), torch.rand(2, 1, 8, 8)
    score = residual_by_likelihood(IMAGES, other, {"likelihood": c})
    torch.testing.assert_close(score, (IMAGES - other).abs().mean(dim=1, keepdim=True) * c)
    for evidence in (None, {"mask": c}):
        with pytest.raises(ValueError, match="needs the evidence 'likelihood'"):
            residual_by_likelihood(IMAGES, other, evidence)


def test_defaults_are_the_published_constants():
    method = AutoDDPM(scheduler=GaussianScheduler())
    assert method.passes == 201 + 250
    assert method.mask_threshold == 0.13


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise_level": 51}, "noise_level must be a whole number in [1, 50], got 51"),
        ({"num_inference_steps": 5}, "num_inference_steps must be a whole number in [1, 4], got 5"),
        ({"inpainting_level": 1}, "inpainting_level must be a whole number in [2, 50], got 1"),
        ({"num_resamplings": 0}, "num_resamplings must be"),
        ({"mask_threshold": -1}, "mask_threshold must be a number in [0, inf], got -1"),
        ({"quantile": 1.5}, "quantile must be"),
        ({"variance": "learned"}, "got 'learned'"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError) as error:
        method_of(**settings)
    assert message in str(error.value)


def test_published_network_has_the_published_parameters():
    with torch.device("meta"):
        network = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=1,
            out_channels=1,
            channels=(128, 256, 256),
            attention_levels=(False, True, True),
            num_res_blocks=1,
            num_head_channels=256,
            include_fc=False,
        )
    assert sum(p.numel() for p in network.parameters()) == 18_040_449
