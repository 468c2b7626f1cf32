"""2D pictures: PNG and NIfTI of the picture's own size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
from monai.data import MetaTensor
from PIL import Image

from .base import ResultWriter
from .volume import save_nifti, to_array


class ImageWriter(ResultWriter):
    """NIfTI (W, H) with the exact values, and PNG to look at.

    In the PNGs 65535 is 1 and what exceeds it is cut; in the segmentation's 255 is
    anomalous.
    """

    def write_images(self, folder: Path, subject: str, output: Mapping[str, MetaTensor]) -> None:
        """Write every image twice."""
        for key, name in self.stored_images(output):
            array = to_array(output[key])[0]
            if key == "pred":
                picture = (array.T * 255).astype(np.uint8)
                array = array.astype(np.uint8)
            else:
                picture = (array.T.clip(0, 1) * 65535).round().astype(np.uint16)
            Image.fromarray(np.ascontiguousarray(picture)).save(folder / f"{subject}_{name}.png")
            save_nifti(array, np.eye(4), folder / f"{subject}_{name}.nii.gz")

    def planes(self, image: MetaTensor) -> np.ndarray:
        """``image`` as (1, W, H, 1)."""
        return to_array(image)[..., None]

    def read_file(self, path: Path) -> np.ndarray:
        """A stored picture as (1, W, H, 1)."""
        return np.asarray(nib.Nifti1Image.from_filename(path).dataobj, dtype=np.float32)[None, ..., None]
