"""What a small change of the condition changes in a trajectory (Hu et al. 2023, arXiv 2306.03878)."""

from __future__ import annotations

import torch


def finite_difference(states: torch.Tensor, mixed_states: torch.Tensor, tau: float) -> torch.Tensor:
    """(x^1 - x^tau) / (1 - tau): the derivative of the state by the condition, as a quotient of differences.

    Args:
        states: states under the condition e(1), (B, c, *size).
        mixed_states: states under tau e(1) + (1 - tau) e(0), of the same trajectory otherwise.
        tau: in [0, 1).
    """
    return (states - mixed_states) / (1 - tau)
