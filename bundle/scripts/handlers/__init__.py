"""Ignite handlers: thin, the work is done elsewhere."""

from .attached import AttachedHandler
from .epoch_seed import EpochSeed
from .gradient_clipping import GradientClipping
from .history import HistoryHandler
from .no_average import NoAverage
from .pictures import PictureHandler
from .restoration import RestorationHandler
from .training_checkpoint import TrainingCheckpoint
from .training_tracking import TrainingTracking

__all__ = [
    "AttachedHandler",
    "EpochSeed",
    "GradientClipping",
    "HistoryHandler",
    "NoAverage",
    "PictureHandler",
    "RestorationHandler",
    "TrainingCheckpoint",
    "TrainingTracking",
]
