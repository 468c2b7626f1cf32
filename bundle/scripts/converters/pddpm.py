"""Checkpoints of the pDDPM authors' code: an ADM U-Net whose rows are all of q, then k, then v, heads split later."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from .adm_keys import AdmLayout, State, convert_adm, of_part

_PREFIX = re.compile(r"^(diffusion\.model\.|model\.)")
"""Where the U-Net stands in a checkpoint of a whole training."""


def convert(state: Mapping[str, torch.Tensor]) -> State:
    """:class:`~scripts.networks.ScaleShiftUNet` (or, without scale and shift, MONAI's U-Net) from the authors' U-Net.

    Args:
        state: the authors' state dict; one that holds it under ``state_dict`` is opened.

    Returns:
        the part ``denoiser``, float32, under the keys of a joined model.

    Raises:
        ValueError: when the tensors are not laid out so.
    """
    inner = state.get("state_dict", state)
    weights: Mapping[str, torch.Tensor] = inner if isinstance(inner, Mapping) else state
    return of_part(
        "denoiser", convert_adm({_PREFIX.sub("", key): value for key, value in weights.items()}, AdmLayout())
    )
