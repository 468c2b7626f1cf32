"""What networks know of healthy codes: cross-entropy of the denoiser at several times, and how decided codes are.

    PYTHONPATH=bundle python benchmarks/denoiser_by_time.py --dataset_dir lgg/val --weights bundle/models/model.pt

Healthy slices only, the same draws for all weights. "Noise alone" is the cross-entropy of somebody who knows the time
and nothing of the code: the entropy of (1 - abar_t) / 2.
"""

from __future__ import annotations

import argparse
import csv
import logging
import math
from pathlib import Path

import torch
from models import read_configs
from torch.nn import functional as F
from tqdm import tqdm

from scripts.data.slices import SliceDataset
from scripts.networks.weights import load_weights
from scripts.noise import SliceGenerator

logger = logging.getLogger("denoiser_by_time")
TIMES = [10, 25, 50, 100, 200, 300, 400, 600, 800, 1000]


def entropy(p: float) -> float:
    """Of a coin that falls on one side with probability p, in nats."""
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


@torch.no_grad()
def judge(slices: torch.Tensor, weights: str, times: list[int], batch: int, amp: bool, parser) -> dict[str, list]:
    """Cross-entropy in nats by time, and the mean of y (1 - y)."""
    network = load_weights(parser.get_parsed_content("network_def", instantiate=True), weights).eval()
    scheduler = parser.get_parsed_content("scheduler")
    sums, uncertainty = torch.zeros(len(times), dtype=torch.float64), 0.0
    for start in tqdm(range(0, len(slices), batch), desc=weights, unit="batch", leave=False):
        images = slices[start : start + batch]
        generator = SliceGenerator(0, range(start, start + len(images)))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
            y = network.autoencoder.encode(images)
        code = network.autoencoder.quantize(y, generator.at(-1))
        uncertainty += float((y * (1 - y)).double().mean()) * len(images)
        for i, time in enumerate(times):
            timesteps = torch.full((len(code),), time - 1)
            noisy = scheduler.add_noise(code, generator.at(time).rand(code.shape), timesteps)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
                logits = network.denoiser(noisy, timesteps=timesteps)
            loss = F.binary_cross_entropy_with_logits(logits.float(), (noisy != code).float())
            sums[i] += float(loss) * len(images)
    return {"bce": (sums / len(slices)).tolist(), "uncertainty": uncertainty / len(slices)}


def main() -> None:
    """Measure, print a table, write CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_dir", required=True, help="labelled subjects, a folder each")
    parser.add_argument("--weights", nargs="+", default=["bundle/models/model.pt"])
    parser.add_argument("--times", type=int, nargs="+", default=TIMES)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--every", type=int, default=1, help="take each n-th healthy slice")
    parser.add_argument("--output", type=Path, default=Path("denoiser_by_time.csv"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = read_configs("inference", device="cpu", dataset_dir=arguments.dataset_dir)
    parts = [config.get_parsed_content(key) for key in ("datalist", "preprocessing", "slice_selector")]
    slices = SliceDataset(*parts).slices[:: arguments.every].float()
    amp, scheduler = config.get_parsed_content("amp"), config.get_parsed_content("scheduler")
    results = {
        w: judge(slices, w, arguments.times, arguments.batch, amp, read_configs("inference", device="cpu"))
        for w in arguments.weights
    }
    chances = [float(scheduler.flip_probabilities[time]) for time in arguments.times]
    rows = [
        {"time": time, "noise alone": entropy(p), **{w: r["bce"][i] for w, r in results.items()}}
        for i, (time, p) in enumerate(zip(arguments.times, chances, strict=True))
    ]
    for row in rows:
        logger.info("  ".join(f"{k} {v:.4g}" for k, v in row.items()))
    for weights, result in results.items():
        logger.info("%s: mean y (1 - y) %.4f on %d healthy slices", weights, result["uncertainty"], len(slices))
    with arguments.output.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
