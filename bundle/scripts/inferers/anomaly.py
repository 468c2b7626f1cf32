"""From volumes to anomaly maps, whatever the method: units, batches, memory, streams, precision, score, progress."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type
from tqdm import tqdm

from ..checks import outside, refuse
from ..data.selection import SliceSelector
from ..methods import Method, Restoration
from ..networks import Parts
from ..noise import SliceGenerator
from ..scores import Score, needs, resize_evidence
from .batches import Batches
from .inference_mode import InferenceMode
from .volumes import EncodedVolumes, VolumeResult

PROCESSED, SLICE_SCORES = "processed", "slice_scores"
"""Keys of what a map's meta data hold of its slices."""


class AnomalyInferer(Inferer):
    """Run a method on slices or volumes; one for all methods, none subclasses it.

    The noise of a slice depends on (seed, index of the slice in its volume, step) alone, so neither the batch nor the
    order matters to it.

    Args:
        method: restores slices; a search replaces it by others of its kind.
        anomaly_map: score, a function of (image, reconstruction, evidence).
        slice_selector: which slices of a volume to process; the others get a map of 0.
        seed: seed of all noise, at least 0.
        sw_batch_size: slices a network call; ``None`` for 8 on the CPU and what the memory holds on a CUDA device. A
            batch that does not fit is halved.
        amp: run the networks in bfloat16 autocast.
        progress: show a progress bar.

    Raises:
        ValueError: when an argument is outside its range, or the score wants evidence that the method has not.
    """

    def __init__(
        self,
        method: Method,
        anomaly_map: Score,
        slice_selector: SliceSelector | None = None,
        seed: int = 0,
        sw_batch_size: int | None = 8,
        amp: bool = False,
        progress: bool = False,
    ) -> None:
        super().__init__()
        missing = sorted(set(needs(anomaly_map)) - set(method.evidence))
        has = ", ".join(method.evidence) or "none"
        problems = [
            outside("seed", seed, 0, float("inf"), whole=True),
            None if sw_batch_size is None else outside("sw_batch_size", sw_batch_size, 1, float("inf"), whole=True),
            f"the score needs evidence {', '.join(missing)}, {type(method).__name__} has {has}" if missing else None,
        ]
        refuse("inference", problems)
        self.method, self.anomaly_map = method, anomaly_map
        self.slice_selector = slice_selector or SliceSelector()
        # Whole numbers may come as floats, e.g. 8.0.
        self.seed, self.amp, self.progress = int(seed), amp, progress
        self.batches = Batches(None if sw_batch_size is None else int(sw_batch_size))

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Anomaly map of slices (B, c, H, W) or volumes (B, c, W, H, D): one channel, float32, ``inputs``' meta data.

        Where those have meta data, the map's also hold ``processed`` (B, D), boolean, and ``slice_scores``, by name
        (B, D), NaN for slices that were not processed. A slice given by itself counts as slice 0 of its volume.
        """
        results = self.run_volumes(inputs, network)
        maps = torch.stack([result.anomaly_map for result in results]).reshape(len(inputs), 1, *inputs.shape[2:])
        output = convert_to_dst_type(maps, inputs, dtype=torch.float32)[0]
        if isinstance(output, MetaTensor):
            scores = {n: torch.stack([r.slice_scores[n] for r in results]) for n in self.method.slice_scores}
            processed = torch.stack([result.processed for result in results])
            output.meta = {**output.meta, PROCESSED: processed, SLICE_SCORES: scores}
        return output

    def run_volume(self, volume: torch.Tensor, network: Parts) -> VolumeResult:
        """Everything about one preprocessed volume (c, W, H, D); see :meth:`run_volumes`."""
        return self.run_volumes(volume.unsqueeze(0), network)[0]

    def run_volumes(self, inputs: torch.Tensor, network: Parts) -> list[VolumeResult]:
        """Everything about each item of (B, c, H, W) or (B, c, W, H, D), in [0, 1]; all share the batches.

        Raises:
            ValueError: when ``inputs`` has another number of dimensions, or a network's output is not a number.
        """
        return self.restore_volumes(self.select(inputs), network)

    def select(self, inputs: torch.Tensor) -> EncodedVolumes:
        """Plain volumes and their slices to process, not encoded yet.

        Slices that come by themselves, (B, c, H, W), are all processed: they have no place in a volume.
        """
        if inputs.ndim not in (4, 5):
            raise ValueError(f"expected (B, c, H, W) or (B, c, W, H, D), got {tuple(inputs.shape)}.")
        plain = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        volumes = plain.detach().float()
        if inputs.ndim == 4:
            first = torch.zeros(1, dtype=torch.int64, device=plain.device)
            return EncodedVolumes.cut(volumes.unsqueeze(-1), [first] * len(volumes))
        return EncodedVolumes.cut(volumes, [self.slice_selector(volume) for volume in volumes])

    def encode_volumes(self, inputs: torch.Tensor, network: Parts) -> EncodedVolumes:
        """Volumes whose slices to process are encoded, a batch at a time; for :meth:`restore_volumes`."""
        selected = self.select(inputs)
        selected.encoded = self.encode(selected.images, network) if len(selected.images) else selected.images
        return selected

    def encode(self, images: torch.Tensor, network: Parts) -> torch.Tensor:
        """The method's encoding of slices (N, c, H, W), a batch at a time."""
        with self.inference_mode(network, images.device):
            self.fit(network, images)
            encode = self.method.encode
            return torch.cat(list(self.batches.run(len(images), lambda part: encode(images[part], network))))

    def restore_volumes(self, selected: EncodedVolumes, network: Parts) -> list[VolumeResult]:
        """Restore and score the slices of all volumes, a batch at a time; each batch is written to its place."""
        results = [VolumeResult.empty(volume, self.method) for volume in selected.volumes]
        images, passes = selected.images, self.method.passes
        if len(images) == 0:
            return results
        with (
            self.inference_mode(network, images.device),
            tqdm(
                total=len(images) * passes, desc="restoring", unit="step", leave=False, disable=not self.progress
            ) as bar,
        ):
            self.fit(network, images)

            def run_batch(part: slice) -> tuple[slice, torch.Tensor, Restoration]:
                # A batch that did not fit the memory is begun again.
                bar.n = part.start * passes
                on_step = partial(bar.update, part.stop - part.start)
                encoded = None if selected.encoded is None else selected.encoded[part]
                return part, *self.restore(images[part], selected.places[part], network, encoded, on_step)

            for part, maps, restored in self.batches.run(len(images), run_batch):
                for result, rows, places in selected.owners(part, results):
                    result.write(places, maps[rows], restored, rows)
        return results

    def restore(
        self,
        images: torch.Tensor,
        places: torch.Tensor,
        network: Parts,
        encoded: torch.Tensor | None = None,
        on_step: Callable[[], object] = lambda: None,
    ) -> tuple[torch.Tensor, Restoration]:
        """One batch of slices (N, c, H, W) with their indices (N,) in their volumes: map (N, 1, H, W) and restoration.

        The evidence has the image's size.

        Raises:
            ValueError: when a network's output is not a number.
        """
        with self.inference_mode(network, images.device):
            encoded = self.method.encode(images, network) if encoded is None else encoded
            streams = SliceGenerator(self.seed, places, device=images.device)
            restored = self.method.restore(images, encoded, network, streams, on_step)
        found = (restored.reconstruction, *restored.slice_scores.values(), *restored.evidence.values())
        if any(bool(t.isnan().any()) for t in found):
            raise ValueError(f"a network's output is not a number (amp is {self.amp}): are its weights damaged?")
        # Only the networks may be autocast: a score's convolutions would round its differences to 8 bits.
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            restored.evidence = {n: resize_evidence(e, images.shape[2:]) for n, e in restored.evidence.items()}
            return self.anomaly_map(images, restored.reconstruction, restored.evidence), restored

    def fit(self, network: Parts, images: torch.Tensor) -> None:
        """Choose the batch size, where it is not given, by what one slice needs."""

        def trial() -> None:
            method, first = self.method.trial(), images[:1]
            streams = SliceGenerator(self.seed, [0], device=images.device)
            method.restore(first, method.encode(first, network), network, streams, lambda: None)

        self.batches.fit(trial, images)

    def inference_mode(self, network: Parts, device: torch.device) -> InferenceMode:
        """Evaluation mode, no gradients and the inferer's own autocast, all restored on leaving."""
        return InferenceMode(network, device.type, self.amp)
