"""Prepared slices: NIfTI arrays (channel, row, column), as they came."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
from monai.data import MetaTensor

from .base import ResultWriter
from .volume import save_nifti, to_array


class PreparedSliceWriter(ResultWriter):
    """Reconstruction as (channel, row, column), the others as (1, row, column), with the file's affine."""

    def write_images(self, folder: Path, subject: str, output: Mapping[str, MetaTensor]) -> None:
        """Write the arrays."""
        affine = np.asarray(output["image"].meta["original_affine"], dtype=np.float64).reshape(4, 4)
        for key, name in self.stored_images(output):
            array = to_array(output[key]).transpose(0, 2, 1)
            array = array.astype(np.uint8) if key == "pred" else array
            save_nifti(np.ascontiguousarray(array), affine, folder / f"{subject}_{name}.nii.gz")

    def planes(self, image: MetaTensor) -> np.ndarray:
        """``image`` as (c, W, H, 1)."""
        return to_array(image)[..., None]

    def read_file(self, path: Path) -> np.ndarray:
        """A stored slice as (c, W, H, 1)."""
        array = np.asarray(nib.Nifti1Image.from_filename(path).dataobj, dtype=np.float32)
        return array.transpose(0, 2, 1)[..., None].copy()
