"""The classifier of noised images that guides a diffusion (Dhariwal and Nichol 2021, arXiv 2105.05233, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.blocks import Convolution
from monai.networks.nets.diffusion_model_unet import get_down_block, get_mid_block, get_timestep_embedding
from monai.utils import ensure_tuple_rep
from torch import nn

from ..checks import outside, refuse
from .attention_pool import AttentionPool
from .scale_shift import scale_shifted


class NoisyImageClassifier(nn.Module):
    """The encoder half of a U-Net, which knows the time, and attention pooling: class logits of x_t.

    MONAI's ``DiffusionModelEncoder`` is another network: it adds the embedding of the time, has no middle block and
    pools by a linear layer over all places. With the defaults, those of Wolleb et al. 2022 (arXiv 2203.04306), the
    module has 5,452,962 parameters.

    Args:
        in_channels: image channels c.
        out_channels: classes.
        image_size: side of the images, or both sides; the pooling knows every place, so that others do not fit.
        channels: width of each level; each level but the last halves the size.
        num_res_blocks: residual blocks a level.
        attention_levels: which levels have attention; the middle has it in any case.
        num_head_channels: channels of an attention head.
        norm_num_groups: groups of every GroupNorm; must divide each width.
        norm_eps: epsilon of every GroupNorm.

    Raises:
        ValueError: when sizes do not fit each other.
    """

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 2,
        image_size: int | Sequence[int] = 256,
        channels: Sequence[int] = (32, 32, 64, 64, 128, 128),
        num_res_blocks: int = 4,
        attention_levels: Sequence[bool] = (False, False, False, True, True, True),
        num_head_channels: int = 64,
        norm_num_groups: int = 32,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.image_size: tuple[int, ...] = ensure_tuple_rep(image_size, 2)
        self.in_channels, self.out_channels, self.width = in_channels, out_channels, channels[0]
        reduction, embedding = 2 ** (len(channels) - 1), 4 * channels[0]
        attended = [n for n, has in zip(channels, attention_levels, strict=False) if has] + [channels[-1]]
        self._check(len(channels) - len(attention_levels), reduction, attended, num_head_channels)
        shared: dict[str, Any] = {
            "spatial_dims": 2,
            "temb_channels": embedding,
            "norm_eps": norm_eps,
            "include_fc": True,
        }
        shared |= {"norm_num_groups": norm_num_groups, "num_head_channels": num_head_channels}
        shared |= {"transformer_num_layers": 1, "cross_attention_dim": None}

        self.time_embed = nn.Sequential(nn.Linear(channels[0], embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.conv_in = Convolution(2, in_channels, channels[0], kernel_size=3, padding=1, conv_only=True)
        self.down_blocks = nn.ModuleList(
            get_down_block(
                in_channels=channels[max(level - 1, 0)],
                out_channels=width,
                num_res_blocks=num_res_blocks,
                add_downsample=level < len(channels) - 1,
                resblock_updown=True,
                with_attn=attention_levels[level],
                with_cross_attn=False,
                **shared,
            )
            for level, width in enumerate(channels)
        )
        self.middle_block = get_mid_block(in_channels=channels[-1], with_conditioning=False, **shared)
        scale_shifted(self)
        pooled = [side // reduction for side in self.image_size]
        self.out = nn.Sequential(
            nn.GroupNorm(norm_num_groups, channels[-1], eps=norm_eps),
            nn.SiLU(),
            AttentionPool(pooled, channels[-1], out_channels, num_head_channels),
        )

    def _check(self, unmatched: int, reduction: int, attended: Sequence[int], head: int) -> None:
        refuse(
            type(self).__name__,
            [
                f"attention_levels must have one entry for each of channels, differs by {unmatched}"
                if unmatched
                else None,
                f"image_size must be multiples of {reduction}, got {self.image_size}"
                if any(side % reduction for side in self.image_size)
                else None,
                outside("num_head_channels", head, 1, min(attended), whole=True),
                f"num_head_channels must divide {attended}, got {head}"
                if head >= 1 and any(width % head for width in attended)
                else None,
            ],
        )

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Logits of the classes, (B, out_channels), of noised images.

        Args:
            x: x_t, (B, c, *image_size).
            timesteps: zero-based, (B,).

        Raises:
            ValueError: when channels or size are not those it was built for.
        """
        if x.shape[1] != self.in_channels or tuple(x.shape[2:]) != self.image_size:
            raise ValueError(
                f"the classifier takes images of shape (B, {self.in_channels}, "
                f"{', '.join(map(str, self.image_size))}), got {tuple(x.shape)}."
            )
        emb = self.time_embed(get_timestep_embedding(timesteps, self.width).to(x.dtype))
        h = self.conv_in(x)
        for block in self.down_blocks:
            h, _ = block(hidden_states=h, temb=emb)
        return self.out(self.middle_block(hidden_states=h, temb=emb)).float()
