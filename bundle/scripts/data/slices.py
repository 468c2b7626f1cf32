"""Training slices: every volume is read and preprocessed once, then its healthy slices stay in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import numpy as np
import torch
from monai.transforms import Compose, Randomizable
from monai.utils import convert_to_tensor
from torch.utils.data import Dataset, Sampler
from tqdm import tqdm

from ..failures import SubjectFailures
from .selection import SliceSelector, volume_to_slices

logger = logging.getLogger(__name__)


def healthy_slices(item: dict, selector: SliceSelector, all_healthy: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Slices of a preprocessed subject on which the label is empty.

    Args:
        item: ``image`` (c, W, H, D) or (c, W, H), and ``label`` of the same space; nothing is taken of an item
            whose ``healthy`` is False.
        selector: which slices are looked at.
        all_healthy: take every selected slice, whatever the label.

    Returns:
        slices (N, c, W, H) and their indices in the volume (N,).

    Raises:
        ValueError: when there is no label to tell and ``all_healthy`` is off.
    """
    if item.get("healthy") is False:
        return torch.empty(0), torch.empty(0, dtype=torch.int64)
    image = _plain(item["image"])
    if item.get("label") is None and not all_healthy:
        raise ValueError(f"{item['subject']}: no label tells which slices are healthy (set all_healthy if all are).")
    flat = image.ndim == 3
    image = image[..., None] if flat else image
    indices = selector(image)
    if not all_healthy:
        label = _plain(item["label"])
        label = label[..., None] if flat else label
        indices = indices[~(volume_to_slices(label, indices) > 0).flatten(1).any(dim=1)]
    return volume_to_slices(image, indices), indices


class HealthySliceDataset(Dataset, Randomizable):
    """Healthy slices of a data list, cached in half precision, augmented anew in every epoch.

    The augmentation of a slice depends on (seed, epoch, its place in the data set, how often the epoch has drawn it)
    alone, not on workers or ranks: a resumed training sees what an undisturbed one would have seen.

    Args:
        data: data list.
        preprocessing: from an item of it to ``image`` and ``label``.
        slice_selector: which slices of a volume are looked at.
        transform: random transforms of ``{"image": (c, W, H)}``.
        seed: of the augmentation.
        all_healthy: the data hold healthy slices only, labelled or not.
        failures: where subjects that cannot be read are noted; the others go on.
        num_workers: threads that read volumes.
        progress: show a progress bar while reading.

    Raises:
        ValueError: when no healthy slice is found.
    """

    def __init__(
        self,
        data: Sequence[dict],
        preprocessing: Callable,
        slice_selector: SliceSelector,
        transform: Callable | None = None,
        seed: int = 0,
        all_healthy: bool = False,
        failures: SubjectFailures | None = None,
        num_workers: int = 2,
        progress: bool = True,
    ) -> None:
        self.transform = transform if isinstance(transform, Compose) or transform is None else Compose(transform)
        self.seed, self.epoch = seed, 0
        self.failures = failures if failures is not None else SubjectFailures()

        def read(item: dict) -> torch.Tensor | None:
            try:
                # What is known to be ill is not read. A copy, since transforms keep state and several threads read.
                loaded = item if item.get("healthy") is False else deepcopy(preprocessing)(item)
                slices, _ = healthy_slices(loaded, slice_selector, all_healthy)
                return slices.half()
            except Exception as error:
                self.failures.add(item["subject"], error)
                return None

        with ThreadPoolExecutor(max(1, num_workers)) as pool:
            read_all = tqdm(pool.map(read, data), total=len(data), desc="reading", unit="subject", disable=not progress)
            parts = [part for part in read_all if part is not None and len(part)]
        if not parts:
            raise ValueError(f"no healthy slice in {len(data)} subject(s): {self.failures.messages or 'all labelled'}.")
        self.slices = torch.cat(parts)
        logger.info("%d healthy slices of %d subjects", len(self.slices), len(parts))

    def __len__(self) -> int:
        """Number of slices."""
        return len(self.slices)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose augmentation is drawn."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """``image`` (c, W, H), float32 in [0, 1]; ``index + draw * len(self)`` gives a slice augmented otherwise."""
        draw, index = divmod(index, len(self))
        item = {"image": self.slices[index].float()}
        if self.transform is None:
            return item
        state = np.random.SeedSequence((self.seed, self.epoch, index, draw)).generate_state(1)[0]
        self.transform.set_random_state(seed=int(state))
        return {"image": _plain(self.transform(item)["image"]).clamp(0, 1)}


class DrawSampler(Sampler[int]):
    """Random order over as many draws as an epoch has, each a number of its own.

    Every slice is drawn once before any is drawn again. Draw d of slice i is ``i + d * len(data_source)``, so that
    a data set can augment each draw on its own. The order is torch's random state when the iteration begins.

    Args:
        data_source: the data set.
        num_samples: draws an epoch.
    """

    def __init__(self, data_source: Sized, num_samples: int) -> None:
        self.count, self.num_samples = len(data_source), num_samples

    def __len__(self) -> int:
        """Draws an epoch."""
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        """The draws."""
        rounds = -(-self.num_samples // self.count)
        order = torch.cat([torch.randperm(self.count) + draw * self.count for draw in range(rounds)])
        yield from order[: self.num_samples].tolist()


def _plain(image: torch.Tensor) -> torch.Tensor:
    """Without patient space, which only makes training slow."""
    return convert_to_tensor(image, track_meta=False)
