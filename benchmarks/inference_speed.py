"""Time and memory of inference against a plain loop in the same run, by precision, batch and steps; JSON and a table.

From the repository root; slices are drawn at random, since time does not depend on what they show:

    PYTHONPATH=bundle python benchmarks/inference_speed.py --slices 16 --output speed.json
    PYTHONPATH=bundle python benchmarks/inference_speed.py --paper --slices 49 --batches 1 8 49   # on a GPU
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
from machine import ceilings, peak_memory, reset_peak_memory, synchronise
from monai.bundle import ConfigParser
from plain_loop import plain_inference

from scripts.inferers import MaskedBernoulliInferer
from scripts.schedulers import BernoulliScheduler
from scripts.weights import load_weights

BUNDLE = Path(__file__).resolve().parent.parent / "bundle"
logger = logging.getLogger("inference_speed")


def build_network(paper: bool, device: torch.device) -> torch.nn.Module:
    """The shipped model, or one of the paper's size with random weights."""
    names = ["inference", "brats2020"] if paper else ["inference"]
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / "configs" / f"{name}.json") for name in names])
    network = parser.get_parsed_content("network_def")
    if not paper:
        load_weights(network, str(BUNDLE / "models" / "model.pt"))
    else:
        # MONAI starts the last layer at zero, for which every flip probability is one half.
        torch.nn.init.normal_(network.denoiser.out[-1].conv.weight, std=0.02)
    return network.eval().to(device)


def timed(function: Callable[[], object], device: torch.device) -> tuple[float, object]:
    """Seconds of one call, the device's queue emptied before and after, and what it returned."""
    synchronise(device)
    start = time.perf_counter()
    result = function()
    synchronise(device)
    return time.perf_counter() - start, result


def fast(network: torch.nn.Module, images: torch.Tensor, batch: int, amp: bool, steps: int, level: int) -> dict:
    """The bundle's inferer over all slices."""
    scheduler = BernoulliScheduler(1000, schedule="linear_beta", beta_start=1e-4, beta_end=0.02)
    inferer = MaskedBernoulliInferer(scheduler, level, 0.5, steps, sw_batch_size=batch, amp=amp)
    indices = torch.arange(len(images), device=images.device)
    reset_peak_memory(images.device)
    seconds, output = timed(lambda: inferer.run_slices(images, indices, network), images.device)
    return {"seconds": seconds, "memory": peak_memory(images.device), "output": output}


def parts(network: torch.nn.Module, images: torch.Tensor, batch: int, amp: bool, repeats: int = 3) -> dict:
    """Milliseconds a slice of each part alone."""
    chunk, device = images[:batch], images.device
    times = torch.full((len(chunk),), 100, device=device)
    with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp):
        code = (network.autoencoder.encode(chunk) > 0.5).float()
        single = code.split(1 if device.type == "cpu" else len(code))
        calls: dict[str, Callable[[], object]] = {
            "encode": lambda: network.autoencoder.encode(chunk),
            "denoise, one step": lambda: network.denoiser(code, timesteps=times),
            "decode": lambda: [network.autoencoder.decode(piece) for piece in single],
        }
        return {
            name: 1000 * min(timed(call, device)[0] for _ in range(repeats + 1)) / len(chunk)
            for name, call in calls.items()
        }


def compare(slow: list, output: object) -> dict:
    """Agreement of the plain loop's results with the bundle's for the same slices."""
    reconstruction = torch.stack([r for _, r, _ in slow])
    return {
        "largest_difference": float((reconstruction - output.reconstruction[: len(slow)]).abs().max()),
        "mean_difference": float((reconstruction - output.reconstruction[: len(slow)]).abs().mean()),
        "mask_share_difference": max(abs(s - float(o)) for (_, _, s), o in zip(slow, output.mask_share, strict=False)),
    }


def measure(arguments: argparse.Namespace) -> dict:
    """All measurements."""
    device = torch.device(arguments.device)
    network = build_network(arguments.paper, device)
    channels = network.autoencoder.in_channels
    images = torch.rand(arguments.slices, channels, 256, 256, generator=torch.Generator().manual_seed(0)).to(device)
    steps, level = arguments.steps, arguments.noise_level
    count = min(arguments.plain_slices, len(images))
    fast(network, images[:1], 1, False, 2, level)
    seconds, slow = timed(
        lambda: [plain_inference(network, images[i], i, level, 0.5, steps) for i in range(count)], device
    )
    plain = seconds / count
    rows = []
    for amp in (False, True):
        for batch in arguments.batches:
            result = fast(network, images, batch, amp, steps, level)
            rows.append(
                {
                    "precision": "bfloat16" if amp else "float32",
                    "batch": batch,
                    "seconds_a_slice": result["seconds"] / len(images),
                    "seconds": result["seconds"],
                    "ratio_to_plain": plain * len(images) / result["seconds"],
                    "peak_memory_gb": result["memory"] / 1e9,
                    **compare(slow, result["output"]),
                    "parts_ms_a_slice": parts(network, images, batch, amp),
                }
            )
            logger.info(
                "%(precision)-9s batch %(batch)3d  %(seconds_a_slice)8.3f s a slice, %(ratio_to_plain)5.2f times the "
                "plain loop, %(peak_memory_gb)5.2f GB, largest difference %(largest_difference).2g",
                rows[-1],
            )
    return {"plain_seconds_a_slice": plain, "plain_slices": count, "steps": steps, "rows": rows}


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--paper", action="store_true", help="networks of the paper's size, random weights")
    parser.add_argument("--slices", type=int, default=16)
    parser.add_argument("--plain_slices", type=int, default=2, help="slices that the plain loop is timed on")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--noise_level", type=int, default=200)
    parser.add_argument("--output", type=Path, default=Path("inference_speed.json"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    device = torch.device(arguments.device)
    limits = ceilings(device)
    logger.info("%s: %.0f GFLOP/s in bfloat16, %.0f GB/s copied", *limits.values())
    result = {"torch": torch.__version__, "python": platform.python_version(), "threads": torch.get_num_threads()}
    result.update({"paper_size": arguments.paper, "slices": arguments.slices, "machine": limits, **measure(arguments)})
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
