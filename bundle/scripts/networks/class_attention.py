"""Self-attention of places that also look at tokens of the image's class (Che et al. 2024, arXiv 2404.15683)."""

from __future__ import annotations

import torch
from monai.networks.blocks import SpatialAttentionBlock
from torch import nn


class ClassAttentionBlock(SpatialAttentionBlock):
    """MONAI's block with keys and values of the class before those of the places.

    The class vector c of length e gives e tokens, token j being c_j c, the outer product of c with itself. Where it is
    zero, all of them are the bias alone: they are looked at, and say nothing.

    Args:
        class_channels: length of the class vector.
        arguments: those of MONAI's ``SpatialAttentionBlock``.
    """

    def __init__(self, class_channels: int, **arguments) -> None:
        super().__init__(**arguments)
        self.class_to_k = nn.Linear(class_channels, self.attn.inner_dim)
        self.class_to_v = nn.Linear(class_channels, self.attn.inner_dim)

    def forward(self, x: torch.Tensor, class_vector: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Features (B, c, *size) and class vectors (B, e) to features of the same shape."""
        attn, heads = self.attn, self.attn.num_heads
        places = self.norm(x).flatten(2).transpose(1, 2)
        keys = torch.cat([_class_tokens(self.class_to_k, class_vector), attn.to_k(places)], dim=1)
        values = torch.cat([_class_tokens(self.class_to_v, class_vector), attn.to_v(places)], dim=1)
        q, k, v = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in (attn.to_q(places), keys, values))
        attended = nn.functional.scaled_dot_product_attention(q, k, v)  # scaled by 1 / sqrt(channels of a head)
        attended = attn.out_proj(attended.transpose(1, 2).flatten(2))
        return attended.transpose(1, 2).reshape(x.shape) + x


def _class_tokens(projection: nn.Linear, class_vector: torch.Tensor) -> torch.Tensor:
    """W (c_j c) + b for every j, (B, e, channels), without making the e x e products: c_j (W c) + b."""
    image = nn.functional.linear(class_vector, projection.weight)
    return class_vector[:, :, None] * image[:, None] + projection.bias
