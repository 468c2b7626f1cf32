"""Training: what a part of the network is taught, and the engines, losses, metrics and caches for it."""

from .autoencoder import AutoencoderTrainer
from .compiling import check_compile_mode
from .latents import LatentDataset, collate
from .stage import Stage, choose_stage, training_settings
from .task_batches import ImagePrepareBatch, TaskPrepareBatch

__all__ = [
    "AutoencoderTrainer",
    "ImagePrepareBatch",
    "LatentDataset",
    "Stage",
    "TaskPrepareBatch",
    "check_compile_mode",
    "choose_stage",
    "collate",
    "training_settings",
]
