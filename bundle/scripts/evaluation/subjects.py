"""A labelled subject as evaluation and calibration see it: its own pixels, canonical order, processed slices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Invertd

from ..writers import ResultWriter


@dataclass(frozen=True, eq=False)
class LabelledSubject:
    """What is known of a subject without any method; n is the number of processed slices.

    Attributes:
        item: its entry in the data list.
        image: (c, W, H, n) float32, scaled as the networks see it.
        label: (W, H, n) boolean.
        slices: (n,) canonical indices of the slices.
        numbers: (n,) their indices in the file.
        depth: slices that the file has.
        lesion_voxels: of the whole file, processed or not.
        space: from canonical voxels to space, (4, 4).
    """

    item: Mapping[str, Any]
    image: np.ndarray
    label: np.ndarray
    slices: np.ndarray
    numbers: np.ndarray
    depth: int
    lesion_voxels: int
    space: np.ndarray

    @property
    def name(self) -> str:
        """Name that results carry."""
        return str(self.item["subject"])

    @property
    def patient(self) -> str:
        """What must not be torn apart."""
        return str(self.item.get("patient", self.name))

    @property
    def foreground(self) -> np.ndarray:
        """Where any channel is above 0, (W, H, n) boolean."""
        return np.asarray((self.image > 0).any(axis=0))

    @property
    def diseased(self) -> np.ndarray:
        """Slices with any lesion pixel, (n,) boolean."""
        return np.asarray(self.label.any(axis=(0, 1)))

    @property
    def heights(self) -> np.ndarray:
        """Place of the slices in the volume, (n,), from 0, the first, to 1, the last in canonical order."""
        return self.slices / max(self.depth - 1, 1)


class SubjectReader:
    """Read subjects the way inference does, and undo what it does to their geometry.

    Args:
        preprocessing: of the inference.
        load: its first part, which keeps the label in the file's own geometry.
        slice_selector: which slices inference processes.
        writer: knows how images lie in files.
    """

    def __init__(
        self,
        preprocessing: Any,
        load: Callable[[dict], dict],
        slice_selector: Callable[[torch.Tensor], torch.Tensor],
        writer: ResultWriter,
    ) -> None:
        self.preprocessing, self.load, self.writer = preprocessing, load, writer
        self.slice_selector = slice_selector
        self.invert = Invertd("image", preprocessing, orig_keys="image", nearest_interp=False, to_tensor=True)

    def __call__(self, item: Mapping[str, Any]) -> LabelledSubject:
        """Read one subject.

        Raises:
            ValueError: when it has no label, or files do not fit each other.
        """
        label = self.load(dict(item)).get("label")
        if label is None:
            raise ValueError(f"subject {item['subject']}: no label to judge by.")
        loaded = self.preprocessing({k: v for k, v in item.items() if k != "label"})
        slices = self._slices(loaded["image"])
        image = self.invert(loaded)["image"]
        planes, label_planes = self.writer.planes(image), self.writer.planes(label)[0] > 0
        if planes.shape[1:] != label_planes.shape:
            raise ValueError(f"subject {item['subject']}: image {planes.shape[1:]}, label {label_planes.shape}.")
        return LabelledSubject(
            item=item,
            # Interpolation back to the file's pixels may leave [0, 1] by a rounding error.
            image=planes[..., slices].clip(0, 1),
            label=label_planes[..., slices],
            slices=slices,
            numbers=np.array([self.writer.slice_number(int(i), image) for i in slices], dtype=np.int64),
            depth=planes.shape[-1],
            lesion_voxels=int(label_planes.sum()),
            space=self.writer.space(np.asarray(label.affine, dtype=np.float64), label.shape[1:]),
        )

    def _slices(self, image: torch.Tensor) -> np.ndarray:
        if image.ndim == 3:
            return np.zeros(1, dtype=np.int64)
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        return self.slice_selector(plain).cpu().numpy()
