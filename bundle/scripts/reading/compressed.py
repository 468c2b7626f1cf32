"""Compressed data: how much a file can hold at most, and whether it is whole to its last byte."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import BinaryIO

MAX_RATIO = 1032
"""No deflate stream is longer than this many times its compressed size: 258 bytes for two bits (RFC 1951)."""

BLOCK = 1 << 20


def open_stream(path: str) -> BinaryIO:
    """The bytes of a file, unpacked when its name ends in ``.gz``; checksums are verified where a stream ends."""
    return gzip.open(path, "rb") if path.lower().endswith(".gz") else Path(path).open("rb")  # type: ignore[return-value]


def capacity(path: str, size: int) -> int:
    """Bytes that a file of ``size`` bytes can hold at most."""
    return size * MAX_RATIO if path.lower().endswith(".gz") else size


def check_capacity(claimed: int, held: int, what: str = "its header claims") -> None:
    """Refuse a claim that the file cannot keep.

    Raises:
        ValueError: naming both sizes.
    """
    if claimed > held:
        raise ValueError(f"{what} {claimed:,} bytes of voxels, the file holds {held:,} at most")


def check_end(stream: BinaryIO, end: int) -> None:
    """The stream must end at ``end``; reading there makes gzip compare its checksum and find what is appended.

    Raises:
        ValueError: when there is more.
        OSError, zlib.error, EOFError: of gzip, when the data are damaged.
    """
    stream.seek(end)
    if stream.read(1):
        raise ValueError("the file holds more than its header claims")


class Inflated:
    """What a zlib or gzip stream holds, from where ``stream`` stands; the checksum is verified by :meth:`finish`."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.unpacker = stream, zlib.decompressobj(zlib.MAX_WBITS | 32)

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes, fewer where the stream ends."""
        parts, missing = [], size
        while missing and not self.unpacker.eof:
            block = self.unpacker.unconsumed_tail or self.stream.read(BLOCK)
            if not block:
                break
            parts.append(self.unpacker.decompress(block, missing))
            missing -= len(parts[-1])
        return b"".join(parts)

    def finish(self) -> None:
        """The stream must be whole and end here, and the file with it.

        Raises:
            ValueError: when it is cut off, or holds more.
        """
        if self.read(1) or self.unpacker.unused_data or self.stream.read(1):
            raise ValueError("the file holds more than its header claims")
        # zlib compares its checksum where it sees the end.
        if not self.unpacker.eof:
            raise ValueError("its compressed data are cut off")
