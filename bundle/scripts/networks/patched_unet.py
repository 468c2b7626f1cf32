"""A U-Net whose time embedding scales and shifts features (Behrendt et al. 2023, pDDPM, arXiv 2303.03758).

MONAI's adds it. Everything else is MONAI's, so that its residual blocks are exchanged one by one after they were made.
"""

from __future__ import annotations

import torch
from monai.networks.nets import DiffusionModelUNet
from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock
from torch import nn


class ScaleShiftResnetBlock(DiffusionUNetResnetBlock):
    """MONAI's residual block with h = norm2(h) (1 + scale) + shift in place of h = norm2(h + embedding).

    Its layer ``time_emb_proj`` gives twice as many values as there are channels: scale, then shift.

    Args:
        block: of MONAI, which this one is to replace: sizes, and changes of size, are its.
    """

    def __init__(self, block: DiffusionUNetResnetBlock) -> None:
        super().__init__(
            spatial_dims=block.spatial_dims,
            in_channels=block.channels,
            temb_channels=block.emb_channels,
            out_channels=block.out_channels,
            up=block.up,
            down=block.down,
            norm_num_groups=block.norm1.num_groups,
            norm_eps=block.norm1.eps,
        )
        self.time_emb_proj = nn.Linear(block.emb_channels, 2 * block.out_channels)

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        """Features (B, C, ...) of ``x`` and the embedding ``emb`` (B, E) of the time."""
        h = self.nonlinearity(self.norm1(x))
        resize = self.upsample if self.upsample is not None else self.downsample
        if resize is not None:
            x, h = resize(x), resize(h)
        h = self.conv1(h)
        scale, shift = self.time_emb_proj(self.nonlinearity(emb)).chunk(2, dim=1)
        axes = (...,) + (None,) * self.spatial_dims
        h = self.norm2(h) * (1 + scale[axes]) + shift[axes]
        output: torch.Tensor = self.skip_connection(x) + self.conv2(self.nonlinearity(h))
        return output


class ScaleShiftUNet(DiffusionModelUNet):
    """MONAI's ``DiffusionModelUNet`` with :class:`ScaleShiftResnetBlock` everywhere; takes its arguments.

    With ``spatial_dims=2, in_channels=1, out_channels=1, channels=(128, 256, 256), num_res_blocks=3,
    attention_levels=(False, False, False), num_head_channels=64, norm_eps=1e-5, resblock_updown=True`` it is pDDPM's,
    of 37,513,857 parameters.
    """

    def __init__(self, *arguments, **keywords) -> None:
        super().__init__(*arguments, **keywords)
        blocks = [name for name, module in self.named_modules() if isinstance(module, DiffusionUNetResnetBlock)]
        for name in blocks:
            self.set_submodule(name, ScaleShiftResnetBlock(self.get_submodule(name)))  # type: ignore[arg-type]
