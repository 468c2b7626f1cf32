"""Guidance by the gradient of a classifier (Dhariwal and Nichol 2021, arXiv 2105.05233, Algorithm 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..schedulers import GaussianScheduler


@dataclass(frozen=True, eq=False)
class ClassifierGuidance:
    """eps - s sqrt(1 - abar_t) grad log p(y | x_t), the gradient taken at x_t itself.

    Args:
        scheduler: for abar_t.
        scale: s.
        target: the class y that is asked for.
        stride: the classifier is told ``timesteps // stride``. 1 is right; another repeats code that tells it the
            place in the respaced grid.
    """

    scheduler: GaussianScheduler
    scale: float
    target: int
    stride: int = 1

    def __call__(
        self, network: Any, x_t: torch.Tensor, timesteps: torch.Tensor, prediction: torch.Tensor
    ) -> torch.Tensor:
        """``prediction`` (B, c, *size) guided by the part ``classifier``; ``timesteps`` are equal."""
        gradient = class_gradient(network.classifier, x_t, timesteps // self.stride, self.target)
        deviation = (1 - self.scheduler.alpha_bar(int(timesteps[0]))) ** 0.5
        return prediction - self.scale * deviation * gradient


def class_gradient(classifier: Any, x_t: torch.Tensor, timesteps: torch.Tensor, target: int) -> torch.Tensor:
    """grad of log softmax(C(x_t, t))[target] with respect to x_t, shape of ``x_t``; works inside ``no_grad``."""
    with torch.enable_grad():
        x = x_t.detach().requires_grad_(True)
        log_probability = classifier(x, timesteps).float().log_softmax(dim=1)[:, target]
        # Units do not see each other, so the gradient of the sum is each one's own.
        return torch.autograd.grad(log_probability.sum(), x)[0]
