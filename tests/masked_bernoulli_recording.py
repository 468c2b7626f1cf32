"""Inferers whose steps and network calls are recorded, and a plain transcription of Algorithm 1."""

from __future__ import annotations

import numpy as np
import torch
from helpers import (
    CODE_SHAPE,
    bayes_posterior,
    tiny_network,
    transition,
)
from torch import nn

from scripts.inferers import MaskedBernoulliInferer
from scripts.inferers.masked_bernoulli import QUANTIZE_STEP, MaskedDenoisingOutput
from scripts.networks import Parts
from scripts.noise import SliceGenerator
from scripts.schedulers import BernoulliScheduler

T, L = 20, 8


class RecordingScheduler(BernoulliScheduler):
    """Keeps what goes into and comes out of every reverse step."""

    def step(self, model_output, timestep, sample, original_sample=None, mask=None, generator=None):
        result = super().step(model_output, timestep, sample, original_sample, mask, generator)
        names = ("logits", "timestep", "sample", "code", "mask", "previous", "prediction")
        values = (model_output, timestep, sample, original_sample, mask, *result)
        self.records.append({k: v.clone() if torch.is_tensor(v) else v for k, v in zip(names, values, strict=True)})
        return result


class RecordingDenoiser(nn.Module):
    """Keeps the circumstances of every network call."""

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser, self.calls = denoiser, []

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        result = self.denoiser(x, timesteps=timesteps)
        self.calls.append(
            {
                "batch": len(x),
                "timesteps": timesteps.tolist(),
                "training": self.training or self.denoiser.training,
                "grad": torch.is_grad_enabled(),
                "autocast": torch.is_autocast_enabled(x.device.type),
                "dtype": result.dtype,
            }
        )
        return result


def scheduler(kind: type[BernoulliScheduler] = BernoulliScheduler) -> BernoulliScheduler:
    return kind(T, beta_start=0.02, beta_end=0.3)


def inferer(**changes) -> MaskedBernoulliInferer:
    arguments = {"scheduler": scheduler(), "noise_level": L, "seed": 3, "return_mask": True}
    return MaskedBernoulliInferer(**(arguments | changes))


def recording_network(**denoiser_args) -> tuple[Parts, list[dict]]:
    network = tiny_network(**denoiser_args)
    denoiser = RecordingDenoiser(network.denoiser).eval()
    return Parts(autoencoder=network.autoencoder, denoiser=denoiser).eval(), denoiser.calls


def recorded(inferer: MaskedBernoulliInferer, network: nn.Module, slices: torch.Tensor) -> tuple[list[dict], object]:
    inferer.scheduler.records = []
    output = inferer.run_slices(slices, torch.arange(len(slices)), network)
    return inferer.scheduler.records, output


def assert_masks_for_real(output: MaskedDenoisingOutput) -> None:
    assert output.mask_share.min() > 0.02
    assert output.mask_share.max() < 0.98


@torch.no_grad()
def algorithm_1(image: torch.Tensor, index: int, network: nn.Module, times: list[int], threshold: float | None) -> dict:
    """The paper's Algorithm 1 for one slice, step by step in float64, sharing only networks and uniform numbers.

    Args:
        image: (c, H, W).
        index: of the slice in its volume.
        network: both networks.
        times: the paper's t, from L down to, and without, 0.
        threshold: P; ``None`` leaves the mask out: the prediction is used as it is.
    """
    betas = scheduler().betas.double().numpy()

    def u(step: int) -> np.ndarray:
        return SliceGenerator(3, [index], step).rand((1, *CODE_SHAPE))[0].double().numpy()

    y = network.autoencoder.encode(image[None])[0].double().numpy()
    z = np.where(u(QUANTIZE_STEP) < y, 1.0, 0.0)
    eps = np.where(u(times[0]) < transition(betas, 0, times[0])[0, 1], 1.0, 0.0)
    z_t = np.abs(z - eps)
    mask = np.zeros(CODE_SHAPE)
    growth = []
    for t, s in zip(times, [*times[1:], 0], strict=True):
        sample = torch.tensor(z_t, dtype=torch.float32)[None]
        logits = network.denoiser(sample, timesteps=torch.tensor([t - 1]))[0].double().numpy()
        eps_hat = 1 / (1 + np.exp(-logits))
        z_0 = np.abs(z_t - eps_hat)
        if threshold is not None:
            mask = np.maximum(mask, eps_hat > threshold)
            z_0 = mask * z_0 + (1 - mask) * z
        theta = bayes_posterior(transition(betas, 0, s), transition(betas, s, t), z_t, z_0)
        z_t = np.where(u(s) < theta, 1.0, 0.0)
        growth.append(mask.mean())
    x_hat = network.autoencoder.decode(torch.tensor(z_t, dtype=torch.float32)[None])[0]
    a = ((image - x_hat) ** 2).sum(0, keepdim=True)
    return {"z": z, "z_0": z_t, "mask": mask, "growth": growth, "x_hat": x_hat, "a": a}
