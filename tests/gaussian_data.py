"""Data for which everything is known: x of class y is N(mean_y, sigma^2) in every pixel.

x_t then is N(sqrt(a) mean_y, v) with v = a sigma^2 + 1 - a, and the best predictions follow by Bayes.
"""

from __future__ import annotations

import torch
from torch import nn

from scripts.networks import Parts
from scripts.schedulers import GaussianScheduler


class GaussianDenoiser(nn.Module):
    """The best eps: sqrt(1 - a) (x_t - sqrt(a) mean_y) / v, also for weights of classes, which weigh the means."""

    def __init__(self, scheduler: GaussianScheduler, means=(0.3, -0.4, 0.1), sigma=0.2, channels=2):
        super().__init__()
        self.abar = torch.tensor([scheduler.alpha_bar(t) for t in range(scheduler.num_train_timesteps)]).double()
        self.means, self.sigma, self.in_channels = torch.tensor(means).double(), sigma, channels
        self.knows_null = len(means) > 2
        self.calls: list[tuple[int, list]] = []

    def variance(self, a):
        return a * self.sigma**2 + 1 - a

    def forward(self, x, timesteps, class_labels):
        self.calls.append((int(timesteps[0]), class_labels.tolist()))
        a = self.abar[timesteps][:, None, None, None]
        if class_labels.is_floating_point():
            means = class_labels.double() @ self.means[: class_labels.shape[1]]
        else:
            means = self.means[class_labels]
        eps = (1 - a).sqrt() * (x.double() - a.sqrt() * means[:, None, None, None]) / self.variance(a)
        return eps.to(x.dtype)


class GaussianClassifier(nn.Module):
    """log p(x_t | y) of both classes, equally frequent: the best logits."""

    def __init__(self, denoiser: GaussianDenoiser):
        super().__init__()
        self.known, self.in_channels = [denoiser], denoiser.in_channels
        self.calls: list[int] = []

    def forward(self, x, timesteps):
        self.calls.append(int(timesteps[0]))
        denoiser = self.known[0]
        a = denoiser.abar[timesteps][:, None, None, None]
        squares = [(x.double() - a.sqrt() * denoiser.means[y]).square() for y in (0, 1)]
        return torch.stack([(-s / (2 * denoiser.variance(a))).flatten(1).sum(dim=1) for s in squares], dim=1)


def gaussian_parts(scheduler: GaussianScheduler, **options) -> Parts:
    denoiser = GaussianDenoiser(scheduler, **options)
    return Parts(denoiser=denoiser, classifier=GaussianClassifier(denoiser))


def images(count=2, channels=2, size=6, seed=0, mean=0.3, sigma=0.2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (mean + sigma * torch.randn(count, channels, size, size, generator=generator)).clamp(-0.9, 0.9)
