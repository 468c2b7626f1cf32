"""Names, layouts and sizes in checkpoints of the paper authors' code.

===========================================  ==================================================
here                                         there
===========================================  ==================================================
``autoencoder.encoder.blocks.i``             ``ae.encoder.blocks.i``
``autoencoder.projection``, ``embedding``    ``ae.quantize.proj.0``, ``ae.quantize.embed``
``autoencoder.norm``                         ``ae.generator.blocks.0``
``autoencoder.decoder.blocks.i``             ``ae.generator.blocks.{i + 1}``
``denoiser.down_blocks.l``                   n + 1 ``input_blocks`` after the first, n residual
``denoiser.up_blocks.l``                     n + 1 ``output_blocks``, the last with upsampling
===========================================  ==================================================

There, layers are numbered in the order they run; attention of the autoencoder is made of 1x1 convolutions, and that
of the U-Net of one convolution whose rows are, head after head, the head's q, k and v.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

Shapes = Mapping[str, tuple[int, ...]]

_UNUSED = re.compile(
    r"ae\.generator\.logsigma\..+"  # a head that nothing calls
    r"|ae\.(encoder|generator)\.blocks\.\d+\.conv_out\.(weight|bias)"  # created even where the width stays
    r"|(disc|perceptual)\..+"  # what the autoencoder was trained against
)
_AUTOENCODER_LAYERS = {
    "conv": "",
    "conv.conv": "conv",
    "postconv.conv": "conv",
    "conv1.conv": "conv1",
    "conv2.conv": "conv2",
    "nin_shortcut.conv": "conv_out",
    "attn.to_q": "q",
    "attn.to_k": "k",
    "attn.to_v": "v",
    "attn.out_proj": "proj_out",
}
_DENOISER_LAYERS = {
    "norm1": "in_layers.0",
    "conv1.conv": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2.conv": "out_layers.3",
    "skip_connection.conv": "skip_connection",
    "attn.to_q": "qkv",
    "attn.to_k": "qkv",
    "attn.to_v": "qkv",
    "attn.out_proj": "proj_out",
}
_MIDDLE = {"resnet_1": 0, "attention": 1, "resnet_2": 2}
_FUSED = ("to_q", "to_k", "to_v")


def is_unused(key: str) -> bool:
    """Whether the authors' code stores ``key`` without needing it for inference, provided that nothing here asked."""
    return _UNUSED.fullmatch(key) is not None


def autoencoder_key(key: str) -> str:
    """The authors' name of a tensor of :class:`~scripts.networks.BinarizingAutoencoder`."""
    part, _, rest = key.partition(".")
    if part in ("projection", "embedding"):
        return f"ae.quantize.{'proj.0' if part == 'projection' else 'embed'}.{rest}"
    if part == "norm":
        return f"ae.generator.blocks.0.{rest}"
    number, _, name = rest.removeprefix("blocks.").partition(".")
    stage, block = ("encoder", int(number)) if part == "encoder" else ("generator", int(number) + 1)
    return f"ae.{stage}.blocks.{block}.{_rename(name, _AUTOENCODER_LAYERS)}"


def denoiser_key(key: str, num_res_blocks: int, attention_levels: list[bool]) -> str:
    """The authors' name of a tensor of MONAI's ``DiffusionModelUNet``.

    Args:
        key: name there, without the prefix ``denoiser.``.
        num_res_blocks: residual blocks a level, n.
        attention_levels: which levels have attention, the finest first.
    """
    part, _, rest = key.partition(".")
    if part in ("time_embed", "out"):
        return key.replace("out.2.conv.", "out.2.")
    if part == "conv_in":
        return rest.replace("conv.", "input_blocks.0.0.")
    number, kind, name = rest.split(".", 2) if part != "middle_block" else ("", *rest.split(".", 1))
    if part == "middle_block":
        return f"middle_block.{_MIDDLE[kind]}.{_rename(name, _DENOISER_LAYERS)}"
    level, blocks, leaf = int(number), num_res_blocks + 1, name.rpartition(".")[2]
    if kind == "downsampler":
        return f"input_blocks.{(level + 1) * blocks}.0.op.{leaf}"
    if kind == "upsampler":
        place = 1 + attention_levels[-1 - level]
        return f"output_blocks.{(level + 1) * blocks - 1}.{place}.conv.{leaf}"
    block, _, name = name.partition(".")
    stage, first = ("input_blocks", 1) if part == "down_blocks" else ("output_blocks", 0)
    place = int(kind == "attentions")
    return f"{stage}.{first + level * blocks + int(block)}.{place}.{_rename(name, _DENOISER_LAYERS)}"


def from_authors_layout(tensor: torch.Tensor, key: str, heads: int | None = None) -> torch.Tensor:
    """Bring a tensor from the authors' layout to that of ``key`` here.

    Args:
        tensor: what the authors' checkpoint holds: for the embedding (C, D), for attention (n, m, 1) or (n, m, 1, 1)
            or (n,), where q, k and v share n = 3 m rows when ``heads`` is given.
        key: the name here, of either network.
        heads: attention heads of the fused q, k and v; ``None`` where they are separate.

    Returns:
        for the embedding (D, C, 1, 1), for attention (m, m) or (m,), everything else as it is.

    Raises:
        ValueError: when the rows of a fused tensor are not a multiple of three times ``heads``.
    """
    if key == "embedding.weight":
        return tensor.movedim(0, -1)[..., None, None]
    if ".attn." not in f".{key}":
        return tensor
    layer = key.split(".")[-2]
    if heads is not None and layer in _FUSED:
        if tensor.shape[0] % (3 * heads):
            raise ValueError(f"{tensor.shape[0]} rows, wanted a multiple of 3 times {heads} attention heads.")
        by_head = tensor.reshape(heads, 3, -1, *tensor.shape[1:])
        tensor = by_head[:, _FUSED.index(layer)].flatten(0, 1)
    while tensor.ndim > 2 and tensor.shape[-1] == 1:
        tensor = tensor[..., 0]
    return tensor


def autoencoder_sizes(shapes: Shapes) -> dict:
    """Sizes of :class:`~scripts.networks.BinarizingAutoencoder`, by its argument names.

    Raises:
        ValueError: when a tensor that shows a size is missing or the blocks form no such network.
    """
    in_channels, blocks = _size(shapes, "ae.encoder.blocks.0.weight", 1), r"ae\.encoder\.blocks\.(\d+)"
    downs, attention = _numbers(shapes, rf"{blocks}\.conv\.weight"), _numbers(shapes, rf"{blocks}\.q\.weight")
    last = max(_numbers(shapes, rf"{blocks}\.weight"))
    if attention != [last - 3]:
        raise ValueError(
            f"ae.encoder.blocks: attention in blocks {attention}, wanted in the middle only, [{last - 3}]."
        )
    # First convolution; residual blocks and, but for the last level, downsampling; 3 middle blocks; norm, convolution.
    num_res_blocks = _per_level("ae.encoder.blocks", last + 1 - 5, len(downs) + 1)
    widths = [_size(shapes, f"ae.encoder.blocks.{n}.conv.weight", 0) for n in downs]
    return {
        "in_channels": in_channels,
        "channels": [*widths, _size(shapes, f"ae.encoder.blocks.{last}.weight", 1)],
        "num_res_blocks": num_res_blocks,
        "embedding_channels": _size(shapes, "ae.quantize.proj.0.weight", 1),
        "code_channels": _size(shapes, "ae.quantize.proj.0.weight", 0),
    }


def denoiser_sizes(shapes: Shapes) -> dict:
    """Sizes of MONAI's ``DiffusionModelUNet``, by its argument names, the attention heads left out.

    Raises:
        ValueError: when a tensor that shows a size is missing or the blocks form no such network.
    """
    in_channels = _size(shapes, "input_blocks.0.0.weight", 1)
    levels = len(_numbers(shapes, r"input_blocks\.(\d+)\.0\.op\.weight")) + 1
    last = max(_numbers(shapes, r"input_blocks\.(\d+)\..+"))
    # First convolution; residual blocks and, but for the last level, downsampling.
    num_res_blocks = _per_level("input_blocks", last + 1, levels)
    firsts = [1 + level * (num_res_blocks + 1) for level in range(levels)]
    return {
        "in_channels": in_channels,
        "out_channels": _size(shapes, "out.2.weight", 0),
        "channels": [_size(shapes, f"input_blocks.{n}.0.in_layers.2.weight", 0) for n in firsts],
        "num_res_blocks": num_res_blocks,
        "attention_levels": [f"input_blocks.{n}.1.qkv.weight" in shapes for n in firsts],
    }


def _rename(name: str, layers: Mapping[str, str]) -> str:
    """Replace the layer of ``layer.weight`` or ``layer.bias``."""
    layer, _, leaf = name.rpartition(".")
    layer = layers.get(layer, layer)
    return f"{layer}.{leaf}" if layer else leaf


def _numbers(shapes: Shapes, pattern: str) -> list[int]:
    """Sorted block numbers in the keys that match ``pattern``."""
    return sorted({int(match[1]) for match in (re.fullmatch(pattern, key) for key in shapes) if match})


def _per_level(what: str, blocks: int, levels: int) -> int:
    """Residual blocks a level, where ``blocks`` holds them and one more block for each level."""
    number, rest = divmod(blocks - levels, levels)
    if number < 1 or rest:
        raise ValueError(f"{what}: {blocks - levels} residual blocks for {levels} levels, wanted the same for each.")
    return number


def _size(shapes: Shapes, key: str, axis: int) -> int:
    """One size of a tensor that must be there."""
    if key not in shapes:
        raise ValueError(f"no key {key!r}, which shows a size of the network.")
    if len(shapes[key]) <= axis:
        raise ValueError(f"{key!r} has shape {shapes[key]}, wanted at least {axis + 1} dimensions.")
    return shapes[key][axis]
