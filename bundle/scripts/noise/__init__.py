"""Random numbers and noise fields: everything is a function of a shape and a stream."""

from .streams import SliceGenerator, numbers, uniform, word_offsets

__all__ = ["SliceGenerator", "numbers", "uniform", "word_offsets"]
