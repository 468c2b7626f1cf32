"""Gradients of bounded length."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine
from monai.engines import IterationEvents
from torch import nn

from scripts.handlers import GradientClipping


class Two(nn.Module):
    """Two weights, so that the norm of all differs from each one's."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))


def step(max_norm: float, slopes: tuple[float, float]) -> tuple[float, float]:
    """Gradients after the backward pass of a loss with these slopes, as the optimizer sees them."""
    network = Two()

    def update(engine: Engine, batch: int) -> None:
        (slopes[0] * network.a + slopes[1] * network.b).sum().backward()
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)

    engine = Engine(update)
    engine.register_events(*IterationEvents)
    GradientClipping(network, max_norm).attach(engine)
    engine.run([0], max_epochs=1)
    return network.a.grad.item(), network.b.grad.item()


def test_long_gradients_keep_their_direction():
    assert step(0.5, (30.0, -40.0)) == pytest.approx((0.3, -0.4), rel=1e-4)


@pytest.mark.parametrize("slopes", [(0.3, 0.2), (-0.1, 0.0), (0.0, 0.0)])
def test_short_gradients_stay(slopes):
    assert step(0.5, slopes) == pytest.approx(slopes)


def test_every_iteration_is_clipped():
    network, norms = Two(), []

    def update(engine: Engine, batch: float) -> None:
        network.zero_grad()
        (batch * network.a + 2 * batch * network.b).sum().backward()
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        norms.append((network.a.grad**2 + network.b.grad**2).sqrt().item())

    engine = Engine(update)
    engine.register_events(*IterationEvents)
    GradientClipping(network, 1.0).attach(engine)
    engine.run([5.0, 0.1, 7.0], max_epochs=1)
    assert norms == pytest.approx([1.0, 0.1 * 5**0.5, 1.0], rel=1e-4)


@pytest.mark.parametrize("max_norm", [0, -1.0, float("nan"), "0.5", True])
def test_a_norm_that_is_none(max_norm):
    with pytest.raises(ValueError, match="gradient_clip must be a number in"):
        GradientClipping(Two(), max_norm)
