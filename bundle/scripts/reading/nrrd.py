"""NRRD: where the voxels lie (teem.sourceforge.net/nrrd/format.html)."""

from __future__ import annotations

import re

import numpy as np

from .text_header import Payload, axes_of, data_file, read_fields, whole_numbers

EXTENSIONS = (".nrrd", ".nhdr")
TYPES = {
    **dict.fromkeys(("signedchar", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsignedchar", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "shortint", "signedshort", "signedshortint", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsignedshort", "unsignedshortint", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signedint", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsignedint", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "longlongint", "signedlonglong", "signedlonglongint", "int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsignedlonglong", "unsignedlonglongint", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
ENCODINGS = {"raw": False, "gzip": True, "gz": True}
SPATIAL_KINDS = ("domain", "space")


def read_nrrd(path: str) -> Payload:
    """Read the header.

    Raises:
        ValueError: saying what in it is missing, wrong or not read here.
    """
    fields, end = read_fields(path, _split, lambda text: not text)
    if not fields.pop("magic", ""):
        raise ValueError("it has no header of NRRD")
    encoding, kind = fields.get("encoding", "").lower(), "".join(fields.get("type", "").lower().split())
    if encoding not in ENCODINGS:
        raise ValueError(f"its encoding is {encoding!r}, wanted {' or '.join(ENCODINGS)}")
    if kind not in TYPES:
        raise ValueError(f"its voxels are of type {fields.get('type')!r}, numbers are wanted")
    skips = [whole_numbers(fields, name)[0] if name in fields else 0 for name in ("lineskip", "byteskip")]
    if skips[0] or (skips[1] and ENCODINGS[encoding]) or skips[1] < -1:
        raise ValueError("its data file is read from a line or byte further on, wanted from its start")
    detached = fields.get("datafile")
    start = 0 if detached else end
    return Payload(
        path=data_file(path, detached) if detached else path,
        start=-1 if skips[1] == -1 else start + skips[1],
        deflated=ENCODINGS[encoding],
        dtype=np.dtype(TYPES[kind]).newbyteorder(">" if fields.get("endian", "little").lower() == "big" else "<"),
        sizes=axes_of(fields, "dimension", "sizes"),
        channel_axis=_channel_axis(fields),
    )


def _split(text: str) -> tuple[str, str] | None:
    if re.fullmatch(r"NRRD000\d", text):
        return "magic", text
    # "key:=value" is the user's own.
    match = re.match(r"([^#:][^:]*):(?!=) ?(.*)", text)
    return (match[1], match[2]) if match else None


def _channel_axis(fields: dict[str, str]) -> int | None:
    """The one axis that is none of space."""
    kinds = fields.get("kinds", "").lower().split()
    directions = re.findall(r"none|\([^)]*\)", fields.get("spacedirections", "").lower())
    outside = [axis for axis, direction in enumerate(directions) if direction == "none"]
    outside = outside or [axis for axis, kind in enumerate(kinds) if kind not in (*SPATIAL_KINDS, "???", "none")]
    if len(outside) > 1:
        raise ValueError(f"its axes {outside} are none of space, wanted one such axis at most")
    if outside and outside[0] not in (0, max(len(kinds), len(directions)) - 1):
        raise ValueError(f"its axis {outside[0]} is none of space, wanted the first or the last to be that")
    return outside[0] if outside else None
