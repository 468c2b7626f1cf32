"""Loading of weights into networks."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from torch import nn

from ..files import load_checkpoint

logger = logging.getLogger(__name__)


def load_weights(
    network: nn.Module, path: str | None, key: str = "weights", optional: bool = False, part: str | None = None
) -> nn.Module:
    """Load a state dict (or one under the key ``model``) into ``network`` and return it.

    Args:
        network: where the weights go.
        path: the file.
        key: the configuration key that names the file, for errors.
        optional: without a path, leave the network as it is.
        part: name of the network in a joined model such as ``models/model.pt``: of a file that holds such keys
            (``part.``), only these are loaded.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is unreadable or does not belong to the network.
    """
    if path is None:
        if optional:
            return network
        raise FileNotFoundError(f"{key}: a file of weights is needed, got None.")
    state = load_checkpoint(path, key)
    state = state.get("model", state)
    if part is not None and isinstance(state, Mapping):
        prefix = f"{part}."
        own = {name.removeprefix(prefix): value for name, value in state.items() if str(name).startswith(prefix)}
        state = own or state
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{key}: {path!r} does not fit: {error}") from None
    logger.info("%s: loaded %s", key, path)
    return network


def load_frozen(network: nn.Module, path: str, key: str, part: str) -> nn.Module:
    """The same for a part that other parts are trained with: in evaluation mode, its weights never change.

    Raises:
        FileNotFoundError, ValueError: as :func:`load_weights`.
    """
    return load_weights(network, path, key, part=part).eval().requires_grad_(False)
