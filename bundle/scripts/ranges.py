"""From the images' units, [0, 1], to the range that a network was trained with, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def to_network(images: torch.Tensor, image_range: Sequence[float]) -> torch.Tensor:
    """Images in [0, 1] to [low, high]."""
    low, high = image_range
    return images.float() if (low, high) == (0, 1) else low + (high - low) * images.float()


def to_image(values: torch.Tensor, image_range: Sequence[float]) -> torch.Tensor:
    """Values in [low, high] to [0, 1]; what lies beyond stays beyond."""
    low, high = image_range
    return values if (low, high) == (0, 1) else (values - low) / (high - low)


def wrong_range(key: str, image_range: Sequence[float]) -> str | None:
    """A sentence when ``image_range`` is not two rising numbers."""
    fits = len(image_range) == 2 and image_range[0] < image_range[1]
    return None if fits else f"{key} must be two rising numbers, got {image_range!r}"
