"""Streams of several runs over the same units."""

from __future__ import annotations

import hashlib

from .streams import SliceGenerator


def run_streams(streams: SliceGenerator, run: int) -> SliceGenerator:
    """The same units' streams in a run of their own: numbers depend on (seed, unit, run, step) alone.

    Args:
        streams: the units' streams; run 0 has these.
        run: which, at least 0.
    """
    if run == 0:
        return streams
    # A hash, since streams of seed + run would be those of another seed. A seed counts by its low 63 bits.
    digest = hashlib.sha256(f"{streams.seed % 2**63}/{run}".encode()).digest()
    # Not by the class's name: MONAI Label imports this module twice, so its classes exist twice.
    return type(streams)(int.from_bytes(digest[:8], "big") % 2**63, streams.slice_indices, streams.step)
