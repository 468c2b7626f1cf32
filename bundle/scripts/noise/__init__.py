"""Random numbers and noise fields: everything is a function of a shape and a stream."""

from .draws import Draws
from .kinds import GaussianNoise, NoiseKind
from .simplex import SimplexNoise, simplex_field
from .streams import SliceGenerator, normal, numbers, uniform, word_offsets

__all__ = [
    "Draws",
    "GaussianNoise",
    "NoiseKind",
    "SimplexNoise",
    "SliceGenerator",
    "normal",
    "numbers",
    "simplex_field",
    "uniform",
    "word_offsets",
]
