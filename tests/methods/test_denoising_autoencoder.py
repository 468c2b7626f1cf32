from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_checks import dae

from scripts.methods.denoising_autoencoder import DenoisingAutoencoder, DenoisingTask, ForegroundLoss
from scripts.networks import Parts
from scripts.networks.denoising_unet import DenoisingUNet
from scripts.noise import Draws, SliceGenerator

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "reference" / "dae"


def slices(count: int, seed: int = 0) -> torch.Tensor:
    """Images (count, 2, 16, 16) in [0, 1], of which a part is background."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand((count, 2, 16, 16), generator=generator)
    return image * (torch.rand((count, 1, 16, 16), generator=generator) > 0.3)


@pytest.fixture(scope="module")
def network() -> Parts:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = Parts(unet=DenoisingUNet(2, (4, 8)))
    torch.nn.init.constant_(parts.unet.last.bias, 0.9)
    return parts.eval()


@torch.no_grad()
def restored(images: torch.Tensor, network: Parts, seed: int = 0, steps: list | None = None) -> torch.Tensor:
    method, steps = DenoisingAutoencoder(), [] if steps is None else steps
    streams = SliceGenerator(seed, range(len(images)))
    result = method.restore(images, method.encode(images, network), network, streams, lambda: steps.append(1))
    assert (result.evidence, result.slice_scores) == ({}, {})
    assert len(steps) == method.passes
    return result.reconstruction


def test_restores_in_one_pass_without_noise(network):
    images = slices(3)
    with torch.no_grad():
        expected = network.unet(images)
    assert expected.max() > 1, "worth asking whether it is clamped"
    assert torch.equal(restored(images, network), expected)
    assert torch.equal(restored(images, network, seed=1), expected)


def test_a_batch_equals_its_single_runs(network):
    images = slices(3)
    singles = torch.cat([restored(image[None], network) for image in images])
    torch.testing.assert_close(restored(images, network), singles, atol=1e-5, rtol=0)


def test_a_network_without_the_part_is_refused(network):
    with pytest.raises(ValueError, match="no 'unet', the network has denoiser"):
        restored(slices(1), Parts(denoiser=network.unet))


def test_describes_itself():
    assert json.loads(json.dumps(DenoisingAutoencoder().describe())) == {"name": "DenoisingAutoencoder"}


class Given(Draws):
    """Numbers that are known: noise 1, 2, 3, ... and a shift of 3 rows and 5 columns."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = [3, 5]

    def randn(self, shape, device=None):
        return torch.arange(1.0, 1 + np.prod(shape)).reshape(tuple(shape))

    def shared_integers(self, low, high, count):
        return [self.shift.pop(0) for _ in range(count)]


def test_example_is_the_image_with_noise_on_its_foreground():
    clean = slices(2)[..., :12, :12]
    task = DenoisingTask(noise_std=0.01, noise_resolution=12, foreground=0.5)
    noised, target, keywords = task.example(task.encode(clean), None, Given())
    assert torch.equal(target, clean) and keywords == {}
    # As many nodes as pixels: the field is the noise itself.
    noise = np.roll(0.01 * np.arange(1, 1 + clean.numel()).reshape(clean.shape), (3, 5), axis=(2, 3))
    foreground = clean.numpy()[:, :1] + clean.numpy()[:, 1:] > 0.5
    assert 0.3 < foreground.mean() < 0.7
    np.testing.assert_allclose(noised.numpy(), clean.numpy() + noise * foreground, atol=1e-5)


def test_examples_by_default_have_published_settings():
    task = DenoisingTask()
    assert (task.noise_std, task.noise_resolution, task.foreground) == (0.2, 16, 0.01)
    torch.manual_seed(0)
    first, target, _ = task.example(slices(2), torch.ones(2), Draws())
    second, _, _ = task.example(slices(2), None, Draws())
    torch.manual_seed(0)
    again, _, _ = task.example(slices(2), None, Draws())
    assert torch.equal(first, again) and not torch.equal(first, second)
    assert torch.equal(target, slices(2))
    assert 0.1 < (first - target)[target > 0].std() < 0.3


def test_settings_out_of_range_are_named_together():
    with pytest.raises(ValueError, match=r"DenoisingTask: noise_std .*-1.*noise_resolution .*1\.5.*foreground .*-0\.1"):
        DenoisingTask(noise_std=-1, noise_resolution=1.5, foreground=-0.1)


def test_loss_equals_loop():
    target, prediction = slices(2), slices(2, seed=1)
    total = 0.0
    for b, _, row, column in np.ndindex(2, 1, 16, 16):
        x, y = target[b, :, row, column].tolist(), prediction[b, :, row, column].tolist()
        if sum(x) > 0.7:
            total += sum((a - b) ** 2 for a, b in zip(x, y, strict=True))
    loss = ForegroundLoss(foreground=0.7)(prediction, target)
    assert loss.item() == pytest.approx(total / target.numel(), rel=1e-6)


def test_loss_teaches_nothing_of_the_background():
    target, prediction = slices(2), slices(2, seed=1).requires_grad_()
    ForegroundLoss()(prediction, target).backward()
    outside = (target.sum(dim=1, keepdim=True) == 0).expand_as(target)
    assert outside.any() and (prediction.grad[outside] == 0).all()
    assert (prediction.grad[~outside] != 0).all()


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden numbers are not beside this repository")
def test_golden_numbers():
    rows = list(dae.check(GOLDEN))
    assert len(rows) >= 20
    assert [row for row in rows if not row.passed] == []
