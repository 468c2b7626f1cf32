"""Whether networks, images and labels belong together; asked before anything is computed."""

from __future__ import annotations

from typing import Any

import torch

from ..checks import refuse
from .parts import Parts


def check_parts(network: Parts, images: torch.Tensor, *names: str, null_class: bool = False) -> None:
    """Refuse parts that are missing or were built for other images.

    Args:
        network: all parts.
        images: (B, c, *size).
        names: the parts that are needed.
        null_class: the part ``denoiser`` has to know the null class.

    Raises:
        ValueError: naming all that is wrong.
    """
    parts: dict[str, Any] = {name: network.part(name) for name in names}
    channels = images.shape[1]
    problems = [
        f"{name} takes images of {part.in_channels} channels, these have {channels}"
        for name, part in parts.items()
        if getattr(part, "in_channels", channels) != channels
    ]
    problems += [
        f"{name} takes images of {size}, these are {tuple(images.shape[2:])}"
        for name, part in parts.items()
        if (size := getattr(part, "image_size", tuple(images.shape[2:]))) != tuple(images.shape[2:])
    ]
    if null_class and not getattr(parts["denoiser"], "knows_null", False):
        problems.append(
            "denoiser does not know the null class: ConditionalUNet with num_class_embeds 3, or FPDMUNet, is needed"
        )
    refuse("network", problems)


def needed_labels(what: str, labels: torch.Tensor | None, images: torch.Tensor) -> torch.Tensor:
    """The image labels, (B,), whole numbers, on the images' device.

    Raises:
        ValueError: when there are none, or not one for each image.
    """
    if labels is None or labels.shape != images.shape[:1]:
        seen = "none" if labels is None else f"shape {tuple(labels.shape)}"
        wanted = f"0 healthy or 1 diseased, of shape ({len(images)},)"
        raise ValueError(f"{what}: image labels are needed, {wanted}, got {seen}.")
    return labels.to(images.device, torch.int64)
