"""MONAI's U-Net of the sizes that a converted state dict shows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import nn


def unet_of(
    state: Mapping[str, torch.Tensor],
    heads: int | None = None,
    head_channels: int | None = None,
    build: Callable[..., nn.Module] = DiffusionModelUNet,
    **options: Any,
) -> Any:
    """The network with these weights, in evaluation mode.

    Args:
        state: keys of a joined model, its part ``denoiser``.
        heads: attention heads of every level, or
        head_channels: channels of each head; one of both, neither shows in the weights.
        build: class or function that takes MONAI's arguments.
        options: further arguments of it, such as ``norm_eps``.
    """
    own = {key.removeprefix("denoiser."): value for key, value in state.items()}
    levels = 1 + max(int(match[1]) for match in (re.match(r"down_blocks\.(\d+)\.", key) for key in own) if match)
    blocks = sum(bool(re.fullmatch(r"down_blocks\.0\.resnets\.\d+\.norm1\.weight", key)) for key in own)
    widths = [own[f"down_blocks.{n}.resnets.0.conv1.conv.weight"].shape[0] for n in range(levels)]
    arguments = {
        "spatial_dims": 2,
        "in_channels": own["conv_in.conv.weight"].shape[1],
        "out_channels": own["out.2.conv.weight"].shape[0],
        "channels": widths,
        "num_res_blocks": blocks,
        "attention_levels": [f"down_blocks.{n}.attentions.0.norm.weight" in own for n in range(levels)],
        "num_head_channels": [width // heads if heads else head_channels for width in widths],
        "norm_num_groups": 32,
        "norm_eps": 1e-5,
        "resblock_updown": "down_blocks.0.downsampler.norm1.weight" in own,
        "include_fc": any(key.endswith("attn.out_proj.weight") for key in own),
    }
    network = build(**(arguments | options))
    network.load_state_dict(own)
    return network.eval()


def tiny_unet(channels: int = 1, seed: int = 0, build: Callable[..., nn.Module] = DiffusionModelUNet, **options: Any):
    """A U-Net of some thousand weights for (n, channels, 8 k, 8 k) images, all of its layers drawn at random.

    MONAI starts the last layer of every block at zero, and with them nothing would depend on anything.
    """
    arguments = {
        "spatial_dims": 2,
        "in_channels": channels,
        "out_channels": channels,
        "channels": (8, 8),
        "num_res_blocks": 1,
        "attention_levels": (False, True),
        "num_head_channels": 4,
        "norm_num_groups": 4,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(**(arguments | options))
        for weight in network.parameters():
            if not weight.any():
                nn.init.normal_(weight, std=0.2)
    return network.eval()
