"""Guidance on Gaussian data, where Bayes' rule says what it has to give."""

import pytest
import torch
from gaussian_data import gaussian_parts, images

from scripts.guidance import (
    ClassifierFreeGuidance,
    ClassifierGuidance,
    class_gradient,
    finite_difference,
    guided_ddim_step,
    predicted_noise,
)
from scripts.networks.classes import DISEASED, HEALTHY, NULL, classes
from scripts.schedulers import GaussianScheduler

TIMES = [0, 7, 300, 999]


def setting(time, **options):
    scheduler = GaussianScheduler(1000, clip_range=None)
    # Between the classes' means, so that the classifier is not sure.
    x = images(3, mean=-0.05).double() * 0.5 + 0.01
    return scheduler, gaussian_parts(scheduler, **options), x, torch.full((3,), time)


@pytest.mark.parametrize("time", TIMES)
def test_gradient_is_that_of_the_log_probability(time):
    _, network, x, times = setting(time)
    with torch.no_grad():
        gradient = class_gradient(network.classifier, x, times, DISEASED)
    assert not gradient.requires_grad
    step = 1e-5
    for place in [(0, 0, 0, 0), (2, 1, 5, 3)]:
        moved = torch.zeros_like(x)
        moved[place] = step
        logs = [network.classifier(x + s * moved, times).log_softmax(dim=1)[place[0], DISEASED] for s in (1, -1)]
        assert float(gradient[place]) == pytest.approx(float(logs[0] - logs[1]) / (2 * step), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("target", [HEALTHY, DISEASED])
def test_guidance_takes_one_class_towards_the_other(time, target):
    """eps_y - eps_z = -sqrt(1 - a) (grad log p_y - grad log p_z), and p(y | x) + p(z | x) = 1."""
    scheduler, network, x, times = setting(time)
    other = 1 - target
    eps = [predicted_noise(network.denoiser, x, times, classes(y, 3)).double() for y in (target, other)]
    probability = network.classifier(x, times).softmax(dim=1)[:, other][:, None, None, None]
    guided = ClassifierGuidance(scheduler, 1.0, target)(network, x, times, eps[1])
    # grad log p(y | x) = (1 - p(y | x)) (grad log p_y - grad log p_z)
    expected = eps[1] + probability * (eps[0] - eps[1])
    # Logits are rounded to single precision, and reach thousands at timestep 0.
    assert torch.allclose(guided, expected, atol=3e-4)


def test_guidance_of_a_mixture_gives_its_component():
    """Bayes: the mixture's eps guided with scale 1 is the eps of the class, for every image."""
    scheduler, network, x, times = setting(400)
    eps = torch.stack([predicted_noise(network.denoiser, x, times, classes(y, 3)).double() for y in (0, 1)])
    weights = network.classifier(x, times).softmax(dim=1).T[:, :, None, None, None]
    mixture = (weights * eps).sum(dim=0)
    assert (mixture - eps[0]).abs().max() > 1e-3
    guided = ClassifierGuidance(scheduler, 1.0, HEALTHY)(network, x, times, mixture)
    assert torch.allclose(guided, eps[0], atol=1e-6)


def test_step_moves_the_mean_as_the_formula_says():
    """x_s moves by s g sqrt(1 - a_t) (sqrt(a_s / a_t) sqrt(1 - a_t) - sqrt(1 - a_s)), g the gradient."""
    scheduler, network, x, times = setting(500)
    x = x.float()
    eps = predicted_noise(network.denoiser, x, times, classes(HEALTHY, 3))
    plain, _ = scheduler.ddim_step(eps, 500, x, previous_timestep=480)
    guided, _ = guided_ddim_step(scheduler, ClassifierGuidance(scheduler, 3.0, HEALTHY), network, eps, 500, x, 480)
    a_t, a_s = scheduler.alpha_bar(500), scheduler.alpha_bar(480)
    gradient = class_gradient(network.classifier, x, times, HEALTHY)
    factor = (1 - a_t) ** 0.5 * ((a_s / a_t * (1 - a_t)) ** 0.5 - (1 - a_s) ** 0.5)
    assert torch.allclose(guided - plain, 3.0 * factor * gradient, atol=1e-5)
    assert (guided - plain).abs().max() > 1e-2


def test_step_clamps_before_guidance_and_not_behind_it():
    scheduler = GaussianScheduler(1000)
    x = torch.full((1, 1, 2, 2), 3.0)
    seen = []

    def guidance(network, x_t, timesteps, prediction):
        seen.append(prediction)
        return prediction - 1

    _, x_0 = guided_ddim_step(scheduler, guidance, None, torch.zeros_like(x), 100, x, 99)
    a = scheduler.alpha_bar(100)
    eps = (3 - a**0.5) / (1 - a) ** 0.5  # of the clamped x_0 = 1
    assert torch.allclose(seen[0], torch.full_like(x, eps), atol=1e-5)
    assert torch.allclose(x_0, torch.full_like(x, 1 + ((1 - a) / a) ** 0.5), atol=1e-5)


def test_classifier_is_told_the_place_in_the_grid_where_asked():
    scheduler, network, x, times = setting(500)
    ClassifierGuidance(scheduler, 1.0, HEALTHY, stride=20)(network, x, times, x)
    ClassifierGuidance(scheduler, 1.0, HEALTHY)(network, x, times, x)
    assert network.classifier.calls == [25, 500]


@pytest.mark.parametrize("strength", [-1.0, 0.0, 1.1, 30.0])
def test_classifier_free_guidance(strength):
    _, network, x, times = setting(200)
    conditional = predicted_noise(network.denoiser, x, times, classes(HEALTHY, 3))
    null = predicted_noise(network.denoiser, x, times, classes(NULL, 3))
    guided = ClassifierFreeGuidance(strength)(network, x, times, conditional)
    assert torch.allclose(guided, null + (1 + strength) * (conditional - null), atol=1e-5)
    if strength == 0:
        assert torch.equal(guided, conditional)
    if strength == -1:
        assert torch.equal(guided, null)


def test_learned_variance_is_cut_off():
    x = torch.rand(2, 3, 4, 4)
    both = predicted_noise(lambda x, timesteps, class_labels: torch.cat([x, -x], dim=1), x, torch.zeros(2), None)
    assert torch.equal(both, x)


def test_finite_difference_of_a_linear_dependence_is_its_slope():
    slope, tau = torch.rand(2, 3, 4, 4), 0.75
    assert torch.allclose(finite_difference(slope * 1.0, slope * tau, tau), slope)
