"""Random numbers of a training batch, on one process or shared out among several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from ..distributed import BatchShard


class Draws:
    """Draws for the rows of a batch: torch's own random state, or this process's rows of what one process would draw.

    Args:
        shard: the rows of this process; ``None`` for a batch that is not shared out.
        stratified: spread the times of a batch evenly in place of drawing them, for validation.
    """

    def __init__(self, shard: BatchShard | None = None, stratified: bool = False) -> None:
        self.shard: Any = shard
        self.stratified = stratified

    def rows(self, count: int, draw: Callable[[int], torch.Tensor]) -> torch.Tensor:
        """``draw(n)`` (n, ...) for the n rows of the whole batch, of which this process gets its ``count``."""
        return draw(count) if self.shard is None else self.shard.take(draw)

    def rand(self, shape: Sequence[int], device: torch.device | str | None = None) -> torch.Tensor:
        """Uniform float32 numbers in [0, 1) of ``shape`` (B, ...)."""
        return self.rows(shape[0], lambda n: torch.rand((n, *shape[1:]), device=device))

    def randn(self, shape: Sequence[int], device: torch.device | str | None = None) -> torch.Tensor:
        """Standard normal float32 numbers of ``shape`` (B, ...)."""
        return self.rows(shape[0], lambda n: torch.randn((n, *shape[1:]), device=device))

    def integers(self, low: int, high: int, count: int, device: torch.device | str | None = None) -> torch.Tensor:
        """Whole numbers in [low, high), (count,), one a row."""
        return self.rows(count, lambda n: torch.randint(low, high, (n,), device=device))

    def shared_integers(self, low: int, high: int, count: int) -> list[int]:
        """``count`` whole numbers in [low, high), the same for all rows of the batch."""
        return torch.randint(low, high, (count,)).tolist()

    def times(self, end: int, count: int, device: torch.device | str | None = None) -> torch.Tensor:
        """Timesteps in [0, end), (count,), one a row: uniform, or spread evenly where ``stratified``."""
        if not self.stratified:
            return self.integers(0, end, count, device)
        return self.rows(count, lambda n: ((torch.arange(n, device=device) + 0.5) / n * end).long())
