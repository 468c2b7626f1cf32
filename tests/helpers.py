"""What several tests need: tiny networks that mask for real, and the forward process as plain 2x2 matrices."""

from __future__ import annotations

import numpy as np
import torch
from monai.networks.nets import DiffusionModelUNet

from scripts.networks import BinarizingAutoencoder, Parts

IMAGE_CHANNELS, IMAGE_SIZE = 2, 16
CODE_SHAPE = (6, 8, 8)
"""Shape of the code that :func:`tiny_network` makes of a (2, 16, 16) image."""


def tiny_denoiser(seed: int = 0, shift: float = -0.6, spread: float = 0.3) -> DiffusionModelUNet:
    """U-Net of a few thousand weights, all of its layers drawn at random.

    The last of MONAI's starts at zero: every flip probability would be 0.5, no bit would ever pass P = 0.5, and
    tests of the mask would hold whatever the code does.

    Args:
        seed: seed of all weights; torch's own random state is left alone.
        shift: mean flip logit, by and large.
        spread: standard deviation of the last layer's weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=CODE_SHAPE[0],
            out_channels=CODE_SHAPE[0],
            channels=(8, 8),
            num_res_blocks=1,
            attention_levels=(False, True),
            num_head_channels=8,
            norm_num_groups=4,
            include_fc=True,
        )
        # MONAI starts the second convolution of every block at zero too, and so the time has no say at first.
        zeros = [weight for weight in denoiser.parameters() if weight.ndim > 1 and not weight.any()]
        *blocks, last = zeros
        assert blocks and last.shape[0] == CODE_SHAPE[0], "which weights start at zero has changed in MONAI"
        for weight in blocks:
            torch.nn.init.normal_(weight, std=0.2)
        torch.nn.init.normal_(last, std=spread)
        *_, bias = denoiser.out.parameters()
        torch.nn.init.normal_(bias, mean=shift, std=spread)
    return denoiser.eval()


def tiny_network(seed: int = 0, **denoiser_args) -> Parts:
    """Both networks: (2, 16, 16) images, (6, 8, 8) codes, all weights random."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        autoencoder = BinarizingAutoencoder(
            in_channels=IMAGE_CHANNELS,
            channels=(8, 8),
            num_res_blocks=1,
            embedding_channels=8,
            code_channels=CODE_SHAPE[0],
            norm_num_groups=4,
        )
    return Parts(autoencoder=autoencoder, denoiser=tiny_denoiser(seed, **denoiser_args)).eval()


def random_slices(count: int, seed: int = 0) -> torch.Tensor:
    """Images (count, 2, 16, 16) in (0, 1)."""
    shape = (count, IMAGE_CHANNELS, IMAGE_SIZE, IMAGE_SIZE)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 0.98 + 0.01


def random_volume(depth: int, seed: int = 0) -> torch.Tensor:
    """Volume (2, 16, 16, depth) in (0, 1)."""
    return random_slices(depth, seed).permute(1, 2, 3, 0).contiguous()


def random_code(count: int, seed: int = 0) -> torch.Tensor:
    """Codes (count, 6, 8, 8) of fair bits."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (count, *CODE_SHAPE), generator=generator).float()


def transition(betas: np.ndarray, earlier: int, later: int) -> np.ndarray:
    """Matrix q(z_later | z_earlier), row z_earlier, column z_later, one 2x2 factor a step, in float64.

    Times are the paper's: 0 is the clean code, ``betas[t - 1]`` belongs to the step from t - 1 to t.
    """
    matrix = np.eye(2)
    for t in range(earlier + 1, later + 1):
        beta = float(betas[t - 1])
        matrix = matrix @ np.array([[1 - beta / 2, beta / 2], [beta / 2, 1 - beta / 2]])
    return matrix


def bayes_posterior(to_earlier: np.ndarray, to_later: np.ndarray, z_t: np.ndarray, z_0: np.ndarray) -> np.ndarray:
    """P(z_s = 1 | z_t, z_0) by enumerating z_s, from q(z_s | z_0) and q(z_t | z_s).

    A soft z_0 is the distribution (1 - z_0, z_0) of the clean bit: its q(z_s) is the prior.
    """
    z_t, z_0 = np.asarray(z_t, dtype=int), np.asarray(z_0, dtype=float)
    joint = [
        ((1 - z_0) * to_earlier[0, z_s] + z_0 * to_earlier[1, z_s]) * to_later[z_s][z_t]  # q(z_s | z_0) q(z_t | z_s)
        for z_s in (0, 1)
    ]
    return joint[1] / (joint[0] + joint[1])


def enlarged(density: np.ndarray, size: int) -> np.ndarray:
    """Linear interpolation of (h, w) between the middles of its cells, one axis after the other."""
    for axis in (0, 1):
        count = density.shape[axis]
        places = (np.arange(size) + 0.5) * count / size - 0.5
        density = np.apply_along_axis(lambda line, x=places, n=count: np.interp(x, np.arange(n), line), axis, density)
    return density


def residual_slices(
    count: int = 3, channels: int = 2, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Images with a background of 0, reconstructions and evidence, different in every slice and channel."""
    rng = np.random.default_rng(seed)
    image, reconstruction = rng.random((2, count, channels, 32, 32)).astype(np.float32)
    image[..., :5] = 0
    mask = rng.random((count, 6, 8, 8)) < rng.random((count, 1, 8, 8))
    density = np.stack([enlarged(m.mean(axis=0), 32) for m in mask]).astype(np.float32)[:, None]
    return torch.from_numpy(image), torch.from_numpy(reconstruction), {"mask_density": torch.from_numpy(density)}
