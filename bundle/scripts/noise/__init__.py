"""Random numbers and noise fields: everything is a function of a shape and a stream."""

from .draws import Draws
from .streams import SliceGenerator, normal, numbers, uniform, word_offsets

__all__ = ["Draws", "SliceGenerator", "normal", "numbers", "uniform", "word_offsets"]
