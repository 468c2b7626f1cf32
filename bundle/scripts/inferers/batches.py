"""How many slices go through the networks at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

CPU_SIZE = 8
"""On a CPU more slices at once gain nothing (``benchmarks/inference_speed.py``)."""

LARGEST = 256
FREE_SHARE = 0.8
"""Share of the free memory that is planned for; the rest is for what the probe did not see."""


class Batches:
    """Consecutive parts of ``size`` items, and smaller ones from there on when the memory does not hold them.

    Args:
        size: items at once; ``None`` to find it by :meth:`fit`.
    """

    def __init__(self, size: int | None) -> None:
        self.size = size

    def fit(self, trial: Callable[[], object], images: torch.Tensor) -> None:
        """Choose the size, once: 8 on a CPU, and on a CUDA device what the free memory holds.

        Args:
            trial: runs one item as the batches will run many.
            images: (N, ...), the items, on the device.
        """
        if self.size is not None or len(images) == 0:
            return
        if images.device.type != "cuda":
            self.size = CPU_SIZE
            return
        needed = probe_memory(trial, images.device)
        free, _ = torch.cuda.mem_get_info(images.device)
        self.size = size_for(needed, free)
        logger.info("batches of %d slices: %.0f MB a slice, %.1f GB free", self.size, needed / 1e6, free / 1e9)

    def run(self, count: int, function: Callable[[slice], Result]) -> Iterator[Result]:
        """Results of ``function`` for consecutive parts of 0..count - 1.

        Raises:
            torch.OutOfMemoryError: when even one item does not fit.
        """
        start = 0
        while start < count:
            size = min(self.size or CPU_SIZE, count - start)
            try:
                result = function(slice(start, start + size))
            except RuntimeError as error:
                if size == 1 or not is_out_of_memory(error):
                    raise
                self.size = (size + 1) // 2
                logger.warning("%d slices at once do not fit the memory, going on with %d", size, self.size)
            else:
                yield result
                start += size
                continue
            # Outside the handler, where the error holds on to the tensors of the calls that failed.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def size_for(needed: float, free: float) -> int:
    """Slices that fit ``free`` bytes when one takes ``needed``: 1 to 256."""
    return max(1, min(LARGEST, int(FREE_SHARE * free / max(needed, 1.0))))


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that memory ran out, on the GPU or (an error without a type of its own) on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def probe_memory(trial: Callable[[], object], device: torch.device) -> int:
    """Bytes that ``trial`` takes beyond what is allocated already, on a CUDA device."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    trial()
    return torch.cuda.max_memory_allocated(device) - before
