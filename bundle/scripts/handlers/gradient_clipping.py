"""Gradients of bounded length."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine
from monai.engines import IterationEvents

from ..checks import MANY, outside, refuse


class GradientClipping:
    """Scale the gradients of a network down to a norm before every step of its optimizer.

    Args:
        network: that is trained.
        max_norm: largest norm of all gradients together, above 0.

    Raises:
        ValueError: when ``max_norm`` is not above 0.
    """

    def __init__(self, network: torch.nn.Module, max_norm: float) -> None:
        refuse("gradient_clip", [outside("gradient_clip", max_norm, 1e-12, MANY)])
        self.network, self.max_norm = network, max_norm

    def attach(self, engine: Engine) -> None:
        """Register the handler."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Clip."""
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)
