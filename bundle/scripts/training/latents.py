"""What a task encodes of training slices, computed once, so that the network alone sets the pace of its training."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from torch.utils.data import Dataset, default_collate
from tqdm import tqdm

from ..data.slices import SliceDataset
from ..files import writable_folder
from ..methods import Task

logger = logging.getLogger(__name__)

LATENT = "latent"
"""Key of what is encoded in a batch."""

LEVELS = 255
"""Probabilities are kept in bytes: y is rounded to multiples of 1 / 255."""

KINDS = {"bytes": torch.uint8, "halves": torch.float16}


class LatentDataset(Dataset):
    """What a task encodes of a slice data set, in several augmented variants.

    Codes are drawn from their probability anew each time, so that caching takes nothing from the randomness but
    the augmentation, which repeats after ``variants`` epochs. Several processes share the encoding, batch by batch, and
    all keep all.

    Args:
        dataset: the slices; variant v is its epoch v.
        task: encodes them.
        variants: how many times each slice is encoded; 1 for data without augmentation.
        batch_size: slices encoded at once; ``None`` for 8.
        amp: encode in bfloat16 autocast.
        progress: show a progress bar.
        encoder_device: where the task's networks are.
        device: where the latents are kept: on the GPU no batch has to be carried there. ``None`` for the CPU, which is
            also taken when they need more than half of the GPU's free memory.
        kind: ``bytes`` for probabilities in [0, 1], ``halves`` for any numbers.
        folder: where latents of more than ``memory_limit`` bytes are kept, in a file that is mapped into memory and
            gone when the run ends; ``None`` keeps them in memory whatever their size.
        memory_limit: bytes.

    Raises:
        ValueError: when ``variants`` or ``kind`` is out of range.
    """

    def __init__(
        self,
        dataset: SliceDataset,
        task: Task,
        variants: int = 1,
        batch_size: int | None = 8,
        amp: bool = False,
        progress: bool = True,
        encoder_device: torch.device | str = "cpu",
        device: torch.device | str | None = None,
        kind: str = "bytes",
        folder: str | None = None,
        memory_limit: float = 4e9,
    ) -> None:
        if variants < 1:
            raise ValueError(f"variants must be at least 1, got {variants}.")
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}.")
        self.count, self.variants, self.epoch, self.kind = len(dataset), variants, 0, kind
        self.classes = dataset.classes
        batch_size, processes = batch_size or 8, idist.get_world_size()
        pieces: list[torch.Tensor] = []
        for variant in tqdm(range(variants), desc="encoding", unit="variant", disable=not progress):
            dataset.set_epoch(variant)
            for start in range(0, self.count, batch_size):
                piece = torch.empty(0)
                if len(pieces) % processes == idist.get_rank():
                    items = [dataset[i]["image"] for i in range(start, min(start + batch_size, self.count))]
                    piece = self._encode(task, torch.stack(items).to(encoder_device), amp)
                pieces.append(piece)
        self.latents = _joined(_from_their_makers(pieces), folder, memory_limit)
        self.latents = self.latents.to(_where_it_fits(device, self.latents.numel() * self.latents.element_size()))
        logger.info("%d latents of %d slices, %.0f MB", *self._size())

    def _encode(self, task: Task, images: torch.Tensor, amp: bool) -> torch.Tensor:
        with torch.no_grad(), torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=amp):
            latents = task.encode(images)
        if self.kind == "bytes":
            latents = (latents * LEVELS).round()
        return latents.to(KINDS[self.kind]).cpu()

    def _size(self) -> tuple[int, int, float]:
        return len(self.latents), self.count, self.latents.numel() * self.latents.element_size() / 1e6

    def __len__(self) -> int:
        """Number of slices."""
        return self.count

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, whose variant of each slice is used: neighbouring slices take different ones."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """``latent`` (C, h, w) as it is kept, and ``class``; ``index + draw * len(self)`` is another variant."""
        known = {} if self.classes is None else {"class": self.classes[index % self.count]}
        return {LATENT: self.latents[self._row(index)], **known}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """A whole batch, ``latent`` (B, C, h, w), gathered at once; for :func:`collate`."""
        rows = torch.tensor([self._row(index) for index in indices], device=self.latents.device)
        known = {} if self.classes is None else {"class": self.classes[[i % self.count for i in indices]]}
        return {LATENT: self.latents[rows], **known}

    def _row(self, index: int) -> int:
        draw, index = divmod(index, self.count)
        return (self.epoch + index + draw) % self.variants * self.count + index


def to_numbers(latents: torch.Tensor) -> torch.Tensor:
    """Latents as they are kept, bytes of which 255 is 1 or halves, as float32."""
    return latents.float() / LEVELS if latents.dtype == torch.uint8 else latents.float()


def _joined(pieces: list[torch.Tensor], folder: str | None, limit: float) -> torch.Tensor:
    """All pieces one after the other, in memory or, where they are many, in a file."""
    needed = sum(piece.numel() * piece.element_size() for piece in pieces)
    if folder is None or needed <= limit:
        return torch.cat(pieces)
    shape = (sum(map(len, pieces)), *pieces[0].shape[1:])
    # Unlinked at once: the file lives as long as it is mapped, also when the run is killed.
    with tempfile.NamedTemporaryFile(dir=writable_folder(Path(folder)), suffix=".partial") as stream:
        mapped = np.memmap(stream, dtype=pieces[0].numpy().dtype, mode="w+", shape=shape)
    start = 0
    for piece in pieces:
        mapped[start : start + len(piece)] = piece.numpy()
        start += len(piece)
    logger.info("%.1f GB of latents are kept in a file in %s", needed / 1e9, folder)
    return torch.from_numpy(mapped)


def collate(items: Any) -> Any:
    """The ``collate_fn`` of both kinds of data set: batches that come as such stay, single items are put together."""
    return items if isinstance(items, dict) else default_collate(items)


def _where_it_fits(device: torch.device | str | None, needed: int) -> torch.device:
    """``device``, or the CPU when ``needed`` bytes are more than half of what is free on a CUDA device."""
    wanted = torch.device(device or "cpu")
    if wanted.type == "cuda":
        free, _ = torch.cuda.mem_get_info(wanted)
        if needed > free / 2:
            logger.warning("%.1f GB of latents, %.1f GB free on %s: kept on the CPU", needed / 1e9, free / 1e9, wanted)
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
