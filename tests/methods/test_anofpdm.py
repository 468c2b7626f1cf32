import pytest
import torch
from gaussian_data import gaussian_parts, images
from weak_method_checks import (
    check_contract,
    check_needs_the_null_class,
    check_refuses_missing_part,
    check_refuses_other_channels,
    run,
)

from scripts.methods.anofpdm import AnoFPDM
from scripts.networks import Parts
from scripts.networks.classes import NULL
from scripts.schedulers import GaussianScheduler

SCHEDULER = GaussianScheduler(100, beta_end=0.1)
OPEN = GaussianScheduler(100, beta_end=0.1, clip_range=None)
RELEASED = {"released_reference": True, "released_states": True}


def make(**options):
    defaults = {"scheduler": SCHEDULER, "noise_level": 12, "channels": [0, 1], "image_range": (0, 1)}
    return AnoFPDM(**(defaults | options))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"forward": "ddpm", "channels": [1]},
        {"num_inference_steps": 4, "end_step_only": True},
        RELEASED,
        {"interval": 3},
        {"gradient_maps": True},
    ],
)
def test_contract(options):
    check_contract(make(**options), random=True)


@pytest.mark.parametrize(("released", "share"), [(False, 3.5), (True, 2.5)])
def test_predictions_part_by_the_gradient_times_the_strength(released, share):
    """xh - x0 = -sqrt(1/a - 1) (1 + w) (eps_h - eps_0), or w of it as released; the best eps part by a constant."""
    method = make(scheduler=OPEN, forward="ddpm", guidance_strength=2.5, released_reference=released)
    scores = run(method, images(3)).slice_scores
    a = torch.tensor([OPEN.alpha_bar(t) for t in range(12)]).double()
    healthy, null, sigma = 0.3, 0.1, 0.2
    gap = (1 - a) * (healthy - null) / (a * sigma**2 + 1 - a)
    expected = (share * gap).square().max()
    for channel in (0, 1):
        assert torch.allclose(scores[f"peak_difference_{channel}"], expected.float().expand(3), rtol=1e-3)


def test_maps_are_those_of_the_predictions_before_the_largest_difference():
    """The best predictions part ever more, so t_e is the last step; AAM is the mean of all before."""
    method, x = make(scheduler=OPEN, guidance_strength=2.0, channels=[1]), images(2)
    found = []
    streams_of = {}

    class Streams:
        def at(self, step):
            assert step == 0, "the deterministic process draws once"
            return self

        def randn(self, shape):
            return streams_of.setdefault("noise", torch.randn(shape))

    network = gaussian_parts(OPEN)
    with torch.no_grad():
        for healthy, _ in method.predictions(x, network, Streams(), lambda: None):
            found.append((healthy - x).square())
        restored = method.restore(x, x, network, Streams(), lambda: None)
        last = make(scheduler=OPEN, channels=[1], end_step_only=True).restore(x, x, network, Streams(), lambda: None)
    expected = torch.stack(found[:-1]).mean(dim=0)[:, [1]]
    assert torch.allclose(restored.evidence["aggregated_map"], expected, rtol=1e-4)
    assert torch.allclose(last.evidence["aggregated_map"], found[-2][:, [1]], rtol=1e-4)


def test_deterministic_states_are_the_closed_form_of_the_flow():
    """Under the null class, from the image noised at index 0; seen through the unguided prediction of x_0."""
    scheduler = GaussianScheduler(1000, clip_range=None)
    method, x = make(scheduler=scheduler, noise_level=500), images(2)

    class Silent:
        def at(self, step):
            return self

        def randn(self, shape):
            return torch.zeros(shape)

    with torch.no_grad():
        *_, (_, reference) = method.predictions(x, gaussian_parts(scheduler), Silent(), lambda: None)
    a, first, mean, sigma = scheduler.alpha_bar(499), scheduler.alpha_bar(0), 0.1, 0.2
    unit = (first**0.5 * (x - mean)) / (first * sigma**2 + 1 - first) ** 0.5
    v = a * sigma**2 + 1 - a
    # E[x_0 | x_t] = mean + sqrt(a) sigma^2 (x_t - sqrt(a) mean) / v
    expected = mean + a**0.5 * sigma**2 * v**0.5 * unit / v
    assert torch.allclose(reference, expected, atol=2e-3)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [(t, label) for t in (0, 4, 8) for label in (0, NULL)]),
        ({"forward": "ddpm"}, [(t, label) for t in (0, 4, 8) for label in (0, NULL)]),
        (RELEASED, [(0, 0), (0, NULL), *((t, label) for t in (4, 8) for label in (NULL, 0, NULL))]),
    ],
)
def test_order_of_evaluations(options, expected):
    network = gaussian_parts(SCHEDULER)
    run(make(num_inference_steps=3, **options), images(1), network)
    assert [(t, labels[0]) for t, labels in network.denoiser.calls] == expected


def test_new_noise_at_every_step_of_the_random_process():
    steps = []

    class Streams:
        def at(self, step):
            steps.append(step)
            return self

        def randn(self, shape):
            return torch.full(shape, float(steps[-1]))

    class Identity(torch.nn.Module):
        in_channels, knows_null = 2, True

        def forward(self, x, timesteps, class_labels):
            states.append(x)
            return torch.zeros_like(x)

    states, x = [], images(1)
    method = make(forward="ddpm", num_inference_steps=3)
    method.restore(x, x, Parts(denoiser=Identity()), Streams(), lambda: None)
    assert steps == [0, 1, 2]
    for step, t in enumerate((0, 4, 8)):
        a = SCHEDULER.alpha_bar(t)
        assert torch.allclose(states[2 * step], a**0.5 * x + (1 - a) ** 0.5 * step, atol=1e-5)


def test_cosine_tells_an_image_that_guidance_changes():
    """Class null and healthy the same: nothing to change, cosine 1; else it is below."""
    x = images(2)
    same = run(make(), x, gaussian_parts(SCHEDULER, means=(0.3, -0.4, 0.3))).slice_scores["cosine_distance"]
    other = run(make(noise_level=90), x, gaussian_parts(SCHEDULER, means=(0.3, -0.4, -0.4)))
    assert same.abs().max() < 1e-5
    assert (other.slice_scores["cosine_distance"] > 1e-3).all()


def test_a_failed_network_shows_as_nan():
    class Failing(torch.nn.Module):
        in_channels, knows_null = 2, True

        def forward(self, x, timesteps, class_labels):
            return torch.full_like(x, float("nan") if int(timesteps[0]) == 7 else 0.0)

    scores = run(make(), images(2), Parts(denoiser=Failing())).slice_scores
    assert all(values.isnan().all() for values in scores.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance_strength": -2}, r"guidance_strength must be a number in \[-1, 1000\], got -2"),
        ({"forward": "ddmp"}, r"forward must be one of \('ddim', 'ddpm'\), got 'ddmp'"),
        ({"channels": None}, "channels: at least one is needed"),
        ({"channels": [-1]}, "channels must be None or different whole numbers from 0"),
        ({"interval": 0}, "interval must be a whole number"),
        ({"interval": 2, "end_step_only": True}, "end_step_only and interval exclude each other"),
        ({"guidance_strength": -1, "gradient_maps": True}, "gradient_maps divide by"),
        ({"num_inference_steps": 5}, "num_inference_steps must divide noise_level 12, got 5"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=f"AnoFPDM: {message}"):
        make(**options)


def test_networks_that_do_not_fit_are_refused():
    check_refuses_other_channels(make())
    check_refuses_missing_part(make(), None, "denoiser")
    check_needs_the_null_class(make())
