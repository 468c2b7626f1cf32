"""Methods, a file each. Nothing here or elsewhere names one: a configuration does, by its ``_target_``."""

from .contract import Method, OnStep, Restoration, in_pieces, setting, undescribed
from .task import Example, Task

__all__ = ["Example", "Method", "OnStep", "Restoration", "Task", "in_pieces", "setting", "undescribed"]
