"""Denoising autoencoder with coarse noise: what the authors' code computed with small random weights.

Evaluation and preparation of whole volumes as the authors have them are no part of the bundle, which has its own: the
component filter, their best Dice and their slices are written out here from library functions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from monai.networks.layers import median_filter
from skimage.measure import label, regionprops
from sklearn.metrics import average_precision_score
from torch.nn.functional import interpolate, pad

from scripts.files import load_checkpoint
from scripts.foreground_scores import erode, eroded_absolute_residual
from scripts.methods.denoising_autoencoder import DenoisingAutoencoder, DenoisingTask, ForegroundLoss
from scripts.networks import Parts
from scripts.networks.denoising_unet import DenoisingUNet, norm_groups
from scripts.noise import SliceGenerator

from . import Compared, compare

NETWORK, FIELD, LOSS, GRAD_NORM, WEIGHTS, SAME = 1e-4, 1e-5, 1e-6, 1e-5, 2e-5, 0.0
"""Tolerances."""
CROP = 40
"""Where the crops of outputs begin, in both axes."""
Golden = Mapping[str, torch.Tensor]


def check(folder: Path) -> Iterator[Compared]:
    """Compare everything in ``folder``."""
    golden = {name: torch.from_numpy(array) for name, array in np.load(folder / "io.npz").items()}
    weights = {key: value.float() for key, value in load_checkpoint(folder / "unet.pt").items()}
    trained = load_checkpoint(folder / "unet_after_3_steps.pt")
    yield from _noise_and_output(golden, _network(weights))
    yield from _restoration(golden, _network(weights))
    yield from _training(golden, _network(weights), trained)
    yield from _pieces(golden)
    yield from _evaluation(golden)
    yield from _slices(golden)


def _network(weights: Mapping[str, torch.Tensor]) -> DenoisingUNet:
    """The network whose widths the weights tell."""
    levels = len({key.split(".")[1] for key in weights if key.startswith("down_path")})
    channels = [len(weights[f"down_path.{level}.block.1.bias"]) for level in range(levels)]
    network = DenoisingUNet(len(weights["last.bias"]), channels)
    network.load_state_dict(weights)
    return network


class _Stored:
    """Draws whose numbers are given: coarse noise as the task would scale it, and the shift of rows and columns."""

    def __init__(self, task: DenoisingTask, noise: torch.Tensor, shift: torch.Tensor) -> None:
        self.noise, self.shift = noise / task.noise_std, shift.tolist()

    def randn(self, shape: tuple[int, ...], device: object = None) -> torch.Tensor:
        """The whole noise."""
        return self.noise.reshape(shape)

    def shared_integers(self, low: int, high: int, count: int) -> list[int]:
        """The next of the shifts."""
        return [self.shift.pop(0) for _ in range(count)]


def _noised(image: torch.Tensor, noise: torch.Tensor, shift: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and target of the task."""
    task = DenoisingTask(noise_resolution=noise.shape[-1])
    inputs, target, _ = task.example(image, None, _Stored(task, noise, shift))
    return inputs, target


def _cut(values: torch.Tensor, like: torch.Tensor, start: int = 0) -> torch.Tensor:
    height, width = like.shape[-2:]
    return values[..., start : start + height, start : start + width]


@torch.no_grad()
def _noise_and_output(golden: Golden, network: DenoisingUNet) -> Iterator[Compared]:
    noised, target = _noised(golden["image"].float(), golden["noise_low"], golden["roll"])
    yield compare("noised", noised, golden["noised"], FIELD)
    output = network(golden["noised"])
    for name, start in (("noised_output_crop", CROP), ("noised_output_corner", 0)):
        yield compare(name, _cut(output, golden[name], start), golden[name], NETWORK)
    # Stored as halves: off by up to half the distance of two of them.
    half = golden["noised_output_half"].numpy()
    spacing = np.spacing(np.abs(half)).astype(np.float32)
    beyond = np.abs(output.numpy() - half) - spacing / 2
    yield compare("noised_output_half", beyond.clip(0), np.zeros(half.shape), NETWORK)
    yield compare("loss", ForegroundLoss()(output, target), golden["loss"], LOSS)


@torch.no_grad()
def _restoration(golden: Golden, network: DenoisingUNet) -> Iterator[Compared]:
    image = golden["image"].float()
    levels: list[torch.Tensor] = []
    for block in network.down_path:
        block.register_forward_hook(lambda module, inputs, output: levels.append(output))
    streams = SliceGenerator(0, range(len(image)))
    output = DenoisingAutoencoder().restore(image, image, Parts(unet=network), streams, lambda: None).reconstruction
    for level, values in enumerate(levels):
        reference = golden[f"down{level}_crop"]
        yield compare(f"down{level}_crop", _cut(values, reference), reference, NETWORK)
    yield compare(
        "clean_output_crop", _cut(output, golden["clean_output_crop"], CROP), golden["clean_output_crop"], NETWORK
    )
    error = eroded_absolute_residual(image, output)
    yield compare("error", error, golden["error"], FIELD)
    yield compare("score", _median(error), golden["score"], FIELD)


def _median(maps: torch.Tensor) -> torch.Tensor:
    """5x5 median with reflection. MONAI's, which the bundle smooths with, repeats the border's pixels in its place."""
    return median_filter(pad(maps, [2] * 4, mode="reflect"), kernel_size=5, spatial_dims=2)[..., 2:-2, 2:-2]


def _training(golden: Golden, network: DenoisingUNet, trained: Mapping[str, torch.Tensor]) -> Iterator[Compared]:
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, amsgrad=True, weight_decay=1e-5)
    losses, norms = [], []
    for noise, shift in zip(golden["train_noise_low"], golden["train_roll"], strict=True):
        noised, target = _noised(golden["image"].float(), noise, shift)
        loss = ForegroundLoss()(network(noised), target)
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5))
        optimizer.step()
        losses.append(loss.detach())
    yield compare("train_loss", torch.stack(losses), golden["train_loss"], LOSS)
    yield compare("train_grad_norm", torch.stack(norms), golden["train_grad_norm"], GRAD_NORM)
    ours, theirs = (torch.cat([state[key].flatten() for key in trained]) for state in (network.state_dict(), trained))
    yield compare("unet_after_3_steps", ours, theirs, WEIGHTS)


def _pieces(golden: Golden) -> Iterator[Compared]:
    rates = _learning_rates(25 * (len(golden["lr_by_epoch"]) - 1))[::25]
    yield compare("lr_by_epoch", np.array(rates), golden["lr_by_epoch"], 1e-12)
    widths = golden["groups"][:, 0].tolist()
    yield compare("groups", np.array([norm_groups(width) for width in widths]), golden["groups"][:, 1], SAME)
    yield compare("erode_out", erode(golden["erode_in"]), golden["erode_out"], SAME)
    yield compare("median_out", _median(golden["median_in"]), golden["median_out"], FIELD)
    yield compare("cc_out", _without_small(golden["cc_in"].numpy()), golden["cc_out"], SAME)


def _learning_rates(epochs: int) -> list[float]:
    """Rates after 0, 1, ..., ``epochs`` epochs of torch's scheduler, which rises again after T_max of them."""
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=1e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(epochs):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def _without_small(binary: np.ndarray, largest: int = 20) -> np.ndarray:
    """Without components, by 26 neighbours, of at most ``largest`` voxels, holes that are closed in 3D counted in."""
    components = label(binary, connectivity=3)
    kept = [region.label for region in regionprops(components) if region.area_filled > largest]
    return np.isin(components, kept)


def _evaluation(golden: Golden) -> Iterator[Compared]:
    maps, labels = golden["eval_maps"].numpy()[:, 0], golden["eval_labels"].numpy() > 0.5
    precision = average_precision_score(labels.ravel(), maps.ravel())
    thresholds = np.arange(1000) / 1000
    # In the search thresholds are halves, as the scores are; before the component filter neither is.
    dices = [_dice(maps > np.float16(threshold), labels) for threshold in thresholds]
    best = int(np.argmax(dices))
    binary = maps.astype(np.float64) > thresholds[best]
    # Two patients, an equal number of slices each.
    filtered = np.concatenate([_without_small(slices) for slices in np.split(binary, 2)])
    found = [precision, dices[best], thresholds[best], _dice(filtered, labels)]
    yield compare("eval_ap_dice_threshold_dicecc", np.array(found), golden["eval_ap_dice_threshold_dicecc"], LOSS)


def _dice(prediction: np.ndarray, labels: np.ndarray) -> float:
    return float(2 * (prediction & labels).sum() / (prediction.sum() + labels.sum()))


def _slices(golden: Golden) -> Iterator[Compared]:
    """Slices of a volume as the authors train with them; the bundle prepares volumes in its own way."""
    volume = golden["pre_volume"].float().numpy()
    volume = np.stack([sequence / np.percentile(sequence[sequence > 0], 99) for sequence in volume]).astype(np.float32)
    bright = np.flatnonzero(volume.mean(axis=0).sum(axis=(0, 1)) > 0.5)
    kept = np.arange(bright[0], bright[-1] + 1)
    yield compare("pre_slices", kept, golden["pre_slices"], SAME)
    # The label is cut at 0.5 only where it is compared.
    sources = {"x": torch.from_numpy(volume), "y": (golden["pre_seg"] > 0)[None].float()}
    for name in golden:
        if said := re.fullmatch(r"pre_([xy])_slice(\d+)_every(\d+)", name):
            plane, step = sources[said[1]][None, ..., int(said[2])], int(said[3])
            resized = interpolate(plane, size=golden["image"].shape[-2:], mode="bilinear")[0, :, ::step, ::step]
            yield compare(name, resized.reshape(golden[name].shape), golden[name], FIELD)
