import pytest
import torch
from latent_networks import gaussian_autoencoder, images, quantizing_autoencoder
from monai.networks.nets import VQVAE
from scipy import integrate, stats

from scripts.training.losses import code_uncertainty as in_losses
from scripts.training.regularisers import code_uncertainty, commitment, gaussian_divergence


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (1.5, 0.4), (-0.3, 2.0), (0.0, 0.01)])
def test_divergence_is_the_integral(mean, deviation):
    own, normal = stats.norm(mean, deviation), stats.norm()

    def density(x):
        return own.pdf(x) * (own.logpdf(x) - normal.logpdf(x))

    expected, _ = integrate.quad(density, mean - 12 * deviation, mean + 12 * deviation)
    actual = gaussian_divergence(torch.full((1, 1), mean), torch.full((1, 1), deviation))
    assert actual.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_divergence_is_torchs_summed_over_a_latent_and_averaged_over_the_batch():
    mean, deviation = torch.randn(3, 2, 4, 5), torch.rand(3, 2, 4, 5) + 0.1
    normal = torch.distributions.Normal
    each = torch.distributions.kl_divergence(normal(mean, deviation), normal(0.0, 1.0))
    assert gaussian_divergence(mean, deviation).item() == pytest.approx(each.sum().item() / 3, rel=1e-5)


def test_regularisers_take_what_forward_returns():
    _, *latent = gaussian_autoencoder()(images(2), torch.Generator().manual_seed(0))
    assert gaussian_divergence(*latent) > 0
    network = quantizing_autoencoder()
    _, *latent = network(images(2))
    # MONAI's own loss, of the same network.
    _, expected = VQVAE.quantize(network, network.encode(images(2)))
    assert expected > 0
    assert commitment(*latent).item() == pytest.approx(expected.item(), rel=1e-5)


def test_commitment_pulls_the_encoder_and_not_the_codebook():
    encoded, quantised = (torch.randn(2, 3, 4, 4, requires_grad=True) for _ in range(2))
    commitment(encoded, quantised, commitment_cost=0.5).backward()
    assert torch.allclose(encoded.grad, 0.5 * 2 * (encoded - quantised).detach() / encoded.numel())
    assert quantised.grad is None


def test_that_of_codes_is_the_one_there_is():
    assert code_uncertainty is in_losses
