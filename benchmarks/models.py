"""The networks and images that the benchmarks run on."""

from __future__ import annotations

from pathlib import Path

import torch
from monai.bundle import ConfigParser

from scripts.inferers import AnomalyInferer
from scripts.methods.masked_bernoulli import MaskedBernoulli
from scripts.networks.weights import load_weights
from scripts.schedulers import BernoulliScheduler
from scripts.scores import squared_residual

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
PAPER = ["methods/masked_bernoulli_2024", "data/brats2020"]
BUNDLE = Path(__file__).resolve().parent.parent / "bundle"


def read_configs(*names: str, **changes: object) -> ConfigParser:
    """Configs of the bundle, the later over the earlier, and single keys over all."""
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / "configs" / f"{name}.json") for name in names])
    parser.update({"bundle_root": str(BUNDLE), **changes})
    return parser


def build_network(paper: bool, device: torch.device) -> torch.nn.Module:
    """The shipped model, or one of the paper's size with random weights, in torch's own memory format."""
    configs = ["inference", *(PAPER if paper else [])]
    network = read_configs(*configs, channels_last=False).get_parsed_content("network_def")
    if not paper:
        load_weights(network, str(BUNDLE / "models" / "model.pt"))
    else:
        # MONAI starts the last layer at zero, for which every flip probability is one half.
        torch.nn.init.normal_(network.denoiser.out[-1].conv.weight, std=0.02)
    return network.eval().to(device)


def masked_inferer(
    level: int, threshold: float, steps: int, batch: int | None, amp: bool, compile_mode: str | None = None
) -> AnomalyInferer:
    """Masked Bernoulli diffusion with the paper's noise and score."""
    scheduler = BernoulliScheduler(1000, schedule="linear_beta", beta_start=1e-4, beta_end=0.02)
    method = MaskedBernoulli(
        scheduler=scheduler,
        noise_level=level,
        probability_threshold=threshold,
        num_inference_steps=steps,
        compile_mode=compile_mode,
    )
    return AnomalyInferer(method, squared_residual, sw_batch_size=batch, amp=amp)


def make_slices(paper: bool, count: int, channels: int) -> torch.Tensor:
    """(count, c, 256, 256): slices of the shipped sample, over and over; random for the paper's four sequences."""
    if paper:
        return torch.rand(count, channels, 256, 256, generator=torch.Generator().manual_seed(0))
    parser = read_configs("inference")
    subject = parser.get_parsed_content("preprocessing")(parser.get_parsed_content("datalist")[0])
    volume = subject["image"].as_tensor()
    selected = parser.get_parsed_content("slice_selector")(volume)
    slices = volume[..., selected].permute(3, 0, 1, 2)
    return slices.repeat(-(-count // len(slices)), 1, 1, 1)[:count].contiguous()
