"""pDDPM: network, schedule, boxes, noise, training pass, test step, and post-processing of a volume."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from unet_sizes import unet_of

from golden_checks import Compared, compare
from scripts.converters.pddpm import convert
from scripts.methods.pddpm import PatchedDDPM, PatchLoss, PatchTask, grid_boxes
from scripts.networks import Parts, ScaleShiftUNet
from scripts.noise import Draws, SimplexNoise, SliceGenerator, simplex_field
from scripts.schedulers import GaussianScheduler
from scripts.scores import absolute_residual
from scripts.threshold_rules import greedy_dice_threshold
from scripts.transforms.volume_maps import RestrictBraind, SegmentVolumed, SmoothVolumed

NETWORK, LOOP, TABLE = 1e-5, 1e-4, 1e-6
HEAD_CHANNELS = 16
"""As the authors' tiny network; it does not show in the weights."""

Arrays = Mapping[str, torch.Tensor]


def seeded(seed: int) -> SimplexNoise:
    """One field of a given seed, rounded as the authors'."""

    class Seeded(SimplexNoise):
        def seeds(self, shape, streams):
            return torch.full(tuple(shape[:2]), seed)

    return Seeded(with_time=False, shared=True, half=True)


def check(folder: Path) -> Iterator[Compared]:
    """Every array of the folder."""
    io = {name: torch.from_numpy(array) for name, array in np.load(folder / "io.npz").items()}
    state = convert(torch.load(folder / "unet.pt", weights_only=True))
    network = Parts(denoiser=unet_of(state, head_channels=HEAD_CHANNELS, build=ScaleShiftUNet))
    scheduler = GaussianScheduler(len(io["betas"]), "cosine", prediction_type="sample", clip_range=None)
    with torch.no_grad():
        output = network.denoiser(io["net_input"], timesteps=io["net_timesteps"])
        # Single precision rounds in proportion.
        largest = max(1.0, float(io["net_output"].abs().max()))
        yield compare("net_output", output, io["net_output"], NETWORK * largest)
        yield from check_schedule(io, scheduler)
        yield from check_boxes_and_noise(io)
        yield from check_training(io, network, scheduler)
        yield from check_test_step(io, network, scheduler)
    yield from check_post_processing(io)


def check_schedule(io: Arrays, scheduler: GaussianScheduler) -> Iterator[Compared]:
    """Tables, which the authors keep as float32."""
    times = range(scheduler.num_train_timesteps)
    abar = np.array([scheduler.alpha_bar(t) for t in times])
    yield compare("betas", [scheduler.posterior_coefficients(t)[3] for t in times], io["betas"], TABLE)
    yield compare("alphas_cumprod", abar, io["alphas_cumprod"], TABLE)
    yield compare("sqrt_alphas_cumprod", np.sqrt(abar), io["sqrt_alphas_cumprod"], TABLE)
    yield compare("sqrt_one_minus_alphas_cumprod", np.sqrt(1 - abar), io["sqrt_one_minus_alphas_cumprod"], TABLE)


def check_boxes_and_noise(io: Arrays) -> Iterator[Compared]:
    """Grids by the sizes in their names; the field of the second seed drawn."""
    for name, size, patch, overlap in (
        ("boxes_96_48", (96, 96), 48, False),
        ("boxes_40x56_16", (40, 56), 16, False),
        ("boxes_overlap_96_40", (96, 96), 40, True),
    ):
        yield compare(name, grid_boxes(size, patch, overlap), io[name], 0)
    field = io["noise_field"]
    ours = simplex_field(int(io["noise_seeds_drawn"][1]), field.shape[2:])
    yield compare("noise_field", ours.astype(np.float16)[None, None], field, 0)


class Replayed(Draws):
    """The boxes and times of a recording."""

    def __init__(self, boxes: torch.Tensor, timesteps: torch.Tensor) -> None:
        super().__init__()
        self._boxes, self._timesteps = boxes, timesteps

    def integers(self, low, high, count, device=None):
        return self._boxes

    def times(self, end, count, device=None):
        return self._timesteps


def slices_of(volume: torch.Tensor) -> torch.Tensor:
    """(H, W, D) as (D, 1, H, W)."""
    return volume.movedim(-1, 0)[:, None]


def volume_of(slices: torch.Tensor) -> torch.Tensor:
    """(D, 1, H, W) as (H, W, D)."""
    return slices[:, 0].movedim(0, -1)


def check_training(io: Arrays, network: Parts, scheduler: GaussianScheduler) -> Iterator[Compared]:
    """The task's example with the recorded draws, and the loss."""
    images = slices_of(io["volume"])
    noise = simplex_field(int(io["train_noise_seed"]), images.shape[2:]).astype(np.float16)
    yield compare("train_noise", noise[None, None], io["train_noise"], 0)
    boxes = io["train_boxes"].tolist()
    patch = boxes[0][2] - boxes[0][0]
    grid = [list(box) for box in grid_boxes(images.shape[2:], patch)]
    chosen = torch.tensor([grid.index(box) for box in boxes])
    yield compare("train_boxes", [grid[n] for n in chosen], io["train_boxes"], 0)

    class Recorded(SimplexNoise):
        def draw(self, shape, draws, timesteps):
            return torch.from_numpy(noise).float().expand(tuple(shape))

    task = PatchTask(scheduler, Recorded(with_time=False, shared=True), patch)
    sample, target, keywords = task.example(images, None, Replayed(chosen, io["train_timesteps"]))
    yield compare("train_timesteps", keywords["timesteps"], io["train_timesteps"], 0)
    yield compare("train_network_input", sample, io["train_network_input"], NETWORK)
    output = network.denoiser(sample, **keywords)
    yield compare("train_loss", PatchLoss()(output, target), io["train_loss"], NETWORK)
    u, noisy = target[:, :-1], target[:, -1:]
    reconstruction = (torch.where(noisy.bool(), output, u) + 1) / 2
    yield compare("train_reconstruction", reconstruction, io["train_reconstruction"], NETWORK)


def check_test_step(io: Arrays, network: Parts, scheduler: GaussianScheduler) -> Iterator[Compared]:
    """All patches through the method, whose number tells their size; then the whole image at once."""
    images = slices_of(io["volume"])
    count, size = len(io["test_network_inputs"]), tuple(images.shape[2:])
    patch = next(p for p in range(1, size[0] + 1) if len(grid_boxes(size, p)) == count)
    seen: list[torch.Tensor] = []
    network.denoiser.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    for name, noise_seed, side in (
        ("test_reconstruction", io["test_noise_seed"], patch),
        ("whole_reconstruction", io["whole_noise_seed"], max(size)),
    ):
        seen.clear()
        method = PatchedDDPM(scheduler=scheduler, noise=seeded(int(noise_seed)), image_size=size, patch_size=side)
        streams = SliceGenerator(0, list(range(len(images))))
        reconstruction = method.restore(images, images, network, streams, lambda: None).reconstruction
        if side == patch:
            yield compare("test_network_inputs", torch.stack(seen), io["test_network_inputs"], NETWORK)
            residual = volume_of(absolute_residual(images, reconstruction))
        yield compare(name, volume_of(reconstruction), io[name], LOOP)
    yield compare("residual", residual, io["residual"], LOOP)


def check_post_processing(io: Arrays) -> Iterator[Compared]:
    """Erosion, median, threshold search and small components."""
    residual = (io["pp_original"].float() - io["pp_reconstruction"].float()).abs()
    data = {"map": residual[None], "brain": io["pp_brain_mask"][None]}
    data = RestrictBraind("map", "brain")(data)
    yield compare("pp_after_erosion", data["map"][0], io["pp_after_erosion"], TABLE)
    data = SmoothVolumed("map")(data)
    yield compare("pp_after_median", data["map"][0], io["pp_after_median"], TABLE)
    maps, label = data["map"][0].numpy(), io["pp_label"].numpy()
    threshold, dice = greedy_dice_threshold(maps, label)
    yield compare("pp_threshold", threshold, io["pp_threshold"], TABLE)
    yield compare("pp_best_dice", dice, io["pp_best_dice"], TABLE)
    for prefix, tau in (("pp_", threshold), ("pp_low_", float(io["pp_low_threshold"]))):
        above = "above_threshold" if prefix == "pp_" else "above"
        yield compare(f"{prefix}{above}", data["map"][0] > tau, io[f"{prefix}{above}"], 0)
        kept = SegmentVolumed("map", tau)(data)["map"][0]
        yield compare(f"{prefix}filtered", kept, io[f"{prefix}filtered"], 0)
        if prefix == "pp_":
            overlap = 2 * (kept.numpy() * (label > 0)).sum() / (kept.numpy().sum() + (label > 0).sum())
            yield compare("pp_dice", overlap, io["pp_dice"], TABLE)
