"""From a feature map to one vector: attention whose query is the mean (Radford et al. 2021, arXiv 2103.00020)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from monai.networks.blocks.selfattention import SABlock
from torch import nn


class AttentionPool(nn.Module):
    """Places are tokens, their mean is one more before them; after self-attention that one alone is read.

    Args:
        size: of the feature map, such as (8, 8); every place has an embedding of its position.
        channels: of the feature map.
        out_channels: numbers a unit.
        num_head_channels: channels of an attention head; must divide ``channels``.
    """

    def __init__(self, size: Sequence[int], channels: int, out_channels: int, num_head_channels: int) -> None:
        super().__init__()
        places = math.prod(size)
        self.positional_embedding = nn.Parameter(torch.randn(channels, places + 1) / math.sqrt(channels))
        self.attn = SABlock(channels, channels // num_head_channels, qkv_bias=True, include_fc=False)
        self.out_proj = nn.Linear(channels, out_channels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features (B, c, *size) to (B, out_channels)."""
        tokens = features.flatten(2)
        tokens = torch.cat([tokens.mean(dim=2, keepdim=True), tokens], dim=2) + self.positional_embedding
        return self.out_proj(self.attn(tokens.transpose(1, 2))[:, 0])
