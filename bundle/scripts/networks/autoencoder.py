"""The binarising autoencoder, composed from MONAI's encoder and decoder (arXiv 2403.11667, section 2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.nets.autoencoderkl import Decoder, Encoder
from torch import nn

from ..noise import SliceGenerator, uniform


class BinarizingAutoencoder(nn.Module):
    """Autoencoder whose latent is a binary code: y = sigmoid(E(x)), z ~ B(y), x_hat = D(z).

    With the defaults a (B, 4, 256, 256) image has a (B, 128, 32, 32) code and the module 4,103,716 parameters.

    Args:
        in_channels: image channels c, the number of sequences.
        channels: width of each level; each level but the last halves the size.
        num_res_blocks: residual blocks a level.
        embedding_channels: width between encoder and code, and between code and decoder.
        code_channels: bits a code position, C.
        norm_num_groups: groups of every GroupNorm; must divide each width.
        norm_eps: epsilon of every GroupNorm.
    """

    def __init__(
        self,
        in_channels: int = 4,
        channels: Sequence[int] = (32, 64, 64, 128),
        num_res_blocks: int = 2,
        embedding_channels: int = 256,
        code_channels: int = 128,
        norm_num_groups: int = 32,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        shared: dict[str, Any] = {
            "spatial_dims": 2,
            "channels": channels,
            "num_res_blocks": (num_res_blocks,) * len(channels),
            "norm_num_groups": norm_num_groups,
            "norm_eps": norm_eps,
            "attention_levels": (False,) * len(channels),
            "include_fc": True,
        }
        self.in_channels, self.code_channels = in_channels, code_channels
        self.compression = 2 ** (len(channels) - 1)
        self.encoder = Encoder(in_channels=in_channels, out_channels=embedding_channels, **shared)
        self.projection = nn.Conv2d(embedding_channels, code_channels, kernel_size=1)
        self.embedding = nn.Conv2d(code_channels, embedding_channels, kernel_size=1, bias=False)
        self.norm = nn.GroupNorm(norm_num_groups, embedding_channels, eps=norm_eps)
        self.decoder = Decoder(in_channels=embedding_channels, out_channels=in_channels, **shared)

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Probability y that each bit is set.

        Args:
            image: (B, c, H, W) in [0, 1], H and W multiples of ``compression``.

        Returns:
            y in (0, 1), shape (B, C, H / k, W / k), float32 whatever the network runs in.

        Raises:
            ValueError: when channels or size do not fit.
        """
        size = image.shape[2:]
        if image.ndim != 4 or image.shape[1] != self.in_channels or any(n % self.compression for n in size):
            raise ValueError(
                f"expected images of shape (B, {self.in_channels}, H, W) with H and W multiples of "
                f"{self.compression}, got {tuple(image.shape)}."
            )
        return torch.sigmoid(self.projection(self.encoder(image)).float())

    @staticmethod
    def quantize(probability: torch.Tensor, generator: torch.Generator | SliceGenerator | None = None) -> torch.Tensor:
        """Draw z ~ B(y); gradients pass straight through to y.

        Args:
            probability: y in [0, 1].
            generator: source of randomness; ``None`` takes torch's own.

        Returns:
            z in {0, 1}, type and shape of ``probability``.
        """
        code = (uniform(probability.shape, generator, probability.device) < probability).to(probability.dtype)
        return code + (probability - probability.detach()) if probability.requires_grad else code

    def decode(self, code: torch.Tensor) -> torch.Tensor:
        """x_hat = D(z), (B, c, H, W), float32, not clamped, from a code of shape (B, C, H / k, W / k)."""
        return self.decoder(self.norm(self.embedding(code))).float()

    def forward(
        self, image: torch.Tensor, generator: torch.Generator | SliceGenerator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Reconstruction x_hat and code probability y of ``image``."""
        probability = self.encode(image)
        return self.decode(self.quantize(probability, generator)), probability

    def reconstruct(self, image: torch.Tensor) -> torch.Tensor:
        """D(y > 1/2), (B, c, H, W): the deterministic pass, from the decided code."""
        return self.decode((self.encode(image) > 0.5).to(image.dtype))
