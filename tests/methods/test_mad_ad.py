import functools
import json

import pytest
import torch
from latent_networks import images, mad_ad_parts, mask_denoiser
from scipy.ndimage import gaussian_filter
from torch import nn

from scripts.methods.mad_ad import MadAd, MadAdLoss, MadAdTask, difference_map
from scripts.noise import Draws, SliceGenerator
from scripts.schedulers import GaussianScheduler

SCALE = 0.7


def scheduler(count=10, **changes):
    return GaussianScheduler(count, "cosine", **({"prediction_type": "sample", "clip_range": None} | changes))


def method(**changes):
    return MadAd(**({"scheduler": scheduler(), "latent_scale": SCALE} | changes))


def restore(own, network, batch, places, seed=3):
    counted = []
    with torch.no_grad():
        encoded = own.encode(batch, network)
        streams = SliceGenerator(seed, places)
        return own.restore(batch, encoded, network, streams, lambda: counted.append(1)), encoded, counted


@pytest.mark.parametrize(("eta", "steps"), [(0.5, 10), (0.0, 5), (1.0, 4)])
def test_loop_by_brute_force(eta, steps):
    """Every formula of the sampler written out in float64, cell by cell decisions included."""
    network, own, batch = shared_parts(), method(eta=eta, num_inference_steps=steps), images(2)
    abar = own.scheduler.alpha_bar
    stride = {10: 1, 5: 2, 4: 3}[steps]
    times = list(range(0, 10, stride))
    with torch.no_grad():
        mean = network.autoencoder.encode(batch)[:, :3]
        z = SCALE * mean
        masks, share = 0, 0
        for number in reversed(range(len(times))):
            t = times[number]
            output = network.denoiser(z, timesteps=torch.tensor([t, t]))
            x0, k = output[:, :3].double(), output[:, 3:]
            a, p = abar(t), abar(times[number - 1]) if number else 1.0
            eps = (z.double() / a**0.5 - x0) / (1 / a - 1) ** 0.5
            s = eta * ((1 - p) / (1 - a)) ** 0.5 * (1 - a / p) ** 0.5
            n = SliceGenerator(3, [5, 2]).at(times[number - 1] + 1).randn(z.shape) if number else 0
            new = p**0.5 * x0 + max(1 - p - s**2, 0) ** 0.5 * eps + s * n
            z = torch.where(k < 0.5, new.float(), z)
            masks, share = masks + (1 - k) / steps, share + (k < 0.5).float().mean(dim=(1, 2, 3)) / steps
        decoded, corrected = (network.autoencoder.decode(v / SCALE) for v in (SCALE * mean, z))
    result, _, counted = restore(own, network, batch, [5, 2])
    assert share.min() > 0.05 and share.max() < 0.95, "both kinds of places are wanted"
    assert own.passes == len(counted) == steps
    assert torch.allclose(result.reconstruction, corrected, atol=1e-4)
    assert (corrected - decoded).abs().max() > 1e-2
    assert torch.allclose(result.evidence["predicted_mask"], masks, atol=1e-5)
    assert torch.allclose(result.slice_scores["mask_share"], share)
    expected = difference_map(decoded, corrected, own.difference_limit, own.sigma)
    assert torch.allclose(result.evidence["image_difference"], expected, atol=1e-4)
    assert tuple(result.evidence) == MadAd.evidence and tuple(result.slice_scores) == MadAd.slice_scores


def test_map_by_brute_force():
    decoded, corrected = (torch.rand(2, 3, 20, 28, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    corrected = decoded + 0.3 * (corrected - 0.5)
    maps = difference_map(decoded, corrected, limit=0.125, sigma=2.0)
    for row in range(2):
        largest = (decoded - corrected).abs()[row].max(dim=0).values
        expected = gaussian_filter((largest.clamp(max=0.125) * 8).double().numpy(), 2.0)
        assert torch.allclose(maps[row, 0].double(), torch.from_numpy(expected), atol=1e-6)
    # Images in [-1, 1] and the authors' limit are the same map.
    assert torch.allclose(difference_map(2 * decoded - 1, 2 * corrected - 1, 0.25, 2.0), maps, atol=1e-5)


def test_a_batch_equals_its_single_runs_and_a_seed_replays():
    network, own, batch, places = shared_parts(), method(), images(3), [4, 0, 9]
    together, encoded, _ = restore(own, network, batch, places)
    assert encoded.shape == (3, 3, 8, 8)
    again, other = restore(own, network, batch, places)[0], restore(own, network, batch, places, seed=4)[0]
    assert torch.equal(together.reconstruction, again.reconstruction)
    assert not torch.allclose(together.reconstruction, other.reconstruction, atol=1e-3)
    for row, place in enumerate(places):
        alone = restore(own, network, batch[row : row + 1], [place])[0]
        assert torch.allclose(alone.reconstruction[0], together.reconstruction[row], atol=1e-4)
        for name in MadAd.evidence:
            assert torch.allclose(alone.evidence[name][0], together.evidence[name][row], atol=1e-4)


def test_nothing_below_the_threshold_leaves_the_decoded_latent():
    network, batch = shared_parts(), images(2)
    result, encoded, _ = restore(method(mask_threshold=0.0), network, batch, [0, 1])
    with torch.no_grad():
        assert torch.equal(result.reconstruction, network.autoencoder.decode(encoded / SCALE))
    assert (result.slice_scores["mask_share"] == 0).all() and (result.evidence["image_difference"] == 0).all()


def test_a_network_that_fails_shows_in_its_own_slice():
    class Failing(nn.Module):
        def forward(self, sample, timesteps):
            output = torch.full((len(sample), 4, 8, 8), 0.1)
            output[1] = torch.nan if timesteps[0] == 5 else 0.1
            return output

    network = mad_ad_parts()
    network.denoiser = Failing()
    share = restore(method(), network, images(2), [0, 1])[0].slice_scores["mask_share"]
    assert share[0] == 1 and share[1].isnan()


@pytest.mark.parametrize(
    ("steps", "times"),
    [(10, list(range(9, -1, -1))), (5, [8, 6, 4, 2, 0]), (4, [9, 6, 3, 0]), (3, [8, 4, 0]), (2, [5, 0])],
)
def test_times_of_fewer_steps(steps, times):
    own = method(num_inference_steps=float(steps))
    assert own.timesteps == times and own.passes == steps
    assert own.trial().passes == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_inference_steps": 1}, r"num_inference_steps must be one of 2, 3, 4, 5, 10.*got 1"),
        ({"num_inference_steps": 7}, r"num_inference_steps must be one of 2, 3, 4, 5, 10.*got 7"),
        ({"num_inference_steps": 11}, r"num_inference_steps must be a whole number in \[1, 10\], got 11"),
        ({"latent_scale": 0.0}, r"latent_scale must be a number in \[1e-06, 1e\+06\], got 0.0"),
        ({"latent_scale": -1}, "latent_scale must be a number.*got -1"),
        ({"mask_threshold": 1.5}, r"mask_threshold must be a number in \[0, 1\], got 1.5"),
        ({"eta": -0.1}, r"eta must be a number in \[0, 1\], got -0.1"),
        ({"sigma": -1}, "sigma must be a number.*got -1"),
        ({"difference_limit": 0}, "difference_limit must be a number.*got 0"),
        ({"scheduler": scheduler(prediction_type="epsilon")}, "prediction_type must be 'sample', got 'epsilon'"),
        ({"scheduler": scheduler(clip_range=(-1, 1))}, r"clip_range must be None for latents, got \(-1.0, 1.0\)"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        method(**changes)


def test_description_and_replacement():
    own = method(eta=0.25)
    assert json.loads(json.dumps(own.describe()))["latent_scale"] == SCALE
    assert own.describe() != own.replace(latent_scale=0.5).describe()
    assert own.replace(num_inference_steps=5).eta == 0.25


@functools.cache
def shared_parts():
    """Networks that no test changes."""
    return mad_ad_parts()


def example(seed=0, count=3, **changes):
    network = shared_parts()
    task = MadAdTask(network.autoencoder, scheduler(), SCALE, block=8, **changes)
    batch = images(count)
    with torch.no_grad():
        clean = task.encode(batch)
        torch.manual_seed(seed)
        return clean, task.example(clean, None, Draws()), network, batch


def test_task_noises_masked_places_inside_the_brain_and_nothing_else():
    kinds = []
    for seed in range(12):
        clean, (noisy, target, keywords), network, batch = example(seed, max_mask_ratio=1.0)
        latent, keep, times = target[:, :3], target[:, 3:], keywords["timesteps"]
        with torch.no_grad():
            assert torch.equal(clean[:, :6], network.autoencoder.encode(batch))
        # Columns 0 to 3 and 30, 31 of the images are background: the outer blocks of 8 pixels, 2 places, are border.
        brain = torch.zeros(1, 1, 8, 8)
        brain[..., 2:6] = 1
        assert torch.equal(clean[:, 6:], brain.expand(3, 1, 8, 8))
        assert set(keep.unique().tolist()) <= {0.0, 1.0}
        assert (keep[..., :2] == 1).all() and (keep[..., 6:] == 1).all()
        kept = keep.expand_as(latent) == 1
        assert torch.equal(noisy[kept], latent[kept])
        # The rest has noise of the time's deviation.
        signal = torch.tensor([scheduler().alpha_bar(t) for t in times.tolist()]).sqrt().reshape(3, 1, 1, 1)
        noise = (noisy - signal * latent) / (1 - signal**2).sqrt()
        kinds.append(noise[~kept])
        # A draw of the posterior, not its mean.
        drawn = (latent / SCALE - clean[:, :3]) / clean[:, 3:6]
        assert abs(drawn.mean()) < 0.25 and 0.8 < drawn.std() < 1.2
    noise = torch.cat(kinds)
    assert len(noise) > 300
    assert abs(noise.mean()) < 5 / len(noise) ** 0.5 and noise.std().item() == pytest.approx(1, abs=0.1)


def test_task_replays_and_draws_all_times():
    first, second, other = (example(seed)[1] for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first[:2], second[:2], strict=True))
    assert not torch.equal(first[0], other[0])
    times = torch.cat([example(seed, count=8)[1][2]["timesteps"] for seed in range(12)])
    assert set(times.tolist()) == set(range(10))


def test_no_ratio_no_noise():
    _, (noisy, target, _), _, _ = example(max_mask_ratio=0.0)
    assert torch.equal(noisy, target[:, :3]) and (target[:, 3] == 1).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latent_scale": 0}, "latent_scale must be a number.*got 0"),
        ({"latent_scale": 1.0, "max_mask_ratio": 2}, r"max_mask_ratio must be a number in \[0, 1\], got 2"),
        (
            {"latent_scale": 1.0, "size_probabilities": (0.5, 0.5)},
            r"size_probabilities must be 4 numbers.*\[0.5, 0.5\]",
        ),
        ({"latent_scale": 1.0, "scheduler": scheduler(prediction_type="epsilon")}, "must be 'sample'"),
    ],
)
def test_bad_arguments_of_the_task_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        MadAdTask(**({"autoencoder": mad_ad_parts().autoencoder, "scheduler": scheduler()} | arguments))


def test_loss_by_hand():
    prediction, target = torch.randn(2, 4, 5, 5), torch.randn(2, 4, 5, 5)
    error = (prediction - target).square()
    expected = error[:, :3].mean() + 0.001 * error[:, 3].mean()
    assert MadAdLoss()(prediction, target).item() == pytest.approx(expected.item())
    assert MadAdLoss(2.0)(prediction, target) == pytest.approx((error[:, :3].mean() + 2 * error[:, 3].mean()).item())


def test_a_few_steps_of_training_lower_the_loss():
    _, (noisy, target, keywords), _, _ = example()
    denoiser = mask_denoiser()
    loss, optimiser = MadAdLoss(0.1), torch.optim.Adam(denoiser.parameters(), 1e-2)
    losses = []
    for _ in range(10):
        optimiser.zero_grad()
        value = loss(denoiser(noisy, **keywords), target)
        value.backward()
        optimiser.step()
        losses.append(value.item())
    assert losses[-1] < 0.7 * losses[0]
