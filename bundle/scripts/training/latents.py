"""Codes of training slices, computed once, so that the denoiser alone sets the pace of stage 2."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import ignite.distributed as idist
import torch
from torch.utils.data import Dataset, default_collate
from tqdm import tqdm

from ..data.slices import HealthySliceDataset
from ..networks import BinarizingAutoencoder

logger = logging.getLogger(__name__)

LEVELS = 255
"""Probabilities are kept in bytes: y is rounded to multiples of 1 / 255."""


class CodeDataset(Dataset):
    """Code probabilities of a slice data set, in several augmented variants.

    The code is drawn from the probability anew each time, so that caching takes nothing from the randomness but
    the augmentation, which repeats after ``variants`` epochs. Several processes share the encoding, batch by batch, and
    all keep all codes.

    Args:
        dataset: the slices; variant v is its epoch v.
        autoencoder: frozen, on the device that encodes.
        variants: how many times each slice is encoded; 1 for data without augmentation.
        batch_size: slices encoded at once; ``None`` for 8.
        amp: encode in bfloat16 autocast.
        progress: show a progress bar.
        device: where the codes are kept: on the GPU no batch has to be carried there. ``None`` for the CPU, which is
            also taken when they need more than half of the GPU's free memory.
    """

    def __init__(
        self,
        dataset: HealthySliceDataset,
        autoencoder: BinarizingAutoencoder,
        variants: int = 1,
        batch_size: int | None = 8,
        amp: bool = False,
        progress: bool = True,
        device: torch.device | str | None = None,
    ) -> None:
        if variants < 1:
            raise ValueError(f"variants must be at least 1, got {variants}.")
        self.count, self.variants, self.epoch = len(dataset), variants, 0
        batch_size = batch_size or 8
        encoder_device, processes = next(autoencoder.parameters()).device, idist.get_world_size()
        pieces: list[torch.Tensor] = []
        for variant in tqdm(range(variants), desc="encoding", unit="variant", disable=not progress):
            dataset.set_epoch(variant)
            for start in range(0, self.count, batch_size):
                piece = torch.empty(0)
                if len(pieces) % processes == idist.get_rank():
                    items = [dataset[i]["image"] for i in range(start, min(start + batch_size, self.count))]
                    with torch.no_grad(), torch.autocast(encoder_device.type, dtype=torch.bfloat16, enabled=amp):
                        probability = autoencoder.eval().encode(torch.stack(items).to(encoder_device))
                    piece = (probability * LEVELS).round().to(torch.uint8).cpu()
                pieces.append(piece)
        self.probabilities = torch.cat(_from_their_makers(pieces))
        self.probabilities = self.probabilities.to(_where_it_fits(device, self.probabilities.numel()))
        logger.info("%d codes of %d slices, %.0f MB", *self._size())

    def _size(self) -> tuple[int, int, float]:
        return len(self.probabilities), self.count, self.probabilities.numel() / 1e6

    def __len__(self) -> int:
        """Number of slices."""
        return self.count

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, whose variant of each slice is used: neighbouring slices take different ones."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """``probability`` (C, h, w), bytes, of which 255 is 1; ``index + draw * len(self)`` gives another variant."""
        return {"probability": self.probabilities[self._row(index)]}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """A whole batch, ``probability`` (B, C, h, w), gathered at once; for :func:`collate`."""
        rows = torch.tensor([self._row(index) for index in indices], device=self.probabilities.device)
        return {"probability": self.probabilities[rows]}

    def _row(self, index: int) -> int:
        draw, index = divmod(index, self.count)
        return (self.epoch + index + draw) % self.variants * self.count + index


def collate(items: Any) -> Any:
    """The ``collate_fn`` of both kinds of data set: batches that come as such stay, single items are put together."""
    return items if isinstance(items, dict) else default_collate(items)


def _where_it_fits(device: torch.device | str | None, needed: int) -> torch.device:
    """``device``, or the CPU when ``needed`` bytes are more than half of what is free on a CUDA device."""
    wanted = torch.device(device or "cpu")
    if wanted.type == "cuda":
        free, _ = torch.cuda.mem_get_info(wanted)
        if needed > free / 2:
            logger.warning("%.1f GB of codes, %.1f GB free on %s: kept on the CPU", needed / 1e9, free / 1e9, wanted)
            return torch.device("cpu")
    return wanted


def _from_their_makers(pieces: list[torch.Tensor]) -> list[torch.Tensor]:
    """All pieces, of which process i made each i-th of n, n being the number of processes."""
    processes = idist.get_world_size()
    if processes == 1:
        return pieces
    all_pieces: list[torch.Tensor] = []
    for number, piece in enumerate(pieces):
        # Memory is sent as it lies, whatever the strides; the size goes with it.
        received: Any = idist.broadcast(piece.contiguous(), src=number % processes, safe_mode=True)
        all_pieces.append(received.cpu())
    return all_pieces
