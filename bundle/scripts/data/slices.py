"""Training slices: every volume is read and preprocessed once, then the slices that are wanted stay in memory."""

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


HEALTHY, ALL = "healthy", "all"
"""Which slices a training keeps: those of class 0, or all with their class."""


def classed_slices(
    item: dict, selector: SliceSelector, all_healthy: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Selected slices of a preprocessed subject, and which of them are diseased: those whose label is not empty.

    Args:
        item: ``image`` (c, W, H, D) or (c, W, H), and ``label`` of the same space; where ``healthy`` is False, all
            slices are diseased, whatever the label.
        selector: which slices are looked at.
        all_healthy: no slice is diseased, whatever the label.

    Returns:
        slices (N, c, W, H), their indices in the volume (N,), and their class (N,): 0 healthy, 1 diseased, int64.

    Raises:
        ValueError: when nothing tells which slices are healthy.
    """
    image = _plain(item["image"])
    ill = item.get("healthy") is False
    if item.get("label") is None and not (all_healthy or ill):
        raise ValueError(f"{item['subject']}: no label tells which slices are healthy (set all_healthy if all are).")
    flat = image.ndim == 3
    image = image[..., None] if flat else image
    indices = selector(image)
    classes = torch.full((len(indices),), int(ill), dtype=torch.int64)
    if not (all_healthy or ill):
        label = _plain(item["label"])
        label = label[..., None] if flat else label
        classes = (volume_to_slices(label, indices) > 0).flatten(1).any(dim=1).long()
    return volume_to_slices(image, indices), indices, classes


class SliceDataset(Dataset, Randomizable):
    """Slices of a data list, cached in half precision, augmented anew in every epoch.

    The augmentation of a slice depends on (seed, epoch, its place in the data set, how often the epoch has drawn it)
    alone, not on workers or ranks: a resumed training sees what an undisturbed one would have seen.

    Args:
        data: data list.
        preprocessing: from an item of it to ``image`` and ``label``.
        slice_selector: which slices of a volume are looked at.
        transform: random transforms of ``{"image": (c, W, H)}``.
        seed: of the augmentation.
        all_healthy: the data hold healthy slices only, labelled or not.
        keep: ``healthy`` slices only, or ``all`` with their class.
        failures: where subjects that cannot be read are noted; the others go on.
        num_workers: threads that read volumes.
        progress: show a progress bar while reading.

    Raises:
        ValueError: when ``keep`` is neither, or no slice of a class that is wanted is found.
    """

    def __init__(
        self,
        data: Sequence[dict],
        preprocessing: Callable,
        slice_selector: SliceSelector,
        transform: Callable | None = None,
        seed: int = 0,
        all_healthy: bool = False,
        keep: str = HEALTHY,
        failures: SubjectFailures | None = None,
        num_workers: int = 2,
        progress: bool = True,
    ) -> None:
        if keep not in (HEALTHY, ALL):
            raise ValueError(f"keep must be {HEALTHY!r} or {ALL!r}, got {keep!r}.")
        self.transform = transform if isinstance(transform, Compose) or transform is None else Compose(transform)
        self.seed, self.epoch = seed, 0
        self.failures = failures if failures is not None else SubjectFailures()

        def read(item: dict) -> tuple[torch.Tensor, torch.Tensor] | None:
            try:
                # What is known to be ill and not wanted is not read.
                if keep == HEALTHY and item.get("healthy") is False:
                    return None
                # A copy, since transforms keep state and several threads read.
                slices, _, classes = classed_slices(deepcopy(preprocessing)(item), slice_selector, all_healthy)
                wanted = classes == 0 if keep == HEALTHY else torch.ones_like(classes, dtype=torch.bool)
                return slices[wanted].half(), classes[wanted]
            except Exception as error:
                self.failures.add(item["subject"], error)
                return None

        with ThreadPoolExecutor(max(1, num_workers)) as pool:
            read_all = tqdm(pool.map(read, data), total=len(data), desc="reading", unit="subject", disable=not progress)
            parts = [part for part in read_all if part is not None and len(part[0])]
        found = {int(c) for _, classes in parts for c in classes.unique()}
        if 0 not in found or (keep == ALL and 1 not in found):
            missing = "healthy" if 0 not in found else "diseased"
            reason = self.failures.messages or "all labelled"
            raise ValueError(f"no {missing} slice in {len(data)} subject(s): {reason}.")
        self.slices = torch.cat([slices for slices, _ in parts])
        self.classes = torch.cat([classes for _, classes in parts]) if keep == ALL else None
        logger.info("%d %s slices of %d subjects", len(self.slices), keep, len(parts))

    def __len__(self) -> int:
        """Number of slices."""
        return len(self.slices)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose augmentation is drawn."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """``image`` (c, W, H), float32 in [0, 1]; ``index + draw * len(self)`` gives a slice augmented otherwise.

        Where all slices are kept, also ``class``, 0 or 1.
        """
        draw, index = divmod(index, len(self))
        item = {"image": self.slices[index].float()}
        known = {} if self.classes is None else {"class": self.classes[index]}
        if self.transform is None:
            return {**item, **known}
        state = np.random.SeedSequence((self.seed, self.epoch, index, draw)).generate_state(1)[0]
        self.transform.set_random_state(seed=int(state))
        return {"image": _plain(self.transform(item)["image"]).clamp(0, 1), **known}


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
