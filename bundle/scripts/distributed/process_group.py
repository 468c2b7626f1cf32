"""The processes that torchrun started, and what they tell each other."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import ignite.distributed as idist
import torch
import torch.distributed as dist

logger = logging.getLogger(__name__)


class ProcessGroup:
    """Join the processes that torchrun started on this machine.

    A process that fails ends with its error, and torchrun then ends the others; so nobody waits for one that is gone.

    Args:
        backend: ``nccl``, for tensors on GPUs, or ``gloo``.
        timeout_minutes: how long one process waits for the others before it gives up.

    Raises:
        ValueError: when torchrun did not start this process, or started more processes than there are GPUs.
    """

    def __init__(self, backend: str = "gloo", timeout_minutes: float = 60) -> None:
        local_rank = dist.get_node_local_rank(fallback_rank=0)
        gpus = torch.cuda.device_count()
        if gpus and local_rank >= gpus:
            raise ValueError(
                f"process {local_rank} has no GPU of its own, there are {gpus}: start at most {gpus} processes "
                "(--nproc_per_node of torchrun)."
            )
        self.device = torch.device("cuda", local_rank) if gpus else torch.device("cpu")
        if gpus:
            torch.cuda.set_device(self.device)
        try:
            dist.init_process_group(backend, timeout=timedelta(minutes=timeout_minutes))
        except ValueError as error:
            raise ValueError(
                f"backend {backend!r}: no process group ({error}). Start with: "
                "torchrun --standalone --nproc_per_node=N -m monai.bundle run ..."
            ) from None
        # ignite's own look at the group is a collective call; at its first use elsewhere not all might take part.
        idist.sync()
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        logger.info("process %d of %d on %s, %s", self.rank + 1, self.size, self.device, backend)

    @property
    def is_main(self) -> bool:
        """Whether this process writes what is there once."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Every process's ``value``, by rank; to be called by all. Any object that pickles."""
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def of_main(self, value: Any) -> Any:
        """The main process's ``value``; to be called by all."""
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def wait(self) -> None:
        """Return when all processes have come here."""
        self.gather(None)

    def close(self) -> None:
        """Leave the group, at the end of a run."""
        idist.finalize()
