"""Likeness of an image and its reconstruction, over all pixels or those of a region such as healthy tissue."""

from __future__ import annotations

import math

import numpy as np
import torch
from monai.metrics.regression import compute_ssim_and_cs

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5


def psnr(
    image: np.ndarray, reconstruction: np.ndarray, where: np.ndarray | None = None, data_range: float = 1.0
) -> float:
    """Peak signal-to-noise ratio in dB, of the squared error over the channels and pixels of ``where``.

    Args:
        image: (c, H, W) in [0, ``data_range``].
        reconstruction: (c, H, W).
        where: (H, W) boolean, the pixels to judge; ``None`` for all.
        data_range: the greatest intensity that is possible; above 0.

    Returns:
        ``inf`` when the two are equal; NaN when ``where`` selects no pixel.

    Raises:
        ValueError: when shapes do not fit, values are not finite, ``where`` is not boolean or ``data_range`` is not
            above 0.
    """
    if not data_range > 0:
        raise ValueError(f"data_range must be above 0, got {data_range}.")
    image, reconstruction, where = _checked(image, reconstruction, where)
    if not where.any():
        return math.nan
    error = float(np.mean((image - reconstruction)[:, where] ** 2))
    return math.inf if error == 0 else 10 * math.log10(data_range**2 / error)


def ssim(image: np.ndarray, reconstruction: np.ndarray, where: np.ndarray | None = None) -> float:
    """Structural similarity, at most 1: mean of its map over the channels and pixels of ``where``.

    The window is Gaussian, 11 pixels wide with a standard deviation of 1.5, and must lie inside the image, so the
    5 outermost pixels of each side are never judged.

    Args:
        image: (c, H, W) in [0, 1], at least 11 pixels wide and high.
        reconstruction: (c, H, W) in [0, 1].
        where: (H, W) boolean, the centres of the windows to judge; ``None`` for all.

    Returns:
        NaN when ``where`` selects no pixel at which the window fits.

    Raises:
        ValueError: when shapes do not fit, values are not finite or ``where`` is not boolean.
    """
    image, reconstruction, where = _checked(image, reconstruction, where)
    if min(where.shape) < SSIM_WINDOW:
        raise ValueError(f"image must have {SSIM_WINDOW} or more pixels a side, got {where.shape}.")
    margin = SSIM_WINDOW // 2
    where = where[margin:-margin, margin:-margin]
    if not where.any():
        return math.nan
    similarity, _ = compute_ssim_and_cs(
        torch.from_numpy(reconstruction)[None],
        torch.from_numpy(image)[None],
        spatial_dims=2,
        kernel_size=(SSIM_WINDOW, SSIM_WINDOW),
        kernel_sigma=(SSIM_SIGMA, SSIM_SIGMA),
    )
    return float(similarity[0].numpy()[:, where].mean(dtype=np.float64))


def _checked(
    image: np.ndarray, reconstruction: np.ndarray, where: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    image, reconstruction = np.array(image, dtype=np.float64), np.array(reconstruction, dtype=np.float64)
    if image.ndim != 3 or image.shape != reconstruction.shape:
        raise ValueError(
            f"image and reconstruction must have one shape (c, H, W), got {image.shape} and {reconstruction.shape}."
        )
    for name, array in (("image", image), ("reconstruction", reconstruction)):
        bad = array.size - np.count_nonzero(np.isfinite(array))
        if bad:
            raise ValueError(f"{name} must be finite, got {bad} of {array.size} values that are NaN or infinite.")
    where = np.ones(image.shape[1:], dtype=bool) if where is None else np.asarray(where)
    if where.dtype != bool or where.shape != image.shape[1:]:
        raise ValueError(f"where must be boolean {image.shape[1:]}, got {where.dtype} {where.shape}.")
    return image, reconstruction, where
