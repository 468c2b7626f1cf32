"""NIfTI: the header by nibabel, the voxels slab by slab from one pass over the file."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import prod
from typing import BinaryIO

import nibabel as nib
import numpy as np
from monai.data import MetaTensor
from monai.utils.enums import MetaKeys, SpaceKeys
from nibabel.arrayproxy import ArrayProxy

from .affines import check_affine, nifti_notes
from .compressed import capacity, check_capacity, check_end, open_stream
from .disk import check_file
from .volume_file import Block, VolumeFile, check_voxels, slabs

EXTENSIONS = (".nii", ".nii.gz")
HEADERS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
MAX_OFFSET = 1 << 26
"""Bytes that may lie between the start of a file and its voxels; extensions are never read."""


def open_nifti(path: str, max_voxels: int) -> VolumeFile:
    """Read the header of a NIfTI file.

    Raises:
        ValueError, OSError, EOFError: saying what is wrong with it.
    """
    size = check_file(path)
    with open_stream(path) as stream:
        header = read_header(stream)
    shape, dtype = tuple(int(n) for n in header.get_data_shape()), header.get_data_dtype()
    if dtype.kind not in "iuf":
        raise ValueError(f"its voxels are of type {dtype}, numbers are wanted")
    check_voxels(shape, max_voxels)
    offset, claimed = int(header.get_data_offset()), prod(shape) * dtype.itemsize
    if not 0 <= offset <= MAX_OFFSET:
        raise ValueError(f"its voxels begin at byte {offset:,}, wanted at most {MAX_OFFSET:,}")
    check_capacity(claimed, max(capacity(path, size) - offset, 0))
    affine = header.get_best_affine()
    check_affine(affine)
    return VolumeFile(
        path, shape, _meta(path, header, affine), partial(_blocks, path, shape), tuple(nifti_notes(header))
    )


def read_header(stream: BinaryIO) -> nib.Nifti1Header:
    """The header alone, without extensions."""
    block = stream.read(540)
    sizes = {int.from_bytes(block[:4], order) for order in ("little", "big")}
    kind = next((kind for length, kind in HEADERS.items() if length in sizes and len(block) >= length), None)
    if kind is None:
        raise ValueError("it has no header of NIfTI")
    header = kind(block[: kind.template_dtype.itemsize])
    if header["magic"].item() not in (kind.single_magic, kind.single_magic.rstrip(b"\x00")):
        raise ValueError(f"its header says {header['magic'].item()!r}, wanted one NIfTI file with header and voxels")
    return header


def _meta(path: str, header: nib.Nifti1Header, affine: np.ndarray) -> dict:
    """What MONAI's ``NibabelReader`` says of a file; nibabel's own affine, even where ``pixdim`` says otherwise."""
    shape = header.get_data_shape()
    # Texts cannot be collated.
    fields = {k: v for k, v in dict(header.as_byteswapped("<")).items() if v.dtype.kind != "S"}
    meta = {
        **fields,
        MetaKeys.ORIGINAL_PIXDIM: np.array(header["pixdim"]),
        MetaKeys.AFFINE: affine.copy(),
        MetaKeys.ORIGINAL_AFFINE: affine.copy(),
        "as_closest_canonical": False,
        MetaKeys.SPATIAL_SHAPE: np.asarray(shape[:3]),
        MetaKeys.SPACE: SpaceKeys.RAS,
        MetaKeys.ORIGINAL_CHANNEL_DIM: -1 if len(shape) > 3 else float("nan"),
        "filename_or_obj": path,
    }
    return MetaTensor.ensure_torch_and_prune_meta(np.zeros(1), meta).meta


def _blocks(path: str, shape: tuple[int, ...]) -> Iterator[Block]:
    """All voxels, then the proof that the file ends where its header says."""
    with open_stream(path) as stream:
        header = read_header(stream)
        if header.get_data_shape() != shape:
            raise ValueError("it changed while it was read")
        proxy = ArrayProxy(stream, header, mmap=False)
        for channel in range(shape[3] if len(shape) > 3 else 1):
            for place in slabs(shape):
                yield channel, place, np.asarray(proxy[(..., place, *((channel,) if len(shape) > 3 else ()))])
        check_end(stream, header.get_data_offset() + prod(shape) * header.get_data_dtype().itemsize)
