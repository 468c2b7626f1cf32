"""Checkpoints of the authors of DDIM with classifier guidance (Wolleb et al. 2022, arXiv 2203.04306): both networks.

Their U-Net is MONAI's, by the rule of :mod:`scripts.converters.adm_keys` and a table of classes. Their classifier is
the encoder half of another, by the same names but for two things: the levels end in a residual block that downsamples,
and what stands at the end is attention pooling, whose rows are q, k and v one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from ..networks.classifier import NoisyImageClassifier
from .adm_keys import AdmLayout, convert_adm
from .filling import State, filled, shapes_of
from .masked_bernoulli import Shapes, denoiser_key, denoiser_sizes, from_authors_layout

_POOL = {"out.2.attn.qkv": "out.2.qkv_proj", "out.2.out_proj": "out.2.c_proj"}


def unet_sizes(state: State, heads: int = 1) -> dict:
    """Arguments of :class:`~scripts.networks.conditional_unet.ConditionalUNet` for the authors' U-Net.

    Raises:
        ValueError: when the blocks form no such network, or it knows no classes.
    """
    sizes = denoiser_sizes(shapes_of(state))
    if "label_emb.weight" not in state:
        raise ValueError("no key 'label_emb.weight': this U-Net is not conditioned on the class.")
    return {
        "spatial_dims": 2,
        **sizes,
        "num_head_channels": [width // heads for width in sizes["channels"]],
        "norm_num_groups": 32,
        "norm_eps": 1e-5,
        "num_class_embeds": state["label_emb.weight"].shape[0],
        "include_fc": True,
    }


def convert(state: State, heads: int = 1) -> dict[str, torch.Tensor]:
    """State dict of the U-Net here, from the authors'; ``heads`` is what no weight tells.

    Raises:
        ValueError: when rows of a fused tensor cannot be parted, or the levels do not add up.
    """
    return convert_adm(state, AdmLayout(heads=heads, renamed={r"^label_emb\.": "class_embedding."}))


def classifier_sizes(state: State, num_head_channels: int = 64) -> dict:
    """Arguments of :class:`~scripts.networks.classifier.NoisyImageClassifier` for the authors' classifier.

    Raises:
        ValueError: when the blocks form no such network.
    """
    shapes = shapes_of(state)
    last = max((int(key.split(".")[1]) for key in shapes if key.startswith("input_blocks.")), default=0)
    blocks = _res_blocks(shapes, last)
    # The first convolution; residual blocks and, but for the last level, one that downsamples.
    levels, rest = divmod(last + 1, blocks + 1)
    if rest or levels < 1:
        raise ValueError(f"input_blocks: {last} after the first, wanted {blocks} and one for each level but the last.")
    firsts = [1 + level * (blocks + 1) for level in range(levels)]
    places = shapes["out.2.positional_embedding"][1] - 1
    return {
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.c_proj.weight"][0],
        "image_size": math.isqrt(places) * 2 ** (levels - 1),
        "channels": [shapes[f"input_blocks.{n}.0.in_layers.2.weight"][0] for n in firsts],
        "num_res_blocks": blocks,
        "attention_levels": [_attends(shapes, n) for n in firsts],
        "num_head_channels": num_head_channels,
        "norm_num_groups": 32,
        "norm_eps": 1e-5,
    }


def convert_classifier(state: State, num_head_channels: int = 64) -> dict[str, torch.Tensor]:
    """State dict of the classifier here, from the authors'; ``num_head_channels`` is what no weight tells.

    Raises:
        ValueError: when a tensor is missing, left over or of another shape.
    """
    sizes = classifier_sizes(state, num_head_channels)
    with torch.device("meta"):
        network = NoisyImageClassifier(**sizes)

    def layout(tensor: torch.Tensor, key: str) -> torch.Tensor:
        if key.startswith("out.2."):
            return tensor[..., 0] if tensor.ndim == 3 else tensor
        heads = _heads(tensor, key, num_head_channels)
        return from_authors_layout(tensor, key, heads)

    return filled(network, state, lambda key: _classifier_key(key, sizes), layout)


def _classifier_key(key: str, sizes: Mapping) -> str:
    """The authors' name of a tensor of the classifier."""
    if key.startswith("out.2."):
        layer, _, leaf = key.rpartition(".")
        return f"{_POOL.get(layer, layer)}.{leaf}"
    if ".downsampler." not in key:
        return denoiser_key(key, sizes["num_res_blocks"], sizes["attention_levels"])
    # Named like one more residual block of its level.
    level, name = key.removeprefix("down_blocks.").split(".downsampler.")
    as_resnet = f"down_blocks.{level}.resnets.{sizes['num_res_blocks']}.{name}"
    return denoiser_key(as_resnet, sizes["num_res_blocks"], sizes["attention_levels"])


def _heads(tensor: torch.Tensor, key: str, num_head_channels: int) -> int | None:
    return tensor.shape[0] // 3 // num_head_channels if ".attn.to_" in key else None


def _res_blocks(shapes: Shapes, last: int) -> int:
    """Residual blocks a level: as many as attend at the end, since one that downsamples never does."""
    if "out.2.positional_embedding" not in shapes or "input_blocks.0.0.weight" not in shapes:
        raise ValueError("no classifier with attention pooling: 'out.2.positional_embedding' or the input is missing.")
    count = 0
    while count < last and _attends(shapes, last - count):
        count += 1
    if not count:
        raise ValueError("input_blocks: no attention at the last level, so that the weights do not tell the levels.")
    return count


def _attends(shapes: Shapes, block: int) -> bool:
    return f"input_blocks.{block}.1.qkv.weight" in shapes
