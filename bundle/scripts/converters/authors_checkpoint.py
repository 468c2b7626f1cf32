"""A state dict that the authors' code wrote: read, measured, and brought into a network of ours."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from ..files import load_checkpoint
from .masked_bernoulli import from_authors_layout, is_unused

logger = logging.getLogger(__name__)


class AuthorsCheckpoint:
    """A state dict of the authors' code, which keeps track of what was taken from it.

    Args:
        path: the file.
        what: the option that names it.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it holds anything but named tensors.
    """

    def __init__(self, path: str | Path, what: str) -> None:
        """Read the file."""
        self.path, self.tensors, self.taken = path, load_checkpoint(path, what), set[str]()
        content = self.tensors.items() if isinstance(self.tensors, dict) else [(None, self.tensors)]
        for key, value in content:
            if not (isinstance(key, str) and isinstance(value, torch.Tensor)):
                place = "" if key is None else f" under key {key!r}"
                raise self.error(f"{type(value).__name__}{place}, wanted a plain dict of named tensors.")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor."""
        return {key: tuple(tensor.shape) for key, tensor in self.tensors.items()}

    def error(self, message: object) -> ValueError:
        """A :class:`ValueError` that begins with the file."""
        return ValueError(f"{str(self.path)!r}: {message}")

    def sizes(self, read: Callable[[dict[str, tuple[int, ...]]], dict]) -> dict:
        """What ``read`` finds in the shapes; its errors get the file's name."""
        try:
            return read(self.shapes)
        except ValueError as error:
            raise self.error(error) from None

    def fill(
        self, module: nn.Module, authors_name: Callable[[str], str], dtype: torch.dtype, heads: int | None = None
    ) -> dict[str, torch.Tensor]:
        """The state dict of ``module`` from this checkpoint, as ``dtype``.

        Raises:
            ValueError: when a tensor is missing, has another shape or values ``dtype`` cannot hold, or is left over.
        """
        wanted = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
        state = {key: self._take(key, authors_name(key), shape, dtype, heads) for key, shape in wanted.items()}
        foreign = [key for key in self.tensors if key not in self.taken and not is_unused(key)]
        if foreign:
            raise self.error(f"{len(foreign)} key(s) have no place in the network, the first is {foreign[0]!r}.")
        taken = sum(tensor.numel() for tensor in state.values())
        unused = sum(tensor.numel() for key, tensor in self.tensors.items() if key not in self.taken)
        logger.info("%s: took %s parameters; %s that inference does not need.", self.path, f"{taken:,}", f"{unused:,}")
        return state

    def _take(self, key: str, name: str, shape: tuple[int, ...], dtype: torch.dtype, heads: int | None) -> torch.Tensor:
        if name not in self.tensors:
            raise self.error(f"no key {name!r}, wanted for {key!r} with shape {shape}.")
        self.taken.add(name)
        try:
            tensor = from_authors_layout(self.tensors[name], key, heads)
        except ValueError as error:
            raise self.error(f"{name!r}: {error}") from None
        if tuple(tensor.shape) != shape:
            seen = tuple(self.tensors[name].shape)
            raise self.error(f"{name!r} has shape {seen}, giving {tuple(tensor.shape)}; wanted {shape} for {key!r}.")
        # A copy, so that no tensor is saved with the storage of the fused one it was cut from.
        stored = tensor.to(dtype, copy=True, memory_format=torch.contiguous_format)
        if not stored.isfinite().all():
            raise self.error(f"{name!r} reaches {tensor.abs().max().item():g}, wanted finite values in {dtype}.")
        return stored
