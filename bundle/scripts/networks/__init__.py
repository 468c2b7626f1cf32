"""Networks, and the module that holds those of a method."""

from .autoencoder import BinarizingAutoencoder
from .parts import Parts

__all__ = ["BinarizingAutoencoder", "Parts"]
