"""A U-Net that tells two things: what the latent would be without noise, and where there is none (arXiv 2502.16943)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.blocks import Convolution
from monai.networks.nets import DiffusionModelUNet
from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock, zero_module
from torch import nn

from ..checks import outside, refuse


class MaskPredictingUNet(DiffusionModelUNet):
    """MONAI's ``DiffusionModelUNet`` with a second head for the mask, and dropout in its residual blocks.

    With base width 256 and 8 heads, the defaults and the paper's choice, it has 257,735,941 parameters. The number of
    attention heads is the same at every level, so heads get wider where the network does.

    Args:
        in_channels: channels c of the latent.
        channels: width of each level, every one with attention.
        num_res_blocks: residual blocks a level.
        num_heads: attention heads; must divide each width.
        dropout: share of features dropped in every residual block before its second convolution; training only.
        norm_num_groups: groups of every GroupNorm; must divide each width.
        norm_eps: epsilon of every GroupNorm.

    Raises:
        ValueError: when a width is no multiple of ``num_heads``, or ``dropout`` is outside [0, 1].
    """

    def __init__(
        self,
        in_channels: int = 4,
        channels: Sequence[int] = (256, 512, 1024),
        num_res_blocks: int = 2,
        num_heads: int = 8,
        dropout: float = 0.4,
        norm_num_groups: int = 32,
        norm_eps: float = 1e-5,
    ) -> None:
        problems = [outside("num_heads", num_heads, 1, min(channels), whole=True), outside("dropout", dropout, 0, 1)]
        if problems[0] is None and any(width % num_heads for width in channels):
            problems.append(f"num_heads must divide every one of channels {list(channels)}, got {num_heads}")
        refuse(type(self).__name__, problems)
        super().__init__(
            spatial_dims=2,
            in_channels=in_channels,
            out_channels=in_channels,
            channels=channels,
            num_res_blocks=num_res_blocks,
            attention_levels=(True,) * len(channels),
            num_head_channels=[width // num_heads for width in channels],
            norm_num_groups=norm_num_groups,
            norm_eps=norm_eps,
            include_fc=True,
        )
        # MONAI's forward ends with ``self.out(h)``: a module with both heads there is all that differs.
        self.out = TwoHeads(self.out, channels[0], norm_num_groups, norm_eps)  # type: ignore[assignment]
        _put_dropout(self, dropout, norm_num_groups, norm_eps)


class TwoHeads(nn.Module):
    """The prediction of the clean latent and that of the mask, of the same features.

    Args:
        original_sample: MONAI's head.
        channels: width of the features.
        norm_num_groups: groups of the GroupNorm.
        norm_eps: epsilon of the GroupNorm.
    """

    def __init__(self, original_sample: nn.Module, channels: int, norm_num_groups: int, norm_eps: float) -> None:
        super().__init__()
        self.original_sample = original_sample
        last = Convolution(
            spatial_dims=2, in_channels=channels, out_channels=1, kernel_size=3, padding=1, conv_only=True
        )
        # No SiLU between the two, unlike in the other head.
        self.mask = nn.Sequential(nn.GroupNorm(norm_num_groups, channels, eps=norm_eps), zero_module(last))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """z0_hat (B, c, h, w) and, as one more channel, K_hat in (0, 1), the probability that a place has no noise."""
        keep = torch.sigmoid(self.mask(features).float())
        return torch.cat([self.original_sample(features).float(), keep], dim=1)


class DropoutResnetBlock(DiffusionUNetResnetBlock):
    """MONAI's residual block with dropout before its second convolution; in evaluation the same function.

    Args:
        dropout: share of features dropped.
        arguments: of ``DiffusionUNetResnetBlock``.
    """

    def __init__(self, dropout: float, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        """Features (B, out_channels, h, w) of ``x`` (B, in_channels, h, w) and the time's embedding (B, E)."""
        h = self.conv1(self.nonlinearity(self.norm1(x)))
        h = h + self.time_emb_proj(self.nonlinearity(emb))[:, :, None, None]
        return self.skip_connection(x) + self.conv2(self.dropout(self.nonlinearity(self.norm2(h))))


def _put_dropout(network: nn.Module, dropout: float, norm_num_groups: int, norm_eps: float) -> None:
    """Replace every residual block, which MONAI's U-Net has no setting for; the keys of the weights stay."""
    for parent in list(network.modules()):
        for name, block in list(parent.named_children()):
            if type(block) is DiffusionUNetResnetBlock:
                replacement = DropoutResnetBlock(
                    dropout,
                    spatial_dims=2,
                    in_channels=block.channels,
                    temb_channels=block.emb_channels,
                    out_channels=block.out_channels,
                    norm_num_groups=norm_num_groups,
                    norm_eps=norm_eps,
                )
                setattr(parent, name, replacement)
