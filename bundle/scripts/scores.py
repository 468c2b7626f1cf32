"""Scores: pure functions from (image, reconstruction, evidence) to an anomaly map. One function a score.

Each takes the slices x and x_hat, (B, c, H, W) in [0, 1], and what the method found beside the reconstruction:
evidence by name, (B, k, H, W), or ``None``. Each returns (B, 1, H, W), float32, at least 0. What a score is
parametrised by comes as keywords, so that a configuration binds them with ``"_mode_": "callable"`` and
:func:`scripts.describe.describe` can tell them. A score that wants evidence is marked with :func:`wants`, or takes its
name as the keyword ``name``.

Only the squared residual is the paper's (section 2.3). The others exist because what is unusual has a sign: a glioma is
brighter on FLAIR and darker on T1 than the healthy tissue that replaces it, an edge that the autoencoder blurs is
neither.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.metrics.regression import compute_ssim_and_cs
from monai.networks.layers import GaussianFilter
from torch.nn.functional import interpolate, pad

Score = Callable[..., torch.Tensor]
Evidence = Mapping[str, torch.Tensor] | None

SSIM_WINDOW = 7


def wants(*names: str) -> Callable[[Score], Score]:
    """Mark a score that takes the evidence of these names."""

    def mark(score: Score) -> Score:
        score.evidence = names  # type: ignore[attr-defined]
        return score

    return mark


def needs(score: Any) -> tuple[str, ...]:
    """Names of the evidence that a score takes, those of the scores that it is made of included."""
    if isinstance(score, functools.partial):
        own = needs(score.func)
        named = (score.keywords["name"],) if score.func is evidence_map and "name" in score.keywords else ()
        parts = [needs(part) for part in score.keywords.get("scores", ())]
        return tuple(dict.fromkeys((*own, *named, *(name for part in parts for name in part))))
    return tuple(getattr(score, "evidence", ()))


def take(evidence: Evidence, name: str) -> torch.Tensor:
    """The evidence of a name.

    Raises:
        ValueError: when there is none; names what there is.
    """
    if evidence is None or name not in evidence:
        there = ", ".join(evidence or ()) or "none"
        raise ValueError(f"this score needs the evidence {name!r}; the method or its stored results have {there}.")
    return evidence[name]


def resize_evidence(evidence: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Evidence (B, k, *places) at the image's ``size``, float32, linear between the centres of its places."""
    if tuple(evidence.shape[2:]) == tuple(size):
        return evidence.float()
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    return interpolate(evidence.float(), size=tuple(size), mode=mode, align_corners=False)


def squared_residual(
    image: torch.Tensor,
    reconstruction: torch.Tensor,
    evidence: Evidence = None,
    *,
    weights: Sequence[float] | None = None,
) -> torch.Tensor:
    """The paper's map: a = sum over channels of w_c (x_c - x_hat_c)^2, all w_c = 1 unless given."""
    return _weighted_sum((image.float() - reconstruction.float()).square(), weights)


def absolute_residual(
    image: torch.Tensor,
    reconstruction: torch.Tensor,
    evidence: Evidence = None,
    *,
    weights: Sequence[float] | None = None,
) -> torch.Tensor:
    """a = sum over channels of w_c |x_c - x_hat_c|, all w_c = 1 unless given; w_c at least 0."""
    return _weighted_sum((image.float() - reconstruction.float()).abs(), weights)


def signed_residual(
    image: torch.Tensor,
    reconstruction: torch.Tensor,
    evidence: Evidence = None,
    *,
    weights: Sequence[float],
    sigma: float = 0.0,
) -> torch.Tensor:
    """a = max(0, G_sigma * sum over channels of w_c (x_c - x_hat_c)), G_sigma a Gaussian.

    Args:
        image: x.
        reconstruction: x_hat.
        evidence: not used.
        weights: one a channel; above 0 where a lesion is bright, below 0 where it is dark, 0 to leave a channel out.
        sigma: of the Gaussian, in pixels; 0 for none. It comes before the sign is lost, so that noise and edges,
            which are positive on one side and negative on the other, cancel.
    """
    difference = _signed_sum(image.float() - reconstruction.float(), weights)
    return _smooth(difference, sigma).clamp_min(0)


def structural_dissimilarity(
    image: torch.Tensor,
    reconstruction: torch.Tensor,
    evidence: Evidence = None,
    *,
    weights: Sequence[float] | None = None,
) -> torch.Tensor:
    """a = sum over channels of w_c (1 - SSIM_c) / 2, w_c summing to 1; in [0, 1]. Windows are uniform, 7 wide."""
    border = SSIM_WINDOW // 2
    padded = [pad(x.float(), [border] * 4, mode="replicate") for x in (image, reconstruction)]
    ssim, _ = compute_ssim_and_cs(
        padded[0],
        padded[1],
        spatial_dims=2,
        data_range=1.0,
        kernel_size=(SSIM_WINDOW, SSIM_WINDOW),
        kernel_sigma=(1.5, 1.5),
        kernel_type="uniform",
    )
    dissimilarity = ((1 - ssim) / 2).clamp(0, 1)
    if weights is None:
        return dissimilarity.mean(dim=1, keepdim=True)
    total = _weighted_sum(dissimilarity, weights)
    if not any(weights):
        raise ValueError(f"weights: one above 0 is needed, got {list(weights)}.")
    return total / sum(weights)


@wants("mask_density")
def mask_density(
    image: torch.Tensor, reconstruction: torch.Tensor, evidence: Evidence = None, *, sigma: float = 0.0
) -> torch.Tensor:
    """Share of the code's channels that masked Bernoulli's mask M_0 holds at each place, smoothed; in [0, 1].

    Raises:
        ValueError: when there is no such evidence.
    """
    return _smooth(take(evidence, "mask_density").float(), sigma)


def evidence_map(
    image: torch.Tensor, reconstruction: torch.Tensor, evidence: Evidence = None, *, name: str, sigma: float = 0.0
) -> torch.Tensor:
    """A map that the method made itself, handed on: the evidence ``name``, summed over its channels, at least 0.

    Raises:
        ValueError: when there is no such evidence.
    """
    return _smooth(take(evidence, name).float().sum(dim=1, keepdim=True), sigma).clamp_min(0)


def bright_sequence(
    image: torch.Tensor,
    reconstruction: torch.Tensor | None = None,
    evidence: Evidence = None,
    *,
    channel: int,
    sigma: float = 2.0,
) -> torch.Tensor:
    """A baseline without any model: a = G_sigma * max(0, x_c - median of x_c over the slice's foreground).

    Foreground is where any channel is above 0; a slice without any has a map of 0.

    Args:
        image: x.
        reconstruction: not used.
        evidence: not used.
        channel: the sequence on which lesions are bright, e.g. FLAIR.
        sigma: of the Gaussian, in pixels.
    """
    bright = torch.zeros_like(image[:, :1], dtype=torch.float32)
    for index, x in enumerate(image.float()):
        foreground = (x > 0).any(dim=0)
        if foreground.any():
            bright[index, 0] = (x[channel] - x[channel][foreground].median()).clamp_min(0) * foreground
    return _smooth(bright, sigma)


def product(
    image: torch.Tensor,
    reconstruction: torch.Tensor,
    evidence: Evidence = None,
    *,
    scores: Sequence[Score],
) -> torch.Tensor:
    """Geometric mean of several scores: high only where all are."""
    maps = torch.stack([score(image, reconstruction, evidence) for score in scores])
    return maps.clamp_min(0).pow(1 / len(scores)).prod(dim=0)


def weighted_sum(
    image: torch.Tensor,
    reconstruction: torch.Tensor,
    evidence: Evidence = None,
    *,
    scores: Sequence[Score],
    weights: Sequence[float],
) -> torch.Tensor:
    """Sum over several scores of weight times score; weights at least 0."""
    maps = torch.cat([score(image, reconstruction, evidence) for score in scores], dim=1)
    return _weighted_sum(maps, weights)


def _signed_sum(channels: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    if len(weights) != channels.shape[1]:
        raise ValueError(f"weights: one for each of {channels.shape[1]} channels is needed, got {list(weights)}.")
    return (channels * channels.new_tensor(list(weights)).reshape(1, -1, 1, 1)).sum(dim=1, keepdim=True)


def _weighted_sum(channels: torch.Tensor, weights: Sequence[float] | None) -> torch.Tensor:
    """Sum over channels of values that are at least 0, with weights that are too."""
    if weights is None:
        return channels.sum(dim=1, keepdim=True)
    if any(w < 0 for w in weights):
        raise ValueError(f"weights: at least 0 is needed, got {list(weights)}; signed_residual takes signs.")
    return _signed_sum(channels, weights)


def _smooth(values: torch.Tensor, sigma: float) -> torch.Tensor:
    return GaussianFilter(2, sigma).to(values.device)(values) if sigma > 0 else values
