"""Names and layouts of the U-Net family of Dhariwal and Nichol 2021 (ADM), as MONAI's ``DiffusionModelUNet`` has them.

There, blocks are numbered in the order they run, and each is a list of modules: a residual block, attention after it, a
change of size by itself or at the end of a level. Here they stand by level. Which is which shows in the names of the
layers inside, so that sizes need not be known.

==========================================  =========================================================
there                                       here
==========================================  =========================================================
``input_blocks.0.0``                        ``conv_in.conv``
``input_blocks.n.0``, ``.1``                ``down_blocks.i.resnets.j``, ``.attentions.j``
``input_blocks.n.0`` at a level's end       ``down_blocks.i.downsampler``
``middle_block.{0,1,2}``                    ``middle_block.{resnet_1,attention,resnet_2}``
``output_blocks.n.0``, ``.1``               ``up_blocks.i.resnets.j``, ``.attentions.j``
last module of a level's last n             ``up_blocks.i.upsampler``
``qkv``                                     ``attn.to_q``, ``attn.to_k``, ``attn.to_v``
==========================================  =========================================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

State = dict[str, torch.Tensor]

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1.conv",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2.conv",
    "skip_connection": "skip_connection.conv",
}
_ATTENTION = {"norm": "norm", "proj_out": "attn.out_proj"}
_MIDDLE = {"0": "resnet_1", "1": "attention", "2": "resnet_2"}


@dataclass(frozen=True)
class AdmLayout:
    """How an author's code departs from the original names and layouts.

    Attributes:
        heads: attention heads where the fused rows are, head after head, the head's q, k and v; ``None`` where they
            are all of q, then k, then v.
        renamed: patterns and what they become, applied first: they bring other names to the original ones.
        sine_first: the time code is (sin, cos) there, MONAI's is (cos, sin).
    """

    heads: int | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)
    sine_first: bool = False


def convert_adm(state: Mapping[str, torch.Tensor], layout: AdmLayout) -> State:
    """The state dict of MONAI's ``DiffusionModelUNet`` from that of an ADM U-Net.

    Args:
        state: the authors' tensors.
        layout: how they are laid out.

    Returns:
        float32 tensors under MONAI's names; what is not of the common layout keeps its name.

    Raises:
        ValueError: when rows of a fused tensor cannot be parted, or the levels do not add up.
    """
    named = {_renamed(key, layout.renamed): tensor.float() for key, tensor in state.items()}
    blocks = _places(named)
    converted: State = {}
    for key, tensor in named.items():
        for name, value in _convert(key, tensor, blocks, layout):
            converted[name] = value.clone()
    if layout.sine_first:
        weight = converted["time_embed.0.weight"]
        converted["time_embed.0.weight"] = weight.roll(weight.shape[1] // 2, dims=1)
    return converted


def of_part(part: str, state: Mapping[str, torch.Tensor]) -> State:
    """The keys of a joined model, in which the network is the part ``part``."""
    return {f"{part}.{key}": tensor for key, tensor in state.items()}


def _renamed(key: str, patterns: Mapping[str, str]) -> str:
    for pattern, replacement in patterns.items():
        key = re.sub(pattern, replacement, key)
    return key


def _convert(
    key: str, tensor: torch.Tensor, places: Mapping[str, str], layout: AdmLayout
) -> list[tuple[str, torch.Tensor]]:
    """Name and value of what a tensor becomes: three of a fused one, else one."""
    stage, _, rest = key.partition(".")
    if stage not in ("input_blocks", "middle_block", "output_blocks"):
        return [(re.sub(r"^(out\.2)\.(\w+)$", r"\1.conv.\2", key), tensor)]
    number, rest = rest.split(".", 1) if stage != "middle_block" else ("", rest)
    module, _, inner = rest.partition(".")
    block = f"{stage}.{number}.{module}" if number else f"{stage}.{module}"
    place, (layer, _, leaf) = places[block], inner.rpartition(".")
    if layer == "qkv":
        parts = _parted(key, tensor, layout.heads)
        return [(f"{place}.attn.to_{name}.{leaf}", part) for name, part in zip("qkv", parts, strict=True)]
    name = _RESNET.get(layer) or _ATTENTION.get(layer)
    if layer == "proj_out":
        tensor = tensor.flatten(1) if tensor.ndim > 1 else tensor
    if name is not None:
        return [(f"{place}.{name}.{leaf}", tensor)]
    # A convolution by itself: the network's first, or one that changes the size.
    if block == "input_blocks.0.0":
        return [(f"{place}.{inner}", tensor)]
    wanted = "op.conv" if place.endswith("downsampler") else "postconv.conv"
    return [(f"{place}.{wanted}.{leaf}", tensor)]


def _parted(key: str, tensor: torch.Tensor, heads: int | None) -> tuple[torch.Tensor, ...]:
    """q, k and v, each (C, C) or (C,), of rows (3 C, ...)."""
    groups = heads or 1
    if tensor.shape[0] % (3 * groups):
        raise ValueError(f"{key}: {tensor.shape[0]} rows, wanted a multiple of 3 times {groups} attention heads.")
    rows = tensor.flatten(1) if tensor.ndim > 1 else tensor
    by_head = rows.reshape(groups, 3, -1, *rows.shape[1:])
    return tuple(by_head[:, n].flatten(0, 1) for n in range(3))


def _places(state: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Where every module of the authors' blocks stands here."""
    places = {"input_blocks.0.0": "conv_in.conv"} | {
        f"middle_block.{n}": f"middle_block.{m}" for n, m in _MIDDLE.items()
    }
    level = block = 0
    ends = _level_ends(state)
    for number in range(1, _count(state, "input_blocks")):
        if number in ends:
            places[f"input_blocks.{number}.0"] = f"down_blocks.{level}.downsampler"
            level, block = level + 1, 0
            continue
        places[f"input_blocks.{number}.0"] = f"down_blocks.{level}.resnets.{block}"
        places[f"input_blocks.{number}.1"] = f"down_blocks.{level}.attentions.{block}"
        block += 1
    per_level, rest = divmod(_count(state, "output_blocks"), level + 1)
    if rest or per_level != block + 1:
        raise ValueError(f"output_blocks: {per_level * (level + 1) + rest} blocks, wanted {(block + 1) * (level + 1)}.")
    for number in range(per_level * (level + 1)):
        i, j = divmod(number, per_level)
        name = f"output_blocks.{number}"
        places[f"{name}.0"] = f"up_blocks.{i}.resnets.{j}"
        places[f"{name}.1"] = f"up_blocks.{i}.attentions.{j}"
        if j == per_level - 1 and i < level:
            last = max(int(key.split(".")[2]) for key in state if key.startswith(f"{name}."))
            places[f"{name}.{last}"] = f"up_blocks.{i}.upsampler"
    return places


def _count(state: Mapping[str, torch.Tensor], stage: str) -> int:
    return 1 + max(int(key.split(".")[1]) for key in state if key.startswith(f"{stage}."))


def _level_ends(state: Mapping[str, torch.Tensor]) -> list[int]:
    """Numbers of the ``input_blocks`` that halve the size.

    A convolution shows itself by its name. Residual blocks that halve look like the others: what tells them is that
    every level has the same number of blocks, and as many as ``output_blocks`` less one.
    """
    inputs, outputs = _count(state, "input_blocks"), _count(state, "output_blocks")
    convolutions = [n for n in range(1, inputs) if f"input_blocks.{n}.0.op.weight" in state]
    # 1 + levels * n + (levels - 1) blocks there, levels * (n + 1) here: both are levels * (n + 1).
    if convolutions or inputs != outputs:
        return convolutions
    changes = sum(f"output_blocks.{n}.{m}.in_layers.0.weight" in state for n in range(outputs) for m in (1, 2))
    if (inputs % (changes + 1)) != 0:
        raise ValueError(f"input_blocks: {inputs} blocks for {changes + 1} levels, wanted the same number for each.")
    return [n * inputs // (changes + 1) for n in range(1, changes + 1)]
