"""MAD-AD: both heads, noise, block masks, ten masked steps, map and loss against the authors' own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from golden_checks import Compared, compare
from scripts.converters.mad_ad import convert, network_arguments
from scripts.methods.mad_ad import MadAd, MadAdLoss, difference_map
from scripts.networks.mask_predicting_unet import MaskPredictingUNet
from scripts.noise.blocks import block_mask, brain_places
from scripts.schedulers import GaussianScheduler

NETWORK, LOOP, TABLE = 1e-5, 1e-4, 1e-10
MINUS_ONE_TO_ONE = 0.25
"""Limit of differences of images in [-1, 1], as the reference has them."""


def check(folder: Path) -> Iterator[Compared]:
    """Every array of the reference beside ours."""
    data = dict(np.load(folder / "io.npz"))
    scheduler = GaussianScheduler(len(data["betas"]), "cosine", prediction_type="sample", clip_range=None)
    with torch.no_grad():
        network = load(folder, data)
        yield from check_network(network, data)
        yield from check_tables(scheduler, data)
        yield from check_masks(data)
        yield from check_training(network, scheduler, data)
        yield from check_loop(network, scheduler, data)
        yield from check_map(data)


def tensor(values: np.ndarray) -> torch.Tensor:
    """An array of the file; masks as float32."""
    return torch.from_numpy(values.astype(np.float32) if values.dtype == np.uint8 else values)


def load(folder: Path, data: dict[str, np.ndarray]) -> MaskPredictingUNet:
    """The network with the authors' weights. Those do not show the heads: of the possible numbers the best is taken."""
    state = torch.load(folder / "unet.pt", map_location="cpu", weights_only=True)
    arguments = network_arguments(state)
    width, networks = arguments["channels"][0], []
    for heads in dict.fromkeys([arguments["num_heads"], *(n for n in (1, 2, 4, 6, 8, 12) if width % n == 0)]):
        network = MaskPredictingUNet(**(arguments | {"num_heads": heads})).eval()
        network.load_state_dict(convert(state, heads))
        difference = (predict(network, data)[0] - tensor(data["net_x0"])).abs().max().item()
        if difference <= NETWORK:
            return network
        networks.append((difference, heads, network))
    return min(networks, key=lambda tried: tried[:2])[2]


def predict(network: MaskPredictingUNet, data: dict[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Both heads' outputs."""
    output = network(tensor(data["latent"]), timesteps=tensor(data["net_timesteps"]))
    return output[:, :-1], output[:, -1:]


def check_network(network: MaskPredictingUNet, data: dict[str, np.ndarray]) -> Iterator[Compared]:
    """The heads."""
    prediction, keep = predict(network, data)
    yield compare("net_x0", prediction, data["net_x0"], NETWORK)
    yield compare("net_mask", keep, data["net_mask"], NETWORK)


def check_tables(scheduler: GaussianScheduler, data: dict[str, np.ndarray]) -> Iterator[Compared]:
    """The schedule."""
    times = range(scheduler.num_train_timesteps)
    betas = [scheduler.posterior_coefficients(t)[3] for t in times]
    yield compare("betas", betas, data["betas"], TABLE)
    yield compare("alphas_cumprod", [scheduler.alpha_bar(t) for t in times], data["alphas_cumprod"], TABLE)
    before = [scheduler.alpha_bar(t - 1) for t in times]
    yield compare("alphas_cumprod_prev", before, data["alphas_cumprod_prev"], TABLE)


def check_masks(data: dict[str, np.ndarray]) -> Iterator[Compared]:
    """Blocks in the order of the authors' shuffles, and the rule that spares the brain's border."""
    ratios, reference = data["mask_ratios"].tolist(), data["masks_keep"]
    masks = []
    for rows, columns, seed in data["mask_patch_rows_cols_seed"].tolist():
        random = np.random.RandomState(seed)
        orders = np.stack([np.arange(reference[0, 0].size // (rows * columns)) for _ in ratios])
        for order in orders:
            random.shuffle(order)
        masks.append(block_mask(torch.from_numpy(orders), ratios, (rows, columns), reference.shape[2:])[:, 0])
    yield compare("masks_keep", torch.stack(masks), reference, 0)
    brain = brain_places(tensor(data["brainmask"])[:, None], reference.shape[2:])[:, 0]
    yield compare("train_mask", torch.where(brain, masks[1], 1.0), data["train_mask"], 0)


def check_training(
    network: MaskPredictingUNet, scheduler: GaussianScheduler, data: dict[str, np.ndarray]
) -> Iterator[Compared]:
    """The noised latent under a mask, and both parts of the loss."""
    latent, keep, times = tensor(data["latent"]), tensor(data["train_mask"])[:, None], tensor(data["train_timesteps"])
    noised = scheduler.add_noise(latent, tensor(data["train_noise"]), times)
    noised = torch.where(keep > 0.5, latent, noised)
    yield compare("train_noised", noised, data["train_noised"], NETWORK)
    prediction, target = network(noised, timesteps=times), torch.cat([latent, keep], dim=1)
    losses = [
        [MadAdLoss(weight)(a[None], b[None]).item() for a, b in zip(prediction, target, strict=True)]
        for weight in (0.0, 1.0, MadAdLoss().mask_weight)
    ]
    squared, both, loss = (np.asarray(values) for values in losses)
    yield compare("train_mse", squared, data["train_mse"], NETWORK)
    yield compare("train_mask_prediction", both - squared, data["train_mask_prediction"], NETWORK)
    yield compare("train_loss", loss, data["train_loss"], NETWORK)


@dataclass
class RecordedDraws:
    """Streams that hand out the reference's draws, which it holds by step, the noisiest first."""

    draws: torch.Tensor
    step: int = 0

    def at(self, step: int) -> RecordedDraws:
        """The draw that makes the latent of this time."""
        return RecordedDraws(self.draws, step)

    def randn(self, shape: torch.Size) -> torch.Tensor:
        """The draw."""
        # The step from timestep t makes the latent of time t (1..T).
        return self.draws[len(self.draws) - 1 - self.step].reshape(shape)


def check_loop(
    network: MaskPredictingUNet, scheduler: GaussianScheduler, data: dict[str, np.ndarray]
) -> Iterator[Compared]:
    """All steps, from the latent itself."""
    method = MadAd(scheduler=scheduler, latent_scale=1.0, num_inference_steps=scheduler.num_train_timesteps)
    draws = RecordedDraws(tensor(data["reverse_draws"]))
    steps = list(method.steps(tensor(data["latent"]), network, draws))  # type: ignore[arg-type]
    yield compare("reverse_x0", torch.stack([s.prediction for s in steps]), data["reverse_x0"], LOOP)
    yield compare("reverse_latents", torch.stack([s.sample for s in steps]), data["reverse_latents"], LOOP)
    yield compare("reverse_replace", torch.stack([s.replaced[:, 0] for s in steps]), data["reverse_replace"], 0)


def check_map(data: dict[str, np.ndarray]) -> Iterator[Compared]:
    """The map of two decoded images, and the best Dice over its thresholds."""
    decoded, corrected = tensor(data["decoded_latent"]), tensor(data["decoded_corrected"])
    for name, sigma in (("anomaly_map_before_smoothing", 0.0), ("anomaly_map", MadAd.sigma)):
        yield compare(name, difference_map(decoded, corrected, MINUS_ONE_TO_ONE, sigma)[:, 0], data[name], NETWORK)
    maps, labels = difference_map(decoded, corrected, MINUS_ONE_TO_ONE, MadAd.sigma)[:, 0].numpy(), data["segmentation"]
    best = max(mean_dice(maps > threshold, labels > 0) for threshold in np.linspace(0, 1, 201))
    yield compare("max_mean_dice", best, data["max_mean_dice"], NETWORK)


def mean_dice(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Mean over slices; of an empty label 1 where the prediction is empty too, else 0."""
    axes = (1, 2)
    sizes, common = predictions.sum(axes) + labels.sum(axes), (predictions & labels).sum(axes)
    dice = np.where(labels.any(axes), 2 * common / np.maximum(sizes, 1), ~predictions.any(axes))
    return float(dice.mean())
