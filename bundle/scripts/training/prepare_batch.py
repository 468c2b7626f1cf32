"""Stage 2: from images to the denoiser's inputs and targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from monai.engines import PrepareBatch

from ..networks import BinarizingAutoencoder
from ..noise import uniform
from ..schedulers import BernoulliScheduler
from .latents import LEVELS

if TYPE_CHECKING:
    from ..distributed import BatchShard


class ImagePrepareBatch(PrepareBatch):
    """Batches whose target is the image itself."""

    def __call__(
        self, batchdata: Mapping[str, torch.Tensor], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``batchdata["image"]`` on the device, twice."""
        image = batchdata["image"].to(device=device, non_blocking=non_blocking, **kwargs)
        return image, image


class BernoulliPrepareBatch(PrepareBatch):
    """Encode images on the device, draw times and noise, and give the flipped bits as target (paper eq. 5).

    Args:
        autoencoder: frozen; only its ``encode`` and ``quantize`` are used.
        scheduler: the noise process.
        amp: encode in bfloat16 autocast.
        stratified: spread the times of a batch evenly in place of drawing them, for validation.
        max_noise_level: times are drawn from 1..max_noise_level; ``None`` for T, the paper's choice. A denoiser that
            is only ever asked to undo L steps learns nothing for that from times beyond L.
        generator: source of randomness of a batch that is shared out among processes; ``None`` for torch's own.

    Raises:
        ValueError: when ``max_noise_level`` is not a whole number in 1..T.
    """

    def __init__(
        self,
        autoencoder: BinarizingAutoencoder,
        scheduler: BernoulliScheduler,
        amp: bool = False,
        stratified: bool = False,
        max_noise_level: int | None = None,
        generator: BatchShard | None = None,
    ) -> None:
        super().__init__()
        steps = scheduler.num_train_timesteps
        # Whole numbers may come as floats, e.g. 200.0.
        self.max_noise_level = steps if max_noise_level is None else int(max_noise_level)
        if not 1 <= self.max_noise_level <= steps or self.max_noise_level != (max_noise_level or steps):
            raise ValueError(f"max_noise_level must be a whole number in 1..{steps}, got {max_noise_level}.")
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.scheduler, self.amp, self.stratified = scheduler, amp, stratified
        self.generator: Any = generator

    def __call__(
        self, batchdata: Mapping[str, torch.Tensor], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor, tuple, dict]:
        """Noisy codes z_t (B, C, h, w), targets z_t XOR z_0, and the network's ``timesteps`` (B,).

        Batches hold ``image``, or ``probability``, as numbers or bytes (of which 255 is 1), where the codes are cached.

        Randomness is torch's own, which the training seeds anew in every epoch.
        """
        key = "probability" if "probability" in batchdata else "image"
        values = batchdata[key].to(device=device, non_blocking=non_blocking, **kwargs)
        probability = values if key == "probability" else self._encode(values)
        if probability.dtype == torch.uint8:
            # Turned into numbers only here, so that a quarter of the bytes travels.
            probability = probability.float() / LEVELS
        code = self.autoencoder.quantize(probability, self.generator)
        timesteps = self._timesteps(len(code), code.device)
        noisy = self.scheduler.add_noise(code, uniform(code.shape, self.generator, code.device), timesteps)
        return noisy, (noisy != code).to(code.dtype), (), {"timesteps": timesteps}

    @torch.no_grad()
    def _encode(self, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=self.amp):
            return self.autoencoder.encode(images)

    def _timesteps(self, batch: int, device: torch.device) -> torch.Tensor:
        steps = self.max_noise_level

        def draw(rows: int) -> torch.Tensor:
            if not self.stratified:
                return torch.randint(0, steps, (rows,), device=device)
            return ((torch.arange(rows, device=device) + 0.5) / rows * steps).long()

        return draw(batch) if self.generator is None else self.generator.take(draw)
