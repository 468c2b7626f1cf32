"""Against brute-force conditioning of Gaussians, data whose best network is known, and MONAI's schedulers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler

from scripts.schedulers import BernoulliScheduler, GaussianScheduler
from scripts.schedulers.gaussian_process import CLEAN

SCHEDULES = ["linear_beta", "scaled_linear_beta", "sigmoid_beta", "cosine"]


def schedule_args(schedule: str) -> dict[str, float]:
    """Betas large enough for eight steps to reach strong noise."""
    return {} if schedule == "cosine" else {"beta_start": 0.01, "beta_end": 0.6}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moments(betas: np.ndarray, s: int, t: int) -> tuple[float, float]:
    """Factor and variance of x_t given x_s, one step after the other; s and t count from 0, the clean sample."""
    factor, variance = 1.0, 0.0
    for beta in betas[s:t]:
        factor, variance = factor * math.sqrt(1 - beta), variance * (1 - beta) + beta
    return factor, variance


# The process


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_posterior_equals_conditioning_of_the_joint_gaussian(schedule):
    scheduler = GaussianScheduler(8, schedule, **schedule_args(schedule))
    betas, x_0, x_t = np.array(scheduler._betas[1:-1]), 0.7, -1.3
    for t in range(1, 9):
        for s in range(t):
            (f, v), (g, w) = moments(betas, 0, s), moments(betas, s, t)
            # Of (x_s, x_t) given x_0: means f x_0 and g f x_0, variances v and g^2 v + w, covariance g v.
            gain = g * v / (g * g * v + w)
            mean, variance = f * x_0 + gain * (x_t - g * f * x_0), v - gain * g * v
            sample, original = (torch.tensor([x], dtype=torch.float64) for x in (x_t, x_0))
            ours = scheduler.posterior(sample, original, t - 1, s - 1)
            assert ours[0].item() == pytest.approx(mean, abs=1e-12)
            assert ours[1] == pytest.approx(variance, abs=1e-12)
            assert scheduler.posterior_coefficients(t - 1, s - 1)[3] == pytest.approx(w, abs=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_marginals_equal_the_product_of_transitions(schedule):
    scheduler, original, noise = (
        GaussianScheduler(8, schedule, **schedule_args(schedule)),
        normal(9, 3),
        normal(9, 3, seed=1),
    )
    betas = np.array(scheduler._betas[1:-1])
    noisy = scheduler.add_noise(original, noise, torch.arange(-1, 8))
    for t in range(9):
        factor, variance = moments(betas, 0, t)
        expected = factor * original[t] + math.sqrt(variance) * noise[t]
        torch.testing.assert_close(noisy[t], expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(scheduler.add_noise(original, noise, t - 1)[t], expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(noisy[0], original[0])


def test_tables_are_the_published_ones_in_double_precision():
    linear, cosine = GaussianScheduler(), GaussianScheduler(10, "cosine")
    betas = np.linspace(1e-4, 0.02, 1000)
    abar = np.cumprod(1 - betas)
    np.testing.assert_allclose(linear._abar[1:-1], abar, rtol=1e-13)
    np.testing.assert_allclose(linear._noise[1:-1], 1 - abar, rtol=1e-12)
    published = [0.972092737, 0.898705921, 0.786910511, 0.647478211, 0.493843590]
    np.testing.assert_allclose(cosine._abar[1:6], published, rtol=1e-8)
    assert cosine.alpha_bar(9) == pytest.approx(0.0000240917241, rel=1e-6)
    assert (linear.alpha_bar(CLEAN), linear.alpha_bar(1000)) == (1.0, 0.0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_single_precision_tables_are_monais(schedule):
    ours, theirs = GaussianScheduler(50, schedule, table_precision="float32"), DDPMScheduler(50, schedule)
    assert ours._abar[1:-1] == theirs.alphas_cumprod.tolist()
    assert ours._noise[1:-1] == (1 - theirs.alphas_cumprod).tolist()
    doubled = GaussianScheduler(50, schedule)
    assert doubled._abar != ours._abar
    np.testing.assert_allclose(doubled._abar[1:-1], ours._abar[1:-1], rtol=2e-4)


# Steps


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample"])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_step_equals_monais_ddpm(prediction_type, variance):
    ours = GaussianScheduler(50, prediction_type=prediction_type, table_precision="float32")
    theirs = DDPMScheduler(50, prediction_type=prediction_type, variance_type=variance)
    sample, output = normal(2, 1, 8, 8).float(), normal(2, 1, 8, 8, seed=1).float()
    for t in (49, 20, 1, 0):
        generator = torch.Generator().manual_seed(t)
        noise = torch.randn(sample.shape, generator=torch.Generator().manual_seed(t))
        expected = theirs.step(output, t, sample, generator=generator)
        actual = ours.step(output, t, sample, noise if t else None, variance)
        for a, e in zip(actual, expected, strict=True):
            assert a.dtype == torch.float32
            torch.testing.assert_close(a, e, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample"])
@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_ddim_steps_equal_monais_where_nothing_is_clamped(prediction_type, eta):
    options = {"prediction_type": prediction_type}
    ours = GaussianScheduler(50, clip_range=None, table_precision="float32", **options)
    theirs = DDIMScheduler(50, clip_sample=False, **options)
    sample, output = normal(2, 1, 8, 8).float(), normal(2, 1, 8, 8, seed=1).float()
    for t in (49, 20, 1, 0):
        noise = torch.randn(sample.shape, generator=torch.Generator().manual_seed(t))
        expected = theirs.step(output, t, sample, eta, torch.Generator().manual_seed(t))
        actual = ours.ddim_step(output, t, sample, eta=eta, noise=noise)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
        if t < 49:
            reverse = theirs.reversed_step(output, t, sample)
            torch.testing.assert_close(ours.reversed_step(output, t, sample, t + 1), reverse, rtol=1e-4, atol=1e-5)


def test_full_eta_is_the_ancestral_step_of_small_variance():
    scheduler = GaussianScheduler(20, beta_end=0.4)
    scheduler.set_timesteps(5)
    sample, output, noise = (normal(2, 3, seed=n) for n in range(3))
    for t in scheduler.timesteps.tolist():
        ancestral = scheduler.step(output, t, sample, noise, "fixed_small")
        implicit = scheduler.ddim_step(output, t, sample, eta=1.0, noise=noise)
        torch.testing.assert_close(implicit, ancestral, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample"])
def test_clamped_prediction_and_its_noise_make_the_sample(prediction_type):
    scheduler = GaussianScheduler(20, prediction_type=prediction_type, clip_range=(-0.5, 0.25))
    sample, output = normal(2, 30), 2 * normal(2, 30, seed=1)
    prediction = scheduler.predict_original_sample(output, sample, 7)
    assert (prediction.min(), prediction.max()) == (-0.5, 0.25)
    epsilon = scheduler.predict_noise(prediction, sample, 7)
    torch.testing.assert_close(scheduler.add_noise(prediction, epsilon, 7), sample)
    # The step goes on with that noise, not with the network's.
    for moved, t in (
        (scheduler.ddim_step(output, 7, sample)[0], 6),
        (scheduler.reversed_step(output, 7, sample, 9)[0], 9),
    ):
        torch.testing.assert_close(moved, scheduler.add_noise(prediction, epsilon, t))


# Data N(m, v): the best network is known, and the implicit flow with it


class BestDenoiser:
    """E[eps | x_t] or E[x_0 | x_t] of data N(mean, variance)."""

    def __init__(self, scheduler: GaussianScheduler, mean: float, variance: float) -> None:
        self.scheduler, self.mean, self.variance = scheduler, mean, variance

    def __call__(self, sample: torch.Tensor, timestep: int) -> torch.Tensor:
        a = self.scheduler.alpha_bar(timestep)
        gain = math.sqrt(a) * self.variance / (a * self.variance + 1 - a)
        x_0 = self.mean + gain * (sample - math.sqrt(a) * self.mean)
        if self.scheduler.prediction_type == "sample":
            return x_0
        # eps = (x_t - sqrt(abar) E[x_0]) / sqrt(1 - abar), and 0 at the clean end, where the limit is
        return torch.zeros_like(sample) if a == 1 else (sample - math.sqrt(a) * x_0) / math.sqrt(1 - a)


def test_encoding_then_decoding_returns_the_image():
    scheduler = GaussianScheduler(1000, clip_range=None)
    network, image = BestDenoiser(scheduler, 0.2, 0.3), normal(4, 5) * math.sqrt(0.3) + 0.2
    sample = image
    for t in range(-1, 499):
        sample, _ = scheduler.reversed_step(network(sample, t), t, sample, t + 1)
    # The flow keeps quantiles: x_t = sqrt(abar) m + sqrt((abar v + 1 - abar) / v) (x_0 - m)
    a = scheduler.alpha_bar(499)
    expected = math.sqrt(a) * 0.2 + math.sqrt((a * 0.3 + 1 - a) / 0.3) * (image - 0.2)
    assert (sample - expected).abs().max() < 0.01
    scheduler.set_timesteps(noise_level=500)
    for t in scheduler.timesteps.tolist():
        sample, _ = scheduler.ddim_step(network(sample, t), t, sample)
    assert (sample - image).abs().max() < 0.01


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample"])
@pytest.mark.parametrize("steps", [200, 25])
@pytest.mark.parametrize(("variance", "mean", "spread"), [("fixed_large", 0.0, 1.0), ("fixed_small", 0.5, 0.0)])
def test_ancestral_steps_sample_the_data(prediction_type, steps, variance, mean, spread):
    """Ho section 3.2: the large variance is right for data N(0, 1), the small one for a single point."""
    scheduler = GaussianScheduler(200, beta_end=0.1, prediction_type=prediction_type, clip_range=None)
    network = BestDenoiser(scheduler, mean, spread)
    scheduler.set_timesteps(steps)
    sample = scheduler.add_noise(
        torch.full((20000,), mean).double() + spread * normal(20000), normal(20000, seed=999), 199
    )
    for t in scheduler.timesteps.tolist():
        # What the network makes of x_t keeps its distribution that of noised data at every time.
        a = scheduler.alpha_bar(t)
        assert sample.mean() == pytest.approx(math.sqrt(a) * mean, abs=0.03)
        assert sample.var() == pytest.approx(a * spread + 1 - a, abs=0.04)
        sample, _ = scheduler.step(network(sample, t), t, sample, normal(20000, seed=t + 1), variance)
    if spread == 0:
        torch.testing.assert_close(sample, torch.full_like(sample, mean))


def test_ends_of_the_reversed_step():
    scheduler, sample, output = GaussianScheduler(10, beta_end=0.3), normal(2, 3).clamp(-1, 1), normal(2, 3, seed=1)
    first, prediction = scheduler.reversed_step(output, CLEAN, sample, 0)
    assert torch.equal(prediction, sample)
    torch.testing.assert_close(first, scheduler.add_noise(sample, output, 0))
    last, prediction = scheduler.reversed_step(output, 9, sample, 10)
    torch.testing.assert_close(last, scheduler.predict_noise(prediction, sample, 9))


# Times, types and errors


def test_times_are_those_of_the_bernoulli_scheduler():
    ours, theirs = GaussianScheduler(), BernoulliScheduler()
    for steps, level in ((None, None), (None, 200), (7, 200), (1, 200), (50, 1000), (3, 3)):
        for scheduler in (ours, theirs):
            scheduler.set_timesteps(steps, level)
        assert torch.equal(ours.timesteps, theirs.timesteps)
        assert ours.num_inference_steps == theirs.num_inference_steps
        assert all(ours.previous_timestep(t) == theirs.previous_timestep(t) for t in ours.timesteps.tolist())


def test_own_grid_and_noise_needed_but_at_its_end():
    scheduler, sample = GaussianScheduler(10), normal(2, 3)
    scheduler.set_timesteps(timesteps=[8, 4, 3])
    assert [scheduler.previous_timestep(t) for t in (8, 4, 3)] == [4, 3, CLEAN]
    with pytest.raises(ValueError, match="noise is needed for the step from timestep 4"):
        scheduler.step(sample, 4, sample)
    with pytest.raises(ValueError, match="noise is needed"):
        scheduler.ddim_step(sample, 4, sample, eta=0.1)
    prev_sample, prediction = scheduler.step(sample, 3, sample)
    torch.testing.assert_close(prev_sample, prediction, rtol=1e-12, atol=1e-12)
    assert torch.equal(scheduler.step(sample, 3, sample, noise=sample)[0], prev_sample)
    torch.testing.assert_close(scheduler.ddim_step(sample, 3, sample)[0], prediction)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.set_timesteps(noise_level=11), "noise_level must lie in [1, 10], got 11"),
        (lambda s: s.set_timesteps(noise_level=0), "noise_level must lie in [1, 10], got 0"),
        (lambda s: s.set_timesteps(6, 5), "num_inference_steps must lie in [1, noise_level=5], got 6"),
        (lambda s: s.set_timesteps(noise_level=2.5), "got 2.5"),
        (lambda s: s.set_timesteps(timesteps=[]), "timesteps must fall"),
        (lambda s: s.set_timesteps(timesteps=[3, 3]), "timesteps must fall"),
        (lambda s: s.set_timesteps(timesteps=[10, 3]), "within [0, 9]"),
        (lambda s: s.set_timesteps(timesteps=[3, -1]), "within [0, 9]"),
        (lambda s: s.set_timesteps(2, timesteps=[3, 1]), "leave out num_inference_steps"),
        (lambda s: s.previous_timestep(10), "timestep 10 is not among the 10 timesteps set"),
        (lambda s: s.posterior_coefficients(3, 3), "got 3 and 3"),
        (lambda s: s.posterior_coefficients(10, 3), "got 3 and 10"),
        (lambda s: s.step(torch.zeros(1), 3, torch.zeros(1), torch.zeros(1), "learned"), "got 'learned'"),
        (lambda s: s.ddim_step(torch.zeros(1), 3, torch.zeros(1), eta=1.5), "eta must lie in [0, 1], got 1.5"),
        (lambda s: s.reversed_step(torch.zeros(1), 3, torch.zeros(1), 11), "got 3 and 11"),
        (lambda s: s.reversed_step(torch.zeros(1), 3, torch.zeros(1), 3), "got 3 and 3"),
        (lambda s: GaussianScheduler(prediction_type="v"), "prediction_type must be 'epsilon' or 'sample', got 'v'"),
        (lambda s: GaussianScheduler(table_precision="half"), "table_precision must be"),
        (lambda s: GaussianScheduler(clip_range=(1, -1)), "clip_range must be two rising numbers"),
        (lambda s: GaussianScheduler(beta_start=0.0), "betas must lie inside (0, 1)"),
    ],
)
def test_wrong_values_are_refused(call, message):
    with pytest.raises(ValueError) as error:
        call(GaussianScheduler(10))
    assert message in str(error.value)


def test_a_clean_sample_has_no_noise_where_the_network_says_the_sample():
    scheduler = GaussianScheduler(10, prediction_type="sample")
    with pytest.raises(ValueError, match="timestep -1"):
        scheduler.reversed_step(torch.zeros(1), CLEAN, torch.zeros(1), 0)


def test_half_precision_is_computed_in_single():
    scheduler = GaussianScheduler()
    sample, output = normal(2, 50).float(), normal(2, 50, seed=1).bfloat16()
    prev_sample, prediction = scheduler.step(output, 0, sample)
    assert (prev_sample.dtype, prediction.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(prediction, scheduler.step(output.float(), 0, sample)[1])
    half = scheduler.add_noise(sample.half(), sample.half(), torch.tensor([0, 500]))
    assert half.dtype == torch.float16
    torch.testing.assert_close(
        half, scheduler.add_noise(sample.half().float(), sample.half().float(), torch.tensor([0, 500])).half()
    )


def test_describes_what_results_depend_on():
    described = GaussianScheduler(clip_range=None).describe()
    assert described == {
        "name": "GaussianScheduler",
        "num_train_timesteps": 1000,
        "alphas_cumprod": [0.9999, 0.0785872, 4.03583e-05],
        "prediction_type": "epsilon",
        "clip_range": None,
        "table_precision": "float64",
    }
    others = [
        GaussianScheduler(),
        GaussianScheduler(clip_range=None, schedule="cosine"),
        GaussianScheduler(clip_range=None, beta_end=0.021),
        GaussianScheduler(clip_range=None, prediction_type="sample"),
        GaussianScheduler(clip_range=None, table_precision="float32"),
    ]
    for other in others:
        assert other.describe() != described
        assert json.loads(json.dumps(other.describe())) == other.describe()
    assert "timesteps" not in described
