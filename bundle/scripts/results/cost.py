"""What a run costs: time, memory, parameters."""

from __future__ import annotations

import resource
import sys
from typing import Any

import torch
from torch import nn


def peak_memory(device: torch.device) -> int:
    """Bytes: most ever allocated on a CUDA device, else the largest resident size that this process has had."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    # Kibibytes everywhere but on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def describe_cost(network: nn.Module, device: torch.device, seconds: float, slices: int, passes: int) -> dict[str, Any]:
    """What ``slices`` slices of one subject cost, ``passes`` network evaluations each, in JSON values."""
    return {
        "seconds": round(seconds, 3),
        "slices": slices,
        "passes": passes,
        "device": str(device),
        "peak_memory_bytes": peak_memory(device),
        "parameters": sum(p.numel() for p in network.parameters()),
    }
