"""AnoDDPM: network, schedule, simplex fields, noising, both loops and their map."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recorded_noise import RecordedNoise
from unet_sizes import unet_of

from golden_checks import Compared, compare
from scripts.converters.anoddpm import convert
from scripts.methods.anoddpm import AnoDDPM
from scripts.networks import Parts
from scripts.noise import SimplexNoise, SliceGenerator, simplex_field
from scripts.schedulers import GaussianScheduler
from scripts.scores import squared_residual

NETWORK, LOOP, EXACT = 1e-5, 1e-4, 1e-12
HEADS = 2
"""The authors' setting; it does not show in the weights."""


def seeded(seeds: list[int]) -> SimplexNoise:
    """Simplex noise of given seeds, one a draw."""

    class Seeded(SimplexNoise):
        def seeds(self, shape, streams):
            return torch.full(tuple(shape[:2]), seeds[streams.step])

    return Seeded()


class States:
    """The scheduler, remembering what came of its first ``add_noise`` and of every step."""

    def __init__(self, scheduler: GaussianScheduler) -> None:
        self.noised: torch.Tensor | None = None
        self.states: list[torch.Tensor] = []
        add_noise, step = scheduler.add_noise, scheduler.step

        def noting(*arguments: Any) -> torch.Tensor:
            self.noised = add_noise(*arguments)
            return self.noised

        def stepping(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
            result = step(*arguments)
            self.states.append(result[0])
            return result

        scheduler.add_noise, scheduler.step = noting, stepping  # type: ignore[method-assign]


def check(folder: Path) -> Iterator[Compared]:
    """Every array of the folder."""
    io = {name: torch.from_numpy(array) for name, array in np.load(folder / "io.npz").items()}
    state = torch.load(folder / "unet.pt", weights_only=True)
    scheduler = GaussianScheduler(len(io["alphas_cumprod"]))
    yield from check_network(io, state)
    yield from check_schedule(io, scheduler)
    yield from check_fields(io)
    yield from check_noising(io, state, scheduler)
    network = Parts(denoiser=unet_of(convert(state, HEADS), HEADS))
    yield from check_loop("simplex", io, network)
    yield from check_loop("gauss", io, network)
    yield from check_map(io)


def check_network(io: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> Iterator[Compared]:
    """With the heads of the training, and with the one of the evaluation script."""
    for name, heads in (("net_output", HEADS), ("net_output_one_head", 1)):
        with torch.no_grad():
            output = unet_of(convert(state, heads), heads)(io["image"], timesteps=io["net_timesteps"])
        # Single precision rounds in proportion.
        largest = max(1.0, float(io[name].abs().max()))
        yield compare(name, output, io[name], NETWORK * largest)


def check_schedule(io: Mapping[str, torch.Tensor], scheduler: GaussianScheduler) -> Iterator[Compared]:
    """Tables; the standard deviation at the last step is not used."""
    count = scheduler.num_train_timesteps
    rows = [scheduler.posterior_coefficients(t) for t in range(count)]
    of_x0, of_xt, _, large = np.array(rows).T
    yield compare("alphas_cumprod", [scheduler.alpha_bar(t) for t in range(count)], io["alphas_cumprod"], EXACT)
    yield compare("sampling_std", np.sqrt(large)[1:], io["sampling_std"][1:], EXACT)
    yield compare("posterior_mean_coef_x0", of_x0, io["posterior_mean_coef_x0"], EXACT)
    yield compare("posterior_mean_coef_xt", of_xt, io["posterior_mean_coef_xt"], EXACT)
    cosine = GaussianScheduler(len(io["cosine_betas"]), "cosine")
    betas = [cosine.posterior_coefficients(t)[3] for t in range(cosine.num_train_timesteps)]
    yield compare("cosine_betas", betas, io["cosine_betas"], EXACT)


def check_fields(io: Mapping[str, torch.Tensor]) -> Iterator[Compared]:
    """Both forms, and other octaves."""
    seeds, times = io["field_seeds"].tolist(), io["field_timesteps"].tolist()
    size3, size2 = io["fields_3d"].shape[1:], io["fields_2d"].shape[1:]
    fields = [simplex_field(seed, size3, t) for seed, t in zip(seeds, times, strict=True)]
    yield compare("fields_3d", np.stack(fields), io["fields_3d"], EXACT)
    yield compare("fields_2d", np.stack([simplex_field(seed, size2) for seed in seeds]), io["fields_2d"], EXACT)
    single = io["single_octave_3d"]
    ours = simplex_field(int(io["single_octave_seed"]), single.shape[1:], 7, octaves=1, frequency=16)
    yield compare("single_octave_3d", ours[None], single, EXACT)
    other = io["other_octaves_3d"]
    ours = simplex_field(int(io["other_octaves_seed"]), other.shape, 123, 4, 0.6, 16)
    yield compare("other_octaves_3d", ours, other, EXACT)


def check_noising(
    io: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], scheduler: GaussianScheduler
) -> Iterator[Compared]:
    """Noised images of both kinds, and the loss of the training."""
    noise = SimplexNoise()
    image = io["image"][: len(io["noised"])]
    seeds, time = io["noising_seed"].reshape(1, 1), io["noising_timestep"].reshape(1)
    field = noise.fields(image.shape, seeds, time)
    yield compare("noising_noise", field, io["noising_noise"], NETWORK)
    yield compare("noised", scheduler.add_noise(image, field, time), io["noised"], NETWORK)
    shape = io["two_channel_noise"].shape
    fields = noise.fields(shape, io["two_channel_seeds"][None], io["two_channel_timestep"].reshape(1))
    yield compare("two_channel_noise", fields, io["two_channel_noise"], NETWORK)
    times, gauss = io["gauss_noising_timesteps"], io["gauss_noising_noise"]
    noised = scheduler.add_noise(io["image"], gauss, times)
    yield compare("gauss_noised", noised, io["gauss_noised"], NETWORK)
    with torch.no_grad():
        output = unet_of(convert(state, HEADS), HEADS)(noised, timesteps=times)
    yield compare("train_loss", (output - gauss).square().mean(dim=(1, 2, 3)), io["train_loss"], NETWORK)


def check_loop(kind: str, io: Mapping[str, torch.Tensor], network: Parts) -> Iterator[Compared]:
    """The whole loop through the method; the number of draws tells the noise level."""
    scheduler = GaussianScheduler(len(io["alphas_cumprod"]))
    draws = io["simplex_loop_seeds" if kind == "simplex" else "gauss_loop_draws"]
    noise = seeded(draws.tolist()) if kind == "simplex" else RecordedNoise(draws)
    expected = io[f"{kind}_loop_reconstruction"]
    states = States(scheduler)
    method = AnoDDPM(scheduler=scheduler, noise=noise, noise_level=len(draws) - 1)
    images = (io["image"][: len(expected)] + 1) / 2
    streams = SliceGenerator(0, list(range(len(images))))
    with torch.no_grad():
        restored = method.restore(images, images, network, streams, lambda: None)
    yield compare(f"{kind}_loop_noised", states.noised, io[f"{kind}_loop_noised"], NETWORK)
    at = [int(done) - 1 for done in io[f"{kind}_loop_steps_done"]]
    recorded = io[f"{kind}_loop_states"].reshape(len(at), *expected.shape)
    yield compare(f"{kind}_loop_states", torch.stack([states.states[n] for n in at]), recorded, LOOP)
    yield compare(f"{kind}_loop_reconstruction", 2 * restored.reconstruction - 1, expected, LOOP)


def check_map(io: Mapping[str, torch.Tensor]) -> Iterator[Compared]:
    """The map is four times the bundle's, whose images are in [0, 1]."""
    image, reconstruction = io["image"][:1], io["simplex_loop_reconstruction"]
    ours = 4 * squared_residual((image + 1) / 2, (reconstruction + 1) / 2)
    yield compare("simplex_map", ours, io["simplex_map"], NETWORK)
    found, label = (ours > 0.5), io["label"].bool()
    yield compare("simplex_map_above_half", found, io["simplex_map_above_half"], 0)
    dice = 2 * (found & label).sum() / (found.sum() + label.sum())
    yield compare("dice_at_half", dice, io["dice_at_half"], NETWORK)
