from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import random_slices, tiny_network
from monai.data import MetaTensor

from scripts.methods.masked_bernoulli import FlipTask
from scripts.schedulers import BernoulliScheduler
from scripts.training import ImagePrepareBatch, TaskPrepareBatch

STEPS = 1000


class Threshold(torch.nn.Module):
    """Stands for the autoencoder: the code is where the image exceeds 1/2, for certain, so that z_0 is known."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.autocast: list[bool] = []

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        self.autocast.append(torch.is_autocast_enabled(image.device.type))
        return (image > 0.5).float() + self.weight

    @staticmethod
    def quantize(probability: torch.Tensor, generator: None = None) -> torch.Tensor:
        return (torch.rand_like(probability) < probability).to(probability.dtype)


def prepare(autoencoder=None, steps: int = STEPS, max_noise_level=None, **kwargs) -> TaskPrepareBatch:
    scheduler = BernoulliScheduler(steps, schedule="linear_beta", beta_start=1e-4, beta_end=0.02)
    return TaskPrepareBatch(FlipTask(autoencoder or Threshold(), scheduler, max_noise_level), **kwargs)


def pictures(count: int, size: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 2, size, size, generator=torch.Generator().manual_seed(seed))


def flip_probability(timesteps: np.ndarray) -> np.ndarray:
    """(1 - abar_t) / 2 with the paper's schedule; index t - 1."""
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, STEPS))
    return (1 - abar[timesteps]) / 2


def test_images_are_their_own_target():
    image = pictures(3)
    first, second = ImagePrepareBatch()({"image": image}, "cpu")
    assert torch.equal(first, image)
    assert torch.equal(second, image)


@pytest.mark.parametrize("key", ["image", "latent"])
def test_target_is_what_noise_flipped(key):
    image = pictures(6)
    code = (image > 0.5).float()
    noisy, target, args, kwargs = prepare()({key: image if key == "image" else code}, "cpu")
    assert args == ()
    assert kwargs.keys() == {"timesteps"}
    assert kwargs["timesteps"].shape == (6,)
    assert kwargs["timesteps"].dtype == torch.int64
    assert noisy.dtype == target.dtype == torch.float32
    assert set(noisy.unique().tolist()) == set(target.unique().tolist()) == {0, 1}
    flipped = torch.logical_xor(noisy.bool(), code.bool())
    assert torch.equal(target.bool(), flipped)


@pytest.mark.parametrize("stratified", [False, True])
def test_flips_are_as_frequent_as_the_time_says(stratified):
    torch.manual_seed(0)
    # whole images of one kind: 0 must flip as often as 1
    image = torch.cat([torch.zeros(20, 1, 100, 100), torch.ones(20, 1, 100, 100)])[torch.randperm(40)]
    _, target, _, kwargs = prepare(stratified=stratified)({"image": image}, "cpu")
    expected = flip_probability(kwargs["timesteps"].numpy())
    deviation = (target.mean(dim=(1, 2, 3)).numpy() - expected) / np.sqrt(expected * (1 - expected) / 10000)
    assert np.abs(deviation).max() < 4.5
    assert np.std(deviation) == pytest.approx(1, abs=0.45)
    assert np.ptp(expected) > 0.3


def test_times_are_drawn_from_all():
    batch = prepare(steps=4)
    torch.manual_seed(1)
    drawn = torch.cat([batch({"image": pictures(50)}, "cpu")[3]["timesteps"] for _ in range(8)])
    counts = torch.bincount(drawn, minlength=4)
    assert len(counts) == 4
    assert counts.min() > 60
    assert counts.max() < 140


@pytest.mark.parametrize("count", [1, 3, 8, 32])
def test_stratified_times_are_the_middles_of_equal_parts(count):
    batch = prepare(stratified=True)
    first = batch({"image": pictures(count)}, "cpu")[3]["timesteps"]
    second = batch({"image": pictures(count, seed=1)}, "cpu")[3]["timesteps"]
    assert first.tolist() == second.tolist() == [int((i + 0.5) * STEPS / count) for i in range(count)]


def test_randomness_is_torchs_own():
    batch, image = prepare(), pictures(4)
    results = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        noisy, _, _, kwargs = batch({"image": image}, "cpu")
        results.append((noisy, kwargs["timesteps"]))
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    assert not torch.equal(results[0][0], results[2][0])


def test_the_code_is_drawn_anew_from_a_cached_probability():
    """Time and noise aside, bits are set as often as the cache says."""
    probability = torch.linspace(0, 1, 11).reshape(1, 11, 1, 1).expand(4, -1, 60, 60).contiguous()
    torch.manual_seed(2)
    noisy, target, _, _ = prepare()({"latent": probability}, "cpu")
    code = torch.logical_xor(noisy.bool(), target.bool()).float()
    assert torch.allclose(code.mean(dim=(0, 2, 3)), torch.linspace(0, 1, 11), atol=0.02)
    assert not code[:, 0].any()
    assert code[:, -1].all()


def test_image_and_cache_agree():
    autoencoder = tiny_network().autoencoder
    images = random_slices(64)
    with torch.no_grad():
        probability = autoencoder.encode(images)
    batch = prepare(autoencoder)
    drawn = []
    for data in ({"image": images}, {"latent": probability}):
        torch.manual_seed(4)
        noisy, target, _, kwargs = batch(data, "cpu")
        drawn.append((noisy, target, kwargs["timesteps"]))
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))


def test_bytes_are_255ths():
    values = torch.arange(256, dtype=torch.uint8).repeat(2, 1, 3, 1)
    drawn = []
    for probability in (values, values.float() / 255):
        torch.manual_seed(4)
        drawn.append(prepare()({"latent": probability}, "cpu")[:2])
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))
    code = torch.logical_xor(drawn[0][0].bool(), drawn[0][1].bool())
    assert code[..., 255].all() and not code[..., 0].any()


def test_a_cached_batch_never_encodes():
    autoencoder = Threshold()
    prepare(autoencoder)({"latent": pictures(2)}, "cpu")
    assert autoencoder.autocast == []


def test_no_gradient_leaves_the_task():
    noisy, target, _, _ = prepare(tiny_network().autoencoder)({"image": random_slices(2)}, "cpu")
    assert not noisy.requires_grad
    assert not target.requires_grad


@pytest.mark.parametrize("amp", [False, True])
def test_amp_is_for_the_encoder_alone(amp):
    autoencoder = Threshold()
    noisy, *_ = prepare(autoencoder, amp=amp)({"image": pictures(2)}, "cpu")
    assert autoencoder.autocast == [amp]
    assert not torch.is_autocast_enabled("cpu")
    assert noisy.dtype == torch.float32


def test_metatensors_do():
    image = pictures(2)
    noisy, target, *_ = prepare()({"image": MetaTensor(image)}, "cpu")
    assert torch.equal(torch.as_tensor(noisy != target).bool(), image > 0.5)


class TestMaxNoiseLevel:
    @pytest.mark.parametrize("level", [1, 3, 4])
    def test_times_are_drawn_from_all_below(self, level):
        batch = prepare(steps=4, max_noise_level=level)
        torch.manual_seed(1)
        drawn = torch.cat([batch({"image": pictures(50)}, "cpu")[3]["timesteps"] for _ in range(8)])
        counts = torch.bincount(drawn, minlength=level)
        assert len(counts) == level
        assert counts.min() > 0.6 * 400 / level
        assert counts.max() < 1.4 * 400 / level

    @pytest.mark.parametrize("count", [1, 3, 8])
    def test_stratified_times_are_the_middles_of_equal_parts(self, count):
        batch = prepare(stratified=True, max_noise_level=200)
        times = batch({"image": pictures(count)}, "cpu")[3]["timesteps"].tolist()
        assert times == [int((i + 0.5) * 200 / count) for i in range(count)]

    def test_the_noise_of_a_time_is_the_same(self):
        """Only the times are fewer, they are not spread over a shorter process."""
        torch.manual_seed(0)
        image = torch.rand(30, 1, 100, 100)
        _, target, _, kwargs = prepare(max_noise_level=200)({"image": image}, "cpu")
        expected = flip_probability(kwargs["timesteps"].numpy())
        deviation = (target.mean(dim=(1, 2, 3)).numpy() - expected) / np.sqrt(expected * (1 - expected) / 10000)
        assert np.abs(deviation).max() < 4.5
        assert 0.05 < expected.max() < 0.2

    @pytest.mark.parametrize("level", [None, STEPS, float(STEPS)])
    def test_none_is_all(self, level):
        image, drawn = pictures(20), []
        for batch in (prepare(), prepare(max_noise_level=level)):
            torch.manual_seed(3)
            drawn.append(batch({"image": image}, "cpu")[3]["timesteps"])
        assert torch.equal(*drawn)
        assert drawn[0].max() > 800

    def test_a_whole_number_may_be_a_float(self):
        times = prepare(max_noise_level=3.0)({"image": pictures(100)}, "cpu")[3]["timesteps"]
        assert times.unique().tolist() == [0, 1, 2]

    @pytest.mark.parametrize("level", [0, -1, STEPS + 1, 2.5, 0.5])
    def test_outside_the_process(self, level):
        with pytest.raises(
            ValueError, match=rf"FlipTask: max_noise_level must be a whole number in \[1, 1000\], got {level}"
        ):
            prepare(max_noise_level=level)
