"""Residual blocks that the time scales and shifts (Dhariwal and Nichol 2021, arXiv 2105.05233, "adaptive group norm").

MONAI's residual blocks add the embedding of the time to the features. Here it becomes a factor and a summand behind
the second normalisation. :func:`scale_shifted` exchanges the blocks of a network that MONAI built, so that levels,
skips and names of keys stay MONAI's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock
from torch import nn

M = TypeVar("M", bound=nn.Module)


class ScaleShiftResnetBlock(DiffusionUNetResnetBlock):
    """h = conv2(SiLU(GN(conv1(SiLU(GN(x)))) (1 + scale) + shift)) + skip(x), scale and shift of the embedding.

    Args:
        activated: SiLU before the first convolution; without, it is conv1(GN(x)).
        dropout: share of the features dropped before the second convolution.
        arguments: those of MONAI's ``DiffusionUNetResnetBlock``.
    """

    def __init__(self, *, activated: bool = True, dropout: float = 0.0, **arguments) -> None:
        super().__init__(**arguments)
        self.activated = activated
        self.dropout = nn.Dropout(dropout)
        self.time_emb_proj = nn.Linear(self.emb_channels, 2 * self.out_channels)

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        """Features (B, c, *size) and embedding (B, e) to features (B, out, *size), resampled where the block does."""
        h = self.norm1(x)
        if self.activated:
            h = self.nonlinearity(h)
        resample = self.upsample or self.downsample
        if resample is not None:
            x, h = resample(x), resample(h)
        h = self.conv1(h)
        modulation = self.time_emb_proj(self.nonlinearity(emb))
        scale, shift = modulation.reshape(*modulation.shape, *[1] * (x.ndim - 2)).chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        h = self.conv2(self.dropout(self.nonlinearity(h)))
        return self.skip_connection(x) + h


def exchange(module: nn.Module, kind: type[M], make: Callable[[M], nn.Module]) -> None:
    """Put ``make(block)`` in the place of every ``block`` of MONAI's class ``kind`` inside ``module``."""
    for name, child in module.named_children():
        if type(child) is kind:
            setattr(module, name, make(child))
        else:
            exchange(child, kind, make)


def scale_shifted(module: nn.Module, activated: bool = True, dropout: float = 0.0) -> None:
    """Let the time scale and shift in every residual block of MONAI's inside ``module``; their weights are new."""

    def make(block: DiffusionUNetResnetBlock) -> ScaleShiftResnetBlock:
        return ScaleShiftResnetBlock(
            activated=activated,
            dropout=dropout,
            spatial_dims=block.spatial_dims,
            in_channels=block.channels,
            out_channels=block.out_channels,
            temb_channels=block.emb_channels,
            up=block.up,
            down=block.down,
            norm_num_groups=block.norm1.num_groups,
            norm_eps=block.norm1.eps,
        )

    exchange(module, DiffusionUNetResnetBlock, make)
