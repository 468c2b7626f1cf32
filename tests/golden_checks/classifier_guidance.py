"""DDIM with classifier guidance: both networks, the gradient, five runs of the loop; and CG-CDM, two runs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from golden_checks import Compared, compare
from golden_checks.recorded import RecordedStreams, arrays, compare_masks, weights
from scripts.converters.classifier_guidance import (
    classifier_sizes,
    convert,
    convert_classifier,
    unet_sizes,
)
from scripts.evaluation.threshold_rules import otsu_thresholds
from scripts.guidance import class_gradient, finite_difference, guided_ddim_step, predicted_noise
from scripts.methods.cg_cdm import CGCDM
from scripts.methods.ddim_classifier import DDIMClassifier
from scripts.networks import Parts
from scripts.networks.classes import DISEASED, HEALTHY, classes
from scripts.networks.classifier import NoisyImageClassifier
from scripts.networks.conditional_unet import ConditionalUNet
from scripts.schedulers import GaussianScheduler
from scripts.scores import absolute_residual

NETWORK, DENSE, SPACED, EXACT = 1e-5, 1e-4, 5e-3, 0.0
ROUNDING = 0.1
"""Share of a map's tolerance that is rounding: masks may differ only in pixels that close to the threshold."""
STEPS = 1000
"""T, which does not show in the arrays."""

Arrays = dict[str, torch.Tensor]


def nothing() -> None:
    """For ``on_step``."""


@torch.no_grad()
def check(folder: Path) -> Iterator[Compared]:
    """Every array of the folder."""
    io, cg = arrays(folder / "io.npz"), arrays(folder / "cg_cdm.npz")
    network = networks(folder, io)
    yield from check_sizes(folder)
    yield from check_networks(io, network)
    yield from check_grid(io)
    for run in ("a", "b", "bm", "c", "d"):
        yield from check_run(run, io, network)
    for prefix in ("u", "g"):
        yield from check_cg_cdm(prefix, cg, io["x"], network)


def networks(folder: Path, io: Arrays) -> Parts:
    """Both networks; the channels of a head of the classifier, which no weight tells, are those whose logits fit."""
    state, classifier_state = weights(folder / "unet.pt"), weights(folder / "classifier.pt")
    unet = ConditionalUNet(**unet_sizes(state))
    unet.load_state_dict(convert(state))
    width = math.gcd(*classifier_sizes(classifier_state, 1)["channels"])
    heads = [n for n in range(1, width + 1) if width % n == 0]
    built = [classifier_of(classifier_state, n) for n in heads]
    off = [float((c(io["xt"], io["t"]) - io["clf_logits"]).abs().max()) for c in built]
    return Parts(denoiser=unet, classifier=built[int(np.argmin(off))]).eval()


def classifier_of(state: Arrays, num_head_channels: int) -> NoisyImageClassifier:
    classifier = NoisyImageClassifier(**classifier_sizes(state, num_head_channels))
    classifier.load_state_dict(convert_classifier(state, num_head_channels))
    return classifier.eval()


def check_sizes(folder: Path) -> Iterator[Compared]:
    """Parameters of the published size: names and shapes of the authors' fit ours."""
    for name, shapes in json.loads((folder / "full_size_shapes.json").read_text()).items():
        state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
        with torch.device("meta"):
            ours = (
                ConditionalUNet(**unet_sizes(state))
                if name == "unet"
                else NoisyImageClassifier(**classifier_sizes(state))
            )
        converted = convert(state) if name == "unet" else convert_classifier(state)
        fits = {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in converted.items()}
        wanted = sum(math.prod(shape) for shape in shapes.values())
        found = sum(p.numel() for p in ours.parameters()) if fits else math.nan
        yield compare(f"full_size {name} {found:,}", found, wanted, EXACT)


def check_networks(io: Arrays, network: Parts) -> Iterator[Compared]:
    output = network.denoiser(io["xt"], timesteps=io["t"], class_labels=io["y"])
    yield compare("unet_out", output, io["unet_out"], NETWORK)
    yield compare("clf_logits", network.classifier(io["xt"], io["t"]), io["clf_logits"], NETWORK)
    gradient = class_gradient(network.classifier, io["xt"], io["t"], HEALTHY)
    yield compare("clf_grad_y0", gradient, io["clf_grad_y0"], NETWORK)
    start = torch.zeros_like(io["t"])
    yield compare("clf_logits_x_t0", network.classifier(io["x"], start), io["clf_logits_x_t0"], NETWORK)


def check_grid(io: Arrays) -> Iterator[Compared]:
    """The grid of the respaced runs: stride and number."""
    kept = io["timestep_map_ddim50"]
    stride = int(kept[1])
    yield compare("timestep_map_ddim50", torch.arange(0, STEPS, stride), kept, EXACT)


def method_of(run: str, io: Arrays) -> DDIMClassifier:
    """Settings of a run: a, b, bm as released, c, d as in the paper; a and c dense."""
    dense = run in ("a", "c")
    stride, count = 1 if dense else int(io["timestep_map_ddim50"][1]), int(io[f"{run}_L"])
    return DDIMClassifier(
        scheduler=GaussianScheduler(STEPS),
        noise_level=count * stride,
        num_inference_steps=count,
        guidance_scale=float(io["guidance_scale"]),
        released_loop=run in ("a", "b", "bm"),
        respaced_classifier=run == "b",
    )


def check_run(run: str, io: Arrays, network: Parts) -> Iterator[Compared]:
    """States on the way; then the whole method, its map, threshold, mask and Dice."""
    method, tolerance = method_of(run, io), DENSE if run in ("a", "c") else SPACED
    noise = io[f"{'b' if run == 'bm' else run}_noise"] if method.released_loop else torch.zeros_like(io["x"])
    streams = RecordedStreams(noise, single=True)
    start = method.start(io["x"], streams)
    if f"{run}_x_noisy" in io:
        yield compare(f"{run}_x_noisy", start, io[f"{run}_x_noisy"], tolerance)
    yield compare(f"{run}_L", len(method.levels) - 1, io[f"{run}_L"], EXACT)
    encoded = {t // method.stride: state for t, state in method.encoding(start, network, nothing)}
    latent = encoded[max(encoded)]
    decoded = {t // method.stride: state for t, state in method.decoding(latent, network, nothing)}
    for name, states in (("enc", encoded), ("dec", decoded)):
        wanted = io[f"{run}_enc_k" if name == "enc" else f"{run}_dec_i"].tolist()
        present = [k for k in wanted if k in states]
        yield compare(f"{run}_{name}_{'k' if name == 'enc' else 'i'}", present, wanted, EXACT)
        yield compare(f"{run}_{name}", torch.stack([states[k] for k in present]), io[f"{run}_{name}"], tolerance)
    if f"{run}_pred_xstart_first" in io:
        # From the recorded state, where it is the last: the gradient is taken times s.
        last = io[f"{run}_enc"][-1] if io[f"{run}_enc_k"][-1] == max(encoded) else latent
        yield from check_first_step(run, io, method, network, last)
    yield from check_map(run, io, method, network, streams, tolerance)


def check_first_step(
    run: str, io: Arrays, method: DDIMClassifier, network: Parts, latent: torch.Tensor
) -> Iterator[Compared]:
    t, earlier = method.decoding_times()[:2]
    times = torch.full((len(latent),), t)
    output = predicted_noise(network.denoiser, latent, times, classes(HEALTHY, len(latent)))
    _, x_0 = guided_ddim_step(method.scheduler, method.guidance, network, output, t, latent, earlier)
    yield compare(f"{run}_pred_xstart_first", x_0, io[f"{run}_pred_xstart_first"], DENSE)
    scaled = method.guidance_scale * class_gradient(network.classifier, latent, times, HEALTHY)
    yield compare(f"{run}_scaled_grad_first", scaled, io[f"{run}_scaled_grad_first"], DENSE)


def check_map(
    run: str, io: Arrays, method: DDIMClassifier, network: Parts, streams: RecordedStreams, tolerance: float
) -> Iterator[Compared]:
    restored = method.restore(io["x"], io["x"], network, streams, nothing)  # type: ignore[arg-type]
    ours = absolute_residual(io["x"], restored.reconstruction)[:, 0]
    yield compare(f"{run}_map", ours, io[f"{run}_map"], 2 * tolerance)
    cuts = torch.from_numpy(otsu_thresholds(ours.numpy()))
    yield compare(f"{run}_otsu", cuts, io[f"{run}_otsu"], tolerance)
    mask = ours > cuts[:, None, None]
    distance = io[f"{run}_map"] - io[f"{run}_otsu"][:, None, None]
    yield compare_masks(f"{run}_mask", mask, io[f"{run}_mask"], distance, ROUNDING * tolerance)
    label = io["label"].bool()
    dice = 2 * (mask & label).sum(dim=(1, 2)) / (mask.sum(dim=(1, 2)) + label.sum(dim=(1, 2)))
    flipped = int((mask != io[f"{run}_mask"].bool()).sum())
    yield compare(f"{run}_dice", dice, io[f"{run}_dice"], NETWORK + 2 * flipped / int(label.sum(dim=(1, 2)).min()))
    probability = io["clf_logits_x_t0"].softmax(dim=1)[:, DISEASED]
    yield compare(f"{run} class probability", restored.slice_scores["class_probability"], probability, NETWORK)


def check_cg_cdm(prefix: str, cg: Arrays, x: torch.Tensor, network: Parts) -> Iterator[Compared]:
    """Without (u) and with (g) guidance."""
    method = CGCDM(
        scheduler=GaussianScheduler(STEPS),
        noise_level=int(cg["Q"]),
        num_steps=int(cg["R"]),
        tau=float(cg["tau"]),
        guidance_scale=float(cg["guidance_scale"]) if prefix == "g" else 0.0,
        released_start=True,
    )
    start = method.scheduler.add_noise(x, cg["noise"], method.noise_level)
    *_, (diseased, mixed, _) = method.trajectories(start, network, nothing)
    yield compare(f"{prefix}_pos_last", diseased, cg[f"{prefix}_pos_last"], DENSE)
    yield compare(f"{prefix}_neg_last", mixed, cg[f"{prefix}_neg_last"], DENSE)
    streams = RecordedStreams(cg["noise"], single=True)
    restored = method.restore(x, x, network, streams, nothing)  # type: ignore[arg-type]
    # The published code leaves out the division by 1 - tau.
    total = restored.evidence["summed_difference"][:, 0] * (1 - method.tau)
    assert finite_difference(diseased, mixed, method.tau).shape == x.shape
    yield compare(f"{prefix}_sum", total, cg[f"{prefix}_sum"], DENSE)
    of_batch = (total - total.min()) / (total.max() - total.min())
    yield compare(f"{prefix}_map", of_batch, cg[f"{prefix}_map"], SPACED)
    cuts = torch.from_numpy(otsu_thresholds(of_batch.numpy()))
    yield compare(f"{prefix}_otsu", cuts, cg[f"{prefix}_otsu"], SPACED)
    distance = cg[f"{prefix}_map"] - cg[f"{prefix}_otsu"][:, None, None]
    mask, rounding = of_batch > cuts[:, None, None], ROUNDING * SPACED
    yield compare_masks(f"{prefix}_mask", mask, cg[f"{prefix}_mask"], distance, rounding)
    own = restored.evidence["difference_map"][:, 0]
    mask = own > torch.from_numpy(otsu_thresholds(own.numpy()))[:, None, None]
    yield compare_masks(f"{prefix}_mask, own range", mask, cg[f"{prefix}_mask"], distance, rounding)
