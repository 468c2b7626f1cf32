"""Training: what a part of the network is taught, and the engines, losses, metrics and caches for it."""

from .autoencoder import AutoencoderTrainer
from .compiling import check_compile_mode

__all__ = ["AutoencoderTrainer", "check_compile_mode"]
