"""Inferers: one for all methods that turns images into anomaly maps, and forward passes around it."""

from .anomaly import AnomalyInferer
from .autocast import AutocastInferer, bfloat16_pays
from .encoding import EncodingInferer
from .volumes import EncodedVolumes, VolumeResult

__all__ = ["AnomalyInferer", "AutocastInferer", "EncodedVolumes", "EncodingInferer", "VolumeResult", "bfloat16_pays"]
