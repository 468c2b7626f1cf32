"""Loading of subjects, with errors that name the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImage, Transform
from PIL import Image

from ..describe import Undescribed

AFFINE_TOLERANCE = 1e-3
"""Largest difference, in mm, between the affines of one subject's files."""


def check_problem(data: Mapping) -> None:
    """Raise the ``problem`` that the data list found with a subject, as a ``ValueError``."""
    if "problem" in data:
        raise ValueError(data["problem"])


def read_image(path: str, reader: Callable[[str], MetaTensor]) -> MetaTensor:
    """One file as float32, or an error that names it."""
    try:
        image = reader(path)
    except Exception as error:
        raise ValueError(f"{path}: cannot be read as an image ({type(error).__name__}: {error}).") from None
    if not torch.isfinite(image).all():
        count = int((~torch.isfinite(image)).sum())
        raise ValueError(f"{path}: {count} voxels are NaN or infinite, all must be finite.")
    return image


def check_not_constant(image: torch.Tensor, names: Sequence[str]) -> None:
    """Every channel must hold an image."""
    for channel, name in zip(image, names, strict=True):
        if channel.min() == channel.max():
            raise ValueError(f"{name}: empty or constant, every voxel is {float(channel.min()):g}.")


class LoadSubjectd(Undescribed, Transform):
    """Load a subject's volumes: one 3D file a sequence, or one file whose last axis is the sequences.

    ``image`` becomes (c, W, H, D) float32 with the patient space of the first file; ``label``, where there is one,
    (1, W, H, D) with 1 wherever the file is above 0. Reads what MONAI's ``LoadImage`` reads (NIfTI, NRRD,
    MetaImage, ...).

    Args:
        sequences: names of the sequences, one a channel, in order.

    Raises (when called):
        ValueError: naming the file, what it holds and what is wanted: a missing or unreadable file, NaN or
            infinite voxels, a constant channel, 2D data, another number of channels, shapes or affines that differ.
    """

    def __init__(self, sequences: Sequence[str]) -> None:
        self.sequences = list(sequences)
        self.reader = LoadImage(image_only=True, ensure_channel_first=True, dtype=np.float32)

    def __call__(self, data: Mapping) -> dict:
        """Load ``image`` and ``label`` of one item of a data list."""
        check_problem(data)
        result = dict(data)
        files = data["image"]
        result["image"] = (
            self._volume(str(files))
            if isinstance(files, (str, bytes)) or not isinstance(files, Sequence)
            else self._stack([str(f) for f in files])
        )
        if data.get("label") is not None:
            result["label"] = self._label(str(data["label"]), result["image"])
        return result

    def _load_3d(self, path: str) -> MetaTensor:
        image = read_image(path, self.reader)
        if image.ndim != 4:
            raise ValueError(f"{path}: holds a {image.ndim - 1}D image, a 3D volume is wanted.")
        return image

    def _volume(self, path: str) -> MetaTensor:
        """A file with all sequences."""
        image = self._load_3d(path)
        if len(image) != len(self.sequences):
            raise ValueError(
                f"{path}: has {len(image)} channel(s), {len(self.sequences)} are wanted: {', '.join(self.sequences)}."
            )
        check_not_constant(image, [f"{path} ({name})" for name in self.sequences])
        return image

    def _stack(self, paths: Sequence[str]) -> MetaTensor:
        """A file a sequence."""
        if len(paths) != len(self.sequences):
            raise ValueError(
                f"{len(paths)} files given, {len(self.sequences)} are wanted: {', '.join(self.sequences)}."
            )
        images = [self._load_3d(path) for path in paths]
        for path, image in zip(paths, images, strict=True):
            if len(image) != 1:
                raise ValueError(f"{path}: has {len(image)} channels, one sequence is wanted.")
            _check_same_space(path, image, paths[0], images[0])
        check_not_constant(torch.cat([image.as_tensor() for image in images]), paths)
        return MetaTensor(torch.cat([image.as_tensor() for image in images]), meta=images[0].meta)

    def _label(self, path: str, image: MetaTensor) -> MetaTensor:
        label = self._load_3d(path)
        if len(label) != 1:
            raise ValueError(f"{path}: has {len(label)} channels, a label has one.")
        _check_same_space(path, label, "the image", image)
        return MetaTensor((label > 0).float(), meta=label.meta)


def _check_same_space(path: str, image: MetaTensor, other_path: str, other: MetaTensor) -> None:
    if image.shape[1:] != other.shape[1:]:
        raise ValueError(f"{path}: shape {tuple(image.shape[1:])}, {other_path} has {tuple(other.shape[1:])}.")
    difference = float((image.affine - other.affine).abs().max())
    if difference > AFFINE_TOLERANCE:
        raise ValueError(
            f"{path}: its affine differs from that of {other_path} by {difference:g}, "
            f"at most {AFFINE_TOLERANCE:g} is allowed."
        )


class LoadPreparedSliced(Undescribed, Transform):
    """Load a slice prepared as a NIfTI array (channel, row, column), scaled already.

    ``image`` becomes (c, column, row): prepared slices lie transposed in the plane against volumes read as
    (x, y, z). A further channel is the label. Nothing is rescaled.

    Args:
        sequences: names of the sequences, one a channel, in order.

    Raises (when called):
        ValueError: naming the file: unreadable, not 3D, another number of channels, or values outside [0, 1].
    """

    def __init__(self, sequences: Sequence[str]) -> None:
        self.sequences = list(sequences)
        self.reader = LoadImage(image_only=True, dtype=np.float32)

    def __call__(self, data: Mapping) -> dict:
        """Load ``image`` and, where the file holds one, ``label`` of one item of a data list."""
        check_problem(data)
        path, wanted = str(data["image"]), len(self.sequences)
        array = read_image(path, self.reader)
        if array.ndim != 3 or len(array) not in (wanted, wanted + 1):
            raise ValueError(
                f"{path}: shape {tuple(array.shape)}, wanted ({wanted} or {wanted + 1} with the label, rows, columns)."
            )
        image = array.as_tensor()[:wanted]
        if image.min() < 0 or image.max() > 1:
            raise ValueError(
                f"{path}: values from {float(image.min()):g} to {float(image.max()):g}, prepared slices lie in [0, 1]."
            )
        result = dict(data)
        meta = {"filename_or_obj": path, "original_affine": array.affine}
        result["image"] = MetaTensor(image.transpose(1, 2).contiguous(), meta=meta)
        if len(array) > wanted:
            label = (array.as_tensor()[wanted:] > 0).float()
            result["label"] = MetaTensor(label.transpose(1, 2).contiguous())
        return result


class LoadGreyImaged(Undescribed, Transform):
    """Load a 2D picture (JPEG, PNG, TIFF, ...) as grey values in [0, 1], shape (1, W, H).

    Colour becomes luminance; 16-bit pictures keep their depth. ``healthy`` pictures get an empty ``label``.

    Raises (when called):
        ValueError: naming the file when it is unreadable, constant, deeper than 16 bits, or has more than one frame.
    """

    def __call__(self, data: Mapping) -> dict:
        """Load ``image`` of one item of a data list."""
        check_problem(data)
        path = str(data["image"])
        image = read_image(path, self._read_grey)
        check_not_constant(image, [path])
        result = {**data, "image": image}
        if data.get("healthy"):
            result["label"] = MetaTensor(torch.zeros_like(image.as_tensor()))
        return result

    @staticmethod
    def _read_grey(path: str) -> MetaTensor:
        with Image.open(path) as picture:
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
