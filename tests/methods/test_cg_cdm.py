import pytest
import torch
from gaussian_data import gaussian_parts, images
from weak_method_checks import check_contract, check_refuses_missing_part, check_refuses_other_channels, run

from scripts.methods.cg_cdm import CGCDM, rescaled
from scripts.networks import Parts
from scripts.schedulers import GaussianScheduler

SCHEDULER = GaussianScheduler(100, beta_end=0.1)
MEANS = (0.3, -0.4)


def make(**options):
    return CGCDM(**({"scheduler": SCHEDULER, "noise_level": 40, "num_steps": 4, "guidance_scale": 0.1} | options))


@pytest.mark.parametrize("options", [{}, {"guidance_scale": 0.0}, {"released_start": True}])
def test_contract(options):
    check_contract(make(**options), random=True)


def expected_sum(method, first):
    """The best eps is linear in the condition's mean, and so is the difference of the paths: d_t = path 1 - path 2.

    x_s = sqrt(a_s) x_0 + sqrt(1 - a_s) eps with both linear in x_t and in the mean m: coefficients by hand.
    """
    sigma, d, total = 0.2, 0.0, 0.0
    gap = MEANS[1] - (method.tau * MEANS[1] + (1 - method.tau) * MEANS[0])
    for t in range(first, first - method.num_steps, -1):
        a, s = method.scheduler.alpha_bar(t), method.scheduler.alpha_bar(t - 1)
        v = a * sigma**2 + 1 - a
        eps_d = (1 - a) ** 0.5 * (d - a**0.5 * gap) / v
        x0_d = (d - (1 - a) ** 0.5 * eps_d) / a**0.5
        d = s**0.5 * x0_d + (1 - s) ** 0.5 * eps_d
        total += d / (1 - method.tau)
    return total


@pytest.mark.parametrize("tau", [0.95, 0.5, 0.0])
@pytest.mark.parametrize("released", [False, True])
def test_sum_is_the_closed_form(tau, released):
    scheduler = GaussianScheduler(100, beta_end=0.1, clip_range=None)
    method = make(scheduler=scheduler, tau=tau, guidance_scale=0.0, released_start=released)
    channels = 3
    network = Parts(denoiser=gaussian_parts(scheduler, means=MEANS, channels=channels).denoiser)
    found = run(method, images(2, channels=channels), network).evidence["summed_difference"]
    total = channels * expected_sum(method, 39 if released else 40)
    assert found.shape == (2, 1, 6, 6)
    assert torch.allclose(found, torch.full_like(found, total), rtol=1e-3)


def test_paths_are_told_their_conditions_and_times():
    network = gaussian_parts(SCHEDULER, means=MEANS)
    run(make(num_steps=2, tau=0.75), images(1), network)
    assert network.denoiser.calls == [(t, c) for t in (40, 39) for c in ([1], [[0.25, 0.75]])]
    assert network.classifier.calls == [40, 40, 39, 39]


def test_guidance_parts_the_paths():
    x = images(2, mean=0.0)
    sums = [run(make(guidance_scale=s, tau=0.99), x).evidence["summed_difference"] for s in (0.0, 0.5)]
    # Towards the diseased mean, the lower one, on the first path, and the healthy one on the second.
    assert (sums[1] < sums[0] - 0.1).all()


def test_each_map_is_rescaled_by_itself():
    maps = torch.randn(3, 1, 4, 4) * torch.tensor([1.0, 10.0, 0.0]).reshape(3, 1, 1, 1)
    found = rescaled(maps)
    assert found.flatten(1).amin(dim=1).tolist() == [0, 0, 0]
    assert found.flatten(1).amax(dim=1).tolist() == [1, 1, 0]
    low, high = maps[1].min(), maps[1].max()
    assert torch.allclose(found[1], (maps[1] - low) / (high - low))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": 1.0}, "tau must be below 1"),
        ({"tau": -0.1}, r"tau must be a number in \[0, 1\]"),
        ({"num_steps": 41}, r"num_steps must be a whole number in \[1, 40\], got 41"),
        ({"noise_level": 100}, r"noise_level must be a whole number in \[1, 99\]"),
        ({"guidance_scale": -1.0}, "guidance_scale must be a number"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=f"CGCDM: {message}"):
        make(**options)


def test_networks_that_do_not_fit_are_refused():
    check_refuses_other_channels(make())
    check_refuses_other_channels(make(), "classifier")
    check_refuses_missing_part(make(), "denoiser", "classifier")
