"""Trainers that MONAI's do not cover as they are."""

from .autoencoder import AutoencoderTrainer
from .compiling import check_compile_mode

__all__ = ["AutoencoderTrainer", "check_compile_mode"]
