"""Loading of weights into networks."""

from __future__ import annotations

import logging

from torch import nn

from .files import load_checkpoint

logger = logging.getLogger(__name__)


def load_weights(network: nn.Module, path: str | None, key: str = "weights", optional: bool = False) -> nn.Module:
    """Load a state dict (or one under the key ``model``) into ``network`` and return it.

    Args:
        network: where the weights go.
        path: the file.
        key: the configuration key that names the file, for errors.
        optional: without a path, leave the network as it is.

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
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{key}: {path!r} does not fit: {error}") from None
    logger.info("%s: loaded %s", key, path)
    return network
