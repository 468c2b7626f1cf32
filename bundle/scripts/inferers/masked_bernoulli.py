"""Masked Bernoulli denoising, Algorithm 1 of Wolleb et al. 2024 (arXiv 2403.11667)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type
from torch import nn
from tqdm import tqdm

from ..data.selection import SliceSelector, slices_to_volume, volume_to_slices
from ..networks import Parts
from ..noise import SliceGenerator, uniform
from ..schedulers import BernoulliScheduler
from ..scores import mask_density, squared_residual
from .batches import Batches, in_pieces
from .compiled_steps import CompiledReverseSteps
from .inference_mode import InferenceMode
from .masked_output import MaskedDenoisingOutput
from .reverse_steps import masked_reverse_steps

MASK_SHARE = "mask_share"
"""Key of the mask share in the meta data of a map."""

QUANTIZE_STEP = -1
"""Step of the draw z ~ B(y). Every other draw carries the time (0..L) of the code it makes."""


class MaskedBernoulliInferer(Inferer):
    """Undo L steps of Bernoulli noise, changing only bits whose flip probability ever exceeds P.

    Works on batches of slices, mask and noise per slice; the noise of a slice depends on (seed, index of the slice
    in its volume, step) alone, so neither the batch nor the order matters to it. (The network's own rounding may
    differ with the batch size, most in bfloat16, and turn a bit whose probability lies at P.) The network is a
    :class:`~scripts.networks.Parts` or anything with its ``autoencoder`` and ``denoiser``.

    Args:
        scheduler: the noise process.
        noise_level: L, steps of noise to add and undo, 1..T.
        probability_threshold: P in [0, 1]. Compared as logits, so that 0 masks every bit (the unmasked method) and
            1 none (the autoencoder alone).
        num_inference_steps: network evaluations, 1..L; ``None`` for L.
        seed: seed of all noise.
        sw_batch_size: slices a network call; ``None`` for 8 on the CPU and what the memory holds on a CUDA device. A
            batch that does not fit is halved.
        amp: run the networks in bfloat16 autocast.
        anomaly_map: function of (image, reconstruction, mask).
        slice_selector: which slices of a volume to process; the others get a map of 0.
        return_mask: keep M_0 and its growth in the output.
        progress: show a progress bar.
        compile_mode: mode of ``torch.compile`` for the steps, e.g. ``reduce-overhead``; ``None`` does without. Its
            rounding may differ, and the first batch waits for the compiler.

    Raises:
        ValueError: when an argument is outside its range.
    """

    def __init__(
        self,
        scheduler: BernoulliScheduler,
        noise_level: int = 200,
        probability_threshold: float = 0.5,
        num_inference_steps: int | None = None,
        seed: int = 0,
        sw_batch_size: int | None = 8,
        amp: bool = False,
        anomaly_map: Callable[..., torch.Tensor] = squared_residual,
        slice_selector: Callable[[torch.Tensor], torch.Tensor] | None = None,
        return_mask: bool = False,
        progress: bool = False,
        compile_mode: str | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= probability_threshold <= 1:
            raise ValueError(f"probability_threshold must lie in [0, 1], got {probability_threshold}.")
        if sw_batch_size is not None and sw_batch_size < 1:
            raise ValueError(f"sw_batch_size must be at least 1, got {sw_batch_size}.")
        scheduler.set_timesteps(num_inference_steps, noise_level)
        # Whole numbers may come as floats, e.g. 200.0.
        self.scheduler, self.noise_level, self.num_inference_steps = scheduler, int(noise_level), num_inference_steps
        self.probability_threshold = probability_threshold
        self.seed, self.batches, self.amp = seed, Batches(None if sw_batch_size is None else int(sw_batch_size)), amp
        self.anomaly_map, self.slice_selector = anomaly_map, slice_selector or SliceSelector()
        self.return_mask, self.progress = return_mask, progress
        self.reverse_steps = masked_reverse_steps if compile_mode is None else CompiledReverseSteps(compile_mode)

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Anomaly map of slices (B, c, H, W) or volumes (B, c, W, H, D): one channel, float32, ``inputs``' meta data.

        Where those have meta data, the map's also hold ``mask_share``, (B, D), NaN for slices that were not processed.
        A slice given by itself counts as slice 0 of its volume.
        """
        results = self.run_volumes(inputs, network)
        maps = torch.stack([result["anomaly_map"] for result in results]).reshape(len(inputs), 1, *inputs.shape[2:])
        output = convert_to_dst_type(maps, inputs, dtype=torch.float32)[0]
        if isinstance(output, MetaTensor):
            output.meta = {**output.meta, MASK_SHARE: torch.stack([result["mask_share"] for result in results])}
        return output

    def run_volume(self, volume: torch.Tensor, network: Parts) -> dict[str, torch.Tensor]:
        """Everything about one preprocessed volume (c, W, H, D); see :meth:`run_volumes`."""
        return self.run_volumes(volume.unsqueeze(0), network)[0]

    def run_volumes(
        self, inputs: torch.Tensor, network: Parts, probability: torch.Tensor | None = None
    ) -> list[dict[str, torch.Tensor]]:
        """Everything about each item of (B, c, H, W) or (B, c, W, H, D); the slices of all share the batches.

        Args:
            inputs: preprocessed slices or volumes, in [0, 1].
            network: both networks.
            probability: y of all selected slices, (N, C, h, w), when they are encoded already.

        Returns:
            for each item ``anomaly_map`` (1, W, H, D), 0 outside the selected slices; ``reconstruction``
            (c, W, H, D), the input itself outside them; ``mask_share`` (D,), NaN outside them; ``mask_density``
            (1, W, H, D), 0 outside them; with ``return_mask``, where any slice is processed, also ``mask``
            (D, C, h, w), False outside them, and ``mask_growth`` (D, steps), NaN outside them.

        Raises:
            ValueError: when ``inputs`` has another number of dimensions, or the denoiser's output is not a number.
        """
        volumes, indices = self.select(inputs)
        counts = [len(i) for i in indices]
        if sum(counts) == 0:
            return [self._empty(volume) for volume in volumes]
        slices = torch.cat([volume_to_slices(v, i) for v, i in zip(volumes, indices, strict=True)])
        output = self.run_slices(slices, torch.cat(indices), network, probability)
        parts = zip(output.split(counts), indices, volumes, strict=True)
        return [self._to_volume(*part) for part in parts]

    def select(self, inputs: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Plain volumes (B, c, W, H, D) and, for each, the indices of the slices to process.

        Slices that come by themselves, (B, c, H, W), are all processed: they have no place in a volume.
        """
        if inputs.ndim not in (4, 5):
            raise ValueError(f"expected (B, c, H, W) or (B, c, W, H, D), got {tuple(inputs.shape)}.")
        plain = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        volumes = plain.detach().float()
        if inputs.ndim == 4:
            return volumes.unsqueeze(-1), [torch.zeros(1, dtype=torch.int64, device=plain.device) for _ in volumes]
        return volumes, [self.slice_selector(volume) for volume in volumes]

    def _empty(self, volume: torch.Tensor) -> dict[str, torch.Tensor]:
        """The result of a volume of which no slice is processed."""
        shares = volume.new_full(volume.shape[-1:], torch.nan)
        empty = torch.zeros_like(volume[:1])
        return {
            "anomaly_map": empty,
            "reconstruction": volume.clone(),
            "mask_share": shares,
            "mask_density": empty.clone(),
        }

    def _to_volume(
        self, output: MaskedDenoisingOutput, indices: torch.Tensor, volume: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Per-slice results at their places in the volume; the keys are :meth:`run_volumes`'."""
        result = self._empty(volume)
        for name in ("anomaly_map", "reconstruction", "mask_density"):
            result[name] = slices_to_volume(getattr(output, name), indices, result[name])
        result["mask_share"].index_copy_(0, indices, output.mask_share)
        if output.mask is not None and output.mask_growth is not None:
            depth = volume.shape[-1]
            mask = output.mask.new_zeros(depth, *output.mask.shape[1:])
            growth = output.mask_growth.new_full((depth, output.mask_growth.shape[1]), torch.nan)
            result["mask"] = mask.index_copy_(0, indices, output.mask)
            result["mask_growth"] = growth.index_copy_(0, indices, output.mask_growth)
        return result

    def run_slices(
        self,
        images: torch.Tensor,
        indices: torch.Tensor,
        network: Parts,
        probability: torch.Tensor | None = None,
    ) -> MaskedDenoisingOutput:
        """Encode, denoise and decode N slices, a batch at a time.

        Args:
            images: (N, c, H, W) in [0, 1].
            indices: index of each slice in its volume, (N,).
            network: both networks.
            probability: y, (N, C, h, w), when the images are encoded already.
        """
        return MaskedDenoisingOutput.cat(self._run_chunks(images, indices, network, probability))

    def encode(self, images: torch.Tensor, network: Parts) -> torch.Tensor:
        """Code probability y, (N, C, h, w), of slices (N, c, H, W), a batch at a time."""
        with self.inference_mode(network, images.device):
            self.batches.fit(network, images)
            return torch.cat(
                list(self.batches.run(len(images), lambda part: in_pieces(network.autoencoder.encode, images[part])))
            )

    def inference_mode(self, network: Parts, device: torch.device) -> InferenceMode:
        """Evaluation mode, no gradients and the inferer's own autocast, all restored on leaving."""
        return InferenceMode(network, device.type, self.amp)

    def denoise(
        self,
        code: torch.Tensor,
        denoiser: nn.Module,
        generator: SliceGenerator,
        on_step: Callable[[], object] = lambda: None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Algorithm 1 on a batch of codes.

        Args:
            code: z in {0, 1}, (B, C, h, w).
            denoiser: network of flip logits.
            generator: the slices' random streams.
            on_step: called after every step.

        Returns:
            z_0 in {0, 1} and M_0 (boolean), of the code's shape, and the mask's share after each step (B, steps).
        """
        for sample, mask, growth in self.denoising_steps(code, denoiser, generator):  # noqa: B007
            on_step()
        return sample, mask, torch.stack(growth, dim=1)

    def denoising_steps(
        self, code: torch.Tensor, denoiser: nn.Module, generator: SliceGenerator
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]]:
        """Algorithm 1 one step at a time: yields (z_s, M_s, shares so far) for each time visited."""
        self.scheduler.set_timesteps(self.num_inference_steps, self.noise_level)
        # z_L = z XOR eps_L
        noise = uniform(code.shape, generator.at(self.noise_level), code.device)
        start = torch.full((1,), self.noise_level - 1, device=code.device)
        noisy = self.scheduler.add_noise(code, noise, start)
        growth: list[torch.Tensor] = []
        for sample, mask, share in self.reverse_steps(
            self.scheduler, self.probability_threshold, denoiser, code, noisy, generator
        ):
            growth.append(share)
            yield sample, mask, growth

    def _run_chunks(
        self,
        images: torch.Tensor,
        indices: torch.Tensor,
        network: Parts,
        probability: torch.Tensor | None,
    ) -> Iterator[MaskedDenoisingOutput]:
        steps = self.num_inference_steps or self.noise_level
        with (
            self.inference_mode(network, images.device),
            tqdm(
                total=len(images) * steps, desc="denoising", unit="step", leave=False, disable=not self.progress
            ) as bar,
        ):
            self.batches.fit(network, images)

            def run_chunk(part: slice) -> MaskedDenoisingOutput:
                # A chunk that did not fit the memory is begun again.
                bar.n = part.start * steps
                y = in_pieces(network.autoencoder.encode, images[part]) if probability is None else probability[part]
                on_step = partial(bar.update, part.stop - part.start)
                return self._run_chunk(images[part], indices[part], y, network, on_step)

            yield from self.batches.run(len(images), run_chunk)

    def _run_chunk(
        self,
        images: torch.Tensor,
        indices: torch.Tensor,
        probability: torch.Tensor,
        network: Parts,
        on_step: Callable[[], object],
    ) -> MaskedDenoisingOutput:
        generator = SliceGenerator(self.seed, indices, device=images.device)
        code = network.autoencoder.quantize(probability.detach(), generator.at(QUANTIZE_STEP))
        code, mask, growth = self.denoise(code, network.denoiser, generator, on_step)
        if growth.isnan().any():
            raise ValueError(f"the denoiser's output is not a number (amp is {self.amp}): are its weights damaged?")
        reconstruction = in_pieces(network.autoencoder.decode, code)
        # Only the networks may be autocast: a score's convolutions would round its differences to 8 bits.
        with torch.autocast(images.device.type, enabled=False):
            anomaly_map = self.anomaly_map(images, reconstruction, mask)
            density = mask_density(images, reconstruction, mask)
        return MaskedDenoisingOutput(
            reconstruction=reconstruction,
            anomaly_map=anomaly_map,
            mask_share=growth[:, -1],
            mask_density=density,
            mask=mask if self.return_mask else None,
            mask_growth=growth if self.return_mask else None,
        )
