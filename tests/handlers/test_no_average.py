"""Training without a moving average, in the place of one with it."""

from __future__ import annotations

import torch
from ignite.engine import Engine
from ignite.handlers import EMAHandler
from torch import nn

from scripts.handlers import NoAverage


def train(follower: type, **arguments) -> tuple[nn.Linear, nn.Module]:
    """A weight that grows by one an iteration, four times, and what a handler offers as the model to save."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)

    def update(engine: Engine, batch: int) -> None:
        with torch.no_grad():
            network.weight += 1

    engine, handler = Engine(update), follower(network, **arguments)
    handler.attach(engine)
    engine.run([0, 1], max_epochs=2)
    return network, handler.ema_model


def test_the_model_is_the_network_itself():
    network, offered = train(NoAverage)
    assert offered is network
    assert offered.weight.item() == 4


def test_an_average_would_lag_behind():
    network, offered = train(EMAHandler, momentum=0.5)
    assert network.weight.item() == 4 and offered.weight.item() < 4
