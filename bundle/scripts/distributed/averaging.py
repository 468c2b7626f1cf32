"""Training in step: every process computes the gradient of its rows, and all apply the mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ignite.distributed as idist
import torch
from torch import nn

from .batch_norm import synchronise_batch_norm
from .process_group import ProcessGroup


class AverageGradients:
    """Average gradients over the processes before every step of the optimizers.

    The same as ``DistributedDataParallel`` for losses that are means over rows, without wrapping the networks: state
    dicts keep their keys, so that checkpoints do not tell how many processes wrote them, and networks may be called
    several times a step or be frozen for a while, as a discriminator is. What it lacks is communication during the
    backward pass. Batch normalisation, where there is any, becomes that of the whole batch.

    Args:
        group: the processes.
        networks: all that is trained.
        optimizers: all that train it.
    """

    def __init__(
        self, group: ProcessGroup, networks: Sequence[nn.Module], optimizers: Sequence[torch.optim.Optimizer]
    ) -> None:
        self.group, self.networks, self.checked = group, list(networks), False
        for network in self.networks:
            synchronise_batch_norm(network)
        for optimizer in optimizers:
            optimizer.register_step_pre_hook(self)

    def __call__(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Average the gradients of what ``optimizer`` trains.

        Raises:
            RuntimeError: at the first step, when the processes hold different weights.
        """
        if not self.checked:
            self.check()
        gradients = [p.grad for part in optimizer.param_groups for p in part["params"] if p.grad is not None]
        # One message for all of them.
        mean: Any = idist.all_reduce(torch.cat([g.flatten() for g in gradients])) / self.group.size
        start = 0
        for gradient in gradients:
            gradient.copy_(mean[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    def check(self) -> None:
        """Make sure that all processes start, or resume, from the same weights.

        Raises:
            RuntimeError: when they do not.
        """
        sums = [[p.detach().double().sum().item() for p in network.parameters()] for network in self.networks]
        if any(other != sums for other in self.group.gather(sums)):
            raise RuntimeError("the processes start from different weights: do all see the same output_dir?")
        self.checked = True
