"""MetaImage: where the voxels lie (itk.org/Wiki/ITK/MetaIO/Documentation)."""

from __future__ import annotations

import numpy as np

from .text_header import Payload, axes_of, data_file, read_fields, whole_numbers

EXTENSIONS = (".mha", ".mhd")
TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}


def read_metaimage(path: str) -> Payload:
    """Read the header.

    Raises:
        ValueError: saying what in it is missing, wrong or not read here.
    """
    fields, end = read_fields(path, _split, lambda text: text.lower().startswith("elementdatafile"))
    if "elementdatafile" not in fields:
        raise ValueError("it has no header of MetaImage")
    if not _is_true(fields, "binarydata"):
        raise ValueError("its voxels are text (BinaryData), wanted bytes")
    if fields.get("elementtype") not in TYPES:
        raise ValueError(f"its voxels are of type {fields.get('elementtype')!r}, numbers are wanted")
    channels = whole_numbers(fields, "elementnumberofchannels")[0] if "elementnumberofchannels" in fields else 1
    sizes, local = axes_of(fields, "ndims", "dimsize"), fields["elementdatafile"].upper() == "LOCAL"
    skip = whole_numbers(fields, "headersize")[0] if "headersize" in fields else 0
    deflated = _is_true(fields, "compresseddata")
    if skip < -1 or (skip and (local or deflated)):
        raise ValueError(f"its HeaderSize is {skip}, wanted 0")
    big = _is_true(fields, "binarydatabyteordermsb") or _is_true(fields, "elementbyteordermsb")
    return Payload(
        path=path if local else data_file(path, fields["elementdatafile"]),
        start=end if local else skip,
        deflated=deflated,
        dtype=np.dtype(TYPES[fields["elementtype"]]).newbyteorder(">" if big else "<"),
        sizes=sizes if channels == 1 else (channels, *sizes),
        channel_axis=None if channels == 1 else 0,
    )


def _split(text: str) -> tuple[str, str] | None:
    name, mark, value = text.partition("=")
    return (name, value) if mark else None


def _is_true(fields: dict[str, str], name: str) -> bool:
    return fields.get(name, "").lower() in ("true", "1")
