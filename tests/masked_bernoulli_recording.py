"""Masked Bernoulli diffusion whose masks, steps and network calls are recorded, and a plain transcription of it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np
import torch
from helpers import (
    CODE_SHAPE,
    bayes_posterior,
    tiny_network,
    transition,
)
from torch import nn

from scripts.inferers import AnomalyInferer, EncodedVolumes
from scripts.methods.masked_bernoulli import QUANTIZE_STEP, MaskedBernoulli
from scripts.networks import Parts
from scripts.noise import SliceGenerator
from scripts.schedulers import BernoulliScheduler
from scripts.scores import squared_residual

T, L = 20, 8


@dataclass(frozen=True, eq=False, kw_only=True)
class RecordingMethod(MaskedBernoulli):
    """Keeps M_0 and the mask's share after each step, of every batch that was restored."""

    masks: list[torch.Tensor] = field(default_factory=list)
    shares: list[torch.Tensor] = field(default_factory=list)

    def steps(self, code, denoiser, streams):
        shares = []
        for code, mask, share in super().steps(code, denoiser, streams):  # noqa: B020
            shares.append(share.clone())
            yield code, mask, share
        # A batch that does not fit the memory never comes here.
        self.masks.append(mask.clone())
        self.shares.append(torch.stack(shares, dim=1))


@dataclass
class Output:
    """What N slices gave: (N, ...) each; ``mask_growth`` (N, steps) is the mask's share after each step."""

    reconstruction: torch.Tensor
    anomaly_map: torch.Tensor
    mask_density: torch.Tensor
    mask_share: torch.Tensor
    mask: torch.Tensor
    mask_growth: torch.Tensor


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


def method(**changes) -> RecordingMethod:
    return RecordingMethod(**({"scheduler": scheduler(), "noise_level": L} | changes))


def inferer(**changes) -> AnomalyInferer:
    """The inferer of a recording method; ``changes`` are arguments of either."""
    names = {f.name for f in fields(RecordingMethod)}
    settings = {key: changes.pop(key) for key in list(changes) if key in names}
    return AnomalyInferer(**({"method": method(**settings), "anomaly_map": squared_residual, "seed": 3} | changes))


def run_slices(
    run: AnomalyInferer,
    images: torch.Tensor,
    indices: torch.Tensor,
    network: Parts,
    encoded: torch.Tensor | None = None,
) -> Output:
    """Restore slices (N, c, H, W), each of a volume of its own in which it has the index given."""
    run.method.masks.clear()
    run.method.shares.clear()
    volumes = torch.zeros(*images.shape, int(indices.max()) + 1)
    results = run.restore_volumes(EncodedVolumes(volumes, [1] * len(images), indices, images, encoded), network)
    pairs = list(zip(results, indices.tolist(), strict=True))
    return Output(
        reconstruction=torch.stack([result.reconstruction[..., i] for result, i in pairs]),
        anomaly_map=torch.stack([result.anomaly_map[..., i] for result, i in pairs]),
        mask_density=torch.stack([result.evidence["mask_density"][..., i] for result, i in pairs]),
        mask_share=torch.stack([result.slice_scores["mask_share"][i] for result, i in pairs]),
        mask=torch.cat(run.method.masks),
        mask_growth=torch.cat(run.method.shares),
    )


def recording_network(**denoiser_args) -> tuple[Parts, list[dict]]:
    network = tiny_network(**denoiser_args)
    denoiser = RecordingDenoiser(network.denoiser).eval()
    return Parts(autoencoder=network.autoencoder, denoiser=denoiser).eval(), denoiser.calls


def recorded(run: AnomalyInferer, network: Parts, slices: torch.Tensor) -> tuple[list[dict], Output]:
    run.method.scheduler.records = []
    output = run_slices(run, slices, torch.arange(len(slices)), network)
    return run.method.scheduler.records, output


def assert_masks_for_real(output: Output) -> None:
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
