"""MONAI's autoencoders with the verbs of :class:`~scripts.networks.BinarizingAutoencoder`.

====================  ==============================  =================================  ===========================
verb                  binary code                     Gaussian latent                    quantised latent
====================  ==============================  =================================  ===========================
``encode(image)``     probability y                   mean and deviation, 2 c channels   what is to be quantised
``quantize(latent)``  z ~ B(y)                        z ~ N(mean, deviation^2)           nearest entry of the codebook
``decode(z)``         x_hat                           x_hat                              x_hat
``reconstruct``       D(y > 1/2)                      D(mean)                            D(nearest entry)
``forward(image)``    x_hat, y                        x_hat, mean, deviation             x_hat, encoded, quantised
====================  ==============================  =================================  ===========================

What ``forward`` returns behind the reconstruction is what a regulariser of :mod:`scripts.training.regularisers` takes.
Images go in and come out in the units the trainer gives them, here [0, 1]. The keys of the weights are MONAI's.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from monai.networks.nets import VQVAE, AutoencoderKL

from ..noise import SliceGenerator, normal

Generator = torch.Generator | SliceGenerator | None


class GaussianAutoencoder(AutoencoderKL):
    """MONAI's ``AutoencoderKL``; latents are drawn from N(mean, deviation^2).

    Args:
        arguments: of ``AutoencoderKL``; ``spatial_dims`` is 2.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**({"spatial_dims": 2} | arguments))
        self.in_channels: int = arguments.get("in_channels", 1)
        # Each level but the last halves the size; MONAI's default has four.
        self.compression = 2 ** (len(arguments.get("channels", (32, 64, 64, 64))) - 1)

    def encode(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Mean and deviation of the latent.

        Args:
            x: images (B, C, H, W), H and W multiples of ``compression``.

        Returns:
            (B, 2 c, H / k, W / k), float32 whatever the network runs in; the first c channels are the mean.

        Raises:
            ValueError: when channels or size do not fit.
        """
        _check_images(x, self.in_channels, self.compression)
        mean, deviation = super().encode(x)
        return torch.cat([mean.float(), deviation.float()], dim=1)

    def quantize(self, latent: torch.Tensor, generator: Generator = None) -> torch.Tensor:
        """Draw z = mean + deviation * n, n ~ N(0, 1), (B, c, h, w); gradients reach both."""
        mean, deviation = latent.chunk(2, dim=1)
        return mean + deviation * normal(mean.shape, generator, mean.device)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """x_hat = D(z), (B, C, H, W), float32, not clamped."""
        return super().decode(z).float()

    def reconstruct(self, x: torch.Tensor) -> torch.Tensor:
        """D(mean), (B, C, H, W): the deterministic pass."""
        return self.decode(self.encode(x).chunk(2, dim=1)[0])

    def forward(  # type: ignore[override]
        self, x: torch.Tensor, generator: Generator = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Reconstruction x_hat of images, and mean and deviation of their latent, each (B, c, h, w)."""
        latent = self.encode(x)
        mean, deviation = latent.chunk(2, dim=1)
        return self.decode(self.quantize(latent, generator)), mean, deviation

    def encode_stage_2_inputs(self, x: torch.Tensor) -> torch.Tensor:
        """A draw of the latent, (B, c, h, w)."""
        return self.quantize(self.encode(x))


class QuantizingAutoencoder(VQVAE):
    """MONAI's ``VQVAE``; a latent is, place by place, the nearest entry of a codebook.

    In training the codebook follows the latents by a moving average, so ``quantize`` changes it there. ``decay`` is
    0.99 unless given: MONAI's default of 0.5 forgets within a few batches what earlier ones had.

    Args:
        arguments: of ``VQVAE``; ``spatial_dims`` is 2.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**({"spatial_dims": 2, "decay": 0.99} | arguments))
        strides = [level[0] for level in arguments.get("downsample_parameters", ((2, 4, 1, 1),) * len(self.channels))]
        self.compression = math.prod(strides)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """What is to be quantised, (B, c, H / k, W / k), float32 whatever the network runs in.

        Raises:
            ValueError: when channels or size of images (B, C, H, W) do not fit.
        """
        _check_images(images, self.in_channels, self.compression)
        return super().encode(images).float()

    def quantize(self, encodings: torch.Tensor, generator: Generator = None) -> torch.Tensor:  # type: ignore[override]
        """Nearest entries of the codebook, (B, c, h, w); gradients pass straight through. Nothing is drawn."""
        # In bfloat16 distances tie, and a place takes another entry than it has in float32.
        with torch.autocast(encodings.device.type, enabled=False):
            return super().quantize(encodings.float())[0]

    def decode(self, quantizations: torch.Tensor) -> torch.Tensor:
        """x_hat, (B, C, H, W), float32, not clamped."""
        return super().decode(quantizations).float()

    def reconstruct(self, images: torch.Tensor) -> torch.Tensor:
        """The decoded nearest entries, (B, C, H, W)."""
        return self.decode(self.quantize(self.encode(images)))

    def forward(  # type: ignore[override]
        self, images: torch.Tensor, generator: Generator = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Reconstruction x_hat of images, and their latent before and after quantising, each (B, c, h, w)."""
        encoded = self.encode(images)
        quantised = self.quantize(encoded, generator)
        return self.decode(quantised), encoded, quantised

    def encode_stage_2_inputs(self, x: torch.Tensor) -> torch.Tensor:
        """The quantised latent of images, (B, c, h, w)."""
        return self.quantize(self.encode(x))

    def decode_stage_2_outputs(self, z: torch.Tensor) -> torch.Tensor:
        """The image (B, C, H, W) of a latent that is quantised first."""
        return self.decode(self.quantize(z))


def _check_images(images: torch.Tensor, channels: int, compression: int) -> None:
    if images.ndim != 4 or images.shape[1] != channels or any(n % compression for n in images.shape[2:]):
        raise ValueError(
            f"expected images of shape (B, {channels}, H, W) with H and W multiples of {compression}, "
            f"got {tuple(images.shape)}."
        )
