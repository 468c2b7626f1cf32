"""Which sequences of an image a method judges by."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def wrong_channels(key: str, channels: Sequence[int] | None) -> str | None:
    """A sentence when ``channels`` is no list of different whole numbers from 0; ``None`` stands for all channels."""
    if channels is None:
        return None
    whole = all(isinstance(c, int) and not isinstance(c, bool) and c >= 0 for c in channels)
    fits = len(channels) > 0 and whole and len(set(channels)) == len(channels)
    return None if fits else f"{key} must be None or different whole numbers from 0, got {channels!r}"


def chosen_channels(channels: Sequence[int] | None, images: torch.Tensor) -> list[int]:
    """``channels``, or all that ``images`` (B, c, *size) have.

    Raises:
        ValueError: when the images have no such channel.
    """
    count = images.shape[1]
    chosen = list(range(count)) if channels is None else list(channels)
    if max(chosen) >= count:
        raise ValueError(f"channels: {chosen} are asked for, the images have {count}.")
    return chosen
