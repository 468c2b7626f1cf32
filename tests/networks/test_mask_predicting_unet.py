import copy

import pytest
import torch
from latent_networks import LATENT_CHANNELS, mask_denoiser
from monai.networks.nets import DiffusionModelUNet
from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock

from scripts.networks.mask_predicting_unet import DropoutResnetBlock, MaskPredictingUNet

# (base width, heads) and the published number of parameters.
PUBLISHED = {
    (64, 4): 16_142_149,
    (128, 4): 64_478_853,
    (192, 6): 145_010_117,
    (256, 8): 257_735_941,
    # Published with 12 heads, which do not divide 320; their number has no say in that of parameters.
    (320, 10): 402_656_325,
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_numbers_of_parameters(size):
    base, heads = size
    with torch.device("meta"):
        network = MaskPredictingUNet(channels=(base, 2 * base, 4 * base), num_heads=heads)
    assert sum(p.numel() for p in network.parameters()) == PUBLISHED[size]


def latents(count=2):
    return torch.randn(count, LATENT_CHANNELS, 8, 8, generator=torch.Generator().manual_seed(1))


def test_first_head_and_trunk_are_monais():
    network = mask_denoiser()
    plain = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        channels=(8, 16),
        num_res_blocks=1,
        attention_levels=(True, True),
        num_head_channels=(4, 8),
        norm_num_groups=4,
        norm_eps=1e-5,
        include_fc=True,
    ).eval()
    state = {k.replace("out.original_sample.", "out."): v for k, v in network.state_dict().items()}
    plain.load_state_dict({key: value for key, value in state.items() if not key.startswith("out.mask.")})
    times = torch.tensor([0, 7])
    with torch.no_grad():
        output = network(latents(), timesteps=times)
        assert torch.equal(output[:, :-1], plain(latents(), timesteps=times))
        # The second: normalised features, one convolution, a sigmoid, and no SiLU between.
        features = []
        network.out.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
        network(latents(), timesteps=times)
        (norm, last), (seen,) = network.out.mask, features
        normal = torch.nn.functional.group_norm(seen, 4, norm.weight, norm.bias, 1e-5)
        expected = torch.nn.functional.conv2d(normal, last.conv.weight, last.conv.bias, padding=1).sigmoid()
    assert expected.std() > 1e-2
    assert torch.allclose(output[:, -1:], expected, atol=1e-6)


def test_a_fresh_network_says_one_half_and_nothing_else():
    torch.manual_seed(0)
    network = MaskPredictingUNet(in_channels=3, channels=(8, 8), num_res_blocks=1, num_heads=1, norm_num_groups=4)
    output = network.eval()(latents(), timesteps=torch.tensor([1, 1]))
    assert (output[:, :-1] == 0).all() and (output[:, -1] == 0.5).all()


def test_dropout_is_in_every_residual_block_and_in_training_alone():
    network = mask_denoiser()
    blocks = [m for m in network.modules() if isinstance(m, DiffusionUNetResnetBlock)]
    # Down 1 + 1, middle 2, up 2 + 2.
    assert len(blocks) == 8 and all(isinstance(block, DropoutResnetBlock) for block in blocks)
    times = torch.tensor([3, 3])
    with torch.no_grad():
        quiet = [network(latents(), timesteps=times) for _ in range(2)]
        network.train()
        loud = [network(latents(), timesteps=times) for _ in range(2)]
    assert torch.equal(*quiet) and not torch.equal(*loud)


def test_dropout_comes_right_before_the_second_convolution():
    block = DropoutResnetBlock(1.0, spatial_dims=2, in_channels=4, temb_channels=6, norm_num_groups=2).train()
    torch.nn.init.normal_(block.conv2.conv.weight)
    torch.nn.init.normal_(block.conv2.conv.bias)
    x = torch.randn(1, 4, 5, 5)
    # Everything dropped: the convolution sees zeros, its bias is left.
    expected = x + block.conv2.conv.bias[:, None, None]
    assert torch.allclose(block(x, torch.randn(1, 6)), expected)


def test_copies_and_autocast():
    network = copy.deepcopy(mask_denoiser())
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(latents(), timesteps=torch.tensor([1, 2]))
    assert output.dtype == torch.float32 and output.shape == (2, LATENT_CHANNELS + 1, 8, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 3}, r"num_heads must divide every one of channels \[8, 16\], got 3"),
        ({"num_heads": 0}, r"num_heads must be a whole number in \[1, 8\], got 0"),
        ({"dropout": 1.5}, r"dropout must be a number in \[0, 1\], got 1.5"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        MaskPredictingUNet(**({"channels": (8, 16), "norm_num_groups": 4, "num_heads": 2} | changes))
