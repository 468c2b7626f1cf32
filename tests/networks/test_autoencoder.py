import copy

import pytest
import torch
from monai.networks.nets import DiffusionModelUNet

from scripts.networks import BinarizingAutoencoder, Parts

SMALL_AUTOENCODER = {
    "in_channels": 3,
    "channels": (8, 16),
    "num_res_blocks": 1,
    "embedding_channels": 24,
    "code_channels": 6,
    "norm_num_groups": 8,
}


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def count_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def published_denoiser(channels, num_head_channels):
    return DiffusionModelUNet(
        spatial_dims=2,
        in_channels=128,
        out_channels=128,
        channels=channels,
        num_res_blocks=2,
        attention_levels=(False, True, False, False),
        num_head_channels=num_head_channels,
        norm_num_groups=32,
        norm_eps=1e-5,
        include_fc=True,
    )


def small_network(seed=0, **changes):
    torch.manual_seed(seed)
    denoiser = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=6,
        out_channels=6,
        channels=(8, 16),
        num_res_blocks=1,
        attention_levels=(False, True),
        num_head_channels=16,
        norm_num_groups=8,
        include_fc=True,
    )
    return Parts(autoencoder=BinarizingAutoencoder(**(SMALL_AUTOENCODER | changes)), denoiser=denoiser).eval()


@pytest.mark.parametrize(
    ("channels", "num_head_channels", "parameters"),
    [((128, 256, 256, 256), 256, 36_034_432), ((64, 96, 96, 96), 96, 5_628_096)],
)
def test_denoiser_has_the_published_number_of_parameters(channels, num_head_channels, parameters):
    with torch.device("meta"):
        denoiser = published_denoiser(channels, num_head_channels)
    assert count_parameters(denoiser) == parameters


def test_autoencoder_has_the_published_number_of_used_parameters():
    with torch.device("meta"):
        autoencoder = BinarizingAutoencoder()
    assert count_parameters(autoencoder) == 4_103_716


@pytest.mark.parametrize(("channels", "size"), [((8, 16), (12, 20)), ((8, 16, 16), (12, 20))])
def test_code_and_reconstruction_shapes(channels, size):
    autoencoder = BinarizingAutoencoder(**(SMALL_AUTOENCODER | {"channels": channels})).eval()
    image = torch.rand(2, 3, *size)
    factor = 2 ** (len(channels) - 1)
    with torch.no_grad():
        reconstruction, probability = autoencoder(image)
    assert autoencoder.compression == factor
    assert probability.shape == (2, 6, size[0] // factor, size[1] // factor)
    assert reconstruction.shape == image.shape


def test_encode_gives_float32_probabilities_that_depend_on_the_image():
    autoencoder = small_network().autoencoder
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        probability = autoencoder.encode(images)
        reconstruction = autoencoder.decode((probability > 0.5).float())
    assert probability.dtype == reconstruction.dtype == torch.float32
    assert probability.min() > 0 and probability.max() < 1
    assert (probability[0] - probability[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "shape", [(1, 2, 16, 16), (1, 3, 15, 16), (1, 3, 16, 17), (3, 16, 16), (1, 3, 16, 16, 16), (1, 3, 16)]
)
def test_encode_names_the_wanted_and_the_seen_shape(shape):
    autoencoder = small_network().autoencoder
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\) with H and W multiples of 2") as error:
        autoencoder.encode(torch.zeros(shape))
    assert str(shape) in str(error.value)


def test_quantize_draws_bits_with_the_given_probability():
    probability = torch.tensor([0.0, 0.1, 0.5, 0.8, 1.0])[:, None].expand(5, 20_000)
    code = BinarizingAutoencoder.quantize(probability, torch.Generator().manual_seed(0))
    assert set(code.unique().tolist()) == {0.0, 1.0}
    shares = code.mean(dim=1)
    assert shares[0] == 0 and shares[4] == 1
    # Five standard deviations of the mean of 20,000 bits are at most 0.018.
    assert torch.allclose(shares, probability[:, 0], atol=0.018)


def test_quantize_repeats_with_its_generator_and_keeps_the_type():
    probability = torch.rand(4, 100, dtype=torch.float64)
    draws = [BinarizingAutoencoder.quantize(probability, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert draws[0].dtype == torch.float64
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_quantize_passes_gradients_straight_through_and_stays_binary():
    probability = torch.rand(3, 50, requires_grad=True)
    weights = torch.randn(3, 50)
    code = BinarizingAutoencoder.quantize(probability, torch.Generator().manual_seed(0))
    (code * weights).sum().backward()
    assert torch.equal(probability.grad, weights)
    drawn = BinarizingAutoencoder.quantize(probability.detach(), torch.Generator().manual_seed(0))
    assert torch.equal(code.detach(), drawn)


def test_reconstruction_error_reaches_the_encoder():
    autoencoder = small_network().autoencoder.train()
    reconstruction, _ = autoencoder(torch.rand(2, 3, 16, 16), torch.Generator().manual_seed(0))
    reconstruction.square().mean().backward()
    gradient = autoencoder.encoder.blocks[0].conv.weight.grad
    assert gradient is not None and gradient.abs().max() > 0


def test_forward_is_the_mean_residual_of_the_deterministic_code():
    network = small_network()
    image = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        residual = network(image)
        torch.rand(7)  # another state of the global generator must not matter
        again = network(image)
        bits = (network.autoencoder.encode(image) >= 0.5).float()
        decoded = network.autoencoder.decode(bits)
    assert residual.shape == (2, 1, 16, 16)
    assert torch.equal(residual, again)
    expected = sum((image[:, c] - decoded[:, c]).abs() for c in range(3)) / 3
    assert torch.allclose(residual[:, 0], expected, atol=1e-6)
    assert residual.std() > 1e-3


def test_load_state_dict_takes_over_both_networks():
    source, target = small_network(seed=1), small_network(seed=2)
    image = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert not torch.allclose(source(image), target(image))
        target.load_state_dict({key: tensor.clone() for key, tensor in source.state_dict().items()})
        assert torch.equal(source(image), target(image))
    for key, tensor in source.state_dict().items():
        assert torch.equal(tensor, target.state_dict()[key])


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("fault", ["missing", "foreign", "shape"])
def test_load_state_dict_refuses_other_weights_whatever_strict_says(fault, strict):
    network, state = small_network(seed=1), small_network(seed=2).state_dict()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    key = "denoiser.conv_in.conv.weight"
    if fault == "missing":
        del state[key]
    elif fault == "foreign":
        key = "discriminator.weight"
        state[key] = torch.zeros(1)
    else:
        state[key] = state[key][:, :-1]
    message = {"missing": "1 keys missing", "foreign": "1 foreign keys", "shape": "1 shapes differ"}[fault]
    with pytest.raises(RuntimeError, match=rf"{message} \(first: {key}\)"):
        network.load_state_dict(state, strict=strict)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_load_state_dict_refuses_one_network_alone():
    network = small_network()
    with pytest.raises(RuntimeError, match=r"keys missing.*foreign keys"):
        network.load_state_dict(network.autoencoder.state_dict(), strict=False)


def test_channels_last_stays_when_weights_are_loaded():
    plain = small_network()
    network = Parts(autoencoder=small_network().autoencoder, denoiser=small_network().denoiser, channels_last=True)
    network.load_state_dict({key: value + 1 for key, value in plain.state_dict().items()})
    for copied in (network, copy.deepcopy(network)):
        weights = [weight for weight in copied.parameters() if weight.ndim == 4]
        assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    assert not all(weight.is_contiguous(memory_format=torch.channels_last) for weight in plain.parameters())
