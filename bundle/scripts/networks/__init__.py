"""Networks, and the module that holds those of a method."""

from .autoencoder import BinarizingAutoencoder
from .parts import Parts
from .patched_unet import ScaleShiftUNet

__all__ = ["BinarizingAutoencoder", "Parts", "ScaleShiftUNet"]
