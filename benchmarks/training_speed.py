"""Iterations a second of the trainings of both parts, share of the machine's peak, and share of time the loader takes.

The trainers are those of the bundle's configs, without validation, pictures and checkpoints; the denoiser's reads
cached codes (random ones here, time does not depend on them). A compiled network's gradients are compared with its own.
From the repository root:

    PYTHONPATH=bundle python benchmarks/training_speed.py --iterations 10 --batch 8
    PYTHONPATH=bundle python benchmarks/training_speed.py --paper --iterations 300 --batch 32 \
        --compile_modes none default
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import time
from pathlib import Path

import torch
from ignite.engine import Events
from ignite.handlers import BasicTimeProfiler
from machine import ceilings, peak_memory, reset_peak_memory, synchronise
from models import FORMATS, PAPER, read_configs
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode

from scripts.training import LatentDataset

logger = logging.getLogger("training_speed")
WARM_UP = 3
CONFIGS = {"autoencoder": ["inference", "train", "train_adversarial"], "denoiser": ["inference", "train"]}


class RandomCodes(LatentDataset):
    """Cached code probabilities, without the slices they would come from."""

    def __init__(self, count: int, device: torch.device) -> None:
        self.count, self.variants, self.epoch, self.classes = count, 1, 0, None
        self.latents = torch.randint(0, 256, (count, 128, 32, 32), dtype=torch.uint8, device=device)


class RandomSlices(Dataset):
    """Slices in memory."""

    def __init__(self, count: int, channels: int, size: int) -> None:
        self.slices = torch.rand(count, channels, size, size)

    def __len__(self) -> int:
        """Number of slices."""
        return len(self.slices)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """One slice; numbers beyond the last begin anew."""
        return {"image": self.slices[index % len(self)]}


class Stopwatch:
    """Seconds from the end of the warm-up to the end."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, 0.0

    def attach(self, engine) -> None:
        """Register the handler."""
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=WARM_UP), self.start)
        engine.add_event_handler(Events.COMPLETED, self.stop)

    def start(self, engine) -> None:
        """Begin to count."""
        reset_peak_memory(self.device)
        synchronise(self.device)
        self.begin = time.perf_counter()

    def stop(self, engine) -> None:
        """The count's end."""
        synchronise(self.device)
        self.seconds = time.perf_counter() - self.begin


def draw_zero_weights(network: torch.nn.Module) -> None:
    """MONAI starts some layers at zero; nothing before them would get a gradient that could be compared."""
    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)


def make_trainer(stage: str, arguments: argparse.Namespace, memory_format: str, mode: str):
    """The config's trainer and network, on data made here."""
    paper = PAPER if arguments.paper else []
    device = torch.device(arguments.device)
    changes = {
        "device": device,
        "output_dir": "unused",
        "batch_size": arguments.batch,
        "epoch_length": arguments.iterations + WARM_UP,
        "max_epochs": 1,
        "memory_format": FORMATS[memory_format],
        "num_workers": 0,
        "progress": False,
        "train#handlers": [],
    }
    if stage == "denoiser":
        changes |= {"train#dataset": RandomCodes(256, device), "frozen_autoencoder": "$@autoencoder.to(@device)"}
    parser = read_configs(*CONFIGS[stage], *paper, **changes)
    if stage == "autoencoder":
        channels = len(parser.get_parsed_content("sequences"))
        parser["train#dataset"] = RandomSlices(64, channels, arguments.crop_size)
    network = parser.get_parsed_content("network")
    draw_zero_weights(network)
    if mode != "none":
        # Torch's own random numbers, so that a compiled autoencoder draws the same codes.
        torch._inductor.config.fallback_random = True
        network.compile(mode=mode)
    return parser.get_parsed_content("train#trainer"), network


def operations(trainer, network: torch.nn.Module) -> float:
    """Floating-point operations of one iteration, forward and backward, counted by torch."""
    compiled, network._compiled_call_impl = network._compiled_call_impl, None
    batch = next(iter(trainer.data_loader))
    with FlopCounterMode(display=False) as counter:
        trainer._iteration(trainer, batch)
    network._compiled_call_impl = compiled
    return float(counter.get_total_flops())


def one_gradient(trainer, network: torch.nn.Module, batch: object) -> dict[str, torch.Tensor]:
    """Gradient of every parameter after one iteration from the same weights and random numbers."""
    weights = copy.deepcopy(network.state_dict())
    torch.manual_seed(0)
    trainer._iteration(trainer, batch)
    gradient = {name: p.grad.detach().clone() for name, p in network.named_parameters() if p.grad is not None}
    network.load_state_dict(weights)
    return gradient


def gradient_agreement(trainer, network: torch.nn.Module) -> dict:
    """How the compiled network's gradients differ from its own without the compiler, and how long compiling took."""
    compiled = network._compiled_call_impl
    if compiled is None:
        return {}
    batch = next(iter(trainer.data_loader))
    start = time.perf_counter()
    ours = one_gradient(trainer, network, batch)
    seconds = time.perf_counter() - start
    network._compiled_call_impl = None
    plain = one_gradient(trainer, network, batch)
    network._compiled_call_impl = compiled
    lost = [name for name, value in plain.items() if value.any() and not (name in ours and ours[name].any())]
    if lost:
        logger.warning("%d parameters get no gradient when compiled, first %s: do not train so", len(lost), lost[0])
    pairs = [(value, ours.get(name, torch.zeros_like(value))) for name, value in plain.items()]
    flat = [torch.cat([value.flatten() for value in side]).float() for side in zip(*pairs, strict=True)]
    return {
        "gradient_cosine": float(torch.nn.functional.cosine_similarity(*flat, dim=0)),
        "parameters_compared": sum(bool(value.any()) for value in plain.values()),
        "parameters_without_gradient": len(lost),
        "compile_seconds": seconds,
    }


def measure(stage: str, arguments: argparse.Namespace, memory_format: str, mode: str, peak: float) -> dict:
    """One training of a few iterations."""
    device = torch.device(arguments.device)
    trainer, network = make_trainer(stage, arguments, memory_format, mode)
    flops = operations(trainer, network)
    agreement = gradient_agreement(trainer, network)
    profiler, watch = BasicTimeProfiler(), Stopwatch(device)
    profiler.attach(trainer)
    watch.attach(trainer)
    start = time.perf_counter()
    trainer.run()
    rate = arguments.iterations / watch.seconds
    times = profiler.get_results()
    row = {
        "stage": stage,
        "batch": arguments.batch,
        "memory_format": memory_format,
        "compile_mode": mode,
        "iterations_a_second": rate,
        "images_a_second": rate * arguments.batch,
        "gflop_an_iteration": flops / 1e9,
        "share_of_peak": rate * flops / 1e9 / peak,
        "loader_share": times["dataflow_stats"]["total"] / (watch.seconds + 1e-9),
        "warm_up_seconds": time.perf_counter() - start - watch.seconds,
        "peak_memory_gb": peak_memory(device) / 1e9,
        **agreement,
    }
    logger.info(
        "%(stage)-11s batch %(batch)d %(memory_format)-13s compile %(compile_mode)-8s %(iterations_a_second)8.2f "
        "iterations/s, %(images_a_second)8.1f images/s, %(share_of_peak).3f of peak, loader %(loader_share).3f, "
        "warm-up %(warm_up_seconds).1f s, %(peak_memory_gb).2f GB",
        row,
    )
    return row


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--paper", action="store_true", help="networks of the paper's size")
    parser.add_argument("--stages", nargs="+", default=["autoencoder", "denoiser"])
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop_size", type=int, default=256, help="slices of stage 1")
    parser.add_argument("--memory_formats", nargs="+", default=list(FORMATS))
    parser.add_argument("--compile_modes", nargs="+", default=["none"], help="none, or modes of torch.compile")
    parser.add_argument("--output", type=Path, default=Path("training_speed.json"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    limits = ceilings(torch.device(arguments.device))
    logger.info("%s: %.0f GFLOP/s in bfloat16, %.0f GB/s copied", *limits.values())
    rows = [
        measure(stage, arguments, memory_format, mode, limits["bfloat16_gflops"])
        for stage in arguments.stages
        for memory_format in arguments.memory_formats
        for mode in arguments.compile_modes
    ]
    arguments.output.write_text(
        json.dumps({"torch": torch.__version__, "machine": limits, "rows": rows}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
