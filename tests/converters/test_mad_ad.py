"""Conversion of MAD-AD's checkpoints, against the released function's golden numbers where they are at hand."""

from pathlib import Path

import pytest
import torch
from golden_checks.mad_ad import check

from scripts.converters.mad_ad import convert, network_arguments
from scripts.networks.mask_predicting_unet import MaskPredictingUNet

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "mad_ad"


def authors_state(width=8, heads=4, seed=0):
    """A checkpoint of two levels with one residual block each, written down key by key."""
    generator = torch.Generator().manual_seed(seed)
    state = {}

    def layer(name, *shape):
        state[f"{name}.weight"] = torch.randn(shape, generator=generator) * 0.2
        state[f"{name}.bias"] = torch.randn(shape[:1], generator=generator) * 0.2

    def block(name, before, after):
        layer(f"{name}.in_layers.0", before)
        layer(f"{name}.in_layers.2", after, before, 3, 3)
        layer(f"{name}.emb_layers.1", after, 4 * width)
        layer(f"{name}.out_layers.0", after)
        layer(f"{name}.out_layers.3", after, after, 3, 3)
        if before != after:
            layer(f"{name}.skip_connection", after, before, 1, 1)

    def attention(name, channels):
        layer(f"{name}.norm", channels)
        layer(f"{name}.qkv", 3 * channels, channels, 1)
        layer(f"{name}.proj_out", channels, channels, 1)

    w, v = width, 2 * width
    layer("time_embed.0", 4 * w, w)
    layer("time_embed.2", 4 * w, 4 * w)
    layer("input_blocks.0.0", w, 3, 3, 3)
    block("input_blocks.1.0", w, w)
    attention("input_blocks.1.1", w)
    layer("input_blocks.2.0.op", w, w, 3, 3)
    block("input_blocks.3.0", w, v)
    attention("input_blocks.3.1", v)
    block("middle_block.0", v, v)
    attention("middle_block.1", v)
    block("middle_block.2", v, v)
    block("output_blocks.0.0", v + v, v)
    attention("output_blocks.0.1", v)
    block("output_blocks.1.0", v + w, v)
    attention("output_blocks.1.1", v)
    layer("output_blocks.1.2.conv", v, v, 3, 3)
    block("output_blocks.2.0", v + w, w)
    attention("output_blocks.2.1", w)
    block("output_blocks.3.0", w + w, w)
    attention("output_blocks.3.1", w)
    layer("out.0", w)
    layer("out.2", 3, w, 3, 3)
    layer("mt_out.0", w)
    layer("mt_out.1", 1, w, 3, 3)
    return state


# The network's GroupNorm has 32 groups.
WIDTH = 32


def test_sizes_are_read_from_the_weights():
    assert network_arguments(authors_state(WIDTH)) == {
        "in_channels": 3,
        "channels": [32, 64],
        "num_res_blocks": 1,
        "num_heads": 4,
    }
    assert network_arguments(authors_state(256))["num_heads"] == 8
    assert network_arguments(authors_state(WIDTH), num_heads=2)["num_heads"] == 2


def test_every_weight_finds_its_place():
    state = authors_state(WIDTH)
    half = {key: value.half() for key, value in state.items()}
    network = MaskPredictingUNet(**network_arguments(state))
    network.load_state_dict(convert(half))
    converted = dict(network.named_parameters())
    for ours, theirs in {
        "out.mask.0.weight": "mt_out.0.weight",
        "out.mask.1.conv.bias": "mt_out.1.bias",
        "out.original_sample.2.conv.weight": "out.2.weight",
        "up_blocks.0.upsampler.postconv.conv.weight": "output_blocks.1.2.conv.weight",
        "down_blocks.0.downsampler.op.conv.weight": "input_blocks.2.0.op.weight",
        "up_blocks.1.resnets.1.conv2.conv.weight": "output_blocks.3.0.out_layers.3.weight",
    }.items():
        assert torch.equal(converted[ours], half[theirs].float()), ours
    # Axis 1 of (heads, 3, C / heads, C) is query, key, value.
    fused = half["middle_block.1.qkv.weight"].float()[..., 0].reshape(4, 3, 16, 64)
    for index, name in enumerate(("to_q", "to_k", "to_v")):
        expected = fused[:, index].reshape(64, 64)
        assert torch.equal(converted[f"middle_block.attention.attn.{name}.weight"], expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("mt_out.1.bias"), r"1 keys missing \(first: mt_out.1.bias\), 0 foreign"),
        (lambda s: s.update(ema=torch.zeros(1)), r"0 keys missing \(first: none\), 1 foreign \(first: ema\)"),
        (lambda s: s.update({"mt_out.0.bias": torch.zeros(3)}), r"'mt_out.0.bias' has shape \(3,\), \(32,\) is wanted"),
        (lambda s: s.pop("input_blocks.3.1.qkv.weight"), r"attention_levels must all be true.*\[True, False\]"),
        (lambda s: s.clear(), "no key 'input_blocks.0.0.weight'"),
    ],
)
def test_what_is_no_checkpoint_of_theirs_is_refused(change, message):
    state = authors_state(WIDTH)
    change(state)
    with pytest.raises(ValueError, match=message):
        convert(state)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the golden numbers are not beside this repository")
def test_golden_numbers():
    compared = list(check(REFERENCE))
    assert len(compared) == 17
    assert [row.name for row in compared if not row.passed] == []
