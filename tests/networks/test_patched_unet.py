"""The scale-shift block against its formula, and against MONAI's where they agree."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import DiffusionModelUNet
from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock
from unet_sizes import tiny_unet

from scripts.networks import ScaleShiftUNet
from scripts.networks.patched_unet import ScaleShiftResnetBlock

PUBLISHED = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 1,
    "channels": (128, 256, 256),
    "num_res_blocks": 3,
    "attention_levels": (False, False, False),
    "num_head_channels": 64,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "resblock_updown": True,
}


@pytest.mark.parametrize(("build", "parameters"), [(ScaleShiftUNet, 37_513_857), (DiffusionModelUNet, 34_493_313)])
def test_published_networks_have_the_published_parameters(build, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in build(**PUBLISHED).parameters()) == parameters


def block_of(dims=2, out_channels=8, **options):
    torch.manual_seed(0)
    plain = DiffusionUNetResnetBlock(dims, 4, 6, out_channels, norm_num_groups=2, norm_eps=1e-3, **options)
    block = ScaleShiftResnetBlock(plain)
    for weight in block.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    return plain, block


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("options", [{}, {"up": True}, {"down": True}, {"out_channels": 4}])
def test_block_is_its_formula(dims, options):
    _, block = block_of(dims, **options)
    inputs, emb, ops = torch.randn(2, 4, *[4] * dims), torch.randn(2, 6), torch.nn.functional
    conv, pool = getattr(ops, f"conv{dims}d"), getattr(ops, f"avg_pool{dims}d")
    skip, h = inputs, ops.silu(ops.group_norm(inputs, 2, block.norm1.weight, block.norm1.bias, 1e-3))
    if "up" in options:
        skip, h = (ops.interpolate(v, scale_factor=2) for v in (skip, h))
    if "down" in options:
        skip, h = (pool(v, 2) for v in (skip, h))
    h = conv(h, block.conv1.conv.weight, block.conv1.conv.bias, padding=1)
    both = ops.silu(emb) @ block.time_emb_proj.weight.T + block.time_emb_proj.bias
    scale, shift = (v.reshape(2, -1, *[1] * dims) for v in both.split(both.shape[1] // 2, dim=1))
    h = ops.group_norm(h, 2, block.norm2.weight, block.norm2.bias, 1e-3) * (1 + scale) + shift
    h = conv(ops.silu(h), block.conv2.conv.weight, block.conv2.conv.bias, padding=1)
    if options.get("out_channels") != 4:
        skip = conv(skip, block.skip_connection.conv.weight, block.skip_connection.conv.bias)
    torch.testing.assert_close(block(inputs, emb), skip + h, rtol=1e-4, atol=1e-5)


def test_block_is_monais_where_the_time_says_nothing():
    plain, block = block_of(down=True)
    state = {k: v for k, v in block.state_dict().items() if "time_emb_proj" not in k}
    plain.load_state_dict(state, strict=False)
    for layer in (plain.time_emb_proj, block.time_emb_proj):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    x, emb = torch.randn(2, 4, 4, 4), torch.randn(2, 6)
    torch.testing.assert_close(block(x, emb), plain(x, emb))


@pytest.mark.parametrize("updown", [True, False])
def test_every_block_is_exchanged_and_monais_class_stays(updown):
    network = tiny_unet(build=ScaleShiftUNet, resblock_updown=updown)
    blocks = [m for m in network.modules() if isinstance(m, DiffusionUNetResnetBlock)]
    assert len(blocks) == 2 + 2 + 4 + 2 * updown
    assert all(type(block) is ScaleShiftResnetBlock for block in blocks)
    others = [m for m in tiny_unet(resblock_updown=updown).modules() if isinstance(m, DiffusionUNetResnetBlock)]
    assert len(others) == len(blocks) and all(type(block) is DiffusionUNetResnetBlock for block in others)
    x = torch.rand(2, 1, 16, 16)
    early, late = (network(x, timesteps=torch.tensor([t, t])) for t in (0, 900))
    assert early.shape == x.shape and (early - late).abs().max() > 1e-3
