import json

import pytest
import torch
from latent_networks import images, ldm_parts
from monai.networks.nets import VQVAE
from monai.networks.schedulers import DDPMScheduler
from torch import nn

from scripts.methods.latent_divergence import healthy_percentile, noise_divergence, smoothed_mask
from scripts.methods.ldm_mask import LatentDiffusionMask, LatentNoiseTask
from scripts.noise import Draws, SliceGenerator
from scripts.schedulers import GaussianScheduler

SCALE, T = 1.7, 50
BETAS = {"schedule": "scaled_linear_beta", "beta_start": 0.015, "beta_end": 0.2}
PLAIN = {"inpainting": False, "mask_residual": False}
INPAINTED = {"mask_residual": False}


def scheduler(**changes):
    return GaussianScheduler(T, **(BETAS | {"clip_range": None} | changes))


def method(**changes):
    small = {"kl_first": 20, "kl_last": 30, "kl_stride": 5, "noise_level": 12, "kl_threshold": 0.02}
    return LatentDiffusionMask(**({"scheduler": scheduler(), "latent_scale": SCALE} | small | changes))


def restore(own, network, batch, places, seed=3):
    counted = []
    with torch.no_grad():
        encoded = own.encode(batch, network)
        streams = SliceGenerator(seed, places)
        return own.restore(batch, encoded, network, streams, lambda: counted.append(1)), encoded, counted


def threshold_of(network, batch, **changes):
    """Half of the places are above it."""
    return healthy_percentile([restore(method(**changes), network, batch, [0, 1])[0].evidence["kl"]], 50)


@pytest.fixture(scope="module")
def network():
    return ldm_parts()


@pytest.mark.parametrize("shared", [False, True])
def test_divergence_is_averaged_over_times_and_channels(network, shared):
    own, batch = method(shared_noise=shared), images(2)
    result, encoded, _ = restore(own, network, batch, [4, 1])
    streams, maps, noises = SliceGenerator(3, [4, 1]), [], []
    for t in (20, 25, 30):
        noises.append(streams.at(2 * (T + 1) + (1 if shared else t + 1)).randn(encoded.shape))
        with torch.no_grad():
            maps.append(noise_divergence(own.scheduler, network.denoiser, encoded, t, noises[-1]))
    if shared:
        own_draw = streams.at(own._draw(2, 0)).randn(encoded.shape)
        assert torch.equal(own_draw, noises[0])
    expected = torch.stack(maps).mean(dim=0).mean(dim=1, keepdim=True)
    assert expected.std() > 0.01 * expected.mean()
    assert torch.allclose(result.evidence["kl"], expected, rtol=1e-5)
    assert torch.allclose(result.slice_scores["kl"], expected.mean(dim=(1, 2, 3)), rtol=1e-5)


def test_inpainting_by_monais_steps(network):
    """The unknown by MONAI's ancestral step with the posterior's variance, the known by its forward process."""
    batch = images(2)
    own = method(kl_threshold=threshold_of(network, batch))
    result, encoded, counted = restore(own, network, batch, [0, 1])
    mask = result.evidence["inpainting_mask"] > 0
    assert torch.equal(mask, result.evidence["kl"] > own.kl_threshold) and 0.3 < mask.float().mean() < 0.7
    assert own.passes == len(counted) == 3 + 12
    streams, theirs = SliceGenerator(3, [0, 1]), DDPMScheduler(T, clip_sample=False, **BETAS)

    def noised(t, step):
        return theirs.add_noise(encoded, streams.at(step).randn(encoded.shape), torch.tensor([t, t]))

    sample = noised(11, 12)
    for t in range(11, -1, -1):
        with torch.no_grad():
            epsilon = network.denoiser(sample, timesteps=torch.tensor([t, t]))
        # MONAI's step draws its noise itself: its mean, from a step to which nothing is added, and ours on top.
        variance, theirs._get_variance = theirs._get_variance(t) if t else 0, lambda *a, **k: torch.zeros(())
        mean, _ = theirs.step(epsilon, t, sample)
        del theirs._get_variance
        if t == 0:
            sample = torch.where(mask, mean, encoded)
            break
        unknown = mean + variance**0.5 * streams.at(t).randn(encoded.shape)
        sample = torch.where(mask, unknown, noised(t - 1, T + 1 + t))
    with torch.no_grad():
        healed = own.heal(encoded, mask, network.denoiser, streams, lambda: None)
        expected = network.autoencoder.decode_stage_2_outputs(healed / SCALE)
    # The codebook hides small differences of latents: they are compared by themselves.
    assert (healed - encoded)[mask.expand_as(encoded)].abs().mean() > 0.05
    assert torch.equal(healed[~mask.expand_as(encoded)], encoded[~mask.expand_as(encoded)])
    assert torch.allclose(healed, sample, atol=1e-4)
    assert torch.equal(result.reconstruction, expected)
    residual = (batch - result.reconstruction).abs().mean(dim=1, keepdim=True)
    weighted = residual * smoothed_mask(mask, (32, 32), 0.5)
    assert torch.allclose(result.evidence["masked_residual"], weighted)
    assert torch.allclose(result.slice_scores["mask_share"], mask.float().mean(dim=(1, 2, 3)))


def test_the_three_published_levels(network):
    batch = images(2)
    threshold = threshold_of(network, batch)
    plain, inpainted, masked = (
        restore(method(kl_threshold=threshold, **level), network, batch, [0, 1])[0] for level in (PLAIN, INPAINTED, {})
    )
    for result in (plain, inpainted):
        residual = (batch - result.reconstruction).abs().mean(dim=1, keepdim=True)
        assert torch.equal(result.evidence["masked_residual"], residual)
    assert (plain.evidence["inpainting_mask"] == 1).all()
    assert torch.equal(inpainted.reconstruction, masked.reconstruction)
    assert not torch.allclose(plain.reconstruction, masked.reconstruction, atol=1e-3)
    # Where the denoiser found nothing unusual nearby, nothing is left of the residual.
    below = masked.evidence["masked_residual"] <= inpainted.evidence["masked_residual"] + 1e-6
    assert below.all() and (masked.evidence["masked_residual"] < inpainted.evidence["masked_residual"]).any()


def test_without_a_mask_it_is_the_plain_reverse_process(network):
    """Nothing above the threshold: the latent comes back, and the map is 0."""
    result, encoded, _ = restore(method(kl_threshold=1e9), network, images(2), [0, 1])
    with torch.no_grad():
        assert torch.equal(result.reconstruction, network.autoencoder.decode_stage_2_outputs(encoded / SCALE))
    assert (result.evidence["masked_residual"] == 0).all() and (result.slice_scores["mask_share"] == 0).all()


@pytest.mark.parametrize("changes", [{}, {"num_inference_steps": 4, "eta": 0.0}, PLAIN])
def test_a_batch_equals_its_single_runs_and_a_seed_replays(network, changes):
    batch, places = images(3), [4, 0, 9]
    own = method(kl_threshold=threshold_of(network, batch[:2]), **changes)
    together, again = (restore(own, network, batch, places)[0] for _ in range(2))
    other = restore(own, network, batch, places, seed=4)[0]
    assert torch.equal(together.reconstruction, again.reconstruction)
    assert not torch.allclose(together.reconstruction, other.reconstruction, atol=1e-3)
    for row, place in enumerate(places):
        alone = restore(own, network, batch[row : row + 1], [place])[0]
        assert torch.allclose(alone.evidence["kl"][0], together.evidence["kl"][row], rtol=1e-4)
        assert torch.equal(alone.evidence["inpainting_mask"][0], together.evidence["inpainting_mask"][row])
        assert torch.allclose(alone.reconstruction[0], together.reconstruction[row], atol=1e-3)


def test_autoencoders_of_monai_will_do(network):
    ours = network.autoencoder
    theirs = VQVAE(
        spatial_dims=2,
        in_channels=2,
        out_channels=2,
        channels=(8, 8),
        num_res_channels=(8, 8),
        num_res_layers=1,
        downsample_parameters=((2, 4, 1, 1),) * 2,
        upsample_parameters=((2, 4, 1, 1, 0),) * 2,
        num_embeddings=16,
        embedding_dim=3,
    ).eval()
    theirs.load_state_dict(ours.state_dict())
    other = type(network)(autoencoder=theirs, denoiser=network.denoiser)
    a, b = (restore(method(), parts, images(1), [0])[0] for parts in (network, other))
    assert torch.equal(a.reconstruction, b.reconstruction)


def test_a_network_that_fails_shows_in_its_own_slice(network):
    class Failing(nn.Module):
        def forward(self, sample, timesteps):
            output = torch.zeros_like(sample)
            output[1] = torch.nan
            return output

    parts = type(network)(autoencoder=network.autoencoder, denoiser=Failing())
    scores = restore(method(), parts, images(2), [0, 1])[0].slice_scores
    for name in LatentDiffusionMask.slice_scores:
        assert scores[name][0].isfinite() and scores[name][1].isnan(), name


def test_default_times_are_the_papers():
    own = LatentDiffusionMask(scheduler=GaussianScheduler(1000, clip_range=None), latent_scale=1.0, kl_threshold=1.0)
    assert own.kl_timesteps == list(range(400, 601)) and own.passes == 201 + 500
    assert own.trial().passes == 2
    assert own.replace(num_inference_steps=50, noise_level=20).passes == 201 + 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kl_threshold": None}, "kl_threshold is None.*97.5th percentile of the KL maps of healthy validation slices"),
        ({"kl_threshold": -1.0}, "kl_threshold must be a number.*got -1.0"),
        ({"latent_scale": 0}, "latent_scale must be a number.*got 0"),
        ({"kl_first": 0}, r"kl_first must be a whole number in \[1, 49\], got 0"),
        ({"kl_last": 10}, r"kl_last must be a whole number in \[20, 49\], got 10"),
        ({"kl_stride": 0}, "kl_stride must be a whole number.*got 0"),
        ({"noise_level": 51}, r"noise_level must be a whole number in \[1, 50\], got 51"),
        ({"num_inference_steps": 13}, r"num_inference_steps must be a whole number in \[1, 12\], got 13"),
        ({"eta": 2}, r"eta must be a number in \[0, 1\], got 2"),
        ({"inpainting": False}, "mask_residual needs inpainting"),
        ({"scheduler": scheduler(clip_range=(-1, 1))}, "clip_range must be None for latents"),
        ({"scheduler": scheduler(prediction_type="sample")}, "prediction_type must be 'epsilon', got 'sample'"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        method(**changes)


def test_the_plain_level_needs_no_threshold():
    assert method(kl_threshold=None, **PLAIN).describe()["kl_threshold"] is None
    assert json.loads(json.dumps(method().describe()))["name"] == "LatentDiffusionMask"


def test_task_teaches_the_noise(network):
    task, batch = LatentNoiseTask(network.autoencoder, scheduler(), SCALE), images(3)
    with torch.no_grad():
        clean = task.encode(batch)
        assert torch.equal(clean, method().encode(batch, network))
    torch.manual_seed(0)
    noisy, noise, keywords = task.example(clean, None, Draws())
    theirs = DDPMScheduler(T, clip_sample=False, **BETAS)
    assert torch.allclose(noisy, theirs.add_noise(clean, noise, keywords["timesteps"]), atol=1e-5)
    assert noise.std() > 0.8 and keywords["timesteps"].shape == (3,)
    with pytest.raises(ValueError, match=r"latent_scale must be a number.*got -2"):
        LatentNoiseTask(network.autoencoder, scheduler(), -2)
