"""Checkpoints of MAD-AD's authors, in the keys of :class:`~scripts.networks.mask_predicting_unet.MaskPredictingUNet`.

Theirs are the keys of the same U-Net as in :mod:`scripts.converters.masked_bernoulli`, the heads apart:

============================  ========================
here                          there
============================  ========================
``out.original_sample.0``     ``out.0``
``out.original_sample.2``     ``out.2``
``out.mask.0``, ``.1.conv``   ``mt_out.0``, ``mt_out.1``
============================  ========================

Their autoencoder has no such counterpart: it is another function than MONAI's, and its weights do not load.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..networks.mask_predicting_unet import MaskPredictingUNet
from .masked_bernoulli import denoiser_key, denoiser_sizes, from_authors_layout

HEADS = {64: 4, 128: 4, 192: 6, 256: 8}
"""Attention heads by the width of the first level, of the published sizes; weights do not show them. The largest, 320,
is published with 12, which do not divide it: its heads have to be given."""

_MASK_HEAD = {"out.mask.0.": "mt_out.0.", "out.mask.1.conv.": "mt_out.1."}


def network_arguments(state: Mapping[str, torch.Tensor], num_heads: int | None = None) -> dict[str, Any]:
    """Arguments of the network whose weights these are.

    Args:
        state: the authors' state dict.
        num_heads: attention heads; ``None`` for those of the published size of this width, 4 where it has none.

    Raises:
        ValueError: when a tensor that shows a size is missing, or the blocks form no such network.
    """
    sizes = denoiser_sizes({key: tuple(value.shape) for key, value in state.items()})
    if not all(sizes["attention_levels"]):
        raise ValueError(f"attention_levels must all be true in MAD-AD's network, got {sizes['attention_levels']}.")
    return {
        "in_channels": sizes["in_channels"],
        "channels": sizes["channels"],
        "num_res_blocks": sizes["num_res_blocks"],
        "num_heads": num_heads or HEADS.get(sizes["channels"][0], 4),
    }


def convert(state: Mapping[str, torch.Tensor], num_heads: int | None = None) -> dict[str, torch.Tensor]:
    """The denoiser's weights in our keys, float32.

    Args:
        state: the authors' state dict.
        num_heads: as in :func:`network_arguments`.

    Raises:
        ValueError: when a key is missing or foreign, or a shape does not fit.
    """
    arguments = network_arguments(state, num_heads)
    with torch.device("meta"):
        wanted = MaskPredictingUNet(**arguments).state_dict()
    levels = [True] * len(arguments["channels"])
    theirs = {key: _authors_key(key, arguments["num_res_blocks"], levels) for key in wanted}
    missing, foreign = sorted(set(theirs.values()) - set(state)), sorted(set(state) - set(theirs.values()))
    if missing or foreign:
        raise ValueError(
            f"not a checkpoint of MAD-AD: {len(missing)} keys missing (first: {', '.join(missing[:3]) or 'none'}), "
            f"{len(foreign)} foreign (first: {', '.join(foreign[:3]) or 'none'})."
        )
    converted = {}
    for key, tensor in wanted.items():
        converted[key] = from_authors_layout(state[theirs[key]].float(), key, arguments["num_heads"]).contiguous()
        if converted[key].shape != tensor.shape:
            shapes = f"{tuple(converted[key].shape)}, {tuple(tensor.shape)} is wanted for {key!r}"
            raise ValueError(f"{theirs[key]!r} has shape {shapes}.")
    return converted


def _authors_key(key: str, num_res_blocks: int, attention_levels: list[bool]) -> str:
    for ours, theirs in _MASK_HEAD.items():
        if key.startswith(ours):
            return key.replace(ours, theirs)
    return denoiser_key(key.replace("out.original_sample.", "out."), num_res_blocks, attention_levels)
