"""Scores that know how bright a sequence is, alone or together with its residual. One function a score.

A residual says that a place is not what the model put there, brightness that it is not what healthy tissue looks like;
a blurred edge has the first, a bright vessel the second, a lesion both. Arguments as in :mod:`scripts.scores`: x and
x_hat, (B, c, H, W) in [0, 1], and evidence by name, which none of these needs; results are (B, 1, H, W), float32, at
least 0.

Symbols: d = s (x_c - x_hat_c) is the signed residual and b = s (x_c - m) the signed brightness of channel c, s = 1
where lesions are bright and -1 where dark, m the reference: what healthy tissue has. G is a Gaussian of ``sigma``
pixels; it comes before signs are lost, so that noise cancels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from monai.networks.layers import GaussianFilter
from torch.nn import functional as F

Evidence = Mapping[str, torch.Tensor] | None


def residual_times_brightness(
    image: torch.Tensor,
    reconstruction: torch.Tensor,
    evidence: Evidence = None,
    *,
    channel: int,
    sign: float = 1.0,
    reference: float | None = None,
    sigma: float = 2.0,
) -> torch.Tensor:
    """a = sqrt(max(0, G d) max(0, G b)): high only where both are.

    Args:
        image: x, 0 outside the foreground.
        reconstruction: x_hat.
        evidence: not used.
        channel: c.
        sign: s, 1 or -1.
        reference: m, where intensities are standardised and healthy tissue has the same value in every patient;
            ``None`` for the median of x_c over each slice's foreground, which a large lesion moves.
        sigma: of G, in pixels; 0 for none.
    """
    residual, brightness = _residual_and_brightness(image, reconstruction, channel, sign, reference, sigma)
    return (residual.clamp_min(0) * brightness.clamp_min(0)).sqrt()


def lesser_of_residual_and_brightness(
    image: torch.Tensor,
    reconstruction: torch.Tensor,
    evidence: Evidence = None,
    *,
    channel: int,
    sign: float = 1.0,
    reference: float | None = None,
    sigma: float = 2.0,
) -> torch.Tensor:
    """a = max(0, min(G d, G b)); arguments as in :func:`residual_times_brightness`."""
    residual, brightness = _residual_and_brightness(image, reconstruction, channel, sign, reference, sigma)
    return torch.minimum(residual, brightness).clamp_min(0)


def residual_plus_brightness(
    image: torch.Tensor,
    reconstruction: torch.Tensor,
    evidence: Evidence = None,
    *,
    channel: int,
    sign: float = 1.0,
    reference: float | None = None,
    sigma: float = 2.0,
    weight: float = 1.0,
) -> torch.Tensor:
    """a = max(0, G d + w G b), w the ``weight`` of brightness, at least 0.

    Other arguments as in :func:`residual_times_brightness`.

    Raises:
        ValueError: when the weight is below 0.
    """
    if weight < 0:
        raise ValueError(f"weight: at least 0 is needed, got {weight}; sign says where lesions are dark.")
    residual, brightness = _residual_and_brightness(image, reconstruction, channel, sign, reference, sigma)
    return (residual + weight * brightness).clamp_min(0)


def brightness(
    image: torch.Tensor,
    reconstruction: torch.Tensor | None = None,
    evidence: Evidence = None,
    *,
    channel: int,
    sign: float = 1.0,
    reference: float | None = None,
    sigma: float = 2.0,
) -> torch.Tensor:
    """a = max(0, G b): a baseline without any model; arguments as in :func:`residual_times_brightness`."""
    return _smooth(_brightness(image, channel, sign, reference), sigma).clamp_min(0)


def dark_within_tissue(
    image: torch.Tensor,
    reconstruction: torch.Tensor | None = None,
    evidence: Evidence = None,
    *,
    channel: int,
    reference: float | None = None,
    fluid: float = 0.5,
    margin: int = 4,
    sigma: float = 2.0,
) -> torch.Tensor:
    """A baseline without any model for sequences on which lesions are dark, such as T1.

    There fluid is darker than any lesion, and so is the rim of the brain, where pixels are half fluid. Tissue is where
    G x_c is at least ``fluid`` m and no pixel within ``margin`` is outside the foreground; a = max(0, G(m - x_c))
    there, 0 elsewhere.

    Args:
        image: x, 0 outside the foreground.
        reconstruction: not used.
        evidence: not used.
        channel: c.
        reference: m; ``None`` for the median of each slice's foreground.
        fluid: share of m below which a pixel is fluid, in [0, 1].
        margin: pixels, in both directions of the slice, at least 0.
        sigma: of G, in pixels; 0 for none.

    Raises:
        ValueError: when ``fluid`` or ``margin`` is outside its range.
    """
    if not 0 <= fluid <= 1 or margin < 0:
        raise ValueError(f"need fluid in [0, 1] and margin at least 0, got {fluid} and {margin}.")
    x, m = image[:, channel : channel + 1].float(), _reference(image, channel, reference)
    # The image's border is outside: a brain that it cuts has a rim there too.
    outside = F.pad(1.0 - _foreground(image).float(), [margin] * 4, value=1.0)
    tissue = (F.max_pool2d(outside, 2 * margin + 1, stride=1) == 0) & (_smooth(x, sigma) >= fluid * m)
    return _smooth(_brightness(image, channel, -1.0, reference), sigma).clamp_min(0) * tissue


def _residual_and_brightness(
    image: torch.Tensor, reconstruction: torch.Tensor, channel: int, sign: float, reference: float | None, sigma: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """G d and G b, (B, 1, H, W) each."""
    difference = image[:, channel : channel + 1].float() - reconstruction[:, channel : channel + 1].float()
    return _smooth(sign * difference, sigma), _smooth(_brightness(image, channel, sign, reference), sigma)


def _brightness(image: torch.Tensor, channel: int, sign: float, reference: float | None) -> torch.Tensor:
    """b in the foreground, 0 outside."""
    x = image[:, channel : channel + 1].float()
    return sign * (x - _reference(image, channel, reference)) * _foreground(image)


def _reference(image: torch.Tensor, channel: int, reference: float | None) -> torch.Tensor:
    """m for each slice, (B, 1, 1, 1)."""
    if reference is not None:
        return image.new_full((len(image), 1, 1, 1), reference, dtype=torch.float32)
    pairs = zip(image[:, channel].float(), _foreground(image)[:, 0], strict=True)
    medians = [x[inside].median() if inside.any() else x.new_zeros(()) for x, inside in pairs]
    return torch.stack(medians).reshape(-1, 1, 1, 1)


def _foreground(image: torch.Tensor) -> torch.Tensor:
    """Where any channel is above 0, (B, 1, H, W)."""
    return (image > 0).any(dim=1, keepdim=True)


def _smooth(values: torch.Tensor, sigma: float) -> torch.Tensor:
    return GaussianFilter(2, sigma).to(values.device)(values) if sigma > 0 else values
