"""Filling a module of ours from a state dict of the authors'."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

State = Mapping[str, torch.Tensor]
Layout = Callable[[torch.Tensor, str], torch.Tensor]
"""From the authors' tensor and the key here to the tensor here."""


def filled(module: nn.Module, state: State, authors_name: Callable[[str], str], layout: Layout) -> dict:
    """The state dict of ``module``, float32, from the authors' ``state``.

    Args:
        module: only names and shapes are read: it may be on the meta device.
        state: the authors' tensors.
        authors_name: from a key of ``module`` to the authors'.
        layout: what is made of the authors' tensor.

    Raises:
        ValueError: when a tensor is missing, has another shape or has no place in ``module``.
    """
    result, taken = {}, set()
    for key, wanted in module.state_dict().items():
        name = authors_name(key)
        if name not in state:
            raise ValueError(f"no key {name!r}, wanted for {key!r} with shape {tuple(wanted.shape)}.")
        tensor = layout(state[name], key)
        if tensor.shape != wanted.shape:
            raise ValueError(f"{name!r} gives shape {tuple(tensor.shape)}, wanted {tuple(wanted.shape)} for {key!r}.")
        # A copy, so that no tensor is kept with the storage of the fused one it was cut from.
        result[key] = tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        taken.add(name)
    foreign = [name for name in state if name not in taken]
    if foreign:
        raise ValueError(f"{len(foreign)} key(s) have no place in the network, the first is {foreign[0]!r}.")
    return result


def shapes_of(state: State) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor."""
    return {key: tuple(tensor.shape) for key, tensor in state.items()}
