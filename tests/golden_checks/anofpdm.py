"""AnoFPDM: U-Net, five runs, decision rule, choice of constants; classifier-free DDIM, two runs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import binary_fill_holes, label
from sklearn.metrics import average_precision_score, roc_auc_score

from golden_checks import Compared, compare
from golden_checks.recorded import RecordedStreams, arrays, compare_masks, weights
from scripts.converters.anofpdm import convert, unet_sizes
from scripts.evaluation.threshold_rules import dynamic_quantile_thresholds, dynamic_quantiles
from scripts.guidance import ClassifierFreeGuidance
from scripts.median import mirrored_median
from scripts.methods.anofpdm import AnoFPDM
from scripts.methods.ddim_classifier_free import DDIMClassifierFree
from scripts.networks import Parts
from scripts.networks.classes import DISEASED, HEALTHY, NULL, classes
from scripts.networks.fpdm_unet import FPDMUNet
from scripts.schedulers import GaussianScheduler
from scripts.scores import squared_residual
from scripts.sub_anomaly_maps import SubAnomalyMaps, cosine_of_errors
from scripts.weak_selection import choose_cosine_threshold, choose_max_differences

NETWORK, DENSE, SPACED, EXACT = 1e-5, 1e-4, 5e-4, 0.0
ROUNDING = 0.2
"""Share of a map's tolerance that is rounding: masks may differ only in pixels that close to the threshold."""
STEPS = 1000
"""T, which does not show in the arrays."""
FREE_STRENGTH = 1.1
"""w of the classifier-free runs, which is not among the arrays."""

Arrays = dict[str, torch.Tensor]


def judged_in(io: Arrays) -> tuple[int, ...]:
    """The channels judged by: FLAIR and T2, the first and the last of four, or the only one."""
    return (0,) if io["a_diff"].shape[2] == 1 else (0, io["x"].shape[1] - 1)


def nothing() -> None:
    """For ``on_step``."""


@torch.no_grad()
def check(folder: Path) -> Iterator[Compared]:
    """Every array of the folder."""
    io, state = arrays(folder / "io.npz"), weights(folder / "unet_v2.pt")
    unet = FPDMUNet(**unet_sizes(state))
    unet.load_state_dict(convert(state))
    network = Parts(denoiser=unet).eval()
    yield from check_size(folder)
    yield from check_network(io, unet)
    kept = io["timestep_map_ddim50"]
    yield compare("timestep_map_ddim50", torch.arange(0, STEPS, int(kept[1])), kept, EXACT)
    for run in "abcpq":
        yield from check_run(run, io, network)
    yield from check_extra_maps(io, network)
    yield from check_rule(io)
    yield from check_choice(io)
    for run in "fg":
        yield from check_classifier_free(run, io, network)


def check_size(folder: Path) -> Iterator[Compared]:
    """Parameters of the published size: names and shapes of the authors' fit ours."""
    shapes = json.loads((folder / "full_size_shapes.json").read_text())["unet"]
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    converted = convert(state)
    found = sum(tensor.numel() for tensor in converted.values())
    yield compare(f"full_size unet {found:,}", found, sum(math.prod(shape) for shape in shapes.values()), EXACT)


def check_network(io: Arrays, unet: FPDMUNet) -> Iterator[Compared]:
    eps = {}
    for name, label_ in (("eps_y0", HEALTHY), ("eps_y1", DISEASED), ("eps_null", NULL)):
        eps[name] = unet(io["xt"], io["t"], classes(label_, len(io["xt"])))
        yield compare(name, eps[name], io[name], NETWORK)
    guided = ClassifierFreeGuidance(float(io["w"])).combine(eps["eps_y0"], eps["eps_null"])
    yield compare("eps_cfg", guided, io["eps_cfg"], (1 + 2 * float(io["w"])) * NETWORK)


def method_of(run: str, io: Arrays) -> AnoFPDM:
    """A run's settings: a dense, others spaced; c with new noise; a, b, c as released, p half so, q as the paper."""
    steps = io[f"{run}_diff"].shape[1]
    stride = 1 if run == "a" else int(io["timestep_map_ddim50"][1])
    return AnoFPDM(
        scheduler=GaussianScheduler(STEPS),
        noise_level=steps * stride,
        num_inference_steps=steps,
        guidance_strength=float(io["w"]),
        forward="ddpm" if run == "c" else "ddim",
        channels=judged_in(io),
        released_reference=run in "abc",
        released_states=run in "abcp",
    )


def streams_of(run: str, io: Arrays) -> RecordedStreams:
    return RecordedStreams(io[f"{'b' if run in 'pq' else run}_noise"], single=run != "c")


def check_run(run: str, io: Arrays, network: Parts) -> Iterator[Compared]:
    """Predictions and curves step by step, then the whole method and its decisions."""
    method, tolerance = method_of(run, io), DENSE if run == "a" else SPACED
    x, found, streams, judged = io["x"], SubAnomalyMaps(), streams_of(run, io), judged_in(io)
    for step, (healthy, reference) in enumerate(method.predictions(x, network, streams, nothing)):  # type: ignore[arg-type]
        found.update(x[:, judged], healthy[:, judged], reference[:, judged])
        for name, ours in (("h", healthy), ("0", reference)):
            if (key := f"{run}_x0_{name}_{step:02}") in io:
                yield compare(key, ours[:, judged], io[key], tolerance)
    for name, curve in zip(("mse_h", "mse_0", "diff"), found.curves, strict=True):
        yield compare(f"{run}_{name}", curve, io[f"{run}_{name}"], tolerance)
    yield compare(f"{run}_t_e", found.end_steps, io[f"{run}_t_e"], EXACT)
    yield compare(f"{run}_cos", cosine_of_errors(*found.curves[:2]), io[f"{run}_cos"], NETWORK)
    images = (x + 1) / 2
    restored = method.restore(images, images, network, streams, nothing)  # type: ignore[arg-type]
    scores = restored.slice_scores
    peaks = torch.stack([scores[f"peak_difference_{c}"] for c in judged], dim=1)
    yield from check_decisions(
        run, io, restored.evidence["aggregated_map"], peaks, 1 - scores["cosine_distance"], tolerance
    )
    if f"{run}_map_last" in io:
        only = replace(method, end_step_only=True)
        last = only.restore(images, images, network, streams, nothing)  # type: ignore[arg-type]
        maps = last.evidence["aggregated_map"]
        yield from check_masks(run, "_last", io, maps, peaks, tolerance)


def check_decisions(
    run: str, io: Arrays, maps: torch.Tensor, peaks: torch.Tensor, cosines: torch.Tensor, tolerance: float
) -> Iterator[Compared]:
    """Maps, quantiles, thresholds, masks and labels, from the AAM of each channel."""
    if f"{run}_map_nomedian" in io:
        yield compare(f"{run}_map_nomedian", maps.mean(dim=1, keepdim=True), io[f"{run}_map_nomedian"], tolerance)
    index, quantiles = dynamic_quantiles(peaks.numpy(), io[f"{run}_diff_max"].tolist())
    if f"{run}_quantile_index" in io:
        yield compare(f"{run}_quantile_index", index, io[f"{run}_quantile_index"], EXACT)
    if f"{run}_quantile" in io:
        yield compare(f"{run}_quantile", quantiles, io[f"{run}_quantile"], 1e-6)
    if f"{run}_thr" in io:
        cuts = dynamic_quantile_thresholds(maps.numpy(), peaks.numpy(), io[f"{run}_diff_max"].tolist())
        yield compare(f"{run}_thr", cuts, io[f"{run}_thr"], tolerance)
    diseased = cosines <= io[f"{run}_thr_cos"]
    yield compare(f"{run}_pred_label", diseased, io[f"{run}_pred_label"], EXACT)
    yield from check_masks(run, "", io, maps, peaks, tolerance)
    if f"{run}_mask" in io:
        smooth, cuts = smoothed(io, run, maps, peaks)
        mixed = (smooth >= cuts) & diseased[:, None, None, None]
        distance = io[f"{run}_map"] - cuts
        yield compare_masks(f"{run}_mask", mixed, io[f"{run}_mask"], distance, ROUNDING * tolerance)


def smoothed(io: Arrays, run: str, maps: torch.Tensor, peaks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The published map and its threshold, in single precision as published."""
    cuts = dynamic_quantile_thresholds(maps.numpy(), peaks.numpy(), io[f"{run}_diff_max"].tolist())
    smooth = mirrored_median(maps.mean(dim=1, keepdim=True))
    return smooth, torch.from_numpy(cuts).float()[:, None, None, None]


def check_masks(
    run: str, suffix: str, io: Arrays, maps: torch.Tensor, peaks: torch.Tensor, tolerance: float
) -> Iterator[Compared]:
    smooth, cuts = smoothed(io, run, maps, peaks)
    wanted = io[f"{run}_map{suffix}"]
    yield compare(f"{run}_map{suffix}", smooth, wanted, tolerance)
    name = f"{run}_mask_all{suffix}"
    yield compare_masks(name, smooth >= cuts, io[name], wanted - cuts, ROUNDING * tolerance)


def check_extra_maps(io: Arrays, network: Parts) -> Iterator[Compared]:
    """Maps of other sub-anomaly maps: every n-th step, and the gradient's."""
    images, method, streams = (io["x"] + 1) / 2, method_of("b", io), streams_of("b", io)
    for name in [key for key in io if key.startswith("b_map_interval")]:
        spaced = replace(method, interval=int(name.removeprefix("b_map_interval")))
        restored = spaced.restore(images, images, network, streams, nothing)  # type: ignore[arg-type]
        smooth = mirrored_median(restored.evidence["aggregated_map"].mean(dim=1, keepdim=True))
        yield compare(name, smooth, io[name], SPACED)
    gradients = replace(method, gradient_maps=True)
    restored = gradients.restore(images, images, network, streams, nothing)  # type: ignore[arg-type]
    smooth = mirrored_median(restored.evidence["aggregated_map"].mean(dim=1, keepdim=True))
    scale = float(io["b_map_gradsam"].max())
    yield compare("b_map_gradsam / largest", smooth / scale, io["b_map_gradsam"] / scale, SPACED)


def check_rule(io: Arrays) -> Iterator[Compared]:
    """The decision rule alone, on given predictions."""
    x, healthy, reference = io["s_x"][:, judged_in(io)], io["s_x0_h"], io["s_x0_0"]

    def found_with(**options) -> SubAnomalyMaps:
        found = SubAnomalyMaps(**options)
        for step in range(healthy.shape[1]):
            found.update(x, healthy[:, step], reference[:, step])
        return found

    found = found_with()
    cosines = cosine_of_errors(*found.curves[:2])
    yield compare("s_cos", cosines, io["s_cos"], NETWORK)
    yield compare("s_t_e", found.end_steps, io["s_t_e"], EXACT)
    yield from check_decisions("s", io, found.maps, found.peaks, cosines, NETWORK)
    yield from check_masks("s", "_last", io, found_with(end_step_only=True).maps, found.peaks, NETWORK)
    for name in [key for key in io if key.startswith("s_map_interval")]:
        maps = found_with(interval=int(name.removeprefix("s_map_interval"))).maps
        yield compare(name, mirrored_median(maps.mean(dim=1, keepdim=True)), io[name], NETWORK)
    smooth, cuts = smoothed(io, "s", found.maps, found.peaks)
    yield from check_evaluation(io, smooth, smooth >= cuts)


def check_evaluation(io: Arrays, smooth: torch.Tensor, mask: torch.Tensor) -> Iterator[Compared]:
    """The metrics as the authors code them, whose precision and recall are exchanged."""
    kept = torch.stack([without_small(m[0].numpy(), 40) for m in mask])[:, None]
    yield compare("s_mask_all_cc40", kept, io["s_mask_all_cc40"], EXACT)
    true = io["s_mask_true"].bool()
    diseased = true.flatten(1).any(dim=1)
    overlap, sizes = (kept & true).flatten(1).sum(dim=1), (kept.flatten(1).sum(dim=1), true.flatten(1).sum(dim=1))
    dice = (2 * overlap + 1e-6) / (sizes[0] + sizes[1] + 1e-6)
    iou = (overlap + 1e-6) / (sizes[0] + sizes[1] - overlap + 1e-6)
    brain = (io["s_x"].mean(dim=1, keepdim=True) > -0.95).numpy()
    pixels, labels = smooth.numpy()[brain], true.numpy()[brain]
    values = {
        "dice": dice.mean(),
        "iou": iou.mean(),
        "unhealthy_dice": dice[diseased].mean(),
        "unhealthy_iou": iou[diseased].mean(),
        # Exchanged there: what is called precision is the sensitivity.
        "precision": overlap.sum() / sizes[1].sum(),
        "recall": overlap.sum() / sizes[0].sum(),
        "AUPRC": average_precision_score(labels, pixels),
        "AUC": roc_auc_score(labels, pixels),
    }
    keep = diseased.numpy()
    values["unhealthy_AUPRC"] = average_precision_score(
        true.numpy()[keep][brain[keep]], smooth.numpy()[keep][brain[keep]]
    )
    for name, value in values.items():
        yield compare(f"s_eval_{name}", value, io[f"s_eval_{name}"], 5e-3 if "AUPRC" in name else NETWORK)


def without_small(mask: np.ndarray, size: int) -> torch.Tensor:
    """Components (over corners too) whose filled area is above ``size``."""
    components, count = label(mask, structure=np.ones((3, 3)))
    large = [n for n in range(1, count + 1) if binary_fill_holes(components == n).sum() > size]
    return torch.from_numpy(np.isin(components, large))


def check_choice(io: Arrays) -> Iterator[Compared]:
    """c, Mmax and the number of errors, of given curves."""
    diseased = io["h_label"].numpy()
    cosines = cosine_of_errors(io["h_mse_h"], io["h_mse_0"])
    chosen = choose_cosine_threshold(cosines.numpy(), diseased)
    yield compare("h_thr_cos", chosen.threshold, io["h_thr_cos"], NETWORK)
    yield compare("h_n_errors", chosen.errors, io["h_n_errors"], EXACT)
    peaks = io["h_diff"].amax(dim=1).numpy()
    yield compare("h_diff_max", choose_max_differences(peaks, diseased), io["h_diff_max"], NETWORK)
    smallest = peaks[diseased == 1].min(axis=0)
    yield compare("h_diff_min", smallest, io["h_diff_min"], NETWORK)


def check_classifier_free(run: str, io: Arrays, network: Parts) -> Iterator[Compared]:
    """f dense, g spaced: the state encoded, the image decoded, map, mask and label."""
    stride = 1 if run == "f" else int(io["timestep_map_ddim50"][1])
    tolerance = DENSE if run == "f" else SPACED
    options = {"guidance_strength": FREE_STRENGTH, "channels": judged_in(io), "released_loop": True}
    longest = DDIMClassifierFree(
        scheduler=GaussianScheduler(STEPS), noise_level=49 * stride, num_inference_steps=49, **options
    )
    # How many steps a run takes is not among the arrays: it is the number behind which the state fits.
    states = [state for _, state in longest.encoding(io["x"], network, nothing)]
    off = [float((state - io[f"{run}_latent"]).abs().max()) for state in states]
    latent, count = states[int(np.argmin(off))], 1 + int(np.argmin(off))
    method = replace(longest, noise_level=count * stride, num_inference_steps=count)
    yield compare(f"{run}_latent", latent, io[f"{run}_latent"], tolerance)
    images = (io["x"] + 1) / 2
    restored = method.restore(images, images, network, None, nothing)  # type: ignore[arg-type]
    yield compare(f"{run}_target", 2 * restored.reconstruction - 1, io[f"{run}_target"], tolerance)
    # The bundle's images are in [0, 1], the authors' in [-1, 1]: four times the residual, over the channels' number.
    judged = judged_in(io)
    each = [4 / len(judged) * (c in judged) for c in range(images.shape[1])]
    smooth = mirrored_median(squared_residual(images, restored.reconstruction, weights=each))
    yield compare(f"{run}_map", smooth, io[f"{run}_map"], tolerance)
    cut = io[f"{run}_thr"]
    yield compare_masks(f"{run}_mask", smooth >= cut, io[f"{run}_mask"], io[f"{run}_map"] - cut, ROUNDING * tolerance)
    yield compare(f"{run}_pred_label", restored.slice_scores["largest_residual"] >= cut, io[f"{run}_pred_label"], EXACT)
