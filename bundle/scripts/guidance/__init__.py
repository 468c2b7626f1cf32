"""Guidance: callables around the networks, (network, x_t, timesteps, prediction) -> prediction, and their steps."""

from .classifier import ClassifierGuidance, class_gradient
from .classifier_free import ClassifierFreeGuidance
from .finite_difference import finite_difference
from .prediction import Guidance, predicted_noise
from .steps import guided_ddim_step

__all__ = [
    "ClassifierFreeGuidance",
    "ClassifierGuidance",
    "Guidance",
    "class_gradient",
    "finite_difference",
    "guided_ddim_step",
    "predicted_noise",
]
