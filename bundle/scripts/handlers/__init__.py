"""Ignite handlers: thin, the work is done elsewhere."""

from .attached import AttachedHandler
from .epoch_seed import EpochSeed
from .history import HistoryHandler
from .pictures import PictureHandler
from .restoration import RestorationHandler
from .training_checkpoint import TrainingCheckpoint
from .training_tracking import TrainingTracking

__all__ = [
    "AttachedHandler",
    "EpochSeed",
    "HistoryHandler",
    "PictureHandler",
    "RestorationHandler",
    "TrainingCheckpoint",
    "TrainingTracking",
]
