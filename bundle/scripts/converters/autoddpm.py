"""Checkpoints of the AutoDDPM authors' code: MONAI's U-Net as it was before it moved into MONAI.

Its attention has a projection that nothing calls. MONAI's network must be built with ``include_fc=False``: with its
default it would take that projection into use and be another function.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from .adm_keys import State, of_part

_UNUSED = re.compile(r".*\.proj_attn\.(weight|bias)")
_ATTENTION = re.compile(r"\.(to_q|to_k|to_v)\.")


def convert(state: Mapping[str, torch.Tensor]) -> State:
    """MONAI's ``DiffusionModelUNet`` with ``include_fc=False`` from the authors' U-Net.

    Args:
        state: the authors' state dict; one that holds it under ``model_weights`` or ``state_dict`` is opened.

    Returns:
        the part ``denoiser``, float32, under the keys of a joined model.
    """
    inner = state.get("model_weights", state.get("state_dict", state))
    weights: Mapping[str, torch.Tensor] = inner if isinstance(inner, Mapping) else state
    return of_part("denoiser", {_renamed(k): v.float().clone() for k, v in weights.items() if not _UNUSED.fullmatch(k)})


def _renamed(key: str) -> str:
    return _ATTENTION.sub(r".attn.\1.", key).replace(".upsampler.conv.", ".upsampler.postconv.")
