"""Scores of methods that restore several times (:class:`scripts.methods.averaged.Averaged`)."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from .smoothing import gaussian_smooth


def mahalanobis_distance(
    image: torch.Tensor,
    reconstruction: torch.Tensor,
    evidence: Mapping[str, torch.Tensor] | None = None,
    *,
    sigma: float = 0.0,
) -> torch.Tensor:
    """The map ``mahalanobis`` of the evidence, handed on: (B, 1, H, W), float32, at least 0.

    Args:
        image: not used.
        reconstruction: not used.
        evidence: by name, (B, 1, H, W).
        sigma: of a Gaussian, in pixels; 0 for none, 1 in the paper.

    Raises:
        ValueError: when there is no such evidence.
    """
    if evidence is None or "mahalanobis" not in evidence:
        there = ", ".join(evidence or ()) or "none"
        raise ValueError(
            f"mahalanobis_distance: needs the evidence 'mahalanobis', of a method made by Averaged; there is {there}."
        )
    return gaussian_smooth(evidence["mahalanobis"], sigma).clamp_min(0)


mahalanobis_distance.evidence = ("mahalanobis",)  # type: ignore[attr-defined]
