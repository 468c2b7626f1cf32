"""What the machine itself can do, measured: the ceilings that speeds are compared with."""

from __future__ import annotations

import platform
import resource
import time

import torch


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak_memory(device: torch.device) -> None:
    """Begin the count of :func:`peak_memory` anew, where that can be done."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> float:
    """Bytes: of the CUDA device since the last reset, else of the process since its start."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def best_time(function, device: torch.device, repeats: int = 5) -> float:
    """Shortest of several calls, in seconds, after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        synchronise(device)
        start = time.perf_counter()
        function()
        synchronise(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def ceilings(device: torch.device) -> dict:
    """Name of the device, its rate of bfloat16 matrix products in GFLOP/s and of copies in GB/s (read and write)."""
    cuda = device.type == "cuda"
    size, numbers = (8192, 2**28) if cuda else (2048, 2**26)
    a, b = (torch.rand(size, size, device=device).bfloat16() for _ in range(2))
    source = torch.rand(numbers, device=device)
    target = torch.empty_like(source)
    return {
        "device": torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine(),
        "bfloat16_gflops": 2 * size**3 / best_time(lambda: a @ b, device) / 1e9,
        "copy_gb_per_s": 2 * numbers * 4 / best_time(lambda: target.copy_(source), device) / 1e9,
    }
