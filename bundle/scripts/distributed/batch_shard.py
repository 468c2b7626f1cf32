"""A batch whose rows are shared out among processes, with the random numbers of the whole batch.

Row i of a batch belongs to process i modulo their number. Every process draws the random numbers of all rows and uses
those of its own; so together they see what one process would see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Sized
from itertools import islice
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader
from torch.utils.data import Dataset, Sampler, SequentialSampler

from .process_group import ProcessGroup


class ShardSampler(Sampler[int]):
    """Every n-th index of another sampler, n being the number of processes; nothing is added to make it even.

    Args:
        sampler: gives the same order in every process.
        rank: of this process.
        size: number of processes.
    """

    def __init__(self, sampler: Any, rank: int, size: int) -> None:
        self.sampler, self.rank, self.size = sampler, rank, size

    def __len__(self) -> int:
        """Number of this process's indices."""
        return len(range(self.rank, len(self.sampler), self.size))

    def __iter__(self) -> Iterator[int]:
        """This process's indices."""
        return islice(iter(self.sampler), self.rank, None, self.size)

    def set_epoch(self, epoch: int) -> None:
        """Hand on the epoch to a sampler that wants to know it."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)


def shard_loader(
    dataset: Dataset,
    group: ProcessGroup,
    batch_size: int = 1,
    sampler: Sampler[int] | Sequence[int] | None = None,
    shuffle: bool = False,
    **kwargs: Any,
) -> DataLoader:
    """MONAI's ``DataLoader`` of this process's rows of every batch.

    Args:
        dataset: the whole data set.
        group: the processes.
        batch_size: rows of a whole batch.
        sampler: of the whole data set; ``None`` for its own order.
        shuffle: must be False, a sampler does that.
        kwargs: of ``DataLoader``.

    Raises:
        ValueError: when the batch does not divide, or some process would get nothing.
    """
    if shuffle:
        raise ValueError("shuffle must be False with several processes, give a sampler.")
    if batch_size % group.size:
        raise ValueError(f"batch_size must be a multiple of the {group.size} processes, got {batch_size}.")
    whole = SequentialSampler(_sized(dataset)) if sampler is None else sampler
    if len(_sized(whole)) < group.size:
        raise ValueError(f"{len(_sized(whole))} slice(s) cannot be shared out among {group.size} processes.")
    own = ShardSampler(whole, group.rank, group.size)
    return DataLoader(dataset, batch_size=batch_size // group.size, sampler=own, **kwargs)


def _sized(value: Any) -> Sized:
    return value


class BatchShard:
    """This process's rows of the present batch, and random numbers for them.

    Stands where a ``torch.Generator`` would: torch's own random state is used, which must be the same in every
    process, and moves on as it does in one process.

    Args:
        group: the processes.
        batch_size: rows of a whole batch.
        device: where the numbers are drawn.
        count: rows of an epoch, when its last batch may be smaller; then :meth:`attach` it to the engine.
    """

    def __init__(
        self, group: ProcessGroup, batch_size: int, device: torch.device | str = "cpu", count: int | None = None
    ) -> None:
        self.group, self.batch_size, self.device, self.count = group, batch_size, device, count
        self.size = batch_size

    def attach(self, engine: Engine) -> None:
        """Follow an engine's batches."""
        engine.add_event_handler(Events.ITERATION_STARTED, self.begin)

    def begin(self, engine: Engine) -> None:
        """Work out how many rows the engine's batch has in all."""
        if self.count is not None:
            done = (engine.state.iteration - 1) * self.batch_size
            self.size = min(self.batch_size, self.count - done)

    def take(self, draw: Callable[[int], torch.Tensor]) -> torch.Tensor:
        """This process's rows of ``draw(n)``, a tensor (n, ...) for the whole batch of n rows."""
        return draw(self.size)[self.group.rank :: self.group.size]

    def rand(self, shape: Sequence[int]) -> torch.Tensor:
        """Uniform float32 numbers in [0, 1) of ``shape`` (B, ...), B being this process's rows.

        Raises:
            ValueError: when B is not.
        """
        numbers = self.take(lambda rows: torch.rand((rows, *shape[1:]), device=self.device))
        if len(numbers) != shape[0]:
            raise ValueError(f"shape {tuple(shape)} asks for {shape[0]} rows, this process has {len(numbers)}.")
        return numbers
