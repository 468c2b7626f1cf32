from collections import Counter

import pytest
import torch
from gaussian_data import gaussian_parts, images
from scipy import stats
from weak_method_checks import check_contract, check_refuses_missing_part, check_refuses_other_channels, run

from scripts.methods.ddim_classifier import ClassifierTask, DDIMClassifier
from scripts.noise import Draws, SliceGenerator
from scripts.schedulers import GaussianScheduler

SCHEDULER = GaussianScheduler(100, beta_end=0.1)


def make(**options):
    return DDIMClassifier(**({"scheduler": SCHEDULER, "noise_level": 12, "guidance_scale": 0.1} | options))


@pytest.mark.parametrize("options", [{}, {"released_loop": True}, {"num_inference_steps": 4}])
def test_contract(options):
    check_contract(make(**options), random="released_loop" in options)


def test_without_guidance_the_image_comes_back():
    """Encoding and decoding are one flow there and back; what is left shrinks with the length of the steps."""
    x = images(2)
    errors = []
    for steps in (25, 100, 400):
        method = make(
            scheduler=GaussianScheduler(1000, clip_range=None),
            noise_level=400,
            num_inference_steps=steps,
            guidance_scale=0.0,
        )
        errors.append(float((run(method, x).reconstruction - x).abs().max()))
    assert errors[2] < 0.01
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_latent_is_the_closed_form_of_the_flow():
    """x = mean + sigma n goes to sqrt(a) mean + sqrt(a sigma^2 + 1 - a) n."""
    scheduler, x = GaussianScheduler(1000, clip_range=None), images(2).double()
    method, network = make(scheduler=scheduler, noise_level=500), gaussian_parts(GaussianScheduler(1000))
    with torch.no_grad():
        *_, (last, latent) = method.encoding(x, network, lambda: None)
    a, mean, sigma = scheduler.alpha_bar(500), 0.3, 0.2
    assert last == 499
    expected = a**0.5 * mean + (a * sigma**2 + 1 - a) ** 0.5 * (x - mean) / sigma
    assert torch.allclose(latent, expected, atol=0.03)
    assert latent.abs().max() > 1


def test_guidance_makes_a_diseased_image_more_probably_healthy():
    x = images(2, mean=0.0)
    network = gaussian_parts(SCHEDULER)
    probabilities = []
    for scale in (0.0, 0.3):
        healthy = run(make(noise_level=50, guidance_scale=scale), x).reconstruction
        probabilities.append(network.classifier(healthy, torch.zeros(2, dtype=torch.long)).diff(dim=1))
    assert (probabilities[1] < probabilities[0] - 1).all()


def test_class_probability_is_the_classifier_s_for_the_image():
    x = images(3, mean=-0.04) * 0.3
    network = gaussian_parts(SCHEDULER)
    expected = network.classifier(x, torch.zeros(3, dtype=torch.long)).softmax(dim=1)[:, 1]
    found = run(make(), x).slice_scores["class_probability"]
    assert torch.allclose(found, expected.float(), atol=1e-5)
    assert ((found > 0) & (found < 1)).all()


@pytest.mark.parametrize(
    ("options", "encoded", "decoded", "classified"),
    [
        ({}, [0, 3, 6, 9], [12, 9, 6, 3, 0], [12, 9, 6, 3, 0, 0]),
        ({"released_loop": True}, [3, 6, 9], [6, 3, 0], [6, 3, 0, 0]),
        ({"released_loop": True, "respaced_classifier": True}, [3, 6, 9], [6, 3, 0], [2, 1, 0, 0]),
    ],
)
def test_order_of_evaluations(options, encoded, decoded, classified):
    network = gaussian_parts(SCHEDULER)
    run(make(num_inference_steps=4, **options), images(1), network)
    assert [time for time, _ in network.denoiser.calls] == encoded + decoded
    assert Counter(str(labels) for _, labels in network.denoiser.calls) == {"[0]": len(encoded + decoded)}
    assert network.classifier.calls == classified


def test_released_start_is_noised_at_index_0():
    streams, x = SliceGenerator(3, [0, 1]), images(2)
    start = make(released_loop=True).start(x, streams)
    assert torch.equal(start, SCHEDULER.add_noise(x, streams.at(0).randn(x.shape), 0))
    assert torch.equal(make().start(x, streams), x)


def test_images_may_be_in_another_range():
    x = images(2)
    half = run(make(image_range=(0, 1)), 2 * x - 1).reconstruction
    whole = run(make(image_range=(-1, 1)), x).reconstruction
    assert torch.allclose(2 * whole - 1, half, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance_scale": -1}, "guidance_scale must be a number in"),
        ({"noise_level": 0}, r"noise_level must be a whole number in \[1, 99\], got 0"),
        ({"noise_level": 100}, r"noise_level must be a whole number in \[1, 99\], got 100"),
        ({"num_inference_steps": 13}, r"num_inference_steps must be a whole number in \[1, 12\], got 13"),
        ({"num_inference_steps": 5}, "num_inference_steps must divide noise_level 12, got 5"),
        ({"num_inference_steps": 1, "released_loop": True}, "num_inference_steps must be 2 or more in the released"),
        ({"image_range": (1, 0)}, "image_range must be two rising numbers"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=f"DDIMClassifier: {message}"):
        make(**options)


@pytest.mark.parametrize("part", ["denoiser", "classifier"])
def test_parts_of_other_images_are_refused(part):
    check_refuses_other_channels(make(), part)
    check_refuses_missing_part(make(), None if part == "denoiser" else "denoiser", part)


def test_classifier_of_another_size_is_refused():
    network = gaussian_parts(SCHEDULER)
    network.classifier.image_size = (8, 8)
    with pytest.raises(ValueError, match=r"classifier takes images of \(8, 8\), these are \(6, 6\)"):
        run(make(), images(), network)


def test_task_tells_the_class_of_noised_images():
    task, labels = ClassifierTask(SCHEDULER, (-1.0, 1.0)), torch.tensor([0, 1] * 500)
    clean = torch.full((1000, 1, 4, 4), 0.75)
    torch.manual_seed(4)
    noised, target, keywords = task.example(clean, labels, Draws())
    assert torch.equal(target, labels)
    times = keywords["timesteps"]
    assert set(keywords) == {"timesteps"}
    assert stats.chisquare(torch.bincount(times // 10, minlength=10)).pvalue > 1e-3
    a = torch.tensor([SCHEDULER.alpha_bar(int(t)) for t in times])[:, None, None, None]
    noise = (noised - 0.5 * a.sqrt()) / (1 - a).sqrt()
    assert stats.kstest(noise.flatten()[::7], "norm").pvalue > 1e-3
    torch.manual_seed(4)
    assert torch.equal(task.example(clean, labels, Draws())[0], noised)


@pytest.mark.parametrize("labels", [None, torch.zeros(3), torch.zeros(2, 1)])
def test_task_needs_labels(labels):
    with pytest.raises(ValueError, match="ClassifierTask: image labels are needed"):
        ClassifierTask(SCHEDULER).example(torch.zeros(2, 1, 4, 4), labels, Draws())
