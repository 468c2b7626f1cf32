"""Pictures of a training's progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events

from ..data.slices import SliceDataset
from ..files import atomic_path, writable_folder
from ..pictures import picture_grid


class PictureHandler:
    """Save ``epoch_0001.png`` and so on: rows of pictures made by a function of the network and validation images.

    Args:
        output_dir: folder of the pictures.
        dataset: validation images, ``{"image": (c, W, H)}``.
        network: the module given to ``render``, such as the moving average.
        render: function of (network, images (N, c, W, H)) to a dictionary of row titles and image batches.
        device: where the pictures are computed.
        count: how many images, spread over the data set.
        interval: every how many epochs.
    """

    def __init__(
        self,
        output_dir: str,
        dataset: Sequence[dict[str, torch.Tensor]] | SliceDataset,
        network: torch.nn.Module,
        render: Callable[[torch.nn.Module, torch.Tensor], dict[str, torch.Tensor]],
        device: torch.device | str = "cpu",
        count: int = 6,
        interval: int = 1,
    ) -> None:
        self.folder, self.network, self.render, self.interval = Path(output_dir), network, render, interval
        self.device = device
        places = torch.linspace(0, len(dataset) - 1, min(count, len(dataset))).long().tolist()
        self.images = torch.stack([dataset[i]["image"] for i in places])

    def attach(self, engine: Engine) -> None:
        """Register the handler."""
        writable_folder(self.folder)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self)

    @torch.no_grad()
    def __call__(self, engine: Engine) -> None:
        """Draw the pictures of ``engine``'s epoch; of several processes the first does."""
        if idist.get_rank() > 0:
            return
        was_training = self.network.training
        self.network.eval()
        rows = self.render(self.network, self.images.to(self.device))
        self.network.train(was_training)
        with atomic_path(self.folder / f"epoch_{engine.state.epoch:04d}.png") as path:
            picture_grid(rows).savefig(path, format="png", dpi=80)
