"""The text in front of NRRD and MetaImage: fields, where it ends, and which file holds the voxels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .disk import check_file

MAX_HEADER = 1 << 20
"""Bytes that such a header may have at most."""

MAX_AXES = 4
"""Axes that an image may have, that of the channels included."""


@dataclass(frozen=True)
class Payload:
    """Where and how the voxels lie.

    Attributes:
        path: the file that holds them.
        start: their first byte; negative: they are the last bytes of the file.
        deflated: whether they are a zlib or gzip stream.
        dtype: of a voxel, byte order included.
        sizes: of all axes, the fastest first.
        channel_axis: which of them is no axis of space; ``None`` when all are.
    """

    path: str
    start: int
    deflated: bool
    dtype: np.dtype
    sizes: tuple[int, ...]
    channel_axis: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes with the channels last."""
        if self.channel_axis is None:
            return self.sizes
        rest = [size for axis, size in enumerate(self.sizes) if axis != self.channel_axis]
        return (*rest, self.sizes[self.channel_axis])


def read_fields(path: str, split: Callable[[str], tuple[str, str] | None], is_last: Callable[[str], bool]) -> tuple:
    """The fields of a header, by names in lower case without spaces, and the byte behind it.

    Args:
        path: the file.
        split: name and value of a line, ``None`` when it holds no field.
        is_last: whether a line ends the header.

    Raises:
        ValueError: when a field is given twice, or the header does not end.
    """
    check_file(path)
    fields: dict[str, str] = {}
    with Path(path).open("rb") as stream:
        while (line := stream.readline(MAX_HEADER)) and stream.tell() <= MAX_HEADER:
            text = line.decode("latin-1").strip()
            if field := split(text):
                name = "".join(field[0].lower().split())
                if name in fields:
                    raise ValueError(f"its header gives {field[0].strip()!r} twice")
                fields[name] = field[1].strip()
            if is_last(text):
                return fields, stream.tell()
        if not line:
            return fields, stream.tell()
    raise ValueError(f"its header does not end within {MAX_HEADER:,} bytes")


def data_file(header: str, name: str) -> str:
    """The file beside ``header`` that its header names.

    Raises:
        ValueError: when it lies elsewhere, is several, or no file.
    """
    folder = Path(header).parent.resolve()
    path = Path(header).parent / name
    if not name or "%" in name or name.split()[0].upper() == "LIST":
        raise ValueError(f"its data file is {name!r}, one file is wanted")
    if not path.resolve().is_relative_to(folder):
        raise ValueError(f"its data file {name!r} lies outside of the header's folder")
    try:
        check_file(path)
    except ValueError as error:
        raise ValueError(f"data file {name!r}: {error}") from None
    return str(path)


def whole_numbers(fields: dict[str, str], name: str) -> list[int]:
    """Whole numbers of a field.

    Raises:
        ValueError: when it is missing or holds something else.
    """
    words = fields.get(name, "").split()
    if not words or any(not w.lstrip("-").isdecimal() or len(w) > 18 or not w.isascii() for w in words):
        raise ValueError(f"its header says {name} {fields.get(name)!r}, whole numbers are wanted")
    return [int(word) for word in words]


def axes_of(fields: dict[str, str], count: str, sizes: str) -> tuple[int, ...]:
    """Sizes of all axes.

    Raises:
        ValueError: when their number is another than the header's, or more than :data:`MAX_AXES`.
    """
    (number, *more), lengths = whole_numbers(fields, count), whole_numbers(fields, sizes)
    if more or not 1 <= number <= MAX_AXES or len(lengths) != number:
        raise ValueError(
            f"its header says {count} {fields[count]!r} and {sizes} {fields[sizes]!r}, wanted as many sizes"
        )
    return tuple(lengths)
