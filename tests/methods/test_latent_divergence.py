import numpy as np
import pytest
import torch
from latent_networks import noise_denoiser
from monai.inferers import DiffusionInferer
from monai.networks.schedulers import DDPMScheduler

from scripts.methods.latent_divergence import healthy_percentile, noise_divergence, smoothed_mask
from scripts.schedulers import GaussianScheduler
from scripts.smoothing import gaussian_smooth

BETAS = {"schedule": "scaled_linear_beta", "beta_start": 0.0015, "beta_end": 0.0195}


def scheduler(**changes):
    return GaussianScheduler(1000, **(BETAS | {"clip_range": None} | changes))


def latents():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_divergence_is_monais():
    """Its own noise is the same for all times; its maps come in the order of the scheduler's timesteps."""
    times, denoiser = [1, 5, 400, 487, 600, 999], noise_denoiser()
    theirs = DDPMScheduler(1000, clip_sample=False, **BETAS)
    theirs.timesteps = torch.tensor(times)
    torch.manual_seed(3)
    with torch.no_grad():
        _, maps = DiffusionInferer(theirs).get_likelihood(latents(), denoiser, save_intermediates=True, verbose=False)
        torch.manual_seed(3)
        noise = torch.randn_like(latents())
        for timestep, expected in zip(times, maps, strict=True):
            ours = noise_divergence(scheduler(), denoiser, latents(), timestep, noise)
            assert ours.shape == expected.shape and expected.std() > 0
            # In MONAI's single precision 1 - abar loses digits at the first times.
            error, largest = (ours - expected).abs().max(), expected.max()
            assert error < (5e-3 if timestep < 10 else 1e-5) * largest, timestep


@pytest.mark.parametrize("timestep", [1, 30, 600])
def test_divergence_is_that_of_two_gaussians(timestep):
    """From the posterior's moments, and torch's closed form."""
    process, denoiser = scheduler(), noise_denoiser()
    noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    z_t = process.add_noise(latents().double(), noise.double(), timestep)
    with torch.no_grad():
        epsilon = denoiser(z_t.float(), timesteps=torch.full((2,), timestep)).double()
        ours = noise_divergence(process, denoiser, latents(), timestep, noise)
    predicted = process.predict_original_sample(epsilon, z_t, timestep)
    (true, variance), (model, _) = (process.posterior(z_t, z_0, timestep) for z_0 in (latents().double(), predicted))
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(true, variance**0.5), normal(model, variance**0.5))
    assert (ours - expected).abs().max() < 1e-5 * expected.max()


def test_the_step_to_the_clean_latent_has_none():
    with pytest.raises(ValueError, match="timestep must be at least 1, got 0"):
        noise_divergence(scheduler(), noise_denoiser(), latents(), 0, latents())


@pytest.mark.parametrize("percentile", [0, 50, 97.5, 100])
def test_percentile_pools_all_places(percentile):
    maps = [torch.rand(3, 1, 8, 8) ** 3, torch.rand(2, 1, 4, 6), np.random.default_rng(0).random((1, 1, 5, 5))]
    pooled = np.sort(np.concatenate([np.asarray(m, dtype=float).ravel() for m in maps]))
    threshold = healthy_percentile(iter(maps), percentile)
    assert threshold == pytest.approx(np.percentile(pooled, percentile))
    above = (pooled > threshold).mean()
    assert above == pytest.approx(1 - percentile / 100, abs=1 / len(pooled))


@pytest.mark.parametrize(
    ("maps", "percentile", "message"),
    [
        ([], 97.5, "there is no healthy slice to take the percentile of"),
        ([torch.zeros(0, 1, 4, 4)], 97.5, "there is no healthy slice to take the percentile of"),
        ([torch.tensor([1.0, torch.nan])], 97.5, "is not a number"),
        ([torch.ones(3)], 101, r"percentile must lie in \[0, 100\], got 101"),
    ],
)
def test_what_has_no_percentile_is_refused(maps, percentile, message):
    with pytest.raises(ValueError, match=message):
        healthy_percentile(maps, percentile)


def test_mask_becomes_blocks_and_is_smoothed_in_places_of_the_latent():
    mask = torch.rand(2, 1, 4, 6) < 0.4
    blocks = torch.from_numpy(np.kron(mask.numpy(), np.ones((8, 8)))).float()
    assert torch.equal(smoothed_mask(mask, (32, 48), 0.0), blocks)
    smooth = smoothed_mask(mask, (32, 48), 0.5)
    assert torch.allclose(smooth, gaussian_smooth(blocks, 4.0), atol=1e-6)
    assert smooth.min() >= 0 and smooth.max() <= 1
    assert torch.equal(smoothed_mask(torch.ones_like(mask), (32, 48), 0.5), torch.ones(2, 1, 32, 48))
