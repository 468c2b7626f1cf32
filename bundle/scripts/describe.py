"""What a thing is, in JSON values: methods, noise processes, scores and transforms are asked, nobody lists them.

A thing says so itself by a method ``describe()``; ``None`` means that results do not depend on it. Of anything else
the name of its class and its public attributes are taken, so that no parameter can be forgotten.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose
from torch import nn

PLAIN = (str, int, float, bool)
LARGEST_ARRAY = 64
"""Arrays of more values are told by a hash."""


class Undescribed:
    """A thing that results do not depend on, such as how files are read: the same image may come from any."""

    def describe(self) -> None:
        """Nothing."""


def describe(thing: Any) -> Any:
    """``thing`` in JSON values.

    ``None``, texts and numbers are themselves; sequences, mappings and MONAI's ``Compose`` are described entry by
    entry, leaving out transforms that describe themselves as ``None``; a function is its name, a bound one
    (``partial``) a dictionary of ``name`` and its keywords; an object is what its ``describe()`` says, else its class
    and attributes.
    """
    # Before texts, since some of MONAI's are both.
    if isinstance(thing, Enum):
        return describe(thing.value)
    if thing is None or isinstance(thing, PLAIN):
        return thing
    if isinstance(thing, Compose):
        return [said for transform in thing.transforms if (said := describe(transform)) is not None]
    if isinstance(thing, Mapping):
        return {str(key): describe(value) for key, value in thing.items()}
    if isinstance(thing, Sequence):
        return [describe(value) for value in thing]
    if isinstance(thing, (torch.Tensor, np.ndarray, np.generic)):
        return _describe_array(np.asarray(thing))
    if isinstance(thing, functools.partial):
        keywords = {key: describe(value) for key, value in sorted(thing.keywords.items())}
        return {"name": describe(thing.func), **keywords} if keywords else describe(thing.func)
    if hasattr(thing, "describe") and not isinstance(thing, type):
        return thing.describe()
    if isinstance(thing, nn.Module):
        return _describe_module(thing)
    if hasattr(thing, "__name__"):
        return thing.__name__
    return _describe_object(thing) if hasattr(thing, "__dict__") else str(thing)


def _describe_array(array: np.ndarray) -> Any:
    if array.size <= LARGEST_ARRAY:
        return array.tolist()
    return {
        "shape": list(array.shape),
        "sha256": hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16],
    }


def _describe_object(thing: Any) -> dict[str, Any]:
    """Class, and the arguments it was made with, where it keeps them all under their names; else its public attributes.

    Random states are left out, they are no setting.
    """
    attributes = {key: value for key, value in sorted(vars(thing).items()) if not key.startswith("_")}
    parameters = list(inspect.signature(type(thing)).parameters)
    if parameters and all(name in attributes for name in parameters):
        attributes = {name: attributes[name] for name in parameters}
    plain = {key: value for key, value in attributes.items() if not isinstance(value, np.random.RandomState)}
    return {"name": type(thing).__name__, **{key: describe(value) for key, value in plain.items()}}


def _describe_module(module: nn.Module) -> dict[str, Any]:
    """Its own attributes; of a network how many parameters it has, of a loss the modules that it is made of."""
    count = sum(p.numel() for p in module.parameters())
    said = {key: value for key, value in _describe_object(module).items() if key != "training"}
    parts = {"parameters": count} if count else {name: describe(child) for name, child in module.named_children()}
    return {**said, **parts}


def differences(there: Mapping[str, Any], here: Mapping[str, Any], keys: Sequence[str] | None = None) -> str:
    """What differs between two descriptions, in words; empty when nothing does.

    Args:
        there: of something stored.
        here: of this run.
        keys: which entries to compare; ``None`` for those of either.
    """
    names = sorted(there.keys() | here.keys()) if keys is None else keys
    return "; ".join(
        _difference(key, there.get(key), here.get(key)) for key in names if there.get(key) != here.get(key)
    )


def _difference(key: str, there: Any, here: Any) -> str:
    """Of two dictionaries only the entries that differ are told."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        names = sorted(there.keys() | here.keys())
        return "; ".join(
            _difference(f"{key}.{name}", there.get(name), here.get(name))
            for name in names
            if there.get(name) != here.get(name)
        )
    return f"{key} is {there!r} there, {here!r} here"
