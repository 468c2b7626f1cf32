"""NRRD, MetaImage and what else ITK reads: the place in space is what ITK says it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import itk
import numpy as np
from monai.data import MetaTensor
from monai.utils.enums import MetaKeys, SpaceKeys

from . import metaimage, nrrd
from .affines import check_affine, shear_note
from .compressed import MAX_RATIO, Inflated, check_capacity
from .disk import check_file
from .text_header import Payload
from .volume_file import Block, VolumeFile, check_voxels, slabs

RAS = np.diag([-1.0, -1.0, 1.0])
"""From ITK's axes, left, posterior and superior."""

TEXT_HEADERS = {
    **dict.fromkeys(nrrd.EXTENSIONS, nrrd.read_nrrd),
    **dict.fromkeys(metaimage.EXTENSIONS, metaimage.read_metaimage),
}


def open_itk(path: str, max_voxels: int) -> VolumeFile:
    """Read the header of a file.

    Raises:
        ValueError, RuntimeError: saying what is wrong with it.
    """
    check_file(path)
    read = TEXT_HEADERS.get(Path(path).suffix.lower())
    payload = read(path) if read else None
    if payload is not None:
        check_voxels(payload.sizes, max_voxels)
        claimed, size = prod(payload.sizes) * payload.dtype.itemsize, check_file(payload.path)
        check_capacity(claimed, max(size - max(payload.start, 0), 0) * (MAX_RATIO if payload.deflated else 1))
    io = _information(path)
    shape = tuple(int(io.GetDimensions(i)) for i in range(io.GetNumberOfDimensions()))
    shape += (int(io.GetNumberOfComponents()),) if io.GetNumberOfComponents() > 1 else ()
    check_voxels(shape, max_voxels)
    if payload is not None and payload.shape != shape:
        raise ValueError(f"its header is ambiguous: a shape of {payload.shape}, or {shape} as ITK reads it")
    affine = _affine(io)
    check_affine(affine)
    blocks = partial(_blocks, payload) if payload else partial(_itk_blocks, path, shape)
    note = shear_note(affine)
    return VolumeFile(path, shape, _meta(path, affine, shape), blocks, (note,) if note else ())


def _information(path: str) -> Any:
    io = itk.ImageIOFactory.CreateImageIO(path, itk.CommonEnums.IOFileMode_ReadMode)
    if io is None:
        raise ValueError("no reader knows its format")
    io.SetFileName(path)
    io.ReadImageInformation()
    return io


def _affine(io: Any) -> np.ndarray:
    """From voxels to RAS, (n + 1, n + 1) with n axes, three at most."""
    count = min(int(io.GetNumberOfDimensions()), 3)
    axes = np.array([list(io.GetDirection(i))[:count] for i in range(count)]).T
    affine = np.eye(count + 1)
    affine[:count, :count] = RAS[:count, :count] @ axes @ np.diag([io.GetSpacing(i) for i in range(count)])
    affine[:count, count] = RAS[:count, :count] @ [io.GetOrigin(i) for i in range(count)]
    return affine


def _meta(path: str, affine: np.ndarray, shape: tuple[int, ...]) -> dict:
    """What MONAI's ``ITKReader`` says of a file."""
    meta = {
        "spacing": np.linalg.norm(affine[:-1, :-1], axis=0),
        MetaKeys.AFFINE: affine.copy(),
        MetaKeys.ORIGINAL_AFFINE: affine.copy(),
        MetaKeys.SPACE: SpaceKeys.RAS,
        MetaKeys.SPATIAL_SHAPE: np.asarray(shape[:3]),
        MetaKeys.ORIGINAL_CHANNEL_DIM: -1 if len(shape) > 3 else float("nan"),
        "filename_or_obj": path,
    }
    return MetaTensor.ensure_torch_and_prune_meta(np.zeros(1), meta).meta


def _blocks(payload: Payload) -> Iterator[Block]:
    """The voxels of a NRRD or MetaImage file."""
    itemsize, total = payload.dtype.itemsize, prod(payload.sizes) * payload.dtype.itemsize
    with closing(Path(payload.path).open("rb")) as file:
        size = check_file(payload.path)
        file.seek(size - total if payload.start < 0 else payload.start)
        stream = Inflated(file) if payload.deflated else file
        inner = payload.channel_axis == 0
        shape = payload.sizes[1:] if inner else payload.sizes
        channels = payload.sizes[0] if inner else 1
        for outer in range(shape[3] if len(shape) > 3 else 1):
            for place in slabs(shape):
                sizes = (channels, *shape[:2], place.stop - place.start)
                data = stream.read(prod(sizes) * itemsize)
                if len(data) < prod(sizes) * itemsize:
                    raise ValueError("its data are cut off")
                array = np.frombuffer(data, payload.dtype).reshape(sizes, order="F")
                yield from ((channel + outer, place, array[channel]) for channel in range(channels))
        if isinstance(stream, Inflated):
            stream.finish()
        elif file.read(1):
            raise ValueError("the file holds more than its header claims")


def _itk_blocks(path: str, shape: tuple[int, ...]) -> Iterator[Block]:
    """The voxels of any other file, all at once by ITK in their own type."""
    image = itk.imread(path)
    array = itk.array_view_from_image(image).T
    array = array if array.shape == shape else np.moveaxis(array, 0, -1)
    if array.shape != shape:
        raise ValueError(f"it holds {array.shape} voxels, its header claims {shape}")
    for channel in range(shape[3] if len(shape) > 3 else 1):
        for place in slabs(shape):
            yield channel, place, array[(..., place, *((channel,) if len(shape) > 3 else ()))]
