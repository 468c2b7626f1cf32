"""Losses of the autoencoder (arXiv 2403.11667, section 2.1)."""

from __future__ import annotations

import logging

import torch
from monai.losses import PatchAdversarialLoss
from torch import nn
from torch.nn import functional as F

from ..files import load_checkpoint

logger = logging.getLogger(__name__)


class ReconstructionLoss(nn.Module):
    """Mean squared error plus a weighted perceptual distance.

    Args:
        perceptual: distance of two image batches, or ``None`` for the squared error alone.
        perceptual_weight: its weight, at least 0.
    """

    def __init__(self, perceptual: nn.Module | None = None, perceptual_weight: float = 0.0) -> None:
        super().__init__()
        self.perceptual, self.perceptual_weight = perceptual, perceptual_weight
        if perceptual is None and perceptual_weight > 0:
            logger.info("the perceptual loss is off: perceptual_weights names no file")

    def forward(self, reconstruction: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Scalar loss of x_hat against x, both (B, c, H, W)."""
        loss = F.mse_loss(reconstruction.float(), image.float())
        if self.perceptual is not None and self.perceptual_weight > 0:
            loss = loss + self.perceptual_weight * self.perceptual(reconstruction.float(), image.float())
        return loss


class AlexNetPerceptualLoss(nn.Module):
    """Distance of images in the features of AlexNet's five convolutions (Zhang et al. 2018, without their weights).

    Each image channel is looked at as a grey picture. Features are normalised over channels, their squared
    difference is averaged over positions and summed over layers.

    Args:
        weights: path of a state dict in torchvision's form (``features.0.weight`` ... ``features.10.bias``).

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it lacks a key or a shape differs.
    """

    # (index in torchvision's ``features``, arguments of the convolution, pooling before it)
    LAYERS = (
        (0, (3, 64, 11, 4, 2), False),
        (3, (64, 192, 5, 1, 2), True),
        (6, (192, 384, 3, 1, 1), True),
        (8, (384, 256, 3, 1, 1), False),
        (10, (256, 256, 3, 1, 1), False),
    )
    # Means and deviations of ImageNet's channels, which the network was trained with.
    MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, weights: str) -> None:
        super().__init__()
        state = load_checkpoint(weights, "perceptual_weights")
        self.convolutions = nn.ModuleList(nn.Conv2d(*arguments) for _, arguments, _ in self.LAYERS)
        for (index, _, _), convolution in zip(self.LAYERS, self.convolutions, strict=True):
            for name in ("weight", "bias"):
                key = f"features.{index}.{name}"
                if key not in state:
                    raise ValueError(f"perceptual_weights: {weights!r} has no {key!r}; wanted torchvision's AlexNet.")
                own = getattr(convolution, name).data
                if state[key].shape != own.shape:
                    shapes = f"{tuple(state[key].shape)}, {tuple(own.shape)} is wanted"
                    raise ValueError(f"perceptual_weights: {weights!r} has {key!r} of shape {shapes}.")
                own.copy_(state[key])
        self.requires_grad_(False)
        self.register_buffer("mean", torch.tensor(self.MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(self.STD).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Scalar distance of two batches (B, c, H, W) of images in [0, 1]."""
        pairs = zip(self._features(first), self._features(second), strict=True)
        return torch.stack([(a - b).square().sum(dim=1).mean() for a, b in pairs]).sum()

    def _features(self, image: torch.Tensor) -> list[torch.Tensor]:
        self.to(image.device)
        grey = image.reshape(-1, 1, *image.shape[2:]).expand(-1, 3, -1, -1)
        value, features = (grey - self.mean) / self.std, []
        for (_, _, pool), convolution in zip(self.LAYERS, self.convolutions, strict=True):
            value = F.relu(convolution(F.max_pool2d(value, 3, 2) if pool else value))
            features.append(F.normalize(value, dim=1, eps=1e-8))
        return features


class GeneratorLoss(nn.Module):
    """Weighted adversarial loss of reconstructions: the discriminator should take them for real.

    Args:
        criterion: one of MONAI's ``PatchAdversarialLoss``.
        weight: at least 0.
    """

    def __init__(self, criterion: str = "hinge", weight: float = 0.1) -> None:
        super().__init__()
        self.loss, self.weight = PatchAdversarialLoss(criterion=criterion, reduction="mean"), weight

    def forward(self, fake_logits: torch.Tensor) -> torch.Tensor:
        """Scalar loss of the discriminator's logits of reconstructions."""
        return self.weight * self.loss(fake_logits, target_is_real=True, for_discriminator=False)


class DiscriminatorLoss(nn.Module):
    """Mean of the discriminator's losses on real images and on reconstructions."""

    def __init__(self, criterion: str = "hinge") -> None:
        super().__init__()
        self.loss = PatchAdversarialLoss(criterion=criterion, reduction="mean")

    def forward(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """Scalar loss of the logits of images and of reconstructions."""
        real = self.loss(real_logits, target_is_real=True, for_discriminator=True)
        fake = self.loss(fake_logits, target_is_real=False, for_discriminator=True)
        return (real + fake) / 2


def code_uncertainty(probability: torch.Tensor) -> torch.Tensor:
    """Mean of y (1 - y): 0 for decided codes, 1/4 for coin tosses. A penalty on it makes codes decisive."""
    return (probability * (1 - probability)).mean()
