"""Brain extraction: what is not brain becomes 0, in all sequences."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from ..checks import outside, refuse
from .brain_masks import (
    PACKAGE,
    SKULL_CONTRAST,
    check_installed,
    digest,
    dilate_in_plane,
    head_of,
    read_mask,
    run_deepbet,
    skull_contrast,
    write_mask,
)
from .segmentation import slice_dimension

logger = logging.getLogger(__name__)

METHODS = (None, PACKAGE)


class ExtractBraind(Transform):
    """Set everything outside the brain to 0 in all sequences of a volume, and keep the mask.

    Stands right behind the loading transform, in the file's own space, so that the mask is in it too; orientation and
    whatever else moves voxels come later, for ``mask_key`` as for the label. The mask is found on one sequence and
    dilated in the plane of the slices, the axis closest to head and foot.

    With ``method`` ``None`` the data are taken as stripped: nothing changes, there is no mask, and data that look
    like heads get a warning. With ``"deepbet"`` data that look stripped already do. Both is told by the skull, a dark
    layer under a bright one (:func:`~scripts.transforms.brain_masks.skull_contrast`).

    Args:
        sequences: names of the sequences, one a channel, in order.
        sequence: the one that the mask is found on; T1-weighted for deepbet.
        method: ``"deepbet"`` or ``None``.
        margin: pixels by which the mask is dilated.
        share_range: least and largest share of the head that a mask, before dilation, may have; the largest does not
            hold for data that look stripped.
        mask_file: where the mask of a subject is, with ``{subject}`` for its name, e.g.
            ``masks/{subject}_brain.nii.gz``. A file that is there is read in place of running the network, unless it
            says that it was made from another image. Otherwise it is written: the mask before dilation, so that
            another margin can use it. ``None`` for no file.
        gpu: run the network on a GPU where there is one.
        image_key: of the image, (c, W, H, D).
        mask_key: of the mask, (1, W, H, D), 0 or 1, float32.

    Raises:
        ValueError: when an argument is wrong.
        ImportError: when deepbet is wanted, no file can replace it, and it is not installed.

    Raises (when called):
        ValueError: naming file, value and range: no volume, an empty mask, a share outside ``share_range``, a mask
            file that cannot be read or lies in another space.
    """

    def __init__(
        self,
        sequences: Sequence[str],
        sequence: str,
        method: str | None = PACKAGE,
        margin: float = 2,
        share_range: Sequence[float] = (0.15, 0.85),
        mask_file: str | None = None,
        gpu: bool = False,
        image_key: str = "image",
        mask_key: str = "brain",
    ) -> None:
        low, high = share_range
        refuse(
            type(self).__name__,
            [
                None if method in METHODS else f"method must be one of {METHODS}, got {method!r}",
                None if sequence in sequences else f"sequence must be one of {', '.join(sequences)}, got {sequence!r}",
                outside("margin", margin, 0, 100),
                outside("share_range[0]", low, 0, high),
                outside("share_range[1]", high, low, 1),
            ],
        )
        if method is not None and mask_file is None:
            check_installed()
        self.channel, self.sequence, self.method = list(sequences).index(sequence), sequence, method
        self.margin, self.share_range, self.mask_file, self.gpu = margin, (low, high), mask_file, gpu
        self.image_key, self.mask_key = image_key, mask_key

    def describe(self) -> dict[str, Any]:
        """What results depend on; where the mask is kept is no part of it."""
        said = {"name": type(self).__name__, "method": self.method}
        return said if self.method is None else {**said, "sequence": self.sequence, "margin": self.margin}

    def __call__(self, data: Mapping) -> dict:
        """Mask the image of one subject."""
        image = data[self.image_key]
        name = str(getattr(image, "meta", {}).get("filename_or_obj", data.get("subject", self.image_key)))
        if image.ndim != 4:
            raise ValueError(f"{name}: brain extraction wants a volume (c, W, H, D), got {tuple(image.shape)}.")
        meta = MetaTensor(image) if not isinstance(image, MetaTensor) else image
        if self.method is None:
            self._warn_of_skull(meta, name)
            return dict(data)
        mask = self._mask(meta, str(data.get("subject", "subject")))
        self._check_share(meta, mask, name)
        axis = slice_dimension(meta) - 1
        dilated = np.moveaxis(dilate_in_plane(np.moveaxis(mask, axis, -1), self.margin), -1, axis)
        brain = torch.from_numpy(np.ascontiguousarray(dilated, dtype=np.float32))[None].to(image.device)
        masked = MetaTensor(meta.as_tensor() * brain, meta=meta.meta, applied_operations=meta.applied_operations)
        return {
            **data,
            self.image_key: masked if isinstance(image, MetaTensor) else masked.as_tensor(),
            self.mask_key: MetaTensor(brain, meta=meta.meta, applied_operations=meta.applied_operations),
        }

    def _mask(self, image: MetaTensor, subject: str) -> np.ndarray:
        """The mask before dilation: read, or made and written."""
        volume, affine = self._volume(image), np.asarray(image.affine, dtype=np.float64)
        if self.mask_file is None:
            return run_deepbet(volume, affine, self.gpu)
        path, origin = Path(self.mask_file.format(subject=subject)), f"{self.method} {self.sequence} {digest(volume)}"
        if path.is_file():
            mask, made_from = read_mask(path, volume.shape, affine)
            # A file that says nothing of itself was given by the user.
            if made_from == origin or not made_from.startswith(f"{PACKAGE} "):
                return mask
            logger.warning("%s: this mask was made from another image, it is made anew.", path)
        mask = run_deepbet(volume, affine, self.gpu)
        if mask.any():
            write_mask(path, mask, affine, origin)
        return mask

    def _check_share(self, image: MetaTensor, mask: np.ndarray, name: str) -> None:
        head = head_of(np.moveaxis(self._volume(image), slice_dimension(image) - 1, -1)).sum()
        share, (low, high) = mask.sum() / max(head, 1), self.share_range
        stripped = self._skull_contrast(image) < SKULL_CONTRAST
        # All that is left of a stripped head is brain.
        if not mask.any() or share < low or (share > high and not stripped):
            raise ValueError(
                f"{name}: the brain that {self.method} found on {self.sequence} has {share:.3f} of the head's voxels, "
                f"a share in [{low:g}, {high:g}] is wanted."
            )
        if stripped:
            logger.warning(
                "%s: looks stripped already, %s shows no skull, and brain_extraction = %s keeps %.0f %% of it. "
                "Set brain_extraction to null for such data.",
                name,
                self.sequence,
                self.method,
                100 * min(share, 1.0),
            )

    def _warn_of_skull(self, image: MetaTensor, name: str) -> None:
        contrast = self._skull_contrast(image)
        if contrast > SKULL_CONTRAST:
            logger.warning(
                "%s: looks like a head with skull: under its surface %s falls to 1/%.1f of the layer above "
                "(stripped brains stay below %.1f). Set brain_extraction to %s, or strip the data.",
                name,
                self.sequence,
                contrast,
                SKULL_CONTRAST,
                PACKAGE,
            )

    def _skull_contrast(self, image: MetaTensor) -> float:
        axis = slice_dimension(image) - 1
        sides = np.delete(np.linalg.norm(np.asarray(image.affine, dtype=np.float64)[:3, :3], axis=0), axis)
        return skull_contrast(np.moveaxis(self._volume(image), axis, -1), float(np.sqrt(sides.prod())))

    def _volume(self, image: MetaTensor) -> np.ndarray:
        return image.as_tensor()[self.channel].float().cpu().numpy()
