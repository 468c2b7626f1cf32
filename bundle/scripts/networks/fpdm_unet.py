"""The U-Net of AnoFPDM (Che et al. 2024, arXiv 2404.15683), as its authors trained it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.blocks import SpatialAttentionBlock
from monai.networks.nets import DiffusionModelUNet
from monai.networks.nets.diffusion_model_unet import get_timestep_embedding
from torch import nn

from .class_attention import ClassAttentionBlock
from .classes import NULL, ClassEmbedding
from .scale_shift import exchange, scale_shifted


class FPDMUNet(DiffusionModelUNet):
    """MONAI's skeleton with other residual and attention blocks.

    Residual blocks scale and shift by the embedding and have no SiLU before their first convolution, nor has the
    output; every attention also looks at tokens of the class. With the defaults the module has 103,082,500 parameters.

    Args:
        in_channels: image channels c.
        out_channels: c too.
        channels: width of each level.
        num_res_blocks: residual blocks a level.
        attention_levels: which levels have attention; the middle has it in any case.
        num_heads: attention heads, everywhere.
        dropout: in every residual block.
        norm_num_groups: groups of every GroupNorm; must divide each width.
        norm_eps: epsilon of every GroupNorm.
    """

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 4,
        channels: Sequence[int] = (128, 128, 256, 384, 512),
        num_res_blocks: int = 2,
        attention_levels: Sequence[bool] = (False, False, True, True, True),
        num_heads: int = 4,
        dropout: float = 0.1,
        norm_num_groups: int = 32,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__(
            spatial_dims=2,
            in_channels=in_channels,
            out_channels=out_channels,
            channels=channels,
            num_res_blocks=num_res_blocks,
            attention_levels=attention_levels,
            num_head_channels=[width // num_heads for width in channels],
            norm_num_groups=norm_num_groups,
            norm_eps=norm_eps,
            include_fc=True,
        )
        width, embedding = channels[0], 4 * channels[0]
        scale_shifted(self, activated=False, dropout=dropout)

        def with_class(block: SpatialAttentionBlock) -> ClassAttentionBlock:
            return ClassAttentionBlock(
                embedding,
                spatial_dims=2,
                num_channels=block.attn.inner_dim,
                num_head_channels=block.attn.dim_head,
                norm_num_groups=norm_num_groups,
                norm_eps=norm_eps,
            )

        exchange(self, SpatialAttentionBlock, with_class)
        self.class_embedding = ClassEmbedding(NULL, width)
        self.class_embed = nn.Sequential(nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.out[1] = nn.Identity()
        self.knows_null = True

    def class_vector(self, class_labels: torch.Tensor) -> torch.Tensor:
        """c = W2 SiLU(W1 E[y]), (B, e); zero for the null class.

        Args:
            class_labels: 0, 1 or null (2), (B,), or weights of the two classes, (B, 2).
        """
        if class_labels.is_floating_point():
            return self.class_embed(self.class_embedding(class_labels))
        known = class_labels != NULL
        vectors = self.class_embed(self.class_embedding(class_labels * known))
        return torch.where(known[:, None], vectors, 0.0)

    def forward(  # type: ignore[override]
        self, x: torch.Tensor, timesteps: torch.Tensor, class_labels: torch.Tensor
    ) -> torch.Tensor:
        """eps of noised images, (B, out_channels, H, W).

        Args:
            x: x_t, (B, c, H, W).
            timesteps: zero-based, (B,).
            class_labels: see :meth:`class_vector`.
        """
        classes = self.class_vector(class_labels)
        times = get_timestep_embedding(timesteps, self.block_out_channels[0]).to(x.dtype)
        emb = self.time_embed(times) + classes
        h = self.conv_in(x)
        skips = [h]
        middle: Any = self.middle_block
        down_blocks: Any = self.down_blocks  # whose layers MONAI's types do not tell
        up_blocks: Any = self.up_blocks
        for block in down_blocks:
            for resnet, attention in _layers(block):
                h = attention(resnet(h, emb), classes)
                skips.append(h)
            if block.downsampler is not None:
                h = block.downsampler(h)
                skips.append(h)
        h = middle.resnet_2(middle.attention(middle.resnet_1(h, emb), classes), emb)
        for block in up_blocks:
            for resnet, attention in _layers(block):
                h = attention(resnet(torch.cat([h, skips.pop()], dim=1), emb), classes)
            if block.upsampler is not None:
                h = block.upsampler(h)
        return self.out(h)


def _layers(block: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """The residual blocks of a level, each with its attention, or with one that hands its features on."""
    resnets: nn.ModuleList = block.resnets  # type: ignore[assignment]
    attentions = getattr(block, "attentions", [_untouched] * len(resnets))
    return list(zip(resnets, attentions, strict=True))


def _untouched(features: torch.Tensor, class_vector: torch.Tensor) -> torch.Tensor:
    return features
