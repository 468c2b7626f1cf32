"""Training without a moving average of weights."""

from __future__ import annotations

from ignite.engine import Engine
from torch import nn


class NoAverage:
    """Stands where ignite's ``EMAHandler`` would: what is validated, saved and shown are the weights themselves.

    Args:
        model: that is trained.
    """

    def __init__(self, model: nn.Module) -> None:
        self.ema_model = model

    def attach(self, engine: Engine) -> None:
        """Nothing to follow."""
