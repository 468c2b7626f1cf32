"""Loading of 2D pictures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from PIL import Image

from ..describe import Undescribed
from ..reading import check_file, named
from .loading import check_not_constant, check_problem

FORMATS = ("BMP", "JPEG", "PNG", "TIFF")
"""What pictures are read; no others, since each further reader is a door."""

MAX_PIXELS = 1 << 26
"""Largest number of pixels of a picture: 8192 x 8192."""


class LoadGreyImaged(Undescribed, Transform):
    """Load a 2D picture (JPEG, PNG, TIFF, BMP) as grey values in [0, 1], shape (1, W, H).

    Colour becomes luminance; 16-bit pictures keep their depth. ``healthy`` pictures get an empty ``label``. PNG's
    checksums are verified; the other formats have none.

    Args:
        max_pixels: largest number of pixels; a picture whose header claims more is refused.

    Raises (when called):
        ValueError: naming the file when it is none, unreadable, damaged, too large, constant, deeper than 16 bits, or
            has more than one frame.
    """

    def __init__(self, max_pixels: int = MAX_PIXELS) -> None:
        self.max_pixels = max_pixels

    def __call__(self, data: Mapping) -> dict:
        """Load ``image`` of one item of a data list."""
        check_problem(data)
        path = str(data["image"])
        with named(path):
            image = self._read_grey(path)
        check_not_constant(image, [path])
        result = {**data, "image": image}
        if data.get("healthy"):
            result["label"] = MetaTensor(torch.zeros_like(image.as_tensor()))
        return result

    def _open(self, path: str) -> Image.Image:
        check_file(path)
        picture = Image.open(path, formats=FORMATS)
        width, height = picture.size
        if width * height > self.max_pixels:
            picture.close()
            raise ValueError(f"its header claims {width} x {height} pixels, at most {self.max_pixels:,} are allowed")
        return picture

    def _read_grey(self, path: str) -> MetaTensor:
        with self._open(path) as picture:
            # PNG's checksums are left alone by PIL but for this; afterwards the picture has to be opened again.
            if picture.format == "PNG":
                picture.verify()
        with self._open(path) as picture:
            frames = getattr(picture, "n_frames", 1)
            if frames > 1:
                raise ValueError(f"{frames} frames, one is wanted")
            deep = picture.mode.startswith("I")
            array = np.asarray(picture if deep else picture.convert("L"), dtype=np.float32)
            if picture.mode == "F" or (deep and not 0 <= array.min() <= array.max() <= 65535):
                raise ValueError(f"grey values of 8 or 16 bits are wanted, mode {picture.mode!r} holds others")
        # PIL's arrays are (row, column); x comes first here.
        array = array.T[None] / (65535.0 if deep else 255.0)
        return MetaTensor(torch.from_numpy(np.ascontiguousarray(array)), meta={"filename_or_obj": path})
