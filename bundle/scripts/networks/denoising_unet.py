"""The U-Net of the denoising autoencoder (Kascenas et al., MIDL 2022), which none of MONAI's equals.

Its convolutions pad by reflection and have standardised weights, the activation comes before the norm, and nothing
leads from the image to the output but through the levels. Modules are named so that the authors' state dict
(``model_state_dict`` in their files) fits as it is, and operations round as theirs do.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from monai.networks.blocks import Swish
from torch import nn
from torch.nn import functional as F


class StandardizedConv2d(nn.Conv2d):
    """Convolution whose weight has, in every output filter, mean 0 and deviation 1; what is stored is the raw one."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Convolve with (W - mean) / (std + 1e-5), both over a filter's (in, 3, 3), std with n - 1."""
        # Three means, since one over all axes rounds otherwise, which shows in the fifth digit after the point.
        centred = self.weight - self.weight.mean(1, keepdim=True).mean(2, keepdim=True).mean(3, keepdim=True)
        std = centred.std(dim=(1, 2, 3), keepdim=True)
        return self._conv_forward(values, centred / (std + 1e-5), self.bias)


class ConvolutionBlock(nn.Module):
    """Twice: 3x3 convolution padded by reflection, x sigmoid(x), group norm."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            layers += [
                nn.ReflectionPad2d(1),
                StandardizedConv2d(channels, out_channels, kernel_size=3),
                Swish(),
                nn.GroupNorm(norm_groups(out_channels), out_channels),
            ]
        self.block = nn.Sequential(*layers)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        return self.block(values)


class UpBlock(nn.Module):
    """Twice the size and half the width, beside it what the way down had there, and a block of both."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)
        self.conv_block = ConvolutionBlock(2 * out_channels, out_channels)

    def forward(self, values: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """(B, in, H, W) and (B, out, 2 H, 2 W) -> (B, out, 2 H, 2 W)."""
        return self.conv_block(torch.cat([self.up(values), skip], dim=1))


class DenoisingUNet(nn.Module):
    """From a noised image to the clean one, in one pass.

    With the defaults it has 7,703,748 parameters, the published size.

    Args:
        in_channels: image channels c, the number of sequences.
        channels: width of each level; each level but the last halves the size.

    Raises:
        ValueError: when a width or the number of channels is below 1, or there is no level.
    """

    def __init__(self, in_channels: int = 4, channels: Sequence[int] = (64, 128, 256, 512)) -> None:
        super().__init__()
        if in_channels < 1 or not channels or min(channels) < 1:
            raise ValueError(f"in_channels and all channels must be at least 1, got {in_channels} and {channels}.")
        self.in_channels, self.compression = in_channels, 2 ** (len(channels) - 1)
        self.down_path = nn.ModuleList(ConvolutionBlock(*widths) for widths in pairwise([in_channels, *channels]))
        self.up_path = nn.ModuleList(UpBlock(*widths) for widths in pairwise(reversed(channels)))
        self.last = nn.Conv2d(channels[0], in_channels, kernel_size=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """The clean image.

        Args:
            image: (B, c, H, W), H and W multiples of ``compression`` and at least twice that, since the lowest level
                cannot pad a single pixel by reflection.

        Returns:
            (B, c, H, W), float32, not clamped.

        Raises:
            ValueError: when channels or size do not fit.
        """
        least = 2 * self.compression
        fits = all(n >= least and n % self.compression == 0 for n in image.shape[2:])
        if image.ndim != 4 or image.shape[1] != self.in_channels or not fits:
            raise ValueError(
                f"expected images of shape (B, {self.in_channels}, H, W) with H and W multiples of "
                f"{self.compression}, at least {least}, got {tuple(image.shape)}."
            )
        values, *skips = reversed(self._down(image))
        for up, skip in zip(self.up_path, skips, strict=True):
            values = up(values, skip)
        return self.last(values).float()

    def _down(self, image: torch.Tensor) -> list[torch.Tensor]:
        """What each level made of the image, the largest first."""
        levels = [self.down_path[0](image)]
        for block in self.down_path[1:]:
            levels.append(block(F.avg_pool2d(levels[-1], 2)))
        return levels

    def reconstruct(self, image: torch.Tensor) -> torch.Tensor:
        """The clean image, as :meth:`forward`."""
        return self(image)


def norm_groups(width: int) -> int:
    """Groups of a norm of ``width`` channels: the middle one of its divisors, of two the larger."""
    divisors = [n for n in range(1, width + 1) if width % n == 0]
    return divisors[len(divisors) // 2]
