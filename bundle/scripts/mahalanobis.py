"""How far an image is from several restorations of it, pixel by pixel (Behrendt et al. 2024, arXiv 2407.12474).

With x the p values of an image in its foreground, x_bar the mean of N restorations and C their covariance, shrunk
so that it can be inverted, the squared Mahalanobis distance D^2 = d^T C^-1 d of d = x - x_bar is the sum of the terms
d_i (C^-1 d)_i. The map at pixel i is the root of its term, 0 where covariance with other pixels makes it negative.
"""

from __future__ import annotations

import torch

SMALLEST = 1e-8
"""Least variance that is added: restorations that are all the same have none, and could not be inverted."""


def mahalanobis_map(
    image: torch.Tensor,
    restorations: torch.Tensor,
    foreground: torch.Tensor | None = None,
    ridge: float | None = 0.01,
) -> torch.Tensor:
    """Distance of one image to its restorations.

    C has p^2 entries, p being some 10^5: with R (N, p) the deviations from the mean, C = a R^T R + b I is inverted by
    Woodbury's identity, C^-1 d = (d - R^T (b / a I + R R^T)^-1 R d) / b, an N x N system.

    Args:
        image: x, (c, H, W).
        restorations: (N, c, H, W), N at least 2.
        foreground: boolean, broadcastable to (c, H, W); elsewhere the map is 0. ``None`` for everywhere.
        ridge: what is added to the variances, C = R^T R / (N - 1) + ridge I, the authors' 0.01; ``None`` for the
            shrinkage of Ledoit and Wolf.

    Returns:
        (1, H, W), float32, at least 0: the root of the terms' sum over channels. NaN where a restoration is not finite.

    Raises:
        ValueError: when there are fewer than 2 restorations, or ``ridge`` is not above 0.
    """
    if len(restorations) < 2 or (ridge is not None and ridge <= 0):
        raise ValueError(f"needs at least 2 restorations and ridge > 0, got {len(restorations)} and {ridge!r}.")
    if not restorations.isfinite().all():
        return torch.full_like(image[:1], torch.nan, dtype=torch.float32)
    with torch.autocast(image.device.type, enabled=False):
        inside = torch.ones_like(image, dtype=torch.bool) if foreground is None else foreground.expand_as(image)
        # What is left out is 0 in d and R alike: it neither gives nor takes a term.
        values = restorations.double() * inside
        mean = values.mean(dim=0)
        difference, deviations = (image.double() * inside - mean).flatten(), (values - mean).flatten(1)
        gram = deviations @ deviations.T
        factor, added = covariance_factors(gram, deviations.square().sum(dim=1), int(inside.sum()), ridge)
        # Without deviations the system would be one of infinite numbers.
        weights = torch.linalg.solve(
            added * torch.eye(len(gram), dtype=gram.dtype, device=gram.device) + factor * gram,
            factor * (deviations @ difference),
        )
        terms = difference * (difference - deviations.T @ weights) / added
    return terms.reshape(image.shape).sum(dim=0, keepdim=True).clamp_min(0).sqrt().float()


def covariance_factors(
    gram: torch.Tensor, squares: torch.Tensor, count: int, ridge: float | None
) -> tuple[float, float]:
    """a and b of C = a R^T R + b I.

    Args:
        gram: R R^T, (N, N), float64.
        squares: squared length of each row of R, (N,).
        count: p.
        ridge: b; ``None`` for the shrinkage of Ledoit and Wolf 2004, which minimises the expected squared error:
            C = (1 - delta) S + delta m I, S = R^T R / N, m = tr(S) / p.
    """
    n = len(gram)
    if ridge is not None:
        return 1 / (n - 1), ridge
    p = max(count, 1)
    m = float(gram.trace()) / n / p
    # d^2 = |S - m I|^2 / p and b^2 = sum_k |r_k r_k^T - S|^2 / n^2 / p; |R^T R| and |R R^T| are the same.
    squared_norm = float(gram.square().sum()) / n**2
    distance = squared_norm / p - m**2
    error = (float(squares.square().sum()) / n - squared_norm) / n / p
    delta = min(error, distance) / distance if distance > 0 else 1.0
    return (1 - delta) / n, max(delta * m, SMALLEST)
