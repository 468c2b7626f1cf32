"""Time, memory and agreement of inference with a plain loop in the same run, by precision, batch and compiler mode.

From the repository root:

    PYTHONPATH=bundle python benchmarks/inference_speed.py --slices 16 --output speed.json
    PYTHONPATH=bundle python benchmarks/inference_speed.py --paper --slices 49 --batches 1 49 \
        --compile_modes none reduce-overhead   # on a GPU
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
from machine import ceilings, peak_memory, reset_peak_memory, synchronise
from models import FORMATS, build_network, make_slices, masked_inferer
from plain_loop import plain_inference

from scripts.inferers import VolumeResult
from scripts.scores import squared_residual

logger = logging.getLogger("inference_speed")
DEFAULT_FORMAT = "channels_last" if torch.cuda.is_available() else "contiguous"
"""As in ``configs/inference.json``."""


def timed(function: Callable[[], object], device: torch.device) -> tuple[float, object]:
    """Seconds of one call, the device's queue emptied before and after, and what it returned."""
    synchronise(device)
    start = time.perf_counter()
    result = function()
    synchronise(device)
    return time.perf_counter() - start, result


class Fast:
    """The bundle's inferer, and the codes that it decoded."""

    def __init__(self, network: torch.nn.Module, batch: int, amp: bool, mode: str, arguments: argparse.Namespace):
        self.network, self.codes, self.decode = network, [], network.autoencoder.decode
        level, threshold, steps = arguments.noise_level, arguments.probability_threshold, arguments.steps
        self.inferer = masked_inferer(level, threshold, steps, batch, amp, None if mode == "none" else mode)

    def __call__(self, images: torch.Tensor) -> VolumeResult:
        """All slices, once, as a volume."""
        self.codes.clear()
        self.network.autoencoder.decode = lambda code: (self.codes.append(code), self.decode(code))[1]
        output = self.inferer.run_volume(images.movedim(0, -1), self.network)
        del self.network.autoencoder.decode
        return output


def parts(network: torch.nn.Module, images: torch.Tensor, batch: int, amp: bool, repeats: int = 3) -> dict:
    """Milliseconds a slice of each part alone."""
    chunk, device = images[:batch], images.device
    times = torch.full((len(chunk),), 100, device=device)
    # Not inference_mode: autocast would convert the weights anew in every call.
    with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp):
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


def agreement(slow: list, output: VolumeResult, codes: list[torch.Tensor], images: torch.Tensor) -> dict:
    """How the plain loop's codes, reconstructions and maps differ from the bundle's for the same slices and noise."""
    count = len(slow)
    code, reconstruction = torch.stack([s[0] for s in slow]), torch.stack([s[1] for s in slow])
    ours = output.reconstruction.movedim(-1, 0)[:count]
    shares = output.slice_scores["mask_share"]
    maps = [squared_residual(images[:count], r) for r in (reconstruction, ours)]
    return {
        "code_bits_differing": float((torch.cat(codes)[:count] != code).float().mean()),
        "largest_difference": float((reconstruction - ours).abs().max()),
        "mean_difference": float((reconstruction - ours).abs().mean()),
        "map_correlation": float(torch.corrcoef(torch.stack([m.flatten() for m in maps]))[0, 1]),
        "mask_share_difference": max(abs(s[2] - float(o)) for s, o in zip(slow, shares, strict=False)),
    }


def rows(network: torch.nn.Module, images: torch.Tensor, slow: list, plain: float, arguments: argparse.Namespace):
    """One row for each precision, batch and compiler mode."""
    for amp in (False, True):
        for batch in arguments.batches:
            for mode in arguments.compile_modes:
                fast = Fast(network, batch, amp, mode, arguments)
                # What comes before the first result that counts: compiling, and the allocator's first requests.
                cold, _ = timed(lambda f=fast, b=batch: f(images[:b]), images.device)
                reset_peak_memory(images.device)
                seconds, output = timed(lambda f=fast: f(images), images.device)
                row = {
                    "precision": "bfloat16" if amp else "float32",
                    "batch": batch,
                    "compile_mode": mode,
                    "seconds_a_slice": seconds / len(images),
                    "seconds": seconds,
                    "first_batch_seconds": cold,
                    "ratio_to_plain": plain * len(images) / seconds,
                    "peak_memory_gb": peak_memory(images.device) / 1e9,
                    **agreement(slow, output, fast.codes, images),
                    "parts_ms_a_slice": parts(network, images, batch, amp),
                }
                logger.info(
                    "%(precision)-9s batch %(batch)3d compile %(compile_mode)-16s %(seconds_a_slice)8.3f s a slice, "
                    "%(ratio_to_plain)5.2f times the plain loop, first batch %(first_batch_seconds)6.1f s, "
                    "%(peak_memory_gb)5.2f GB, code bits that differ %(code_bits_differing).2g, reconstruction "
                    "%(largest_difference).2g at most, map correlation %(map_correlation).6f",
                    row,
                )
                yield row


def measure(arguments: argparse.Namespace) -> dict:
    """All measurements."""
    device = torch.device(arguments.device)
    plain_network = build_network(arguments.paper, device)
    images = make_slices(arguments.paper, arguments.slices, plain_network.autoencoder.in_channels).to(device)
    network = copy.deepcopy(plain_network).to(memory_format=FORMATS[arguments.memory_format])
    level, threshold, steps = arguments.noise_level, arguments.probability_threshold, arguments.steps
    count = min(arguments.plain_slices, len(images))

    def plain(by: torch.nn.Module) -> list:
        return [plain_inference(by, images[i], i, level, threshold, steps) for i in range(count)]

    plain_inference(plain_network, images[0], 0, level, threshold, 2)
    seconds, _ = timed(lambda: plain(plain_network), device)
    # Compared on the same network: another memory format has other kernels, and they round otherwise.
    slow = plain(network)
    logger.info("plain loop, float32, one slice at a time: %.3f s a slice", seconds / count)
    found = list(rows(network, images, slow, seconds / count, arguments))
    return {"plain_seconds_a_slice": seconds / count, "plain_slices": count, "steps": steps, "rows": found}


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--paper", action="store_true", help="networks of the paper's size, random weights")
    parser.add_argument("--slices", type=int, default=16)
    parser.add_argument("--plain_slices", type=int, default=2, help="slices that the plain loop is timed on")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--compile_modes", nargs="+", default=["none"], help="none, or modes of torch.compile")
    parser.add_argument("--memory_format", choices=FORMATS, default=DEFAULT_FORMAT)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--noise_level", type=int, default=200)
    parser.add_argument("--probability_threshold", type=float, default=0.5)
    parser.add_argument("--output", type=Path, default=Path("inference_speed.json"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    device = torch.device(arguments.device)
    limits = ceilings(device)
    logger.info("%s: %.0f GFLOP/s in bfloat16, %.0f GB/s copied", *limits.values())
    result = {"torch": torch.__version__, "python": platform.python_version(), "threads": torch.get_num_threads()}
    result.update(
        {
            "paper_size": arguments.paper,
            "slices": arguments.slices,
            "memory_format": arguments.memory_format,
            "machine": limits,
            **measure(arguments),
        }
    )
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
