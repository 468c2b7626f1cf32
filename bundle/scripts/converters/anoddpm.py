"""Checkpoints of the AnoDDPM authors' code: an ADM U-Net under names of its own."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from .adm_keys import AdmLayout, State, convert_adm, of_part

_RENAMED = {
    r"^down\.": "input_blocks.",
    r"^middle\.": "middle_block.",
    r"^up\.": "output_blocks.",
    r"^time_embedding\.1\.": "time_embed.0.",
    r"^time_embedding\.3\.": "time_embed.2.",
    r"\.embed_layers\.": ".emb_layers.",
    r"\.to_qkv\.": ".qkv.",
}


def convert(state: Mapping[str, torch.Tensor], heads: int = 2) -> State:
    """MONAI's ``DiffusionModelUNet`` from the authors' U-Net.

    Args:
        state: the authors' state dict; one that holds it under ``ema`` (what they evaluate) or
            ``model_state_dict`` is opened.
        heads: attention heads, 2 in their training. (Their evaluation builds the network with 1, which is another
            function of the same weights.)

    Returns:
        the part ``denoiser``, float32, under the keys of a joined model.

    Raises:
        ValueError: when the tensors are not laid out so.
    """
    inner = state.get("ema", state.get("model_state_dict", state))
    weights: Mapping[str, torch.Tensor] = inner if isinstance(inner, Mapping) else state
    return of_part("denoiser", convert_adm(weights, AdmLayout(heads, _RENAMED, sine_first=True)))
