"""Volumes: NIfTI in the input's own shape, affine and orientation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor

from .base import ResultWriter

CANONICAL = nib.orientations.axcodes2ornt("LPS")


def save_nifti(array: np.ndarray, affine: np.ndarray, path: Path, code: int = 1) -> None:
    """Save ``array`` with its own type and ``affine``; ``code`` says of which space, 1 is the scanner's."""
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, code)
    image.set_qform(affine, code)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def space_code(image: MetaTensor) -> int:
    """NIfTI's code of the space that the input's affine leads to, e.g. 4 for MNI; 1, the scanner's, when unknown."""
    codes = [int(image.meta.get(key, 0)) for key in ("sform_code", "qform_code")]
    return next((code for code in codes if code > 0), 1)


def to_canonical(affine: np.ndarray | torch.Tensor) -> np.ndarray:
    """From a file's axes to LPS, as nibabel's three pairs of axis and direction."""
    own = nib.io_orientation(np.asarray(affine, dtype=np.float64))
    return nib.orientations.ornt_transform(own, CANONICAL)


class VolumeWriter(ResultWriter):
    """``S_anomaly``, ``S_reconstruction`` (4D when there are several sequences), ``S_segmentation`` and the method's
    evidence as NIfTI."""

    def write_images(self, folder: Path, subject: str, output: Mapping[str, MetaTensor]) -> None:
        """Write the volumes; the segmentation is uint8, the others are float32."""
        affine = np.asarray(output["image"].affine, dtype=np.float64)
        code = space_code(output["image"])
        for key, name in self.stored_images(output):
            array = to_array(output[key])
            array = array[0] if len(array) == 1 else np.moveaxis(array, 0, -1)
            array = array.astype(np.uint8) if key == "pred" else array
            save_nifti(array, affine, folder / f"{subject}_{name}.nii.gz", code)

    def planes(self, image: MetaTensor) -> np.ndarray:
        """``image`` as (c, W, H, D) in LPS."""
        return _reorient(to_array(image), to_canonical(image.affine))

    def read_file(self, path: Path) -> np.ndarray:
        """A stored volume as (c, W, H, D) in LPS."""
        image = nib.Nifti1Image.from_filename(path)
        array = np.asarray(image.dataobj, dtype=np.float32)
        channels_first = array[None] if array.ndim == 3 else np.moveaxis(array, -1, 0)
        return _reorient(channels_first, to_canonical(image.affine))

    def space(self, affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """From voxels in LPS order to space, (4, 4)."""
        return affine @ nib.orientations.inv_ornt_aff(to_canonical(affine), tuple(shape))

    def slice_number(self, index: int, image: MetaTensor) -> int:
        """Index of a slice along the file's own slice axis, the one closest to head and foot."""
        transform = to_canonical(image.affine)
        axis = int(np.flatnonzero(transform[:, 0] == 2)[0])
        return index if transform[axis, 1] > 0 else image.shape[1 + axis] - 1 - index


def _reorient(channels: np.ndarray, transform: np.ndarray) -> np.ndarray:
    return np.stack([nib.apply_orientation(channel, transform) for channel in channels])


def to_array(image: torch.Tensor) -> np.ndarray:
    """A plain float32 array of any tensor."""
    return np.asarray(torch.as_tensor(image).detach().cpu().float())
