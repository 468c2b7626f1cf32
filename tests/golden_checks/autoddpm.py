"""AutoDDPM: network, schedule, single steps, perceptual distance, both cases, the plain branch, and thresholds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recorded_noise import RecordedNoise
from sklearn.metrics import average_precision_score
from unet_sizes import unet_of

from golden_checks import Compared, compare
from scripts.converters.autoddpm import convert
from scripts.methods.anoddpm import NoiseTask
from scripts.methods.autoddpm import AutoDDPM, residual_by_likelihood
from scripts.networks import Parts
from scripts.networks.lpips import SpatialLpips, squeezenet_features
from scripts.noise import Draws, SliceGenerator
from scripts.schedulers import GaussianScheduler
from scripts.threshold_rules import healthy_share_threshold

NETWORK, LOOP, EXACT = 1e-5, 1e-4, 1e-6
HEAD_CHANNELS = 16
"""As the authors' tiny network; it does not show in the weights."""
WEIGHT_SEED, DRAW_SEED = 1001, 1004
"""Of the recipes for the perceptual distance's weights and the second case's draws."""

Arrays = Mapping[str, torch.Tensor]


def lpips_weights() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Trunk and linear layers by the recipe; nothing is stored."""
    random = np.random.RandomState(WEIGHT_SEED)
    trunk: dict[str, torch.Tensor] = {}
    for name, value in squeezenet_features().state_dict().items():
        scale = np.sqrt(2 / np.prod(value.shape[1:])) if value.ndim > 1 else 0.05
        trunk[f"features.{name}"] = torch.from_numpy(random.standard_normal(tuple(value.shape)) * scale).float()
    widths = (64, 128, 256, 384, 384, 512, 512)
    linear = [torch.from_numpy(0.15 * np.abs(random.standard_normal((1, c, 1, 1)))).float() for c in widths]
    return trunk, {f"lin{n}": value for n, value in enumerate(linear)}


def check(folder: Path) -> Iterator[Compared]:
    """Every array of the folder."""
    io = {name: torch.from_numpy(array) for name, array in np.load(folder / "io.npz").items()}
    state = convert(torch.load(folder / "unet.pt", weights_only=True))
    network = Parts(denoiser=unet_of(state, head_channels=HEAD_CHANNELS, norm_eps=1e-6))
    # The authors' tables are single precision.
    scheduler = GaussianScheduler(table_precision="float32")
    with torch.no_grad():
        yield from check_network(io, network, scheduler)
        yield from check_steps(io, scheduler)
        yield from check_perceptual(io)
        yield from check_case_a(io, network, scheduler)
        yield from check_case_b(io, network, scheduler)
        yield from check_plain_branch(io, network, scheduler)
    yield from check_masks_and_thresholds(io)


class Replayed(Draws):
    """The times of a recording."""

    def __init__(self, timesteps: torch.Tensor) -> None:
        super().__init__()
        self._timesteps = timesteps

    def times(self, end, count, device=None):
        return self._timesteps


def check_network(io: Arrays, network: Parts, scheduler: GaussianScheduler) -> Iterator[Compared]:
    """The training's example and its loss."""
    task = NoiseTask(scheduler, RecordedNoise(io["unet_noise"][None]), image_range=(0, 1))
    noised, target, keywords = task.example(io["image"], None, Replayed(io["unet_timesteps"]))
    yield compare("unet_timesteps", keywords["timesteps"], io["unet_timesteps"], 0)
    yield compare("unet_noise", target, io["unet_noise"], 0)
    yield compare("unet_noised", noised, io["unet_noised"], NETWORK)
    output = network.denoiser(noised, **keywords)
    # Single precision rounds in proportion.
    largest = max(1.0, float(io["unet_epsilon"].abs().max()))
    yield compare("unet_epsilon", output, io["unet_epsilon"], NETWORK * largest)
    yield compare("train_loss_mse", (output - target).square().mean(), io["train_loss_mse"], NETWORK)


def check_steps(io: Arrays, scheduler: GaussianScheduler) -> Iterator[Compared]:
    """Tables and single steps."""
    index = io["schedule_index"].tolist()
    yield compare("betas", [scheduler.posterior_coefficients(t)[3] for t in index], io["betas"], 1e-9)
    yield compare("alphas_cumprod", [scheduler.alpha_bar(t) for t in index], io["alphas_cumprod"], 1e-7)
    for t in sorted(int(name[4:-5]) for name in io if name.startswith("step") and name.endswith("_prev")):
        noise = io.get(f"step{t}_noise")
        previous, original = scheduler.step(
            io["step_model_output"], t, io["step_sample"], noise, "fixed_small", previous_timestep=t - 1
        )
        yield compare(f"step{t}_prev", previous, io[f"step{t}_prev"], NETWORK)
        yield compare(f"step{t}_x0", original, io[f"step{t}_x0"], NETWORK)


def check_perceptual(io: Arrays) -> Iterator[Compared]:
    """The recipe's weights, and both scalings."""
    trunk, linear = lpips_weights()
    values, layers = list(trunk.values()), list(linear.values())
    total = sum(value.double().sum().item() for value in values)
    ends = [values[0].flatten()[0], values[-1].flatten()[-1], layers[0].flatten()[0], layers[-1].flatten()[-1]]
    yield compare("lpips_weights_check", [total, *(float(v) for v in ends)], io["lpips_weights_check"], 1e-6)
    for name, scaling in (("lpips_map_released", "released"), ("lpips_map_single_scaling", "single")):
        distance = SpatialLpips(trunk, linear, scaling)(io["image"], io["lpips_other"])
        yield compare(name, distance, io[name], NETWORK)


def method_of(scheduler: GaussianScheduler, **settings: Any) -> AutoDDPM:
    """With the recipe's perceptual distance, as released."""
    return AutoDDPM(scheduler=scheduler, perceptual=SpatialLpips(*lpips_weights(), "released"), **settings)


class Stages:
    """A method run whole, with what it made on the way."""

    def __init__(self, method: AutoDDPM, x: torch.Tensor, network: Parts) -> None:
        steps: list[tuple[int, torch.Tensor, torch.Tensor]] = []
        step = method.scheduler.step

        def noting(output, timestep, sample, *arguments, **keywords):
            result = step(output, timestep, sample, *arguments, **keywords)
            steps.append((timestep, sample, result[0]))
            return result

        method.scheduler.step = noting  # type: ignore[method-assign]
        streams, calls = SliceGenerator(0, list(range(len(x)))), Counter[str]()
        restored = method.restore(x, x, network, streams, lambda: calls.update(["pass"]))
        method.scheduler.step = step  # type: ignore[method-assign]
        assert calls["pass"] == method.passes
        self.steps, self.final = steps, restored.reconstruction
        self.likelihood, self.mask = (restored.evidence[name] for name in method.evidence)
        self.map = residual_by_likelihood(x, self.final, restored.evidence)
        passes = method.num_inference_steps or method.noise_level
        self.first = steps[passes - 1][2].clamp(0, 1)
        self.score = self.map.mean(dim=(1, 2, 3), keepdim=True)


def check_case_a(io: Arrays, network: Parts, scheduler: GaussianScheduler) -> Iterator[Compared]:
    """Its levels and repetitions are read from the times of its steps."""
    x, times = io["image"], io["A_step_t"].tolist()
    level = times[0] + 1
    repeats = times[level:].count(times[level])
    method = method_of(
        scheduler,
        noise=RecordedNoise(io["A_draws"]),
        noise_level=level,
        inpainting_level=times[level] + 1,
        num_resamplings=repeats,
        mask_threshold=None,
    )
    done = Stages(method, x, network)
    yield compare("A_draws", method.noise.taken, range(len(io["A_draws"])), 0)
    yield compare("A_step_t", [t for t, _, _ in done.steps], times, 0)
    yield compare("A_step_input", torch.stack([sample for _, sample, _ in done.steps]), io["A_step_input"], LOOP)
    yield compare("A_step_prev", torch.stack([result for _, _, result in done.steps]), io["A_step_prev"], LOOP)
    yield compare("A_reconstruction", done.first, io["A_reconstruction"], LOOP)
    yield compare("A_residual_abs", (x - done.first).abs(), io["A_residual_abs"], LOOP)
    yield compare("A_lpips", method.perceptual(x, done.first), io["A_lpips"], LOOP)
    yield compare("A_combined", done.likelihood, io["A_combined"], LOOP)
    threshold = torch.quantile(done.likelihood.flatten(1), method.quantile, dim=1).clamp(0, 1)
    yield compare("A_threshold", threshold, io["A_threshold"], LOOP)
    yield compare("A_mask", done.mask, io["A_mask"], 0)
    stitched = torch.where(done.mask > 0, done.first, x)
    yield compare("A_stitched", stitched, io["A_stitched"], LOOP)
    yield compare("A_final", done.final, io["A_final"].clamp(0, 1), LOOP)
    yield compare("A_map", done.map, io["A_map"], LOOP)
    yield compare("A_score", done.score, io["A_score"], LOOP)


class Drawn:
    """Normal draws of the recipe, made when they are asked for, in order."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._random, self._shape, self.last = np.random.RandomState(DRAW_SEED), shape, torch.empty(0)
        self.first: torch.Tensor | None = None

    def __getitem__(self, number: int) -> torch.Tensor:
        self.last = torch.from_numpy(self._random.standard_normal(self._shape).astype(np.float32))
        self.first = self.last if self.first is None else self.first
        return self.last


def check_case_b(io: Arrays, network: Parts, scheduler: GaussianScheduler) -> Iterator[Compared]:
    """The method's defaults are the published constants."""
    x = io["image"][:1]
    draws = Drawn(tuple(x.shape))
    noise = RecordedNoise(draws)  # type: ignore[arg-type]
    done = Stages(method_of(scheduler, noise=noise), x, network)
    yield compare("B_draw_count", len(noise.taken), io["B_draw_count"], 0)
    yield compare("B_first_draw", draws.first, io["B_first_draw"], 0)
    yield compare("B_last_draw", draws.last, io["B_last_draw"], 0)
    yield compare("B_reconstruction", done.first, io["B_reconstruction"], LOOP)
    yield compare("B_combined", done.likelihood, io["B_combined"], LOOP)
    yield compare("B_mask", done.mask, io["B_mask"], 0)
    yield compare("B_final", done.final, io["B_final"].clamp(0, 1), LOOP)
    yield compare("B_map", done.map, io["B_map"], LOOP)
    yield compare("B_score", done.score, io["B_score"], LOOP)


def check_plain_branch(io: Arrays, network: Parts, scheduler: GaussianScheduler) -> Iterator[Compared]:
    """The first restoration alone; as many draws as steps, the last step has none."""
    x, noise = io["image"], RecordedNoise(io["ano_draws"])
    method = method_of(scheduler, noise=noise, noise_level=len(io["ano_draws"]))
    streams = SliceGenerator(0, list(range(len(x))))
    steps = (streams.at(number) for number in range(len(io["ano_draws"])))
    first = method.first_restoration(x, network, steps, lambda: None)
    yield compare("ano_reconstruction", first, io["ano_reconstruction"], LOOP)
    residual = (x - first).abs()
    yield compare("ano_map", residual, io["ano_map"], LOOP)
    yield compare("ano_score", residual.mean(dim=(1, 2, 3), keepdim=True), io["ano_score"], LOOP)


def check_masks_and_thresholds(io: Arrays) -> Iterator[Compared]:
    """Dilation, and the search for a threshold on healthy maps."""
    method = AutoDDPM(scheduler=GaussianScheduler(), mask_threshold=0.5)
    yield compare("dilate_out", method.mask(io["dilate_in"].float()), io["dilate_out"], 0)
    maps, labels = io["thr_maps"].numpy(), io["thr_labels"].numpy() > 0
    yield compare("thr_value", healthy_share_threshold(maps), io["thr_value"], EXACT)
    yield compare("auprc", average_precision_score(labels.ravel(), maps.ravel()), io["auprc"], EXACT)
    thresholds = np.linspace(0, 1, len(io["dice_at"]))
    dice = [2 * ((maps > t) & labels).sum() / ((maps > t).sum() + labels.sum()) for t in thresholds]
    yield compare("dice_at", dice, io["dice_at"], EXACT)
