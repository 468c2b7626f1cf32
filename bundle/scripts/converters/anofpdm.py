"""Checkpoints of AnoFPDM's authors (Che et al. 2024, arXiv 2404.15683): their U-Net "v2".

The names are those of :mod:`scripts.converters.masked_bernoulli`; beyond them there are an embedding of the class and,
in every attention, keys and values of class tokens, whose rows are, head after head, the head's k and v.
"""

from __future__ import annotations

import torch

from ..networks.fpdm_unet import FPDMUNet
from .filling import State, filled, shapes_of
from .masked_bernoulli import denoiser_key, denoiser_sizes, from_authors_layout

_CLASS = {"class_embedding.": "label_emb.", "class_embed.": "class_emb."}
_CLASS_TOKENS = ("class_to_k", "class_to_v")


def unet_sizes(state: State, heads: int = 4) -> dict:
    """Arguments of :class:`~scripts.networks.fpdm_unet.FPDMUNet` for the authors' U-Net, the dropout left out.

    Raises:
        ValueError: when the blocks form no such network.
    """
    return {**denoiser_sizes(shapes_of(state)), "num_heads": heads, "norm_num_groups": 32, "norm_eps": 1e-5}


def convert(state: State, heads: int = 4) -> dict[str, torch.Tensor]:
    """State dict of the U-Net here, from the authors'; ``heads`` is what no weight tells.

    Raises:
        ValueError: when a tensor is missing, left over or of another shape.
    """
    sizes = unet_sizes(state, heads)
    with torch.device("meta"):
        network = FPDMUNet(**sizes)

    def name(key: str) -> str:
        for ours, theirs in _CLASS.items():
            if key.startswith(ours):
                return key.replace(ours, theirs)
        key = denoiser_key(key, sizes["num_res_blocks"], sizes["attention_levels"])
        return key.replace(_CLASS_TOKENS[0], "encoder_kv").replace(_CLASS_TOKENS[1], "encoder_kv")

    return filled(network, state, name, lambda tensor, key: _layout(tensor, key, heads))


def _layout(tensor: torch.Tensor, key: str, heads: int) -> torch.Tensor:
    layer = key.split(".")[-2]
    if layer not in _CLASS_TOKENS:
        return from_authors_layout(tensor, key, heads)
    if tensor.shape[0] % (2 * heads):
        raise ValueError(f"{key!r}: {tensor.shape[0]} rows, wanted a multiple of 2 times {heads} attention heads.")
    by_head = tensor.reshape(heads, 2, -1, *tensor.shape[1:])
    rows = by_head[:, _CLASS_TOKENS.index(layer)].flatten(0, 1)
    return rows[..., 0] if rows.ndim == 3 else rows
