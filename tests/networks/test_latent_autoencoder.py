import pytest
import torch
from latent_networks import gaussian_autoencoder, images, ldm_parts, quantizing_autoencoder
from monai.networks.nets import VQVAE, AutoencoderKL

from scripts.networks import Parts
from scripts.networks.latent_autoencoder import GaussianAutoencoder, QuantizingAutoencoder
from scripts.noise import SliceGenerator

BOTH = {"Gaussian": gaussian_autoencoder, "quantised": quantizing_autoencoder}


@pytest.fixture(params=BOTH)
def autoencoder(request):
    return BOTH[request.param]()


def test_published_numbers_of_parameters():
    with torch.device("meta"):
        quantised = QuantizingAutoencoder(
            in_channels=1,
            out_channels=1,
            channels=(64, 128, 128),
            num_res_channels=(64, 128, 128),
            num_res_layers=2,
            downsample_parameters=((2, 4, 1, 1),) * 3,
            upsample_parameters=((2, 4, 1, 1, 0),) * 3,
            num_embeddings=512,
            embedding_dim=3,
        )
        gaussian = GaussianAutoencoder(
            in_channels=1,
            out_channels=1,
            latent_channels=4,
            channels=(128, 256, 512, 512),
            num_res_blocks=2,
            attention_levels=(False,) * 4,
        )
    assert sum(p.numel() for p in quantised.parameters()) == 3_454_340
    assert round(sum(p.numel() for p in gaussian.parameters()) / 1e6, 1) == 72.7
    assert quantised.compression == gaussian.compression == 8


def test_gaussian_latent_is_monais():
    ours = gaussian_autoencoder()
    monais = AutoencoderKL(
        spatial_dims=2,
        in_channels=2,
        out_channels=2,
        channels=(8, 8, 8),
        num_res_blocks=1,
        attention_levels=(False,) * 3,
        latent_channels=3,
        norm_num_groups=4,
        with_encoder_nonlocal_attn=False,
        with_decoder_nonlocal_attn=False,
    ).eval()
    monais.load_state_dict(ours.state_dict())
    with torch.no_grad():
        latent, (mean, deviation) = ours.encode(images(2)), monais.encode(images(2))
        assert torch.equal(latent, torch.cat([mean, deviation], dim=1))
        assert torch.equal(ours.reconstruct(images(2)), monais.reconstruct(images(2)))
        reconstruction, *parts = ours(images(2), SliceGenerator(3, [0, 1]))
        noise = SliceGenerator(3, [0, 1]).randn(mean.shape)
        assert torch.equal(reconstruction, monais.decode(mean + deviation * noise))
        assert all(torch.equal(a, b) for a, b in zip(parts, (mean, deviation), strict=True))
        torch.manual_seed(0)
        drawn = ours.encode_stage_2_inputs(images(2))
        torch.manual_seed(0)
        assert torch.allclose(drawn, mean + deviation * torch.randn(mean.shape))


def test_quantised_latent_is_monais_and_the_nearest_entry():
    ours = quantizing_autoencoder()
    monais = VQVAE(
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
    monais.load_state_dict(ours.state_dict())
    with torch.no_grad():
        reconstruction, encoded, quantised = ours(images(2))
        assert torch.equal(reconstruction, monais(images(2))[0])
        assert torch.equal(ours.reconstruct(images(2)), reconstruction)
        assert torch.equal(ours.encode_stage_2_inputs(images(2)), monais.encode_stage_2_inputs(images(2)))
        assert torch.equal(ours.decode_stage_2_outputs(encoded), monais.decode_stage_2_outputs(encoded))
    book, places = ours.quantizer.quantizer.embedding.weight, encoded.movedim(1, -1).reshape(-1, 3)
    nearest = (places[:, None] - book[None]).square().sum(dim=-1).argmin(dim=1)
    assert len(nearest.unique()) > 4
    assert torch.allclose(quantised.movedim(1, -1).reshape(-1, 3), book[nearest], atol=1e-6)


def test_entries_are_chosen_in_full_precision_under_autocast():
    """Thousands of latents, so that some lie between two entries, where bfloat16 takes the other."""
    network = quantizing_autoencoder()
    encoded = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network.quantize(encoded)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(network.quantize(encoded), expected)


def test_codebook_follows_the_latents_in_training_alone():
    network = quantizing_autoencoder()
    book = network.quantizer.quantizer.embedding.weight
    before = book.clone()
    network(images(2))
    assert torch.equal(book, before)
    network.train()
    network(images(2))
    assert not torch.equal(book, before)
    assert network.quantizer.quantizer.decay == 0.99


def test_verbs_have_the_types_and_shapes_of_ours(autoencoder):
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        latent = autoencoder.encode(images(2))
        drawn = autoencoder.quantize(latent, torch.Generator().manual_seed(0))
        decoded = autoencoder.decode(drawn)
        outputs = autoencoder(images(2), torch.Generator().manual_seed(0))
    assert autoencoder.compression == 4
    assert latent.shape[2:] == drawn.shape[2:] == (8, 8) and drawn.shape[1] == 3
    assert decoded.shape == outputs[0].shape == (2, 2, 32, 32)
    assert {value.dtype for value in (latent, drawn, decoded, *outputs)} == {torch.float32}


def test_draws_replay_and_a_batch_equals_its_single_runs(autoencoder):
    batch, places = images(3), [4, 0, 9]
    with torch.no_grad():
        together = autoencoder(batch, SliceGenerator(1, places))[0]
        again = autoencoder(batch, SliceGenerator(1, places))[0]
        alone = torch.cat([autoencoder(batch[i : i + 1], SliceGenerator(1, [p]))[0] for i, p in enumerate(places)])
    assert torch.equal(together, again)
    assert torch.allclose(together, alone, atol=1e-5)


def test_reconstruction_error_reaches_every_weight_of_the_encoder(autoencoder):
    autoencoder.train()
    reconstruction, *_ = autoencoder(images(2), torch.Generator().manual_seed(0))
    reconstruction.square().mean().backward()
    gradients = [weight.grad for weight in autoencoder.encoder.parameters()]
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (1, 2, 30, 32), (2, 32, 32)])
def test_images_that_do_not_fit_are_refused(autoencoder, shape):
    with pytest.raises(ValueError, match=r"\(B, 2, H, W\) with H and W multiples of 4") as error:
        autoencoder.encode(torch.zeros(shape))
    assert str(shape) in str(error.value)


def test_a_codebook_of_another_size_is_refused():
    network = ldm_parts()
    other = Parts(autoencoder=quantizing_autoencoder(num_embeddings=32), denoiser=ldm_parts().denoiser)
    with pytest.raises(
        RuntimeError, match=r"3 shapes differ \(first: autoencoder.quantizer.quantizer.ema_cluster_size"
    ):
        network.load_state_dict(other.state_dict())
