from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import transition

from scripts.noise import SliceGenerator
from scripts.schedulers import BernoulliScheduler
from scripts.schedulers.region_bernoulli import RegionBernoulliScheduler

STEPS, ARGS = 12, {"beta_start": 0.01, "beta_end": 0.4}
SPEEDS = [0.0, 0.1, 0.34, 0.5, 1.0]


def scheduler(speed: float) -> RegionBernoulliScheduler:
    return RegionBernoulliScheduler(STEPS, outside_speed=speed, **ARGS)


def betas() -> np.ndarray:
    return np.linspace(ARGS["beta_start"], ARGS["beta_end"], STEPS)


def outside_time(t: int, speed: float) -> int:
    """The paper's time, 0..T, of bits outside at time t."""
    return math.floor(t * speed)


def bits(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).float()


def regions_of(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.4


@pytest.mark.parametrize("speed", SPEEDS)
def test_times_outside(speed):
    times = scheduler(speed).outside_timestep(torch.arange(-1, STEPS))
    assert times.tolist() == [outside_time(t, speed) - 1 for t in range(STEPS + 1)]


@pytest.mark.parametrize("speed", SPEEDS)
def test_marginals_equal_products_of_transitions(speed):
    regions = torch.tensor([True, False]).reshape(1, 1, 1, 2)
    for t in range(1, STEPS + 1):
        flips = scheduler(speed).flip_probability(bits(1, 1, 1, 2), torch.tensor([t - 1]), regions).flatten()
        wanted = [transition(betas(), 0, time)[0, 1] for time in (t, outside_time(t, speed))]
        np.testing.assert_allclose(flips.numpy(), wanted, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("t", [1, 6, 12])
def test_noise_has_the_marginals(t):
    n = 200_000
    code, regions = bits(1, 1, 2, n), torch.tensor([[True], [False]]).expand(2, n).reshape(1, 1, 2, n)
    noise = torch.rand(code.shape, generator=torch.Generator().manual_seed(t))
    flipped = scheduler(0.5).add_noise(code, noise, torch.tensor([t - 1]), regions) != code
    for rate, time in zip(flipped[0, 0].double().mean(dim=1), (t, outside_time(t, 0.5)), strict=True):
        wanted = transition(betas(), 0, time)[0, 1]
        assert float(rate) == pytest.approx(wanted, abs=5 * math.sqrt(wanted * (1 - wanted) / n) + 1e-9)


@pytest.mark.parametrize("speed", SPEEDS)
def test_posterior_by_brute_force(speed):
    """Bayes over the two values of z_s, with products of 2 x 2 transitions at each bit's own times."""
    own = scheduler(speed)
    z_t, z_0 = torch.tensor([0.0, 0, 1, 1]), torch.tensor([0.0, 1, 0, 1])
    for t in range(1, STEPS + 1):
        for s in range(t):
            for inside in (True, False):
                late, early = (t, s) if inside else (outside_time(t, speed), outside_time(s, speed))
                theta = own.posterior_mean(z_t, z_0, t - 1, s - 1, torch.full((4,), inside))
                for got, a, b in zip(theta.tolist(), z_t.int().tolist(), z_0.int().tolist(), strict=True):
                    before, after = transition(betas(), 0, early), transition(betas(), early, late)
                    joint = [before[b, value] * after[value, a] for value in (0, 1)]
                    if sum(joint) > 0:  # what cannot happen has no posterior
                        assert got == pytest.approx(joint[1] / sum(joint), abs=1e-5)
                    assert 0 <= got <= 1


def test_soft_predictions_are_the_base_classs():
    own, base = scheduler(0.5), BernoulliScheduler(STEPS, **ARGS)
    sample, soft, regions = bits(2, 3, 4, 4), torch.rand(2, 3, 4, 4), regions_of(2, 1, 4, 4)
    theta = own.posterior_mean(sample, soft, 9, 4, regions)
    wanted = torch.where(regions, base.posterior_mean(sample, soft, 9, 4), base.posterior_mean(sample, soft, 4, 1))
    assert torch.equal(theta, wanted)
    # floor(10 / 2) = floor(11 / 2): no time passes outside
    still = own.posterior_mean(sample, soft, 10, 9, regions)
    assert torch.equal(still, torch.where(regions, base.posterior_mean(sample, soft, 10, 9), sample))


def test_without_regions_it_is_the_papers():
    own, base = scheduler(0.3), BernoulliScheduler(STEPS, **ARGS)
    code, logits, t = bits(3, 2, 4, 4), torch.randn(3, 2, 4, 4), torch.tensor([0, 5, 11])
    noise, mask = torch.rand(code.shape), regions_of(3, 2, 4, 4)
    assert torch.equal(own.add_noise(code, noise, t), base.add_noise(code, noise, t))
    assert torch.equal(own.posterior_mean(code, noise, 7, 3), base.posterior_mean(code, noise, 7, 3))
    for arguments in ((), (code, mask)):
        got = own.step(logits, 6, 1 - code, *arguments, generator=SliceGenerator(0, [0, 1, 2]))
        wanted = base.step(logits, 6, 1 - code, *arguments, generator=SliceGenerator(0, [0, 1, 2]))
        assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_speed_one_is_the_papers_whatever_the_regions():
    own, base = scheduler(1.0), BernoulliScheduler(STEPS, **ARGS)
    code, noise, regions = bits(3, 2, 4, 4), torch.rand(3, 2, 4, 4), regions_of(3, 1, 4, 4)
    t = torch.tensor([0, 5, 11])
    assert torch.equal(own.add_noise(code, noise, t, regions), base.add_noise(code, noise, t))
    assert torch.equal(own.posterior_mean(code, noise, 7, 3, regions), base.posterior_mean(code, noise, 7, 3))


def test_foreign_patches():
    own = scheduler(0.0)
    code, foreign, regions, patch = (
        bits(2, 3, 6, 6),
        bits(2, 3, 6, 6, seed=9),
        regions_of(2, 1, 6, 6),
        regions_of(2, 1, 6, 6, seed=2),
    )
    noise, t = torch.rand(code.shape), torch.tensor([3, 11])
    noisy = own.add_noise(code, noise, t, regions, foreign, patch)
    # outside both nothing happens, in a patch outside regions the foreign bits stand as they are
    assert torch.equal(noisy[(~regions & ~patch).expand_as(code)], code[(~regions & ~patch).expand_as(code)])
    assert torch.equal(noisy[(~regions & patch).expand_as(code)], foreign[(~regions & patch).expand_as(code)])
    assert torch.equal(noisy, own.add_noise(torch.where(patch, foreign, code), noise, t, regions))
    assert not torch.equal(foreign, code)


def test_reverse_steps_refill_the_region_and_keep_the_rest():
    """With the truth as prediction the region comes back, whatever was put there; outside z is never left."""
    own = scheduler(0.0)
    own.set_timesteps(6)
    truth, regions = bits(2, 5, 6, 6), regions_of(2, 1, 6, 6)
    image_code = torch.where(regions, bits(2, 5, 6, 6, seed=7), truth)
    streams = SliceGenerator(0, [0, 1])
    sample = own.add_noise(image_code, streams.rand(truth.shape), torch.tensor([STEPS - 1]), regions)
    assert not torch.equal(sample, image_code)
    for t in own.timesteps.tolist():
        logits = torch.where(sample != truth, 40.0, -40.0)  # the network knows which bits are flipped
        sample, prediction = own.step(logits, t, sample, image_code, regions, streams.at(t + 1), regions)
        outside = (~regions).expand_as(sample)
        assert torch.equal(sample[outside], image_code[outside])
        assert torch.equal(prediction[outside], image_code[outside])
    assert torch.equal(sample, truth)


def test_a_batch_equals_its_single_runs():
    own = scheduler(0.5)
    logits, sample, code, regions = (
        torch.randn(3, 2, 4, 4),
        bits(3, 2, 4, 4),
        bits(3, 2, 4, 4, seed=5),
        regions_of(3, 1, 4, 4),
    )
    together, _ = own.step(logits, 8, sample, code, regions, SliceGenerator(0, [4, 5, 6]), regions)
    for i in range(3):
        k = slice(i, i + 1)
        alone, _ = own.step(logits[k], 8, sample[k], code[k], regions[k], SliceGenerator(0, [4 + i]), regions[k])
        assert torch.equal(together[k], alone)


def test_errors():
    with pytest.raises(ValueError, match=r"outside_speed must be a number in \[0, 1\], got 1.5"):
        RegionBernoulliScheduler(outside_speed=1.5)
    own, code, regions = scheduler(0.5), bits(1, 1, 2, 2), torch.ones(1, 1, 2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="foreign and foreign_regions go together"):
        own.add_noise(code, code, torch.tensor([0]), regions, foreign=code)
    with pytest.raises(ValueError, match="original_sample and mask go together"):
        own.step(code, 3, code, original_sample=code, regions=regions)
    with pytest.raises(ValueError, match=r"need -1 <= previous_timestep < timestep"):
        own.posterior_mean(code, code, 3, 3, regions)
