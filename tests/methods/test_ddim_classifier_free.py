import numpy as np
import pytest
import torch
from gaussian_data import gaussian_parts, images
from scipy import ndimage
from weak_method_checks import (
    check_contract,
    check_needs_the_null_class,
    check_refuses_missing_part,
    check_refuses_other_channels,
    run,
)

from scripts.methods.ddim_classifier_free import ConditionalNoiseTask, DDIMClassifierFree
from scripts.networks.classes import NULL
from scripts.noise import Draws
from scripts.schedulers import GaussianScheduler

SCHEDULER = GaussianScheduler(100, beta_end=0.1)
LONG = GaussianScheduler(1000, clip_range=None)


def make(**options):
    return DDIMClassifierFree(**({"scheduler": SCHEDULER, "noise_level": 12, "image_range": (0, 1)} | options))


@pytest.mark.parametrize("options", [{}, {"released_loop": True}, {"num_inference_steps": 4, "channels": [1]}])
def test_contract(options):
    check_contract(make(**options), random=False)


def test_null_both_ways_gives_the_image_back():
    x = images(2)
    restored = run(make(scheduler=LONG, noise_level=400, guidance_strength=-1.0), x).reconstruction
    assert torch.allclose(restored, x, atol=0.02)


def test_strength_0_takes_the_null_class_s_mean_to_the_healthy_one():
    """Both classes have one spread, so the flow there and back moves an image by the difference of their means."""
    x = images(2, mean=0.1)
    method = make(scheduler=LONG, noise_level=999, guidance_strength=0.0)
    restored = run(method, x).reconstruction
    assert torch.allclose(restored, x + 0.3 - 0.1, atol=0.03)


@pytest.mark.parametrize("released", [False, True])
def test_order_of_evaluations(released):
    network = gaussian_parts(SCHEDULER)
    run(make(num_inference_steps=3, released_loop=released), images(1), network)
    decoded = [8, 4, 0] if released else [12, 8, 4, 0]
    expected = [(t, [NULL]) for t in (0, 4, 8)]
    expected += [(t, [label]) for t in decoded for label in (0, NULL)]
    assert network.denoiser.calls == expected


def test_largest_residual_is_of_the_smoothed_map_of_the_channels():
    x = images(2, channels=3)
    method = make(channels=[0, 2], image_range=(-1, 1))
    restored = run(method, x, gaussian_parts(SCHEDULER, channels=3))
    difference = (2 * x - 2 * restored.reconstruction)[:, [0, 2]].square().mean(dim=1).numpy()
    smooth = [ndimage.median_filter(d, 5, mode="mirror") for d in difference]
    expected = np.array([s.max() for s in smooth])
    assert np.allclose(restored.slice_scores["largest_residual"], expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance_strength": -1.5}, r"guidance_strength must be a number in \[-1, 1000\], got -1.5"),
        ({"guidance_strength": "2"}, "guidance_strength must be a number"),
        ({"channels": []}, "channels must be None or different whole numbers from 0"),
        ({"channels": [1, 1]}, "channels must be None or different whole numbers from 0"),
        ({"noise_level": 1000}, "noise_level must be a whole number"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=f"DDIMClassifierFree: {message}"):
        make(**options)


def test_networks_that_do_not_fit_are_refused():
    check_refuses_other_channels(make())
    check_refuses_missing_part(make(), None, "denoiser")
    check_needs_the_null_class(make())
    with pytest.raises(ValueError, match=r"channels: \[0, 3\] are asked for, the images have 2"):
        run(make(channels=[0, 3]), images())


def test_task_drops_the_class_of_a_tenth():
    task, labels = ConditionalNoiseTask(SCHEDULER, 0.1), torch.tensor([0, 1] * 2000)
    torch.manual_seed(1)
    noised, noise, keywords = task.example(torch.full((4000, 1, 2, 2), 0.75), labels, Draws())
    told = keywords["class_labels"]
    dropped = told == NULL
    assert torch.equal(told[~dropped], labels[~dropped])
    assert 0.08 < dropped.float().mean() < 0.12
    assert abs(int(labels[dropped].sum()) - int(dropped.sum()) / 2) < 50
    a = torch.tensor([SCHEDULER.alpha_bar(int(t)) for t in keywords["timesteps"]])[:, None, None, None]
    assert torch.allclose(noised, a.sqrt() * 0.5 + (1 - a).sqrt() * noise, atol=1e-5)
    torch.manual_seed(1)
    again = task.example(torch.full((4000, 1, 2, 2), 0.75), labels, Draws())
    assert torch.equal(again[0], noised) and torch.equal(again[2]["class_labels"], told)


@pytest.mark.parametrize(("probability", "count"), [(0.0, 0), (1.0, 100)])
def test_task_drops_none_or_all(probability, count):
    task = ConditionalNoiseTask(SCHEDULER, probability)
    told = task.example(torch.zeros(100, 1, 2, 2), torch.ones(100), Draws())[2]["class_labels"]
    assert int((told == NULL).sum()) == count


def test_task_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"drop_probability must be a number in \[0, 1\], got 1.1"):
        ConditionalNoiseTask(SCHEDULER, 1.1)
    with pytest.raises(ValueError, match=r"ConditionalNoiseTask: image labels are needed, .* got none"):
        ConditionalNoiseTask(SCHEDULER).example(torch.zeros(2, 1, 2, 2), None, Draws())
