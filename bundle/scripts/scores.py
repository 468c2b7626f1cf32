"""Scores: pure functions from (image, reconstruction, mask) to an anomaly map. One function a score.

Each takes the slices x and x_hat, (B, c, H, W) in [0, 1], and what is known of the mask: M_0 itself, (B, C, h, w), or
its density, (B, 1, H, W) in [0, 1]; ``None`` where a score has no use for it. Each returns (B, 1, H, W), float32, at
least 0. What a score is parametrised by comes as keywords, so that a configuration binds them with
``"_mode_": "callable"`` and :func:`describe_score` can tell them.

Only the squared residual is the paper's (section 2.3). The others exist because what is unusual has a sign: a glioma is
brighter on FLAIR and darker on T1 than the healthy tissue that replaces it, an edge that the autoencoder blurs is
neither.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.metrics.regression import compute_ssim_and_cs
from monai.networks.layers import GaussianFilter
from torch.nn.functional import interpolate, pad

Score = Callable[..., torch.Tensor]

SSIM_WINDOW = 7


def squared_residual(
    image: torch.Tensor,
    reconstruction: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    weights: Sequence[float] | None = None,
) -> torch.Tensor:
    """The paper's map: a = sum over channels of w_c (x_c - x_hat_c)^2, all w_c = 1 unless given."""
    return _weighted_sum((image.float() - reconstruction.float()).square(), weights)


def absolute_residual(
    image: torch.Tensor,
    reconstruction: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    weights: Sequence[float] | None = None,
) -> torch.Tensor:
    """a = sum over channels of w_c |x_c - x_hat_c|, all w_c = 1 unless given; w_c at least 0."""
    return _weighted_sum((image.float() - reconstruction.float()).abs(), weights)


def signed_residual(
    image: torch.Tensor,
    reconstruction: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    weights: Sequence[float],
    sigma: float = 0.0,
) -> torch.Tensor:
    """a = max(0, G_sigma * sum over channels of w_c (x_c - x_hat_c)), G_sigma a Gaussian.

    Args:
        image: x.
        reconstruction: x_hat.
        mask: not used.
        weights: one a channel; above 0 where a lesion is bright, below 0 where it is dark, 0 to leave a channel out.
        sigma: of the Gaussian, in pixels; 0 for none. It comes before the sign is lost, so that noise and edges,
            which are positive on one side and negative on the other, cancel.
    """
    difference = _signed_sum(image.float() - reconstruction.float(), weights)
    return _smooth(difference, sigma).clamp_min(0)


def structural_dissimilarity(
    image: torch.Tensor,
    reconstruction: torch.Tensor,
    mask: torch.Tensor | None = None,
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


def mask_density(
    image: torch.Tensor, reconstruction: torch.Tensor, mask: torch.Tensor | None = None, *, sigma: float = 0.0
) -> torch.Tensor:
    """Share of the code's channels that the mask M_0 holds at each place, interpolated to the image; in [0, 1].

    Raises:
        ValueError: when there is no mask.
    """
    if mask is None:
        raise ValueError("mask_density: this score needs the mask, and the results hold none (no S_mask_density file).")
    density = mask.float().mean(dim=1, keepdim=True)
    if density.shape[2:] != image.shape[2:]:
        density = interpolate(density, size=tuple(image.shape[2:]), mode="bilinear", align_corners=False)
    return _smooth(density, sigma)


def bright_sequence(
    image: torch.Tensor,
    reconstruction: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    *,
    channel: int,
    sigma: float = 2.0,
) -> torch.Tensor:
    """A baseline without any model: a = G_sigma * max(0, x_c - median of x_c over the slice's foreground).

    Foreground is where any channel is above 0; a slice without any has a map of 0.

    Args:
        image: x.
        reconstruction: not used.
        mask: not used.
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
    mask: torch.Tensor | None = None,
    *,
    scores: Sequence[Score],
) -> torch.Tensor:
    """Geometric mean of several scores: high only where all are."""
    maps = torch.stack([score(image, reconstruction, mask) for score in scores])
    return maps.clamp_min(0).pow(1 / len(scores)).prod(dim=0)


def weighted_sum(
    image: torch.Tensor,
    reconstruction: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    scores: Sequence[Score],
    weights: Sequence[float],
) -> torch.Tensor:
    """Sum over several scores of weight times score; weights at least 0."""
    maps = torch.cat([score(image, reconstruction, mask) for score in scores], dim=1)
    return _weighted_sum(maps, weights)


def describe_score(score: Score) -> Any:
    """What a score is, in JSON values: its name, or a dictionary of its name and its keywords."""
    if not isinstance(score, functools.partial):
        return getattr(score, "__name__", type(score).__name__)
    keywords = {key: _describe_keyword(value) for key, value in sorted(score.keywords.items())}
    return {"name": describe_score(score.func), **keywords} if keywords else describe_score(score.func)


def _describe_keyword(value: Any) -> Any:
    if callable(value):
        return describe_score(value)
    if isinstance(value, (list, tuple)):
        return [_describe_keyword(v) for v in value]
    return value


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
