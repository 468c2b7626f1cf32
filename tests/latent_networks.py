"""Tiny autoencoders and denoisers of latents, every weight drawn at random."""

from __future__ import annotations

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import nn

from scripts.networks import Parts
from scripts.networks.latent_autoencoder import GaussianAutoencoder, QuantizingAutoencoder
from scripts.networks.mask_predicting_unet import MaskPredictingUNet

IMAGE_CHANNELS, IMAGE_SIZE, LATENT_CHANNELS, LATENT_SIZE = 2, 32, 3, 8


def filled(network: nn.Module, seed: int = 0, spread: float = 0.3) -> nn.Module:
    """Every weight that starts at zero drawn anew: tests of a network that says nothing would hold whatever it is."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            if not weight.any():
                weight.copy_(torch.randn(weight.shape, generator=generator) * spread)
    return network.eval()


def gaussian_autoencoder(seed: int = 0) -> GaussianAutoencoder:
    """(2, 32, 32) images, (3, 8, 8) latents."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = GaussianAutoencoder(
            in_channels=IMAGE_CHANNELS,
            out_channels=IMAGE_CHANNELS,
            channels=(8, 8, 8),
            num_res_blocks=1,
            attention_levels=(False,) * 3,
            latent_channels=LATENT_CHANNELS,
            norm_num_groups=4,
            with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False,
        )
    return filled(network, seed)  # type: ignore[return-value]


def quantizing_autoencoder(seed: int = 0, num_embeddings: int = 16) -> QuantizingAutoencoder:
    """(2, 32, 32) images, (3, 8, 8) latents, a codebook that its encoder's latents are spread over."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = QuantizingAutoencoder(
            in_channels=IMAGE_CHANNELS,
            out_channels=IMAGE_CHANNELS,
            channels=(8, 8),
            num_res_channels=(8, 8),
            num_res_layers=1,
            downsample_parameters=((2, 4, 1, 1),) * 2,
            upsample_parameters=((2, 4, 1, 1, 0),) * 2,
            num_embeddings=num_embeddings,
            embedding_dim=LATENT_CHANNELS,
        )
        latents = network.encode(images(4)).movedim(1, -1).reshape(-1, LATENT_CHANNELS).detach()
        rows = torch.randperm(len(latents))[:num_embeddings]
        network.quantizer.quantizer.embedding.weight.data.copy_(latents[rows])
    return filled(network, seed)  # type: ignore[return-value]


def mask_denoiser(seed: int = 0) -> MaskPredictingUNet:
    """Masks on both sides of one half."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MaskPredictingUNet(
            in_channels=LATENT_CHANNELS, channels=(8, 16), num_res_blocks=1, num_heads=2, norm_num_groups=4
        )
    return filled(network, seed)  # type: ignore[return-value]


def noise_denoiser(seed: int = 0) -> DiffusionModelUNet:
    """Predicts the noise of latents."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS,
            channels=(8, 8),
            num_res_blocks=1,
            attention_levels=(False, True),
            num_head_channels=8,
            norm_num_groups=4,
        )
    return filled(network, seed)  # type: ignore[return-value]


def images(count: int, seed: int = 0) -> torch.Tensor:
    """Images (count, 2, 32, 32) in (0, 1), with a background of 0 left and right."""
    shape = (count, IMAGE_CHANNELS, IMAGE_SIZE, IMAGE_SIZE)
    values = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 0.98 + 0.01
    values[..., :4] = values[..., -2:] = 0
    return values


def mad_ad_parts(seed: int = 0) -> Parts:
    """Networks of MAD-AD."""
    return Parts(autoencoder=gaussian_autoencoder(seed), denoiser=mask_denoiser(seed)).eval()


def ldm_parts(seed: int = 0) -> Parts:
    """Networks of latent diffusion with a mask."""
    return Parts(autoencoder=quantizing_autoencoder(seed), denoiser=noise_denoiser(seed)).eval()
